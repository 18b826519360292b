"""Which changes the audit log lacks: each is appended once, whatever was read and whatever was lost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from foundation.audit import AuditError, AuditLog
from foundation.audit_verifying import verify
from rollout import change_log
from rollout.change_log import ChangeLog, open_change_log
from rollout.plan import Event, Plan, encode
from rollout.ports import Stored
from tests.unit.rollout.driver_world import World
from tests.unit.rollout.plans import START_S, after, proposal, stepping

LONG_AGO_S = 1e9
PLAN = after(
    stepping(now_s=LONG_AGO_S), Event.ADVANCE, Event.ADVANCE, Event.PROMOTE, now_s=LONG_AGO_S
)
"""Two changes by the controller, then one by a person; before any record of these tests."""


def stored(plan: Plan) -> Stored:
    return Stored(plan, encode(plan))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def log(world: World) -> ChangeLog:
    return open_change_log(world.audit_file)


def test_each_change_of_the_controller_is_recorded_once(world: World) -> None:
    one, other = log(world), log(world)
    assert not one.is_recorded(stored(PLAN)), "nobody has looked"
    assert one.record(stored(PLAN), None, {}) == 2
    assert one.is_recorded(stored(PLAN))
    assert one.record(stored(PLAN), None, {}) == 0
    assert other.record(stored(PLAN), None, {}) == 0, "another process reads what is there"
    assert [revision for _, _, revision in world.recorded()] == [3, 4]


def test_another_plan_of_the_same_revisions_has_other_changes(world: World) -> None:
    one = log(world)
    one.record(stored(PLAN), None, {})
    again = after(stepping(now_s=START_S + 9), Event.ADVANCE, now_s=START_S + 9)
    assert one.record(stored(again), None, {}) == 1
    assert log(world).record(stored(again), None, {}) == 0
    assert log(world).record(stored(PLAN), None, {}) == 0, "an older document was put back"


def test_a_torn_record_is_none(world: World) -> None:
    first = after(stepping(), Event.ADVANCE)
    log(world).record(stored(first), None, {})
    whole = world.audit_file.read_bytes()
    log(world).record(stored(after(first, Event.ADVANCE)), None, {})
    world.audit_file.write_bytes(world.audit_file.read_bytes()[: len(whole) + 90])
    again = log(world)
    assert not again.is_recorded(stored(first))
    assert again.record(stored(after(first, Event.ADVANCE)), None, {}) == 1
    assert verify(world.audit_file).is_sound


def test_of_a_long_log_only_the_end_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "MAX_TAIL_RECORDS", 3)
    log(world).record(stored(PLAN), None, {})
    for _ in range(5):
        AuditLog(world.audit_file).append(
            author="ada", role="operator", action="key.made", target="k"
        )
    assert log(world).record(stored(PLAN), None, {}) == 0, "older than what was read"
    late = after(stepping(proposal(model="fares")), Event.ADVANCE, now_s=4e9)
    assert log(world).record(stored(late), None, {}) == 1


def test_a_log_in_the_logs_place_is_read_anew(world: World) -> None:
    one = log(world)
    one.record(stored(PLAN), None, {})
    world.audit_file.unlink()
    with pytest.raises(AuditError, match="cut or replaced"):
        one.record(stored(PLAN), None, {})
    assert log(world).record(stored(PLAN), None, {}) == 2, "a new process goes on"


def test_what_cannot_be_appended_is_known_before(world: World) -> None:
    world.audit_file = world.audit_file.parent / "none" / "audit.jsonl"
    with pytest.raises(AuditError, match="mkdir -p"):
        log(world).must_take_more()
    world.audit_file.parent.mkdir()
    log(world).must_take_more()
    assert not world.audit_file.exists(), "a look leaves nothing behind"
    world.audit_file.mkdir()
    with pytest.raises(AuditError):
        log(world).must_take_more()


def test_only_what_a_process_has_just_done_is_recorded_with_its_details(world: World) -> None:
    before = stepping()
    plan = after(before, Event.ADVANCE)
    log(world).record(stored(plan), stored(before), {"step": 1})
    (record,) = world.records()
    assert record.details["step"] == 1
    assert "is_late" not in record.details
    renamed = msgspec.structs.replace(plan, model="fares")
    log(world).record(stored(renamed), None, {"step": 1})
    assert world.records()[-1].details["is_late"] is True
