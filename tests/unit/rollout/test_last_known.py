"""The plans on the disk: which one stays, and what becomes of a file that is no plan."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from rollout.last_known import LastKnown, LastKnownError, succeeds
from rollout.plan import MAX_DOCUMENT_BYTES, Event, Plan, encode
from rollout.ports import Stored
from tests.unit.rollout.plans import APPROVER, after, draft, happen, made, proposal

FIRST = draft(now_s=100.0)
SECOND = after(FIRST, Event.START, now_s=200.0)
THIRD = after(SECOND, Event.PAUSE, now_s=300.0)
LATER = draft(now_s=400.0)
"""Submitted to a store that was emptied."""


def stored(plan: Plan) -> Stored:
    return Stored(plan, encode(plan))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_kept_is_there_after_a_start(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    assert LastKnown(folder).read() == {}
    plans = [FIRST, draft(proposal(model="Delays")), draft(proposal(model="m" * 100))]
    for plan in plans:
        assert LastKnown(folder).keep(stored(plan))
    assert LastKnown(folder).read() == {plan.model: stored(plan) for plan in plans}
    assert len(files(folder)) == 3, "nothing else is left behind"


@pytest.mark.parametrize(
    ("old", "new", "is_kept"),
    [
        (FIRST, SECOND, True),
        (FIRST, THIRD, True),
        (SECOND, FIRST, False),
        (SECOND, SECOND, False),
        (THIRD, LATER, True),
        (LATER, THIRD, False),
    ],
)
def test_only_what_came_later_takes_its_place(
    tmp_path: Path, old: Plan, new: Plan, is_kept: bool
) -> None:
    known = LastKnown(tmp_path)
    known.keep(stored(old))
    assert known.keep(stored(new)) is is_kept
    assert known.read() == {"delays": stored(new if is_kept else old)}


def test_a_plan_that_replaced_another_counts_although_a_clock_was_set_back() -> None:
    ended = after(FIRST, Event.ABORT, now_s=500.0)
    replaced = made(
        happen(ended, Event.REPLACE, APPROVER, now_s=50.0, proposal=proposal(slo_ms=7.0))
    )
    assert replaced.created_s < ended.created_s
    assert succeeds(replaced, ended)
    assert succeeds(replaced, FIRST)
    assert not succeeds(ended, replaced)


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut short": encode(SECOND)[:-1],
    "zeros": bytes(200),
    "too long": encode(SECOND) + b" " * MAX_DOCUMENT_BYTES,
    "another format": encode(SECOND).replace(b'"format":1', b'"format":2'),
    "of another model": encode(draft(proposal(model="fares"))),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("first", ["read", "keep"])
def test_a_broken_file_is_set_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, first: str
) -> None:
    known = LastKnown(tmp_path)
    known.keep(stored(SECOND))
    known.keep(stored(draft(proposal(model="other"))))
    path = next(path for path in tmp_path.iterdir() if path.read_bytes() == encode(SECOND))
    path.write_bytes(BROKEN[damage])
    with caplog.at_level(logging.WARNING):
        if first == "read":
            assert list(known.read()) == ["other"]
        # What was broken has no revision that could keep an older one away.
        assert known.keep(stored(FIRST))
    assert [path.name in record.getMessage() for record in caplog.records] == [True]
    assert path.with_suffix(".broken").read_bytes() == BROKEN[damage]
    assert sorted(known.read()) == ["delays", "other"]


def test_a_crash_before_the_end_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = LastKnown(tmp_path)
    known.keep(stored(FIRST))
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(LastKnownError, match="No space left on device; make the folder"):
        known.keep(stored(SECOND))
    assert LastKnown(tmp_path).read() == {"delays": stored(FIRST)}
    assert len(files(tmp_path)) == 1

    def sync(fd: int) -> None:
        order.append("sync")
        real_sync(fd)

    def replace(path: Path, target: Path) -> Path:
        order.append("replace")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    assert known.keep(stored(SECOND))
    assert order == ["sync", "replace", "sync"], "the bytes, the name, the folder"


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LastKnownError, match="cannot be used"):
        LastKnown(tmp_path / "file").keep(stored(FIRST))


def test_a_document_is_kept_byte_for_byte(tmp_path: Path) -> None:
    spaced = Stored(FIRST, msgspec.json.format(encode(FIRST)))
    LastKnown(tmp_path).keep(spaced)
    assert LastKnown(tmp_path).read()["delays"].document == spaced.document
