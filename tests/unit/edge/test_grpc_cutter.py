from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.grpc_cutter import MessageCutter
from gateway.errors import ErrorCode, HeadraceError
from tests.support.raw_h2 import frame

LIMIT_BYTES = 1000


def cut_all(cutter: MessageCutter) -> list[tuple[int, bytes]]:
    found = []
    while (framed := cutter.cut()) is not None:
        found.append(framed)
    return found


@given(
    st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=300)), max_size=12),
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_however_the_bytes_are_sliced(
    messages: list[tuple[int, bytes]], slices: list[int], cut_every: int
) -> None:
    """Cut at once or in between, in one piece or byte by byte: the same messages in the same order."""
    wire = b"".join(frame(message, flag=flag) for flag, message in messages)
    cutter = MessageCutter(LIMIT_BYTES)
    found: list[tuple[int, bytes]] = []
    at = turn = 0
    while at < len(wire):
        size = slices[turn % len(slices)]
        cutter.add(wire[at : at + size])
        at += size
        turn += 1
        if turn % cut_every == 0:
            found += cut_all(cutter)
    found += cut_all(cutter)
    assert found == messages
    assert cutter.size_bytes == 0


def test_what_is_not_whole_is_kept() -> None:
    cutter = MessageCutter(LIMIT_BYTES)
    wire = frame(b"first") + frame(b"second")
    cutter.add(wire[:-1])
    assert cut_all(cutter) == [(0, b"first")]
    assert cutter.size_bytes == len(frame(b"second")) - 1
    cutter.add(wire[-1:])
    assert cut_all(cutter) == [(0, b"second")]


@pytest.mark.parametrize("sliced", [1, 3, 100])
def test_a_message_above_the_limit_is_refused_by_its_prefix(sliced: int) -> None:
    cutter = MessageCutter(LIMIT_BYTES)
    wire = frame(b"", length=LIMIT_BYTES + 1)
    for at in range(0, len(wire), sliced):
        assert cutter.cut() is None
        cutter.add(wire[at : at + sliced])
    with pytest.raises(HeadraceError, match="at most 1000") as refused:
        cutter.cut()
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_the_largest_message_passes() -> None:
    cutter = MessageCutter(LIMIT_BYTES)
    cutter.add(frame(bytes(LIMIT_BYTES)))
    assert cutter.cut() == (0, bytes(LIMIT_BYTES))


def test_nothing_is_left_after_clear() -> None:
    cutter = MessageCutter(LIMIT_BYTES)
    cutter.add(frame(b"message")[:-1])
    assert cutter.cut() is None
    cutter.clear()
    assert cutter.size_bytes == 0
    assert cutter.cut() is None
