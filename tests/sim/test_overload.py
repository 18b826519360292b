"""More than there is room for, and models that get slower and recover: what is left of the useful work.

Capacity is what the model would do with full batches and nothing but them. Deadlines are 50 ms, time is invented.
"""

from __future__ import annotations

import pytest

from tests.sim.plans import Day, ModelPlan, Span, TrafficPlan, Window
from tests.sim.simulation import Simulation

DEADLINE = Span(0.050, 0.050)
SEED = 1


def overload(model: ModelPlan, load: float, *, rows: tuple[int, ...] = (1,)) -> Day:
    """Three simulated seconds of Poisson arrivals at ``load`` times the capacity, a few thousand calls at most."""
    rate_per_s = load * model.capacity_rows_per_s * len(rows) / sum(rows)
    crowd = TrafficPlan(
        calls=min(4000, int(3.0 * rate_per_s)),
        rate_per_s=rate_per_s,
        rows=rows,
        deadlines=(DEADLINE,),
    )
    return Day(seed=SEED, size=0.0, models=(model,), traffic=(crowd,), hand_over_s=2e-5)


def answered_share(simulation: Simulation, slower: float = 1.0) -> float:
    """Rows answered in time, as a share of the capacity of the stretch in which calls arrived."""
    day = simulation.day
    records = simulation.world.calls.values()
    until_s = max(record.deadline_s for record in records) - day.starts_s
    rows = sum(record.rows for record in records if record.outcome == "answer")
    return rows / (day.models[0].capacity_rows_per_s / slower * until_s)


@pytest.mark.parametrize("load", [2.0, 5.0])
@pytest.mark.parametrize("instances", [1, 4])
def test_goodput_under_overload(load: float, instances: int) -> None:
    model = ModelPlan(max_batch_size=8, per_batch_s=2e-3, per_row_s=4e-4, instances=instances)
    simulation = Simulation(overload(model, load)).play()  # raises for any late answer
    share = answered_share(simulation)
    assert share >= 0.85, f"seed {SEED}: {share:.0%} of the capacity, {simulation.outcomes()}"


@pytest.mark.parametrize("jitter", [0.2, 0.5])
def test_goodput_when_runs_take_unequal_times(jitter: float) -> None:
    model = ModelPlan(max_batch_size=8, per_batch_s=2e-3, per_row_s=4e-4, jitter=jitter)
    simulation = Simulation(overload(model, 2.0)).play()
    share = answered_share(simulation, slower=1.0 + jitter / 2)
    assert share >= 0.85, f"seed {SEED}: {share:.0%} of the capacity, {simulation.outcomes()}"


def test_goodput_when_requests_have_several_rows() -> None:
    model = ModelPlan(max_batch_size=32, per_batch_s=2e-3, per_row_s=1e-4)
    simulation = Simulation(overload(model, 2.0, rows=(1, 2, 3, 4))).play()
    share = answered_share(simulation)
    assert share >= 0.85, f"seed {SEED}: {share:.0%} of the capacity, {simulation.outcomes()}"


def test_below_capacity_nothing_is_refused() -> None:
    model = ModelPlan(max_batch_size=8, per_batch_s=2e-3, per_row_s=4e-4)
    simulation = Simulation(overload(model, 0.7)).play()
    assert set(simulation.outcomes()) == {"answer"}, f"seed {SEED}"


def test_a_model_that_was_slow_is_trusted_again() -> None:
    """Slow for long enough that every deadline looks hopeless: it must still find out when that is over."""
    slow = Window(0.0, 6.0)
    model = ModelPlan(
        max_batch_size=8, per_batch_s=2e-3, per_row_s=4e-4, slow=slow, slow_factor=25.0
    )
    crowd = TrafficPlan(calls=2000, rate_per_s=200.0, deadlines=(DEADLINE,))
    simulation = Simulation(Day(seed=SEED, size=0.0, models=(model,), traffic=(crowd,))).play()
    refused = simulation.outcomes()["would_miss_deadline"]
    assert refused > 300, f"seed {SEED}: the model was not slow enough for this test"
    recovered_s = simulation.day.starts_s + slow.to_s + 2.0
    late = [one for one in simulation.world.calls.values() if one.deadline_s > recovered_s]
    answered = sum(one.outcome == "answer" for one in late)
    assert answered >= 0.95 * len(late), f"seed {SEED}: {answered} of {len(late)} after recovery"
