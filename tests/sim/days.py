"""A seed becomes a day.

Decides how often each kind of trouble is drawn, and how large a day may get. Equal seeds give equal days, whatever was
drawn before. It must never look at the gateway: what a day does to it is for ``simulation.py`` to find out.
"""

from __future__ import annotations

from random import Random

from tests.sim.feature_days import with_features
from tests.sim.operations import deaths, meanwhile, operations
from tests.sim.plans import Day, ModelPlan, Span, Storm, TrafficPlan, Window

CALLS = 1200
"""Calls of a day of full size."""


def draw(seed: int, size: float = 1.0, *, busy: bool = False) -> Day:
    """The day of this seed; ``size`` scales the number of calls, ``busy`` operators and deaths are many."""
    dice = Random(f"day {seed}")
    models = _models(dice)
    workers = dice.choice([0, 0, 0, 2, 2, 3])
    calls = max(20, int(CALLS * size * dice.uniform(0.5, 1.5)))
    crowds = dice.choice([1, 1, 2, 3])
    traffic: list[TrafficPlan] = []
    length_s = 0.0
    for _ in range(crowds):
        target = dice.randrange(len(models))
        crowd, lasts_s = _crowd(dice, models, target, calls // crowds)
        traffic.append(crowd)
        length_s = max(length_s, lasts_s)
    models = tuple(_with_troubles(dice, model, length_s) for model in models)
    storms = tuple(
        Storm(dice.uniform(0.0, length_s), dice.choice([0.2, 0.5, 1.0]))
        for _ in range(dice.choice([0, 0, 1, 3]))
    )
    dying = deaths(dice, workers, length_s, busy=busy)
    plans = operations(dice, models, length_s, busy=busy) + meanwhile(dice, models, dying)
    day = Day(
        seed=seed,
        size=size,
        models=models,
        workers=workers,
        operations=plans,
        deaths=dying,
        scrapes=tuple(dice.uniform(0.0, length_s) for _ in range(dice.choice([0, 3]))),
        kept_versions=2 if len({one.name for one in models}) < len(models) else dice.choice([1, 2]),
        traffic=tuple(traffic),
        storms=storms,
        closes_s=dice.uniform(0.2, 1.0) * length_s
        if dice.random() < (0.5 if busy else 0.25)
        else None,
        max_requests=dice.choice([8192, 8192, 8192, dice.randint(1, 60)]),
        max_bytes=dice.choice([1 << 29, 1 << 29, 1 << 29, dice.randint(200, 20_000)]),
        starts_s=dice.uniform(0.0, 1e6),
        callback_cost_s=dice.choice([1e-6, 5e-6, 2e-5]),
        timer_resolution_s=dice.choice([0.0, 0.0, 0.0, 1e-3]),
        clock_read_s=dice.choice([0.0, 5e-8]),
        write_cost_s=dice.choice([0.0, 1e-5, 3e-5]),
        has_thread_clock=dice.random() < 0.5,
        hand_over_s=dice.choice([0.0, 2e-5, 2e-4]),
    )
    return with_features(day, length_s)


# -- models ---------------------------------------------------------------------------------------


def _models(dice: Random) -> tuple[ModelPlan, ...]:
    names = dice.choice([["a"], ["a"], ["a", "b"], ["a", "b", "c"]])
    models = [model(dice, name, "1", _widths(dice)) for name in names]
    if dice.random() < 0.25:
        models.append(model(dice, names[0], "12", models[0].widths))
    return tuple(models)


def _widths(dice: Random) -> tuple[int, ...]:
    """What callers of a model send, whichever version answers."""
    return dice.choice([(3,), (1, 2), (1, 2, 3, 5, 8)])


def model(dice: Random, name: str, version: str, widths: tuple[int, ...]) -> ModelPlan:
    """A version of a model, without troubles."""
    batch_size = dice.choice([1, 2, 3, 8, 16, 64])
    per_batch_s = 10.0 ** dice.uniform(-4.5, -1.8)
    small_queue = dice.random() < 0.3
    return ModelPlan(
        name=name,
        version=version,
        batched=dice.random() < 0.85,
        max_batch_size=batch_size,
        max_queue_requests=dice.randint(1, 12) if small_queue else 1024,
        max_queue_rows=batch_size + dice.randint(0, 40) if dice.random() < 0.4 else 65536,
        max_queue_delay_us=dice.choice([0, 0, 0, int(per_batch_s * 1e6 * dice.uniform(0.2, 5.0))]),
        instances=dice.choice([1, 1, 1, 2, 4]),
        priority_levels=dice.randint(1, 4),
        inline=dice.choice(["auto", "auto", "auto", "never", "always"]),
        inline_limit_us=dice.choice([200, 200, int(per_batch_s * 1.5e6)]),
        widths=widths,
        per_batch_s=per_batch_s,
        per_row_s=per_batch_s * 10.0 ** dice.uniform(-2.5, 0.3),
        jitter=dice.choice([0.0, 0.1, 0.5]),
        ragged=dice.random() < 0.1,
        warmed_up=dice.random() < 0.7,
        load_s=dice.choice([0.0, 0.3]),
    )


def _with_troubles(dice: Random, model: ModelPlan, length_s: float) -> ModelPlan:
    changes: dict[str, object] = {}
    if dice.random() < 0.3:
        changes |= {
            "stall_chance": dice.uniform(0.01, 0.1),
            "stall_s": model.per_batch_s * dice.uniform(5.0, 50.0),
        }
    if dice.random() < 0.25:
        changes |= {"slow": _window(dice, length_s), "slow_factor": dice.uniform(2.0, 20.0)}
    if dice.random() < 0.25:
        changes["outages"] = tuple(
            _window(dice, length_s, share=0.15) for _ in range(dice.choice([1, 2]))
        )
    if dice.random() < 0.15:
        changes["misshapen_chance"] = dice.uniform(0.01, 0.3)
    fields = {name: getattr(model, name) for name in model.__struct_fields__}
    return ModelPlan(**(fields | changes))


def _window(dice: Random, length_s: float, share: float = 0.4) -> Window:
    from_s = dice.uniform(0.0, length_s)
    return Window(from_s, from_s + dice.uniform(0.0, share) * length_s)


# -- callers --------------------------------------------------------------------------------------


def _crowd(
    dice: Random, models: tuple[ModelPlan, ...], target: int, calls: int
) -> tuple[TrafficPlan, float]:
    """The plan, and about how long it keeps calling."""
    model = models[target]
    rows = _row_counts(dice, model)
    mean_rows = sum(rows) / len(rows) if model.batched else 1.0
    load = dice.choice([0.1, 0.5, 0.9, 1.2, 2.0, 5.0])
    rate_per_s = load * model.capacity_rows_per_s / mean_rows
    run_s = model.per_batch_s + model.per_row_s * model.limit_rows
    closed = dice.random() < 0.4
    if closed:
        clients = dice.choice([1, 4, 32, 200])
        think_s = run_s * dice.choice([0.0, 0.1, 2.0])
        loop_s = run_s * max(1.0, clients * mean_rows / model.limit_rows / model.instances)
        lasts_s = calls / clients * (loop_s + think_s)
    else:
        clients, think_s = 0, 0.0
        lasts_s = calls / rate_per_s
    crowd = TrafficPlan(
        model=_asked_name(dice, model),
        versions=_asked_versions(dice, models, target),
        target=target,
        calls=calls,
        starts_s=0.0,
        rate_per_s=0.0 if closed else rate_per_s,
        burst=dice.choice([1, 1, 5, 60]),
        clients=clients,
        think=Span(0.0, think_s),
        asks_again_at_once=dice.choice([0.0, 0.0, 0.5]),
        rows=rows,
        deadlines=_deadlines(dice, run_s),
        passed_chance=dice.choice([0.0, 0.0, 0.05]),
        priorities=dice.choice([(1,), (1, 2, 3), (1, 1, 1, 5)]),
        cancel_chance=dice.choice([0.0, 0.1, 0.4]),
        cancel_after=dice.choice(
            [Span(0.0, 0.0), Span(-0.1 * run_s, run_s), Span(-0.1 * run_s, 5.0 * run_s)]
        ),
        poison_chance=dice.choice([0.0, 0.0, 0.02, 0.1]),
        invalid_chance=dice.choice([0.0, 0.0, 0.02]),
        broken_chance=dice.choice([0.0, 0.0, 0.05]),
        upload_chance=dice.choice([0.0, 0.0, 0.3]),
        upload=Span(0.0, run_s),
        connections=dice.choice([2, 10, 1_000_000]),
        hangup_chance=dice.choice([0.0, 0.05, 0.2]),
    )
    return crowd, lasts_s


def _row_counts(dice: Random, model: ModelPlan) -> tuple[int, ...]:
    largest = model.max_batch_size
    return dice.choice(
        [
            (1,),
            (1, 1, 1, 2, 3),
            tuple(range(1, largest + 1)),
            (1, 1, largest, largest + 1, 2 * largest + 1, 5 * largest),
        ]
    )


def _deadlines(dice: Random, run_s: float) -> tuple[Span | None, ...]:
    tight = Span(run_s * 0.5, run_s * 2.5)
    loose = Span(run_s * 3.0, run_s * 30.0)
    return dice.choice([(None,), (tight,), (loose,), (None, tight, loose), (tight, loose)])


def _asked_name(dice: Random, model: ModelPlan) -> str:
    return model.name if dice.random() < 0.97 else dice.choice(["unknown", "broken"])


def _asked_versions(dice: Random, models: tuple[ModelPlan, ...], target: int) -> tuple[str, ...]:
    model = models[target]
    newest = max((one for one in models if one.name == model.name), key=lambda m: int(m.version))
    versions = [model.version]
    if newest is model:
        versions += ["", ""]
    if dice.random() < 0.05:
        versions.append("99")
    return tuple(versions)
