"""Which days the simulator plays: from the environment, or few enough for every push.

``SIM_SEEDS`` says how many, ``SIM_FIRST_SEED`` where they start, ``SIM_SEED`` plays one alone and prints its trace;
``SIM_SIZE`` makes days longer or shorter.
"""

from __future__ import annotations

import os

DEFAULT_SEEDS = 40


def one_seed() -> int | None:
    """The seed of ``SIM_SEED``, where there is one."""
    wanted = os.environ.get("SIM_SEED", "")
    return int(wanted) if wanted else None


def size() -> float:
    """How large each day is; 1.0 is about 1,200 calls."""
    return float(os.environ.get("SIM_SIZE", "1.0"))


def seeds() -> list[int]:
    """The seeds to play."""
    alone = one_seed()
    if alone is not None:
        return [alone]
    first = int(os.environ.get("SIM_FIRST_SEED", "0"))
    return list(range(first, first + int(os.environ.get("SIM_SEEDS", str(DEFAULT_SEEDS)))))
