"""Controllers on invented time: days of all kinds of trouble, and one change with a death at each of its steps."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from rollout.plan import Event
from tests.sim.rollout_book import WrongStepError
from tests.sim.rollout_days import Day
from tests.sim.rollout_world import SimDriver, World
from tests.sim.seeds import one_seed, seeds

SLICE = 10
"""Days for every push; ``SIM_SEEDS`` plays more."""
MOST_STEPS = 60
"""Of a controller, from its start until its first change is written and recorded, and beyond."""

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("rollout").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("rollout").setLevel(logging.NOTSET)
    gc.collect()


def chosen() -> list[int]:
    is_asked = one_seed() is not None or "SIM_SEEDS" in os.environ
    return seeds() if is_asked else list(range(SLICE))


def test_drawn_days() -> None:
    kinds: Counter[str] = Counter()
    events: Counter[str] = Counter()
    print("seeds", chosen())
    for seed in chosen():
        day = Day(seed)
        try:
            world = day.play()
        except WrongStepError as error:
            raise AssertionError(f"SIM_SEED={seed} {sorted(set(day.kinds))}: {error}") from error
        kinds.update(day.kinds)
        events.update(world.store.book.events)
    print(dict(kinds), dict(events))
    if len(chosen()) >= SLICE:
        assert {Event.ADVANCE, Event.PROMOTE, Event.BREACH, Event.SHADOW_DONE} <= set(events)
        assert len(kinds) >= 12, kinds


# -- one change, disturbed at every step ------------------------------------------------------------


def disturbed(seed: int, at_step: int, disturb: Callable[[World, SimDriver], float]) -> bool:
    """A rollout of one model, in which something happens to the first controller; whether it came so far."""
    world = World(seed, models=("delays",))
    world.add_worker()
    world.run_for(1.5)
    world.begin("delays")
    world.run_for(12.0)  # the first step has lasted: the first look leads to a change
    first = world.add_driver()
    happened = False

    def before_step(driver: SimDriver) -> float:
        nonlocal happened
        if driver.steps != at_step or happened:
            return 0.0
        happened = True
        return disturb(world, driver)

    first.before_step = before_step
    world.run_for(0.05)
    world.add_driver()
    world.run_for(40.0)
    book = world.store.book
    book.look_at_the_log(world.audit.records)
    assert book.ours[-1][1] == "promote", "whoever died, the rollout went on to its end"
    return happened


def killed(world: World, driver: SimDriver) -> float:
    driver.kill()
    return 0.0


def stopped_for_a_while(world: World, driver: SimDriver) -> float:
    return 5.0


def without_a_store(world: World, driver: SimDriver) -> float:
    world.store.go_away()
    world.loop.call_later(4.0, world.store.come_back)
    return 0.0


def cut_off(world: World, driver: SimDriver) -> float:
    driver.is_cut_off = True
    world.loop.call_later(7.0, lambda: setattr(driver, "is_cut_off", False))
    return 0.0


def without_a_log(world: World, driver: SimDriver) -> float:
    world.audit.is_broken = True
    world.loop.call_later(4.0, lambda: setattr(world.audit, "is_broken", False))
    return 0.0


@pytest.mark.parametrize(
    "disturb", [killed, stopped_for_a_while, without_a_store, cut_off, without_a_log]
)
def test_a_change_that_is_disturbed_at_any_step_happens_once(
    disturb: Callable[[World, SimDriver], float],
) -> None:
    for step in range(MOST_STEPS):
        try:
            assert disturbed(7, step, disturb)
        except AssertionError as error:
            raise AssertionError(f"{disturb.__name__} at step {step}: {error}") from error
