"""Days by hand, for what drawn days cannot compare: the same day with a store that is well, and with one that fails."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from tests.sim.days import draw
from tests.sim.feature_plans import ServicePlanned, StoreFault, StorePlan, ViewPlan
from tests.sim.plans import Day, ModelPlan, Span, TrafficPlan
from tests.sim.records import CallRecord
from tests.sim.simulation import Simulation

FAULTS: dict[str, tuple[StoreFault, ...]] = {
    "slow": (StoreFault(0.3, 0.9, "slow", 0.02),),
    "hanging": (StoreFault(0.3, 0.9, "hang"),),
    "down": (StoreFault(0.3, 0.9, "down"),),
    "flapping": (StoreFault(0.3, 0.9, "flap", 0.02),),
}
VIEW = ViewPlan("prices", cache_ttl_s=0.05, max_age_s=0.2, stale_if_error_s=1.0)
STORE = StorePlan(
    views=(VIEW,), services=(ServicePlanned("shop", ("prices",)),), breaker_open_s=0.02
)


def day(seed: int, faults: tuple[StoreFault, ...]) -> Day:
    """A model without features beside one with them, on a loop where nothing else takes time."""
    return Day(
        seed=seed,
        size=0.0,
        models=(
            ModelPlan(name="plain", inline="never", jitter=0.3),
            ModelPlan(name="shop", inline="never", features="shop"),
        ),
        traffic=(
            TrafficPlan(
                model="plain",
                target=0,
                calls=600,
                rate_per_s=500.0,
                burst=20,
                rows=(1, 2, 9),
                deadlines=(Span(2e-3, 0.02), None),
                cancel_chance=0.1,
                cancel_after=Span(0.0, 5e-3),
            ),
            TrafficPlan(
                model="shop", target=1, calls=600, rate_per_s=500.0, rows=(1, 3), cancel_chance=0.05
            ),
        ),
        store=msgspec.structs.replace(STORE, faults=faults),
        featured=("shop",),
        callback_cost_s=0.0,
    )


def calls_of(simulation: Simulation, model: str) -> list[CallRecord]:
    """In the order in which they came."""
    records = simulation.world.calls.values()
    return [one for one in records if bool(one.entities) == (model == "shop")]


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_models_without_features_notice_nothing(name: str, seed: int) -> None:
    well, failing = (Simulation(day(seed, faults)).play() for faults in ((), FAULTS[name]))
    told = [
        [(one.outcome, one.rows, one.deadline_s, one.enqueued_s) for one in calls_of(run, "plain")]
        for run in (well, failing)
    ]
    assert told[0] == told[1], f"seed {seed}"
    assert len({outcome for outcome, *_ in told[0]}) > 1, f"seed {seed}: too quiet a day"


@pytest.mark.parametrize("name", FAULTS)
def test_models_that_allow_defaults_never_fail(name: str) -> None:
    simulation = Simulation(day(7, FAULTS[name])).play()
    outcomes = Counter(one.outcome for one in calls_of(simulation, "shop"))
    assert set(outcomes) <= {"answer", "cancelled"}, outcomes
    assert outcomes["answer"] > 500
    process = simulation.world.processes[0]
    assert process.book.features is not None
    assert set(process.book.features.rows) > {("prices", "PRESENT")}, "nothing was ever a default"


def test_a_store_that_hangs_is_left_alone_and_asked_again() -> None:
    simulation = Simulation(day(3, FAULTS["hanging"])).play()
    features = simulation.world.processes[0].features
    assert features is not None
    found = features.lookup.snapshot()
    assert found.breaker_opened >= 1
    assert found.counters.open_lookups > 100
    late = [one for one in calls_of(simulation, "shop") if one.waited_for_rows]
    assert late[-1].enqueued_s > simulation.day.starts_s + 0.9, "nobody asked again"


def test_the_days_hold_every_kind_of_trouble_with_features() -> None:
    days = [draw(seed, size=0.02) for seed in range(200)]
    stores = [one.store for one in days if one.store is not None]
    assert 40 < len(stores) < 90
    views = [view for store in stores for view in store.views]
    services = [service for store in stores for service in store.services]
    faults = {fault.kind for store in stores for fault in store.faults}
    changes = {change.kind for store in stores for change in store.changes}
    assert faults == {"slow", "hang", "down", "flap", "silent"}
    assert changes == {"write", "old", "delete", "corrupt", "alien", "flush"}
    assert {service.key for service in services} == {"input", "parameter", "header"}
    assert {view.on_stale for view in views} == {"default", "use", "fail"}
    for present in (
        {view.on_missing == "fail" for view in views},
        {view.has_hole for view in views},
        {view.cache_ttl_s > 0 for view in views},
        {view.max_age_s is None for view in views},
        {store.tracking for store in stores},
        {store.empty_chance > 0 for store in stores},
        {store.near_cache_bytes > 0 for store in stores},
        {store.max_pending_keys > 100 for store in stores},
        {bool(day.workers) for day in days if day.store is not None},
        {bool(model.features) for day in days if day.store for model in day.models},
    ):
        assert present == {True, False}
