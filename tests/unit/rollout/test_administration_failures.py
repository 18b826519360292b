"""Others at the same time, and stores and logs that fail between a change and its record."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import msgspec
import pytest

from foundation.audit import AuditError, digest
from rollout.administration import Changed
from rollout.administration_denials import DeniedError
from rollout.plan import Event, State, encode
from rollout.ports import (
    CorruptPlanError,
    StoreAwayError,
)
from tests.unit.rollout.administered import World, denied, in_world
from tests.unit.rollout.plans import APPROVER, OPERATOR, VIEWER, WARM, proposal

SEEDS = range(8)


# -- others at the same time ----------------------------------------------------------------------


def test_of_two_operators_one_hears_what_the_other_did(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit(start=True)
        outcomes = await asyncio.gather(
            world.do(Event.PAUSE, author=OPERATOR),
            world.do(Event.ROLLBACK, author=APPROVER),
            return_exceptions=True,
        )
        (made,) = [one for one in outcomes if isinstance(one, Changed)]
        (lost,) = [one for one in outcomes if isinstance(one, DeniedError)]
        assert lost.kind == "stale"
        assert lost.current is not None
        assert lost.current.document == made.document
        assert made.plan.author in lost.sentence
        assert len(world.records()) == 3

    in_world(tmp_path, test)


def test_somebody_between_the_plan_and_its_start(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async def second_write() -> None:
            world.store.before_write = abort

        async def abort() -> None:
            await world.do(Event.ABORT, author=APPROVER)

        world.store.before_write = second_write
        refusal = await denied(world.submit(start=True))
        assert refusal.kind == "stale"
        assert "revision 1 is written, and what was to follow (start) is not" in refusal.sentence
        assert refusal.current == await world.plan()
        assert [one.action for one in world.records()] == ["rollout.submit", "rollout.abort"]

    in_world(tmp_path, test)


# -- the store fails ------------------------------------------------------------------------------


def test_a_store_that_is_away_changes_and_records_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        world.store.go_away()
        for what in (
            world.submit(expected_revision=1),
            world.do(Event.START),
            world.admin.list(),
            world.admin.plan("delays"),
            world.admin.status("delays"),
        ):
            with pytest.raises(StoreAwayError):
                await what
        assert len(world.records()) == 1

    in_world(tmp_path, test)


def test_a_write_whose_answer_was_lost_counts_when_the_store_has_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.fails = "after"
        changed = await world.submit(start=True)
        assert changed.plan.state is State.STEPPING
        assert world.store.writes == 2  # each once
        records = world.records()
        assert [one.action for one in records] == ["rollout.submit", "rollout.start"]
        assert all("outcome" not in one.details for one in records)

    in_world(tmp_path, test)


@pytest.mark.parametrize("fails", ["before", "after, and stays away"])
def test_a_write_of_which_nobody_knows_is_recorded_as_such(tmp_path: Path, fails: str) -> None:
    async def test(world: World) -> None:
        world.store.fails = fails
        refusal = await denied(world.submit())
        assert refusal.kind == "outcome_unknown"
        assert "nobody knows" in refusal.sentence
        (record,) = world.records()
        assert record.details["outcome"] == "unknown"
        assert world.store.writes == 1

    in_world(tmp_path, test)


def test_a_lost_write_over_which_another_came_is_known_to_be_lost(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit(start=True)

        async def abort() -> None:
            await world.do(Event.ABORT)
            world.store.fails = "before"

        world.store.before_write = abort
        refusal = await denied(world.do(Event.PAUSE))
        assert refusal.kind == "stale"
        assert refusal.current == await world.plan()
        assert [one.action for one in world.records()][-1] == "rollout.abort"

    in_world(tmp_path, test)


def test_a_corrupt_document_is_told_and_left_alone(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        world.store.put_document("broken", b'{"format": 1')
        for what in (
            world.admin.plan("broken"),
            world.admin.status("broken"),
            world.admin.change("broken", Event.START, author=APPROVER, reason="r"),
            world.submit(proposal(model="broken"), expected_revision=1),
        ):
            with pytest.raises(CorruptPlanError) as raised:
                await what
            assert raised.value.digest == hashlib.sha256(b'{"format": 1').hexdigest()
        broken, good = await world.admin.list()
        assert (broken.model, broken.state) == ("broken", "unreadable")
        assert raised.value.digest in broken.reason
        assert (good.model, good.state, good.revision) == ("delays", "draft", 1)

    in_world(tmp_path, test)


def test_a_plan_with_broken_weights_can_still_be_rolled_back(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        plan = (await world.submit(start=True)).plan
        arms = tuple(msgspec.structs.replace(arm, intervals=((0, 5),)) for arm in plan.arms)
        world.store.put_document("delays", encode(msgspec.structs.replace(plan, arms=arms)))
        with pytest.raises(CorruptPlanError) as raised:
            await world.do(Event.STEP, step=2)
        assert "intervals" in raised.value.reason
        assert (await world.do(Event.ROLLBACK)).plan.state is State.ROLLED_BACK

    in_world(tmp_path, test)


# -- the log fails --------------------------------------------------------------------------------


def test_without_a_sound_log_nothing_is_written(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        world.file.write_bytes(b"no record\n")
        refusal = await denied(world.do(Event.START))
        assert refusal.kind == "log_unusable"
        assert (await world.plan()).plan.revision == 1
        assert world.store.writes == 1

    in_world(tmp_path, test)


def test_a_change_that_could_not_be_recorded_is_in_force_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        async def break_log() -> None:
            world.file.unlink()
            world.file.mkdir()

        await world.submit()
        world.store.before_write = break_log
        refusal = await denied(world.do(Event.START))
        assert refusal.kind == "not_recorded"
        assert "revision 2 of model delays IS in force" in refusal.sentence
        assert refusal.current == await world.plan()
        assert "is not in the audit log: model delays, revision 2, start by grace" in caplog.text

    in_world(tmp_path, test)


def test_who_goes_away_does_not_come_between_write_and_record(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            reached.set()
            await go_on.wait()

        world.store.before_write = wait
        asking = asyncio.create_task(world.submit())
        await reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go_on.set()
        await world.admin.settle()
        assert (await world.plan()).plan.revision == 1
        assert [one.action for one in world.records()] == ["rollout.submit"]

    in_world(tmp_path, test)


# -- sessions at random ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_log_has_what_the_store_has(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)

    async def test(world: World) -> None:
        people = [OPERATOR, APPROVER, VIEWER]
        made: list[Changed] = []
        refusals: set[str] = set()

        async def one(event: Event | None) -> None:
            found = await world.store.plan("delays")
            seen = found.plan.revision if found and dice.random() < 0.8 else None
            author = dice.choice(people)
            try:
                if event is None:
                    start = dice.random() < 0.7
                    changed = await world.submit(author=author, expected_revision=seen, start=start)
                else:
                    step = dice.randrange(5) if event is Event.STEP else None
                    changed = await world.do(
                        event, author=author, step=step, expected_revision=seen
                    )
                made.append(changed)
            except DeniedError as refusal:
                refusals.add(refusal.kind)

        events = [None, None, Event.START, Event.PAUSE, Event.RESUME, Event.STEP, Event.ROLLBACK]
        world.tick_s = 0.001  # changes that are alike in everything, the time too, are one change
        await world.submit()
        for _ in range(40):
            world.now_s += dice.random() * 10
            await world.warm(dice.choice([WARM, WARM, WARM, frozenset({"3"})]))
            world.store.fails = dice.choice(["", "", "", "after"])
            await asyncio.gather(*(one(dice.choice(events)) for _ in range(dice.randrange(1, 4))))
        records = world.records()
        plan = await world.plan()
        assert {"stale", "state"} <= refusals
        assert len(made) > 5
        revisions = sorted(record.details["revision"] for record in records)
        assert revisions == list(range(1, plan.plan.revision + 1))
        by_revision = {record.details["revision"]: record for record in records}
        for entry in plan.plan.history:
            record = by_revision[entry.revision]
            assert record.action == f"rollout.{entry.event}"
            assert (record.author, record.details["to"]) == (entry.author, entry.target)
        for revision in revisions[1:]:
            before, after = by_revision[revision - 1], by_revision[revision]
            assert after.before_digest == before.after_digest
        assert by_revision[plan.plan.revision].after_digest == digest(plan.document)

    in_world(tmp_path, test)


def test_the_errors_of_a_log_name_no_change(tmp_path: Path) -> None:
    """The log's own sentence goes to the caller, so that an operator knows what to repair."""

    async def test(world: World) -> None:
        world.file.mkdir()
        with pytest.raises(AuditError):
            world.audit.head()
        refusal = await denied(world.submit())
        assert "not a regular file" in refusal.sentence or "directory" in refusal.sentence
        assert await world.store.models() == []

    in_world(tmp_path, test)
