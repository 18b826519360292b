"""The controller's loop: who acts, and what is written and recorded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from foundation.audit import digest
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, State, encode
from rollout.ports import Conflict, Written
from tests.support.loops import run
from tests.unit.rollout.driver_world import World
from tests.unit.rollout.plans import (
    APPROVER,
    START_S,
    after,
    draft,
    happen,
    made,
    shadowed,
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


# -- what is written and recorded ------------------------------------------------------------------


def test_a_step_that_is_fine_is_left_and_recorded(world: World) -> None:
    async def test() -> None:
        await ready(world)
        driver = world.driver()
        await world.turn(driver)
        plan = await world.stored()
        assert (plan.state, plan.step, plan.revision) == (State.STEPPING, 1, PLAN.revision + 1)
        (record,) = world.records()
        assert (record.author, record.role) == ("controller", "controller")
        assert (record.action, record.target) == ("rollout.advance", "delays")
        assert record.reason == plan.reason != ""
        assert record.before_digest == digest(encode(PLAN))
        assert record.after_digest == digest(encode(plan))
        assert record.details == {
            "revision": 3,
            "at_s": plan.updated_s,
            "from": "stepping",
            "to": "stepping",
            "step": 1,
            "weights": {"3": 95.0, "4": 5.0},
        }
        shown = driver.snapshot()
        assert (shown.is_leader, shown.changes, shown.ticks) == (True, {"advance": 1}, 1)
        assert shown.last_tick_s is not None
        assert shown.models["delays"].action == "fire"
        await world.turn(driver, 3)
        assert (await world.stored()).revision == 3, "the next step has shown nothing yet"
        assert driver.snapshot().models["delays"].action == "hold"
        assert len(world.records()) == 1

    run(test)


def test_it_goes_on_up_to_the_promotion(world: World) -> None:
    async def test() -> None:
        plan, driver = await ready(world), world.driver()
        while plan.state is State.STEPPING:
            world.pass_time(700)
            await ready(world, plan)
            await world.turn(driver)
            plan = await world.stored()
        assert plan.state is State.PROMOTED
        assert [action for _, action, _ in world.recorded()] == [
            "rollout.advance",
            "rollout.advance",
            "rollout.promote",
        ]
        await world.turn(driver)
        assert driver.snapshot().models["delays"].action == "nothing"

    run(test)


def test_harm_rolls_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        await ready(world, errors=500)
        await world.turn(world.driver())
        plan = await world.stored()
        assert plan.state is State.ROLLED_BACK
        assert plan.shares()["4"] == ()
        assert world.recorded() == [("delays", "rollout.breach", 3)]

    run(test)
    assert "rolled_back at revision 3: errors:" in caplog.text


def test_shadowing_ends_when_copies_are_fine(world: World) -> None:
    async def test() -> None:
        await ready(world, stepping(shadowed(), LONG_AGO))
        await world.turn(world.driver())
        assert (await world.stored()).step == 0
        assert world.recorded() == [("delays", "rollout.shadow_done", 3)]

    run(test)


@pytest.mark.parametrize("plan", [draft(), after(PLAN, Event.ABORT), after(PLAN, Event.PAUSE)])
def test_what_does_not_run_is_left_alone(world: World, plan: Plan) -> None:
    async def test() -> None:
        await ready(world, plan)
        driver = world.driver()
        await world.turn(driver, 2)
        assert await world.stored() == plan
        assert driver.snapshot().models["delays"].action == "nothing"
        assert not world.audit_file.exists()

    run(test)


def test_nothing_moves_on_what_may_be_incomplete_or_is_not_warm(world: World) -> None:
    async def test() -> None:
        driver = world.driver()
        await ready(world)
        await world.count(PLAN, worker="vanished")
        await world.turn(driver)
        await world.count(PLAN, worker="vanished", is_final=True)
        await world.beat(PLAN, warm=frozenset({"3"}))
        await world.turn(driver)
        await world.beat(PLAN)
        await world.beat(PLAN, worker="cold", warm=frozenset({"3"}))
        await world.turn(driver)
        assert (await world.stored()).revision == 2
        assert driver.snapshot().holds == 3
        await world.beat(PLAN)
        await world.beat(PLAN, worker="cold")
        await world.turn(driver)
        assert (await world.stored()).revision == 3

    run(test)


def test_a_gateway_whose_clock_is_behind_is_still_asked_what_it_has(world: World) -> None:
    async def test() -> None:
        driver = world.driver()
        await ready(world)
        world.wall_s -= 120
        await world.beat(PLAN, worker="behind", warm=frozenset({"3"}))
        world.wall_s += 120
        await world.turn(driver)
        assert (await world.stored()).revision == 2
        assert "behind" in driver.snapshot().models["delays"].words

    run(test)


def test_somebody_who_changes_the_plan_meanwhile_comes_first(world: World) -> None:
    paused = made(happen(PLAN, Event.PAUSE, APPROVER))

    class Hasty(MemoryRollouts):
        async def write(self, plan: Plan, expected_revision: int, fence: int) -> Any:
            if plan.state is not State.PAUSED:
                assert await super().write(paused, 2, 0) == Written()
            return await super().write(plan, expected_revision, fence)

    async def test() -> None:
        world.store = Hasty(lambda: world.monotonic_s)
        await ready(world)
        driver = world.driver()
        await world.turn(driver)
        assert await world.stored() == paused
        assert driver.snapshot().is_leader
        assert not world.audit_file.exists()

    run(test)


# -- the lease -------------------------------------------------------------------------------------


def test_one_leads_and_the_next_one_takes_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        await ready(world, draft())
        one, other = world.driver("one"), world.driver("other")
        await world.turn(one)
        for _ in range(8):
            await world.turn(other)
            await world.turn(one)
        assert (one.snapshot().is_leader, other.snapshot().is_leader) == (True, False)
        assert other.snapshot().ticks == 0
        left_s = world.monotonic_s
        while not other.snapshot().is_leader:  # the first one is not heard of any more
            await world.turn(other)
        assert world.monotonic_s - left_s <= 3.0 + 2 * 0.5
        await world.turn(one)
        assert not one.snapshot().is_leader
        assert one.snapshot().fence == 0
        await world.turn(one)
        assert caplog.text.count("stands by") == 2, "each once"

    run(test)


def test_a_stop_lets_the_next_one_lead_at_once(world: World) -> None:
    async def test() -> None:
        one, other = world.driver("one"), world.driver("other")
        await one.run(world.turns(3))
        assert not one.snapshot().is_leader
        await world.turn(other)
        assert other.snapshot().is_leader
        world.store.go_away()
        await other.run(world.turns(3))  # it ends all the same

    run(test)


def test_a_long_pause_between_two_looks_keeps_the_lease(world: World) -> None:
    async def test() -> None:
        world.put(draft())
        driver = world.driver()
        driver._tick_s = 60.0
        await world.turn(driver, 100)
        assert driver.snapshot().ticks == 2
        assert max(world.slept_s) <= 1.0
        assert await world.store.keep_lease("one")

    run(test)


class Slow(MemoryRollouts):
    """Something takes longer than the lease lasts."""

    world: World
    where = ""

    async def reports(self, *arguments: Any) -> Any:
        found = await super().reports(*arguments)
        self._wait("reports")
        return found

    async def write(self, *arguments: Any) -> Any:
        self._wait("before the write")
        outcome = await super().write(*arguments)
        self._wait("after the write")
        return outcome

    async def keep_lease(self, owner: str) -> bool:
        kept = await super().keep_lease(owner)
        self._wait("keep")
        return kept

    def _wait(self, where: str) -> None:
        if where == self.where:
            self.where = ""
            self.world.pass_time(3.5)


@pytest.mark.parametrize("where", ["reports", "keep", "after the write"])
def test_who_was_away_for_longer_than_the_lease_does_nothing_more(world: World, where: str) -> None:
    async def test() -> None:
        world.store = store = Slow(lambda: world.monotonic_s)
        store.world, store.where = world, where
        driver = world.driver()
        await world.turn(driver, 2 if where == "keep" else 0)
        await ready(world)
        await world.turn(driver)
        written = where == "after the write"
        assert (await world.stored()).revision == 2 + written
        assert not driver.snapshot().is_leader
        assert world.recorded() == [], "who leads next records it"
        other = world.driver("other")
        await world.turn(other)
        assert other.snapshot().is_leader
        assert world.recorded() == [("delays", "rollout.advance", 3)]
        await world.turn(driver, 3)
        assert len(world.records()) == 1

    run(test)


def test_a_newer_leader_who_has_written_ends_an_older_ones_lead(world: World) -> None:
    class Fenced(MemoryRollouts):
        async def write(self, plan: Plan, expected_revision: int, fence: int) -> Any:
            self._fences[plan.model] = 4 * 10**14
            return await super().write(plan, expected_revision, fence)

    async def test() -> None:
        world.store = Fenced(lambda: world.monotonic_s)
        await ready(world)
        driver = world.driver()
        assert isinstance(
            await world.store.write(msgspec.structs.replace(PLAN, revision=3), 2, 1), Conflict
        )
        await world.turn(driver)
        assert (await world.stored()).revision == 2
        assert not driver.snapshot().is_leader
        await world.turn(driver, 3)
        assert driver.snapshot().fence > 4 * 10**14, "it does not stand below for ever"
        assert (await world.stored()).revision == 3

    run(test)
