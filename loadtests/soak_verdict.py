"""Decides whether a soak passed: memory that does not grow, no error that nobody provoked, nothing left inside.

Pure arithmetic on samples and counts. It must never round a finding away: what it cannot judge it calls a failure.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WINDOW_S = 300.0
REFUSED = ("invalid_argument", "not_found", "unimplemented", "method_not_allowed")
LATE = ("overloaded", "deadline_exceeded")
HARMLESS = ("ok", "cancelled")
"""A call that its client gave up, or cut off with its connection, is counted as cancelled: no server error."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of the server at one moment; ``at_s`` counts from the start of the load."""

    at_s: float
    resident_bytes: int
    open_files: int
    threads: int
    inflight_requests: float
    connections: float
    cpu_s: float


@dataclass(slots=True)
class Provoked:
    """How many calls were meant to go wrong, by how."""

    bad: int = 0
    late: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise of the soak, and what became of it."""

    promise: str
    measured: str
    kept: bool


@dataclass(slots=True)
class Evidence:
    """All that a soak saw."""

    samples: list[Sample] = field(default_factory=list)
    settle_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    """Sentences about answers that nobody provoked, from the clients."""
    outcomes: Mapping[str, float] = field(default_factory=dict)
    """The server's own count of infer calls by outcome."""
    provoked: Provoked = field(default_factory=Provoked)
    left_inside: Mapping[str, float] = field(default_factory=dict)
    """Gauges that must be zero when every client has gone."""
    files_before: int = 0
    files_after: int = 0


def windows(duration_s: float, settle_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two spans whose memory is compared, in seconds: right after settling, and at the end."""
    width_s = min(WINDOW_S, max(0.0, duration_s - settle_s) / 3)
    return (settle_s, settle_s + width_s), (duration_s - width_s, duration_s)


def growth(samples: Sequence[Sample], settle_s: float) -> float:
    """Median resident memory of the last window over that of the first, less 1; NaN without samples in both."""
    if not samples:
        return math.nan
    spans = windows(samples[-1].at_s, settle_s)
    seen = [[s.resident_bytes for s in samples if start <= s.at_s <= end] for start, end in spans]
    if not all(seen):
        return math.nan
    before, after = (statistics.median(sizes) for sizes in seen)
    return after / before - 1


def judge(evidence: Evidence, most_growth: float) -> list[Finding]:
    """Every promise with what was measured."""
    grown = growth(evidence.samples, evidence.settle_s)
    left = {name: value for name, value in evidence.left_inside.items() if value}
    strays = unprovoked(evidence.outcomes, evidence.provoked)
    return [
        Finding(
            f"resident memory grows by at most {most_growth:.0%} "
            f"after the first {evidence.settle_s / 60:g} minutes",
            "not measured" if math.isnan(grown) else f"{grown:+.1%}",
            grown <= most_growth,
        ),
        Finding(
            "every client got what it asked for, or the error that it provoked",
            _some(evidence.failures) or "no surprise",
            not evidence.failures,
        ),
        Finding(
            "the server counted no error that nobody provoked",
            ", ".join(strays) or _counts(evidence.outcomes),
            not strays and bool(evidence.outcomes),
        ),
        Finding(
            "nothing is left inside when the clients have gone",
            _counts(left) or "all gauges at zero",
            not left and bool(evidence.left_inside),
        ),
        Finding(
            "open files return to where they began",
            f"{evidence.files_before} before, {evidence.files_after} after",
            evidence.files_after <= evidence.files_before,
        ),
    ]


def unprovoked(outcomes: Mapping[str, float], provoked: Provoked) -> list[str]:
    """Outcomes that the server counted more often than anybody asked for them."""
    strays = [
        f"{count:g} {name}"
        for name, count in outcomes.items()
        if count and name not in HARMLESS + REFUSED + LATE
    ]
    for names, allowed in ((REFUSED, provoked.bad), (LATE, provoked.late)):
        counted = sum(outcomes.get(name, 0.0) for name in names)
        if counted > allowed:
            strays.append(f"{counted:g} {' or '.join(names)} where {allowed} were provoked")
    return strays


def _counts(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:,.0f} {name}" for name, value in values.items() if value)


def _some(failures: Sequence[str]) -> str:
    more = len(failures) - 3
    return "; ".join(failures[:3]) + (f"; and {more} more" if more > 0 else "")
