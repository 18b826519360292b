"""Seeded days: whatever is drawn, every rule of the book holds, and the same seed is the same day."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from gateway.core.service_time import ServiceTime
from tests.sim.days import draw
from tests.sim.seeds import one_seed, seeds, size
from tests.sim.simulation import Simulation, WrongDayError


@pytest.mark.parametrize("seed", seeds())
def test_seed(seed: int) -> None:
    simulation = Simulation(draw(seed, size()))
    try:
        simulation.play()
    finally:
        if one_seed() is not None:
            print(f"seed {seed}: {simulation.day}")
            print("\n".join(simulation.history.lines()))
    assert simulation.world.calls, f"seed {seed}: nobody called"


@pytest.mark.parametrize("seed", seeds()[:4])
def test_same_seed_same_day(seed: int) -> None:
    first, second = (Simulation(draw(seed, size=0.3)).play() for _ in range(2))
    assert first.history.entries == second.history.entries, f"seed {seed}: two runs differ"


def test_other_seed_other_day() -> None:
    first, second = (Simulation(draw(seed, size=0.1)).play() for seed in (1, 2))
    assert first.history.entries != second.history.entries


def test_dice_inside_the_gateway_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    predict_s, dice = ServiceTime.predict_s, random.SystemRandom()

    def nearly(self: ServiceTime, rows: int) -> float:
        return predict_s(self, rows) * (1.0 + 0.5 * dice.random())

    monkeypatch.setattr(ServiceTime, "predict_s", nearly)
    histories = []
    for _ in range(8):  # one throw more or less need not change a day
        simulation = Simulation(draw(4, size=0.3))
        with suppress(WrongDayError):
            simulation.play()
        histories.append(simulation.history.entries)
    assert any(one != histories[0] for one in histories)


def test_the_days_hold_every_kind_of_trouble() -> None:
    days = [draw(seed, size=0.02) for seed in range(60)]
    models = [model for day in days for model in day.models]
    crowds = [crowd for day in days for crowd in day.traffic]
    for present in (
        {model.instances > 1 for model in models},
        {model.batched for model in models},
        {model.max_queue_delay_us > 0 for model in models},
        {bool(model.outages) for model in models},
        {model.stall_chance > 0 for model in models},
        {model.slow_factor > 1 for model in models},
        {model.ragged for model in models},
        {model.misshapen_chance > 0 for model in models},
        {len(model.widths) > 1 for model in models},
        {len(day.models) > 1 for day in days},
        {day.closes_s is None for day in days},
        {bool(day.storms) for day in days},
        {day.max_requests < 100 for day in days},
        {day.timer_resolution_s > 0 for day in days},
        {crowd.clients > 0 for crowd in crowds},
        {crowd.poison_chance > 0 for crowd in crowds},
        {crowd.hangup_chance > 0 for crowd in crowds},
        {crowd.broken_chance > 0 for crowd in crowds},
        {crowd.passed_chance > 0 for crowd in crowds},
    ):
        assert present == {True, False}
