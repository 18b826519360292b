"""What troubles a controller: a store that is away, one model among others, an audit log that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foundation.audit import AuditError, digest
from rollout import driver as driver_module
from rollout.change_log import ChangeLog
from rollout.evidence import RecentOutcomes
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, State, encode
from rollout.ports import StoreAwayError
from tests.support.loops import run
from tests.unit.rollout.driver_world import World
from tests.unit.rollout.plans import (
    START_S,
    after,
    proposal,
    stepping,
)

LONG_AGO = START_S - 10_000
PLAN = stepping(now_s=LONG_AGO)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ready(world: World, plan: Plan = PLAN, errors: int = 0) -> Plan:
    """Everything that the plan's step asks for is there."""
    world.put(plan)
    await world.beat(plan)
    await world.count(plan, errors)
    return plan


# -- the store -------------------------------------------------------------------------------------


def test_a_store_that_is_away_is_asked_again_ever_more_seldom(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        await ready(world)
        driver = world.driver()
        world.store.go_away()
        await world.turn(driver, 6)
        assert world.slept_s == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
        assert "away" in driver.snapshot().troubles["store"]
        world.store.come_back()
        await ready(world)
        await world.turn(driver)
        assert (await world.stored()).revision == 3
        assert driver.snapshot().troubles == {}
        world.store.go_away()
        await world.turn(driver)
        assert world.slept_s[-1] == 0.25

    run(test)
    assert caplog.text.count("the store in memory is away") == 2, "each time once"


def test_an_answer_that_got_lost_is_a_change_that_is_recorded(world: World) -> None:
    class Deaf(MemoryRollouts):
        async def write(self, *arguments: Any) -> Any:
            await super().write(*arguments)
            raise StoreAwayError("the answer got lost")

    async def test() -> None:
        world.store = Deaf(lambda: world.monotonic_s)
        await ready(world)
        driver = world.driver()
        await world.turn(driver)
        assert (await world.stored()).revision == 3
        assert world.records() == []
        await world.turn(driver)
        (record,) = world.records()
        assert record.details["is_late"] is True
        assert record.after_digest == digest(encode(await world.stored()))

    run(test)


# -- one model among others -------------------------------------------------------------------------

GOOD = stepping(proposal(model="zebra"), LONG_AGO)


@pytest.mark.parametrize("bad", ["corrupt", "of another model", "reports", "store"])
def test_one_models_trouble_is_no_other_models(
    world: World, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(MemoryRollouts):
        async def plan(self, model: str) -> Any:
            if model == "delays" and bad == "store":
                await super().plan(model)
                raise StoreAwayError("refused: WRONGTYPE")
            return await super().plan(model)

        async def reports(self, model: str, began_revision: int) -> Any:
            if model == "delays" and bad == "reports":
                raise KeyError("a bug")
            return await super().reports(model, began_revision)

    async def test() -> None:
        world.store = Picky(lambda: world.monotonic_s)
        await ready(world)
        await ready(world, GOOD)
        await world.beat(PLAN, GOOD)
        if bad == "corrupt":
            world.store.put_document("delays", b"{")
        elif bad == "of another model":
            world.store.put_document("delays", encode(GOOD))
        driver = world.driver()
        await world.turn(driver, 3)
        assert (await world.stored("zebra")).revision == 3
        shown = driver.snapshot()
        assert list(shown.troubles) == ["model delays"]
        assert shown.troubles_met == 1
        assert shown.is_leader
        bad_document = world.put(after(PLAN, Event.PAUSE))
        if bad in {"corrupt", "of another model"}:
            await world.turn(driver)
            assert driver.snapshot().troubles == {}
            assert await world.stored() == bad_document

    run(test)
    assert caplog.text.count("model delays: ") == 1


def test_a_plan_that_no_controller_wrote_moves_nowhere_but_back(world: World) -> None:
    arms = tuple(
        msgspec.structs.replace(arm, weight_percent=weight)
        for arm, weight in zip(PLAN.arms, (60.0, 40.0), strict=True)
    )
    odd = msgspec.structs.replace(PLAN, arms=arms)

    async def test() -> None:
        await ready(world, odd)
        driver = world.driver()
        await world.turn(driver, 2)
        assert await world.stored() == odd
        assert "no controller can have written" in driver.snapshot().models["delays"].words
        await ready(world, odd, errors=500)
        await world.turn(driver)
        assert (await world.stored()).state is State.ROLLED_BACK

    run(test)


def test_plans_that_go_are_forgotten(world: World) -> None:
    async def test() -> None:
        await ready(world)
        world.store.put_document("broken", b"{")
        driver = world.driver()
        await world.turn(driver)
        assert set(driver.snapshot().troubles) == {"model broken"}
        world.store.lose_data()
        await world.turn(driver, 8)
        assert driver.snapshot().is_leader
        assert (driver.snapshot().models, driver.snapshot().troubles) == ({}, {})
        assert driver._witnessed == {}

    run(test)


def test_only_so_many_models_are_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "MAX_MODELS", 1)

    async def test() -> None:
        world.put(PLAN)
        world.put(GOOD)
        driver = world.driver()
        await world.turn(driver)
        assert list(driver.snapshot().models) == ["delays"]
        assert "only 1 are looked at" in driver.snapshot().troubles["models"]

    run(test)


# -- the audit log -----------------------------------------------------------------------------------


class Full(ChangeLog):
    """A log on a disk that may be full."""

    def __init__(self) -> None:
        self.is_full = True
        self.appended = 0

    def is_recorded(self, stored: Any) -> bool:
        return not self.is_full and self.appended == stored.plan.revision - 2

    def must_take_more(self) -> None:
        if self.is_full:
            raise AuditError("audit.jsonl: No space left on device")

    def record(self, stored: Any, before: Any, details: Any) -> int:
        self.must_take_more()
        self.appended += 1
        return 1


def test_without_a_log_nothing_moves_forward_and_harm_is_stopped(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        log = Full()
        driver = world.driver(log=log)
        await ready(world)
        await world.turn(driver, 5)
        assert (await world.stored()).revision == 2
        assert "No space left" in driver.snapshot().models["delays"].words
        assert "No space left" in driver.snapshot().troubles["audit log"]
        await world.count(PLAN, candidate_recent=RecentOutcomes(0b11111, 5))
        await world.turn(driver)
        assert (await world.stored()).state is State.ROLLED_BACK
        assert driver.snapshot().changes == {"breach": 1}
        assert log.appended == 0
        log.is_full = False
        await world.turn(driver, 12)
        assert log.appended == 1
        assert driver.snapshot().troubles == {}

    run(test)
    assert caplog.text.count("No space left on device") == 2, (
        "the trouble, and that it holds the rollout"
    )


def test_a_log_that_nobody_can_write_is_seen_before_the_change(world: World) -> None:
    async def test() -> None:
        world.audit_file.mkdir()
        await ready(world)
        driver = world.driver()
        await world.turn(driver)
        assert (await world.stored()).revision == 2
        assert "not a regular file" in driver.snapshot().troubles["audit log"] or os.geteuid()
        world.audit_file.rmdir()
        await world.beat(PLAN)
        await world.turn(driver, 12)
        assert (await world.stored()).revision == 3
        assert len(world.records()) == 1

    run(test)


def test_changes_of_one_who_died_are_recorded_by_the_next(world: World) -> None:
    async def test() -> None:
        plan = after(PLAN, Event.ADVANCE, Event.PAUSE, Event.RESUME, Event.ADVANCE)
        await ready(world, plan)
        driver = world.driver()
        await world.turn(driver)
        assert world.recorded() == [
            ("delays", "rollout.advance", 3),
            ("delays", "rollout.advance", 6),
        ], "and not what people did, for those record it themselves"
        await world.turn(driver)
        await world.turn(world.driver("one"), 2)  # the same process, started anew
        assert len(world.records()) == 2

    run(test)
