"""Each way to tamper with a log is named with its line; what is sound is never called broken."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from foundation.audit import GENESIS, AuditError, AuditLog, AuditRecord
from foundation.audit_record import Line, LineError, seal
from foundation.audit_verifying import Finding, last_lines, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def found(path: Path, **more: Any) -> Finding:
    finding = verify(path, **more).finding
    assert finding is not None
    return finding


NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STEP: dict[str, Any] = {
    "author": "anna",
    "role": "operator",
    "action": "rollout.step",
    "target": "fraud",
}


def filled(path: Path, count: int) -> list[AuditRecord]:
    log = AuditLog(path)
    return [log.append(**STEP, details={"weight": at}) for at in range(count)]


def rewrite(path: Path, change: Any) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


# -- sound ----------------------------------------------------------------------------------------


def test_a_sound_log_says_how_many_records_and_its_head(path: Path) -> None:
    records = filled(path, 10)
    done = verify(path)
    assert (done.records, done.head, done.is_sound) == (10, records[-1].hash, True)


def test_an_empty_log_is_sound(path: Path) -> None:
    path.touch()
    assert (verify(path).records, verify(path).head) == (0, GENESIS)
    assert verify(path, expect_head=GENESIS).is_sound


def test_what_cannot_be_read(path: Path, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no such file"):
        verify(path)
    with pytest.raises(AuditError, match="not a regular file"):
        verify(tmp_path)


# -- broken ---------------------------------------------------------------------------------------


def test_any_flipped_byte_shows(path: Path) -> None:
    """Every byte of the file in turn, once by any other value and once by each that means something to us."""
    records = filled(path, 3)
    whole, dice = path.read_bytes(), random.Random(5)
    for at, old in enumerate(whole):
        for new in {dice.randrange(256), *b"\n\0{}"} - {old}:
            path.write_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])
            done = verify(path)
            if at == len(whole) - 1 and new in b"\0{":
                # Only the last end of line: as if power or the next writer had been lost there. It is told.
                assert done.torn_tail_bytes
                assert not verify(path, expect_head=records[-1].hash).is_sound
                continue
            assert done.finding is not None, (at, new)
            assert done.finding.line == whole[:at].count(b"\n") + 1, (at, new, done)
            assert done.records == done.finding.line - 1


@pytest.mark.parametrize(
    ("taken", "problem"),
    [
        (slice(4, 5), "line 5 holds record 6: record 5 is missing"),
        (slice(0, 1), "line 1 holds record 2: record 1 is missing"),
        (slice(2, 6), "line 3 holds record 7: records 3 to 6 are missing"),
    ],
)
def test_lines_taken_out(path: Path, taken: slice, problem: str) -> None:
    filled(path, 8)

    def take(lines: list[bytes]) -> list[bytes]:
        del lines[taken]
        return lines

    rewrite(path, take)
    finding = found(path)
    assert f"line {finding.line} {finding.problem}" == problem


def test_swapped_lines(path: Path) -> None:
    filled(path, 8)
    rewrite(path, lambda lines: [*lines[:3], lines[6], *lines[4:6], lines[3], lines[7]])
    assert found(path) == Finding(
        4, "holds record 7, and record 4 stands in line 7: lines were moved"
    )


def test_a_repeated_line(path: Path) -> None:
    filled(path, 4)
    rewrite(path, lambda lines: [*lines[:3], lines[1], lines[3]])
    assert found(path) == Finding(
        4, "holds record 2, which belongs into line 2: it was repeated or moved"
    )


def test_a_record_written_anew_with_its_own_right_hash(path: Path) -> None:
    records = filled(path, 5)
    forged = seal(
        **STEP, seq=3, at=NOW, reason="forged", before_digest="", after_digest="", details={},
        prev=records[1].hash,
    )  # fmt: skip
    rewrite(path, lambda lines: [*lines[:2], forged + b"\n", *lines[3:]])
    finding = found(path)
    assert finding.line == 4
    assert records[2].hash in finding.problem
    assert "written anew" in finding.problem


def test_a_line_in_between_that_is_no_record(path: Path) -> None:
    filled(path, 4)
    rewrite(path, lambda lines: [*lines[:2], b"[1, 2]\n", *lines[2:]])
    assert found(path) == Finding(3, "holds no record")


def test_a_line_without_end_in_sight_costs_no_memory(path: Path) -> None:
    filled(path, 1)
    with path.open("ab") as log:
        log.truncate(200_000_000)
    tracemalloc.start()
    finding = found(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (finding.line, "longer than any record" in finding.problem) == (2, True)
    assert peak_bytes < 5_000_000


def test_torn_bytes_before_a_record_must_be_those_that_it_names(path: Path) -> None:
    filled(path, 2)
    path.write_bytes(path.read_bytes()[:-40])
    AuditLog(path).append(**STEP)
    assert verify(path).torn_lines_named == (2,)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"weight":1', b'"weight":2'))
    assert "does not name" in found(path).problem
    torn_start = whole.index(b"\n") + 1
    repair_start = whole.rindex(b'{"seq":2')
    path.write_bytes(whole[:torn_start] + whole[repair_start:])
    assert found(path) == Finding(2, "names torn bytes before its record, and there are none")
    path.write_bytes(whole[:torn_start] + b"x" + whole[torn_start:])
    assert found(path).line == 2


# -- a cut end ------------------------------------------------------------------------------------


def test_a_cut_end_shows_only_to_who_kept_the_head(path: Path) -> None:
    records = filled(path, 6)
    for kept in (GENESIS, records[0].hash, records[5].hash):
        assert verify(path, expect_head=kept).is_sound, "the log may have grown since"
    rewrite(path, lambda lines: lines[:4])
    assert verify(path).is_sound
    assert verify(path, expect_head=records[3].hash).is_sound
    finding = found(path, expect_head=records[4].hash)
    assert finding.line == 5
    assert "cut off the end, or written anew" in finding.problem


def test_an_end_cut_inside_of_a_line_is_told(path: Path) -> None:
    records = filled(path, 3)
    path.write_bytes(path.read_bytes()[:-30])
    done = verify(path)
    assert done.is_sound
    assert done.torn_tail_bytes > 200
    assert found(path, expect_head=records[2].hash).line == 3


# -- long logs ------------------------------------------------------------------------------------


def test_a_long_log_is_a_stream_with_progress(path: Path) -> None:
    prev, count = GENESIS, 20_000
    with path.open("wb") as log:
        for seq in range(1, count + 1):
            line = seal(
                **STEP, seq=seq, at=NOW, reason="", before_digest="", after_digest="",
                details={"x": "y" * 300}, prev=prev,
            )  # fmt: skip
            log.write(line + b"\n")
            prev = line[-66:-2].decode()
    told: list[tuple[int, int]] = []
    tracemalloc.start()
    done = verify(path, progress=lambda read, total: told.append((read, total)))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (done.records, done.head) == (count, prev)
    assert path.stat().st_size > 12_000_000
    assert peak_bytes < 3_000_000
    assert [read for read, _ in told] == sorted(read for read, _ in told)
    assert told[-1][0] == 16384
    assert abs(told[-1][1] - count) < count / 50


# -- the last records -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 5, 10_000])
def test_the_last_records_oldest_first(path: Path, count: int) -> None:
    records = filled(path, 5)
    lines = [line.content for line in last_lines(path, count)]
    assert all(isinstance(line, Line) for line in lines)
    assert [line.record for line in lines if isinstance(line, Line)] == records[-count:]


def test_a_broken_line_among_them_is_told(path: Path) -> None:
    filled(path, 3)
    path.write_bytes(path.read_bytes().replace(b'"weight":1', b'"weight":7')[:-5])
    first, second, torn = last_lines(path, 3)
    assert isinstance(first.content, Line)
    assert "was changed" in str(second.content)
    assert isinstance(torn.content, LineError)
    assert "has no end" in str(torn.content)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_as_many_as_can_be_shown(path: Path, count: int) -> None:
    with pytest.raises(AuditError, match="ask for 1 to 10000"):
        list(last_lines(path, count))
