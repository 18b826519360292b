"""What operators do on a day, and which workers die, drawn from its dice.

Decides how often models are swapped, unloaded and broken. Troubles come in bunches: the same version several times in a
row, a load that fails, an unload while the load before it still runs.
"""

from __future__ import annotations

from random import Random

import msgspec

from tests.sim.plans import Death, ModelPlan, Operation
from tests.sim.virtual_repository import BROKEN_MODEL


def operations(
    dice: Random, models: tuple[ModelPlan, ...], length_s: float, *, busy: bool
) -> tuple[Operation, ...]:
    """Those of a day; none on many."""
    found: list[Operation] = []
    for _ in range(8 if busy else dice.choice([0, 0, 1, 2, 4])):
        at_s = dice.uniform(0.0, length_s)
        target = dice.choice(models)
        kind = dice.choice(["reload", "reload", "newer", "newer", "unload", "storm", "broken"])
        if kind == "reload":
            found.append(_load(dice, at_s, target, target.version))
        elif kind == "newer":
            found.append(_load(dice, at_s, target, str(dice.choice([2, 3, 13, 20]))))
        elif kind == "unload":
            found.append(Operation(at_s, "unload", target.name))
            back_s = at_s + dice.uniform(0.0, 0.3) * length_s
            found.append(_load(dice, back_s, target, target.version))
        elif kind == "storm":
            gap_s = dice.choice([0.0, target.per_batch_s, 0.02 * length_s])
            found += [
                _load(dice, at_s + turn * gap_s, target, target.version)
                for turn in range(dice.randint(2, 6))
            ]
        else:
            broken = dice.choice([target.name, target.name, BROKEN_MODEL, "unknown"])
            arriving = (_another(dice, target, "30", loads=False),) * (broken == target.name)
            found.append(Operation(at_s, "load", broken, arriving))
            if arriving:
                mended_s = at_s + dice.uniform(0.0, 0.3) * length_s
                found.append(Operation(mended_s, "load", broken, leaving=("30",)))
    return tuple(sorted(found, key=lambda one: one.at_s))


def _load(dice: Random, at_s: float, like: ModelPlan, version: str) -> Operation:
    return Operation(at_s, "load", like.name, (_another(dice, like, version, loads=True),))


def _another(dice: Random, like: ModelPlan, version: str, *, loads: bool) -> ModelPlan:
    """Another content under the same or another number, for the same callers."""
    batch_size = dice.choice([like.max_batch_size, 1, 4, 32])
    changes: dict[str, object] = {
        "version": version,
        "loads": loads,
        "load_s": dice.choice([0.0, 10.0 * like.per_batch_s, 0.5]),
        "batched": like.batched if dice.random() < 0.8 else not like.batched,
        "max_batch_size": batch_size,
        "max_queue_rows": max(batch_size, like.max_queue_rows),
        "instances": dice.choice([like.instances, 1, 3]),
        "per_batch_s": like.per_batch_s * dice.choice([1.0, 0.2, 3.0]),
        "inline": dice.choice([like.inline, "auto", "never"]),
        "priority_levels": dice.randint(1, 4),
        "warmed_up": dice.random() < 0.7,
    }
    fields = {name: getattr(like, name) for name in like.__struct_fields__}
    return ModelPlan(**(fields | changes))


def deaths(dice: Random, workers: int, length_s: float, *, busy: bool) -> tuple[Death, ...]:
    """When which seat's worker dies."""
    if not workers:
        return ()
    found = [
        Death(dice.uniform(0.0, length_s), dice.randrange(workers))
        for _ in range(3 if busy else dice.choice([0, 1, 1, 2, 4]))
    ]
    if dice.random() < 0.1:  # all of them, at one moment
        at_s = dice.uniform(0.0, length_s)
        found += [Death(at_s, seat) for seat in range(workers)]
    return tuple(found)


def meanwhile(
    dice: Random, models: tuple[ModelPlan, ...], dying: tuple[Death, ...]
) -> tuple[Operation, ...]:
    """Reloads of models while a worker that died is loading them anew."""
    found: list[Operation] = []
    for death in dying:
        if dice.random() < 0.4:
            target = dice.choice(models)
            plan = msgspec.structs.replace(
                _another(dice, target, target.version, loads=True), load_s=0.0
            )
            found.append(Operation(death.at_s + 0.3, "load", target.name, (plan,)))
    return tuple(found)
