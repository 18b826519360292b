"""Decides what the lookup bench keeps of each measurement, and which promises that keeps. Pure.

Latencies and rates are compared within a round, between loads a few seconds apart; the figure is the median over the
rounds. A figure that is missing is `not measured`, never a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from loadtests.feature_lookups_data import Variant
from loadtests.measured import median
from loadtests.servers import Protocol
from loadtests.verdict import Status, Verdict

ADDED_MS = {1: (0.35, 1.0), 100: (1.0, 3.0)}
"""By entities: what a lookup without copies may add to p50 and p99, at half of the highest rate and half busy."""
THROUGHPUT_LEFT = 0.70
HITS = (0.88, 0.92)
"""Between these, a measured share of hits is 90 %."""
DECODE_US = 300.0
LOADED_PER_SECOND = 200_000
BUSY_CLIENT = 0.9
"""Of its core: from here on the client may be what limits the rate."""

DECODE, LOAD, FEAST = "decode", "load", "feast"
LOADS = ("http-1", "grpc-1", "http-100", "grpc-100")
NAMES = (*LOADS, DECODE, LOAD, FEAST)
FRONTS: tuple[Protocol, ...] = ("http", "grpc")

LoadName = Literal["full", "half_rate", "half_busy"]
"""How much is asked: as many as it takes; half of what lookups without copies reach then; and as many as should keep
the core half busy with these lookups, which is fewer: requests that come one by one cost more than under full load.
"""
SAID: dict[LoadName, str] = {
    "full": "as fast as it goes",
    "half_rate": "at half of the highest rate",
    "half_busy": "with the core half busy",
}
"""In promises and progress."""
PROMISED: tuple[LoadName, ...] = ("half_rate", "half_busy")
"""The loads at which what a lookup may add is judged."""


class Sample(msgspec.Struct, frozen=True):
    """One load in one round."""

    row: str
    round: int
    variant: Variant
    load: LoadName
    rate: float
    """Requests a second that were due; 0: as many as it takes."""
    per_second: float
    p50_ms: float
    p99_ms: float
    gateway_us: float
    """CPU time per request: of the gateway …"""
    store_us: float
    """… and of the store."""
    hit_share: float | None
    client_busy: float
    client_lag_p99_ms: float
    foreign_core: float

    @property
    def core_busy(self) -> float:
        """How much of their core gateway and store took."""
        return self.per_second * (self.gateway_us + self.store_us) * 1e-6

    @property
    def summary(self) -> str:
        """One line of progress."""
        hits = "" if self.hit_share is None else f", {self.hit_share:.1%} hits"
        due = f" of {self.rate:,.0f} due" if self.rate else ""
        return (
            f"{SAID[self.load]}, {self.per_second:,.0f}/s{due}, p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms, "
            f"core {self.core_busy:.0%} busy, CPU µs {self.gateway_us:.0f} + {self.store_us:.0f} of the store{hits}, "
            f"client {self.client_busy:.0%} busy, "
            f"others on a core {self.foreign_core:.0%}"
        )


class DecodeSample(msgspec.Struct, frozen=True):
    """500 rows into a tensor, in one round."""

    round: int
    views: int
    least_us: float
    median_us: float


class LoadSample(msgspec.Struct, frozen=True):
    """One file loaded."""

    round: int
    rows: int
    whole: float
    writing: float
    plain_sets: float
    row_bytes: int


class PeerCase(msgspec.Struct, frozen=True):
    """One way to get the features of some entities, in one round."""

    round: int
    who: str
    views: int
    entities: int
    p50_us: float
    p99_us: float
    min_us: float
    cpu_us: float | None


class Results(msgspec.Struct):
    """All that one bench measured, and all that went wrong."""

    loads: list[Sample] = []
    decode: list[DecodeSample] = []
    load: list[LoadSample] = []
    peers: list[PeerCase] = []
    facts: dict[str, str] = {}
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}

    def of(self, row: str, variant: Variant, load: LoadName) -> dict[int, Sample]:
        """By round; none when the row failed."""
        if row in self.failed:
            return {}
        return {
            one.round: one
            for one in self.loads
            if (one.row, one.variant, one.load) == (row, variant, load)
        }

    def foreign_shares(self) -> list[float]:
        """What others took of the more disturbed core, load by load."""
        return [one.foreign_core for one in self.loads]


def paired(
    mine: dict[int, Sample],
    theirs: dict[int, Sample],
    figure: Callable[[Sample, Sample], float],
) -> float | None:
    """The median over the rounds that have both."""
    return median(figure(mine[at], theirs[at]) for at in sorted(mine.keys() & theirs.keys()))


def judge(results: Results, names: Sequence[str]) -> list[Verdict]:
    """The promises of the rows that were asked for, in a fixed order."""
    verdicts: list[Verdict] = []
    for entities, limits in ADDED_MS.items():
        for front in FRONTS:
            row = f"{front}-{entities}"
            if row in names:
                for load in PROMISED:
                    verdicts += _added(results, row, load, entities, limits)
    verdicts += [_throughput(results, f"{front}-1") for front in FRONTS if f"{front}-1" in names]
    if DECODE in names:
        verdicts.append(_decode(results))
    if LOAD in names:
        verdicts.append(_load(results))
    return verdicts


def _added(
    results: Results, row: str, load: LoadName, entities: int, limits: tuple[float, float]
) -> Iterable[Verdict]:
    lookups = results.of(row, "miss", load)
    direct = results.of(row, "direct", load)
    figures: tuple[tuple[str, Callable[[Sample], float]], ...] = (
        ("p50", lambda one: one.p50_ms),
        ("p99", lambda one: one.p99_ms),
    )
    for (name, figure), limit in zip(figures, limits, strict=True):
        added = paired(lookups, direct, lambda a, b, of=figure: of(a) - of(b))  # type: ignore[misc]
        promise = f"{row}: {name} that looking {entities} × 50 values up adds {SAID[load]}"
        bound = f"≤ {limit:g} ms"
        if added is None:
            yield Verdict(promise, bound, _why(results, row), "not measured")
            continue
        sides = [median(map(figure, side.values())) for side in (direct, lookups)]
        busy = [median(one.core_busy for one in side.values()) for side in (direct, lookups)]
        text = f"{added:.3f} ms ({sides[0]:.2f} to {sides[1]:.2f} ms; core {busy[0]:.0%} to {busy[1]:.0%} busy)"
        yield Verdict(promise, bound, text, _kept(added <= limit))


def _throughput(results: Results, row: str) -> Verdict:
    mixed = results.of(row, "mixed", "full")
    direct = results.of(row, "direct", "full")
    left = paired(mixed, direct, lambda a, b: a.per_second / b.per_second)
    promise = f"{row}: throughput left with lookups at 90 % hits"
    bound = f"≥ {THROUGHPUT_LEFT:.0%}"
    hits = median(one.hit_share for one in mixed.values() if one.hit_share is not None)
    if left is None or hits is None:
        return Verdict(promise, bound, _why(results, row), "not measured")
    by_cpu = paired(mixed, direct, lambda a, b: _cpu_us(b) / _cpu_us(a))
    text = f"{left:.1%} ({hits:.1%} hits; {by_cpu:.1%} by the CPU of gateway and store)"
    if not HITS[0] <= hits <= HITS[1]:
        return Verdict(promise, bound, f"{text}: these are not 90 % hits", "not measured")
    busiest = max(one.client_busy for one in (*mixed.values(), *direct.values()))
    if busiest > BUSY_CLIENT:
        return Verdict(promise, bound, f"{text}: the client was the limit", "not measured")
    return Verdict(promise, bound, text, _kept(left >= THROUGHPUT_LEFT))


def _cpu_us(one: Sample) -> float:
    return one.gateway_us + one.store_us


def _decode(results: Results) -> Verdict:
    promise, bound = "500 rows × 50 values, checksums to tensor", f"≤ {DECODE_US:g} µs"
    wide = [] if DECODE in results.failed else [one for one in results.decode if one.views == 1]
    middle = median(one.median_us for one in wide)
    if middle is None:
        return Verdict(promise, bound, _why(results, DECODE), "not measured")
    least = min(one.least_us for one in wide)
    return Verdict(
        promise, bound, f"{middle:.0f} µs (at least {least:.0f})", _kept(middle <= DECODE_US)
    )


def _load(results: Results) -> Verdict:
    promise, bound = "rows a second that are loaded, 20 columns", f"≥ {LOADED_PER_SECOND:,}"
    samples = [] if LOAD in results.failed else results.load
    whole = median(one.whole for one in samples)
    if whole is None:
        return Verdict(promise, bound, _why(results, LOAD), "not measured")
    writing, sets = (
        median(one.writing for one in samples),
        median(one.plain_sets for one in samples),
    )
    text = f"{whole:,.0f} (writing alone {writing:,.0f}; the store takes {sets:,.0f} plain SETs)"
    return Verdict(promise, bound, text, _kept(whole >= LOADED_PER_SECOND))


def _kept(is_kept: bool) -> Status:
    return "pass" if is_kept else "short"


def _why(results: Results, row: str) -> str:
    if row in results.failed:
        return "failed: " + results.failed[row].splitlines()[0]
    return results.skipped.get(row, "no figure")
