"""Decides at which instants requests are due, before any of them is sent.

Pure: a seed gives the same instants on every machine. It must never look at a clock, nor at how
fast the server answers. An open loop is open because its schedule does not wait for replies.
"""

import random
from collections.abc import Callable
from typing import Literal, get_args

Pattern = Literal["poisson", "constant"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

# A schedule is held in memory. Beyond this a mistyped rate is likelier than a wish.
MOST_ARRIVALS = 5_000_000


def constant(rate: float, seconds: float) -> list[float]:
    """Offsets in seconds, evenly spaced, first at 0, all below `seconds`."""
    _check(rate, seconds)
    # Multiplying keeps the grid exact; adding the gap again and again would drift.
    count = int(rate * seconds)
    return [index / rate for index in range(count) if index / rate < seconds]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Offsets in seconds of a Poisson process of `rate` per second, all below `seconds`."""
    _check(rate, seconds)
    gap: Callable[[float], float] = random.Random(seed).expovariate
    offsets: list[float] = []
    at = gap(rate)
    while at < seconds and len(offsets) < MOST_ARRIVALS:
        offsets.append(at)
        at += gap(rate)
    return offsets


def schedule(pattern: Pattern, rate: float, seconds: float, seed: int) -> list[float]:
    """The offsets of one run; `seed` matters only where chance does."""
    if pattern == "poisson":
        return poisson(rate, seconds, seed)
    if pattern == "constant":
        return constant(rate, seconds)
    raise ValueError(f"no such arrival pattern: {pattern!r}")


def _check(rate: float, seconds: float) -> None:
    if not rate > 0 or not seconds > 0:
        raise ValueError(f"rate and seconds must be above 0, got {rate} and {seconds}")
    if rate * seconds > MOST_ARRIVALS:
        raise ValueError(f"{rate} per second for {seconds} s is over {MOST_ARRIVALS} arrivals")
