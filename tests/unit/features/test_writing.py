from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.errors import RowError
from featurecache.sources.cluster_slots import slot_of
from featurecache.writing.write_script import MAX_BATCH_BYTES, MAX_BATCH_ROWS, SHA, pack_call
from featurecache.writing.writing import (
    EARLIEST_US,
    WriteCounts,
    _calls_by_slot,
    _parts,
    check_times,
)

NOW_US = 1_795_000_000_000_000
MINUTE_US = 60_000_000


def words_of(packed: bytes) -> list[bytes]:
    """The words of one RESP command, read by its own rules."""
    assert packed[:1] == b"*"
    count, _, rest = packed[1:].partition(b"\r\n")
    words = []
    for _ in range(int(count)):
        length, _, rest = rest.partition(b"\r\n")
        assert length[:1] == b"$"
        end = int(length[1:])
        words.append(rest[:end])
        assert rest[end : end + 2] == b"\r\n"
        rest = rest[end + 2 :]
    assert rest == b""
    return words


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=2000)),
        min_size=1,
    ),
    st.none() | st.integers(0, 10**12),
)
def test_a_call_is_what_the_protocol_says(
    pairs: list[tuple[bytes, bytes]], keep_ms: int | None
) -> None:
    keys, rows = [one for one, _ in pairs], [one for _, one in pairs]
    words = words_of(pack_call(keys, rows, latest_us=NOW_US, keep_ms=keep_ms))
    keep = b"" if keep_ms is None else str(keep_ms).encode()
    whole = b"1" if max(map(len, rows)) <= 1024 else b"0"
    head = [b"EVALSHA", SHA, str(len(keys)).encode()]
    assert words == [*head, *keys, str(NOW_US).encode(), keep, whole, *rows]


def test_a_row_from_the_future_is_refused_by_number() -> None:
    times = np.array([NOW_US, NOW_US + 5 * MINUTE_US, NOW_US + 5 * MINUTE_US + 1], np.int64)
    check_times(times[:2], NOW_US)
    with pytest.raises(RowError, match=r"row 3: .* 300 s in the future"):
        check_times(times, NOW_US)
    with pytest.raises(RowError, match="row 1003: "):
        check_times(times, NOW_US, 1001)
    later_still = np.append(times, NOW_US + 9 * MINUTE_US)
    with pytest.raises(RowError, match="row 3: "):  # the first, not the worst
        check_times(later_still, NOW_US)


def test_a_time_that_the_store_could_not_hold_is_refused() -> None:
    check_times(np.array([EARLIEST_US], np.int64), NOW_US)
    with pytest.raises(RowError, match=r"row 2: .* 1684"):
        check_times(np.array([NOW_US, EARLIEST_US - 1], np.int64), NOW_US)


@given(st.lists(st.integers(1, 2 * MAX_BATCH_BYTES), max_size=600))
def test_calls_are_bounded_and_leave_no_row_out(lengths: list[int]) -> None:
    rows = [bytes(one) for one in lengths]
    parts = [rows[part] for part in _parts(rows)]
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert 0 < len(part) <= MAX_BATCH_ROWS
        assert len(part) == 1 or sum(map(len, part)) <= MAX_BATCH_BYTES


def test_in_a_cluster_a_call_has_keys_of_one_slot() -> None:
    keys = [f"hr:p:{{user:{i % 50}}}:v{i}".encode() for i in range(500)]
    rows = [str(i).encode() for i in range(500)]
    calls = _calls_by_slot(keys, rows, NOW_US, None)
    sent = {}
    for call in calls:
        words = words_of(call.packed)
        count = int(words[2])
        assert {slot_of(key) for key in words[3 : 3 + count]} == {call.slot}
        sent |= dict(zip(words[3 : 3 + count], words[6 + count :], strict=True))
    assert sent == dict(zip(keys, rows, strict=True))


def test_counts_add_up() -> None:
    counts = WriteCounts(created=1, older=2)
    counts.add(WriteCounts(created=10, newer=20, rewritten=30, expired=40, duplicates=50))
    assert counts == WriteCounts(11, 20, 30, 2, 40, 50)
    assert counts.total == 153
