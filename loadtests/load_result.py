"""Decides what one closed-loop load is worth: counts, rate and latency percentiles.

It must never hold a figure taken from a load that met errors without saying how many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load generator saw."""

    answered: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict[str, int]

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def complaint(self) -> str:
        """What went wrong, or nothing."""
        return ", ".join(f"{count} {name}" for name, count in self.errors.items() if count)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of sorted values; NaN when there are none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
