"""A day gets a feature store: some of its models need features, and the store has troubles of its own.

Decides how often each is drawn, with dice of its own: everything else about the day stays as it was drawn.
"""

from __future__ import annotations

from random import Random
from typing import Literal, cast

import msgspec

from tests.sim.feature_plans import RowChange, ServicePlanned, StoreFault, StorePlan, ViewPlan
from tests.sim.plans import Day, ModelPlan, Operation, Span, TrafficPlan

SHARE = 0.3
"""Of days that have a store."""


def with_features(day: Day, length_s: float) -> Day:
    """The same day, with a store on some seeds."""
    dice = Random(f"features {day.seed}")
    if dice.random() >= SHARE:
        return day
    run_s = min(one.per_batch_s for one in day.models)
    plan = _store(dice, max(length_s, 20 * run_s), day.starts_s)
    names = sorted({one.name for one in day.models})
    featured = [name for name in names if dice.random() < 0.7] or names[:1]

    def decorated(model: ModelPlan) -> ModelPlan:
        if model.name not in featured:
            return model
        service = dice.choice(plan.services).name if dice.random() < 0.9 else ""
        return msgspec.structs.replace(model, features=service, widths=(3,), ragged=False)

    def operated(one: Operation) -> Operation:
        return msgspec.structs.replace(
            one, arriving=tuple(decorated(model) for model in one.arriving)
        )

    traffic = tuple(
        _traffic(dice, one, plan) if day.models[one.target].name in featured else one
        for one in day.traffic
    )
    return msgspec.structs.replace(
        day,
        store=plan,
        featured=tuple(featured),
        models=tuple(decorated(one) for one in day.models),
        operations=tuple(operated(one) for one in day.operations),
        traffic=traffic,
    )


def _traffic(dice: Random, crowd: TrafficPlan, plan: StorePlan) -> TrafficPlan:
    """Callers whose patience is about as long as a lookup may take."""
    budget_s = max(one.budget_ms for one in plan.services) * 1e-3
    changes: dict[str, object] = {}
    if dice.random() < 0.3:
        spans = [Span(0.2 * budget_s, 1.5 * budget_s), Span(3 * budget_s, 20 * budget_s), None]
        changes["deadlines"] = tuple(dice.sample(spans, dice.choice([1, 2, 3])))
    if dice.random() < 0.3:
        changes["cancel_chance"] = dice.choice([0.1, 0.4])
        changes["cancel_after"] = Span(0.0, dice.choice([plan.delay_s, budget_s]))
    return msgspec.structs.replace(crowd, **changes)


def _store(dice: Random, length_s: float, starts_s: float) -> StorePlan:
    # On half of all days nothing that the store does may fail a call.
    strict = dice.random() < 0.5
    numbers = range(dice.choice([1, 2, 3]))
    views = tuple(_view(dice, f"view{number}", length_s, strict) for number in numbers)
    budget_ms = dice.choice([1.0, 5.0, 10.0])
    services = tuple(_service(dice, f"service{at}", views, budget_ms, strict) for at in range(2))
    entities = dice.choice([4, 20, 60])
    read_timeout_s = dice.choice([2e-3, 0.02, 0.1, 1.0])
    troubled = dice.random() < 0.8
    return StorePlan(
        views=views,
        services=services,
        entities=entities,
        hot=dice.choice([1, 3, 10]),
        unknown_chance=dice.choice([0.0, 0.05, 0.3]),
        empty_chance=dice.choice([0.0, 0.0, 0.1]),
        status_chance=dice.choice([0.0, 0.3, 1.0]),
        delay_s=min(dice.choice([0.0, 2e-4, 5e-4, 0.8e-3 * budget_ms]), 0.4 * read_timeout_s),
        tracking=dice.random() < 0.75,
        changes=_changes(dice, views, entities, length_s),
        faults=_faults(dice, length_s, budget_ms * 1e-3, read_timeout_s) if troubled else (),
        read_timeout_s=read_timeout_s,
        near_cache_bytes=dice.choice([1 << 20, 1 << 20, 3000, 0]),
        negative_cache_bytes=dice.choice([1 << 16, 1 << 16, 1000, 0]),
        max_reads_in_flight=dice.choice([1, 2, 4]),
        max_pending_keys=dice.choice([50_000, 50_000, 3]),
        breaker_failures=dice.choice([1, 3, 5]),
        breaker_open_s=max(0.01, min(10.0, length_s * dice.choice([0.02, 0.1, 1.0]))),
    )


def _view(dice: Random, name: str, length_s: float, strict: bool) -> ViewPlan:
    aging = dice.random() < 0.5
    return ViewPlan(
        name,
        cache_ttl_s=length_s * dice.choice([0.0, 0.01, 0.05, 0.3, 10.0]),
        max_age_s=length_s * dice.choice([0.05, 0.3]) if aging else None,
        stale_if_error_s=length_s * dice.choice([0.0, 0.2, 5.0]) if aging else 0.0,
        on_missing=dice.choice(["default", "default", "fail"]) if strict else "default",
        on_stale=dice.choice(["default", "use", "fail"] if strict else ["default", "use"]),
        has_hole=strict and dice.random() < 0.2,
    )


def _service(
    dice: Random, name: str, views: tuple[ViewPlan, ...], budget_ms: float, strict: bool
) -> ServicePlanned:
    chosen = dice.sample([one.name for one in views], dice.randint(1, len(views)))
    return ServicePlanned(
        name,
        tuple(chosen),
        budget_ms=budget_ms,
        max_defaulted_fraction=dice.choice([1.0, 0.5, 0.0]) if strict else 1.0,
        key=dice.choice(["input", "input", "input", "parameter", "header"]),
    )


def _changes(
    dice: Random, views: tuple[ViewPlan, ...], entities: int, length_s: float
) -> tuple[RowChange, ...]:
    kinds = ["write"] * 12 + ["old"] * 3 + ["delete"] * 2 + ["corrupt", "alien"]
    found = []
    for _ in range(dice.choice([0, 20, 80, 200])):
        kind = dice.choice(kinds)
        # The first ones are those that callers ask for most.
        entity = (
            dice.randrange(min(3, entities)) if dice.random() < 0.5 else dice.randrange(entities)
        )
        found.append(
            RowChange(
                dice.uniform(0.0, length_s),
                cast("Literal['write', 'old', 'delete', 'corrupt', 'alien']", kind),
                dice.choice(views).name,
                entity,
                age_s=dice.uniform(0.0, length_s) if kind == "old" else 0.0,
            )
        )
    if dice.random() < 0.15:
        found.append(RowChange(dice.uniform(0.0, length_s), "flush", views[0].name, 0))
    return tuple(sorted(found, key=lambda one: one.at_s))


def _faults(
    dice: Random, length_s: float, budget_s: float, read_timeout_s: float
) -> tuple[StoreFault, ...]:
    found = []
    for _ in range(dice.choice([1, 2, 4])):
        from_s = dice.uniform(0.0, length_s)
        to_s = from_s + length_s * dice.choice([0.02, 0.1, 0.4])
        kind = dice.choice(["slow", "hang", "down", "flap", "silent"])
        delay_s = 0.0
        if kind == "slow":
            delay_s = dice.choice([0.9 * budget_s, 1.2 * budget_s, 4.0 * budget_s])
            delay_s = dice.choice([delay_s, 2.0 * read_timeout_s])
        elif kind == "flap":
            delay_s = (to_s - from_s) / dice.choice([4, 20])
        found.append(
            StoreFault(
                from_s,
                to_s,
                cast("Literal['slow', 'hang', 'down', 'flap', 'silent']", kind),
                delay_s,
            )
        )
    return tuple(found)
