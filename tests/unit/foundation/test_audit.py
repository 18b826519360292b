"""Appending: what a record holds, who may append, and how the log goes on after a crash or tampering."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from foundation import audit
from foundation.audit import (
    GENESIS,
    AuditError,
    AuditLog,
    AuditRecord,
    DamagedLogError,
    Head,
    digest,
)
from foundation.audit_record import MAX_RECORD_BYTES, TORN_LINE_ACTION, parse_line
from foundation.audit_verifying import verify

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STEP: dict[str, Any] = {
    "author": "anna",
    "role": "operator",
    "action": "rollout.step",
    "target": "fraud",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def append(path: Path, **more: Any) -> AuditRecord:
    return AuditLog(path, now=lambda: NOW).append(**{**STEP, **more})


def filled(path: Path, count: int) -> list[AuditRecord]:
    log = AuditLog(path, now=lambda: NOW)
    return [log.append(**STEP, details={"weight": at}) for at in range(count)]


# -- a record -------------------------------------------------------------------------------------


def test_what_is_appended_is_in_the_file(path: Path) -> None:
    given = {
        "reason": 'weil "es" so ist\n→ ok',
        "before_digest": digest(b"before"),
        "after_digest": digest(b"after"),
        "details": {"z": [1, 2.5, None], "a": {"b": True}},
    }
    first, second = append(path, **given), append(path)
    assert [parse_line(line).record for line in path.read_bytes().splitlines()] == [first, second]
    assert (first.seq, first.prev, second.seq, second.prev) == (1, GENESIS, 2, first.hash)
    assert (first.reason, first.details, first.at) == (given["reason"], given["details"], NOW)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0, "no stranger may read it"
    assert AuditLog(path).head() == Head(2, second.hash)


def test_the_hash_is_what_the_first_record_has_always_had(path: Path) -> None:
    """A golden line: logs that exist must verify for ever."""
    record = append(path, reason="why", details={"b": 1, "a": "ü"})
    assert path.read_text() == (
        '{"seq":1,"at":"2026-11-23T12:00:00.000000Z","author":"anna","role":"operator","action":"rollout.step",'
        '"target":"fraud","reason":"why","before_digest":"","after_digest":"","details":{"a":"ü","b":1},'
        f'"prev":"{GENESIS}","hash":"{record.hash}"}}\n'
    )
    assert record.hash == "8f4ddc8a554ff188a018a4eaacec847af75cd585a6f1dae7bac10a870efba16d"


def test_times_are_in_utc(path: Path) -> None:
    east = timezone(timedelta(hours=2))
    record = AuditLog(path, now=lambda: NOW.astimezone(east)).append(**STEP)
    assert record.at == NOW
    assert b'"at":"2026-11-23T12:00:00.000000Z"' in path.read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"author": ""}, "author"),
        ({"author": "a" * 257}, "author"),
        ({"action": "Rollout"}, "action"),
        ({"action": TORN_LINE_ACTION}, "the log's own"),
        ({"target": ""}, "target"),
        ({"before_digest": "two words"}, "before_digest"),
        ({"reason": "\ud800"}, "surrogate"),
        ({"reason": "a" * 8193}, "reason"),
        ({"details": {"a": float("nan")}}, "JSON"),
        ({"details": {"a": object()}}, "plain JSON"),
        ({"details": {"a": b"bytes"}}, "plain JSON"),
        ({"details": {"a": "x" * MAX_RECORD_BYTES}}, "shorten"),
        ({"details": {1: "a", "b": "c"}}, "plain JSON"),
    ],
)
def test_what_a_record_cannot_hold_leaves_no_file(
    path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        append(path, **more)
    assert not path.exists()


def test_details_nested_without_end_are_refused(path: Path) -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    with pytest.raises(ValueError, match="plain JSON"):
        append(path, details=nested)


def test_tuples_become_lists(path: Path) -> None:
    assert append(path, details={"a": (1, 2)}).details == {"a": [1, 2]}


# -- who may append -------------------------------------------------------------------------------


def test_a_log_that_is_not_there_yet_has_the_first_head(path: Path) -> None:
    assert AuditLog(path).head() == Head(0, GENESIS)
    assert not path.exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="mkdir -p"):
        append(tmp_path / "none" / "audit.jsonl")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_a_file_is_a_log(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(AuditError, match=r"audit\.jsonl: "):
        append(path)


def test_a_lock_that_is_held_is_waited_for_only_so_long(path: Path) -> None:
    filled(path, 1)
    before = path.read_bytes()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AuditError, match=r"held its lock for 0\.02 s"):
            AuditLog(path, lock_timeout_s=0.02).append(**STEP)
        with pytest.raises(AuditError, match="held its lock"):
            AuditLog(path, lock_timeout_s=0.02).head()
    assert path.read_bytes() == before


def test_threads_share_one_log(path: Path) -> None:
    log = AuditLog(path)
    threads = [
        threading.Thread(target=lambda: [log.append(**STEP) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert verify(path).records == 80
    assert verify(path).is_sound


def test_it_is_on_the_disk_before_the_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        fsync(fd)
        synced.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, os.fstat(fd).st_size))

    monkeypatch.setattr(audit.os, "fsync", watched)
    append(path)
    assert synced[0] == (path.name, path.stat().st_size)
    assert [name for name, _ in synced] == [path.name, path.parent.name], "and so is its name"
    append(path)
    assert synced[2:] == [(path.name, path.stat().st_size)]


# -- after a crash --------------------------------------------------------------------------------


def test_wherever_a_writer_dies_the_chain_goes_on_and_says_so(path: Path) -> None:
    filled(path, 3)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole), 9):
        path.write_bytes(whole[:cut])
        found = verify(path)
        assert found.is_sound
        assert (found.records, found.torn_tail_bytes) == (2, cut - last)
        record = append(path)
        after = verify(path)
        assert after.is_sound
        assert (after.records, after.torn_lines_named, after.torn_tail_bytes) == (4, (3,), 0)
        assert record.seq == 4
        said = parse_line(path.read_bytes().splitlines()[2])
        assert said.torn == whole[last:cut]
        assert said.record.details["torn_bytes"] == cut - last
        assert path.read_bytes().startswith(whole[:cut]), "nothing is rewritten"


@pytest.mark.parametrize("missing", [1, 150], ids=["only its end", "more"])
def test_wherever_the_next_writer_dies_as_well(path: Path, missing: int) -> None:
    filled(path, 2)
    torn = path.read_bytes()[:-missing]
    path.write_bytes(torn)
    append(path)
    repaired = path.read_bytes()
    for cut in range(len(torn), len(repaired), 11):
        path.write_bytes(repaired[:cut])
        assert verify(path).is_sound, cut
        append(path)
        found = verify(path)
        assert found.is_sound, (cut, found)
        assert found.torn_tail_bytes == 0
        assert found.torn_lines in (1, 2)


@pytest.mark.parametrize("tail", [b"\0" * 700, b'{"seq":3,"at' + b"\0" * 90, b"\0\0{"])
def test_a_power_loss_may_leave_nothing_but_nuls(path: Path, tail: bytes) -> None:
    filled(path, 2)
    with path.open("ab") as log:
        log.write(tail)
    assert verify(path).torn_tail_bytes == len(tail)
    assert append(path).seq == 4
    assert verify(path).torn_lines_named == (3,)


# -- after tampering ------------------------------------------------------------------------------


def edit_last(content: bytes) -> bytes:
    return content[:-300] + content[-300:].replace(b"fraud", b"Fraud")


@pytest.mark.parametrize(
    "tamper",
    [
        edit_last,
        lambda content: content[:-1] + b"X",
        lambda content: content + b"hello",
        lambda content: content + b"hello\n",
        lambda content: content + b"\n",
        lambda content: content + b'{"seq":3,"at":"' + b"x" * MAX_RECORD_BYTES,
        lambda content: content + b"x" * 4 * MAX_RECORD_BYTES,
        lambda content: content[:-1] + b"X" + content.splitlines()[1][:100],
    ],
    ids=["edited", "end", "more", "line", "empty", "long", "longer", "joined"],
)
def test_a_log_whose_end_was_tampered_with_is_left_alone(
    path: Path, tamper: Callable[[bytes], bytes]
) -> None:
    filled(path, 2)
    path.write_bytes(tamper(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DamagedLogError, match="headrace audit verify"):
        append(path)
    assert path.read_bytes() == before
    assert not verify(path).is_sound


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_living_writer_sees_that_lines_were_cut_off(path: Path, keep: int) -> None:
    log = AuditLog(path)
    for _ in range(3):
        log.append(**STEP)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:keep]))
    with pytest.raises(
        DamagedLogError, match=f"ends with record {keep}, but this process has seen"
    ):
        log.append(**STEP)
    path.unlink()
    with pytest.raises(DamagedLogError, match="ends with record 0"):
        log.append(**STEP)


def test_a_living_writer_sees_that_the_log_was_replaced(path: Path) -> None:
    log = AuditLog(path)
    log.append(**STEP)
    path.unlink()
    append(path, reason="another log of the same length")
    with pytest.raises(DamagedLogError, match="cut or replaced"):
        log.append(**STEP)
