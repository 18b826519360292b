"""Decides how one round of one front is measured: each variant as fast as it goes, then twice at about half of that.

First at half of the rate that lookups without copies reach, then at the rate at which these keep the core half busy.
All variants are asked of one running gateway in turn, a few seconds apart, and at the same rate and instants. It must
never keep a figure of a load in which any request failed, was answered wrongly or not at all.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from loadtests import feature_lookups_client, process_tree, server_metrics
from loadtests.failures import RowError
from loadtests.feature_lookups_client import Load
from loadtests.feature_lookups_data import Variant
from loadtests.feature_lookups_stage import Stage, said_by
from loadtests.feature_lookups_verdict import LOADS, LoadName, Sample
from loadtests.rows import turned
from loadtests.servers import Protocol

SHARE = 0.5
"""Of the highest rate; and of the core's time."""
LEAST_SHARE = 0.1
"""Of the half rate: a load with the core half busy is never slower, however dear its requests seemed."""
WARM_UP_S = 0.5
LOOKED_UP = "headrace_feature_lookup_rows_total"
_CLIENT_GRACE_S = 60.0

CLOSED: dict[tuple[Protocol, int], tuple[int, int]] = {
    ("http", 1): (32, 1),
    ("grpc", 1): (8, 8),
    ("http", 100): (8, 1),
    ("grpc", 100): (4, 2),
}
"""Connections and calls at once on each, that keep the gateway busy."""
OPEN: dict[Protocol, tuple[int, int]] = {"http": (64, 1), "grpc": (8, 32)}
SATURATED: dict[int, list[Variant]] = {
    1: ["direct", "hit", "mixed", "miss"],
    100: ["direct", "miss"],
}
AT_HALVES: dict[int, list[Variant]] = {1: ["direct", "hit", "miss"], 100: ["direct", "miss"]}

SEARCHES = 3
"""Loads that are tried, at most, before the core is half busy."""
NEARLY_HALF = 0.55

Take = Callable[[Variant, LoadName, float], Sample]
"""Measures one variant at a named load and its rate, in requests a second; 0: as many as it takes."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything runs."""

    stage: Stage
    server_core: int
    load_core: int


class Meter:
    """Whom the time on both cores went to, from its construction to ``read``."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._began_s = time.perf_counter()
        self._gateway_s, self._store_s, self._client_s, self._used_s = self._look()

    def read(self) -> tuple[float, float, float]:
        """Seconds of the gateway and of the store; what others took of the more disturbed core, as a share."""
        wall_s = time.perf_counter() - self._began_s
        gateway_s, store_s, client_s, used_s = self._look()
        gateway_s, store_s = gateway_s - self._gateway_s, store_s - self._store_s
        ours = (gateway_s + store_s, client_s - self._client_s)
        foreign = [
            now - before - our for now, before, our in zip(used_s, self._used_s, ours, strict=True)
        ]
        return gateway_s, store_s, max(0.0, max(foreign) / wall_s)

    def _look(self) -> tuple[float, float, float, list[float]]:
        bench = self._bench
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        uses = [resource.getrusage(kind) for kind in kinds]
        return (
            bench.stage.gateway.cpu_seconds(),
            process_tree.cpu_seconds(bench.stage.store.pid),
            sum(one.ru_utime + one.ru_stime for one in uses),
            [process_tree.core_time(core).used for core in (bench.server_core, bench.load_core)],
        )


def seed_of(row: str, round_number: int) -> int:
    """The same for all variants of a row in a round, and another for every other: entities that are drawn seldom must
    not come again in the order in which their copies were made.
    """
    return 1 + round_number * len(LOADS) + LOADS.index(row)


def fill_copies(bench: Bench, seconds: float) -> None:
    """Give the near cache what a gateway that runs for a while has in it."""
    run(bench, "http", "mixed", 1, seconds, seed=0)


def measure(
    bench: Bench, protocol: Protocol, rows: int, round_number: int, seconds: float
) -> Iterator[Sample]:
    """The samples of one round, as they come; raises ``RowError`` when anything went wrong."""
    front = _Front(bench, protocol, rows, round_number, seconds)
    return in_turn(front.sample, rows, round_number)


def in_turn(take: Take, rows: int, round_number: int) -> Iterator[Sample]:
    """One round's samples at each load; the rates of the later loads come from what the earlier ones showed."""
    rate, core_busy = 0.0, 0.0
    for variant in turned(SATURATED[rows], round_number):
        one = take(variant, "full", 0.0)
        if variant == "miss":
            rate = SHARE * one.per_second
        yield one
    for variant in turned(AT_HALVES[rows], round_number):
        one = take(variant, "half_rate", rate)
        if variant == "miss":
            core_busy = one.core_busy
        yield one
    rate = half_busy_rate(rate, core_busy)
    for _ in range(SEARCHES):  # a slower request costs more: one step does not reach the half
        core_busy = take("miss", "half_busy", rate).core_busy
        if core_busy <= NEARLY_HALF:
            break
        rate = half_busy_rate(rate, core_busy)
    for variant in turned(AT_HALVES[rows], round_number):
        yield take(variant, "half_busy", rate)


def half_busy_rate(rate: float, core_busy: float) -> float:
    """Requests a second that should keep the core half busy, when ``rate`` of them took ``core_busy`` of it.

    Never more than ``rate``, never less than a tenth of it.
    """
    if core_busy <= SHARE:
        return rate
    return rate * max(LEAST_SHARE, SHARE / core_busy)


@dataclass(frozen=True, slots=True)
class _Front:
    """What all loads of one row in one round have in common."""

    bench: Bench
    protocol: Protocol
    rows: int
    round_number: int
    seconds: float

    def sample(self, variant: Variant, load: LoadName, rate: float) -> Sample:
        bench, row = self.bench, f"{self.protocol}-{self.rows}"
        before, meter = looked_up(bench.stage), Meter(bench)
        seed = seed_of(row, self.round_number)
        seen = run(bench, self.protocol, variant, self.rows, self.seconds, seed, rate)
        gateway_s, store_s, foreign = meter.read()
        return Sample(
            row=row,
            round=self.round_number,
            variant=variant,
            load=load,
            rate=rate,
            per_second=seen.per_second,
            p50_ms=seen.p50_ms,
            p99_ms=seen.p99_ms,
            gateway_us=gateway_s / seen.served * 1e6,
            store_us=store_s / seen.served * 1e6,
            hit_share=hit_share(before, looked_up(bench.stage)),
            client_busy=seen.busy_share,
            client_lag_p99_ms=seen.lag_p99_ms,
            foreign_core=foreign,
        )


def run(
    bench: Bench,
    protocol: Protocol,
    variant: Variant,
    rows: int,
    seconds: float,
    seed: int,
    rate: float = 0.0,
    alone: bool = False,
) -> Load:
    """One load from a client of its own; ``alone``: one request at a time."""
    connections, streams = (1, 1) if alone else OPEN[protocol] if rate else CLOSED[protocol, rows]
    host, port = bench.stage.gateway.address(protocol)
    options: dict[str, object] = {
        "protocol": protocol,
        "host": host,
        "port": port,
        "variant": variant,
        "rows": rows,
        "seconds": seconds,
        "rate": rate,
        "warm-up": WARM_UP_S,
        "connections": connections,
        "streams": streams,
        "seed": seed,
    }
    what = ["-m", feature_lookups_client.__name__]
    said = said_by(what, bench.load_core, seconds + _CLIENT_GRACE_S, options)
    bench.stage.gateway.check_alive()
    load = msgspec.json.decode(said, type=Load)
    if load.complaint:
        raise RowError(f"{variant}: {load.complaint} among {load.answered} requests")
    if not load.answered:
        raise RowError(f"{variant}: no request was answered")
    return load


def looked_up(stage: Stage) -> dict[str, float]:
    """Rows that the gateway has looked up, by where they came from."""
    text = server_metrics.scrape(*stage.gateway.address("admin"))
    found = server_metrics.samples_of(text, LOOKED_UP)
    if not found:
        raise RowError(f"the gateway does not export {LOOKED_UP}")
    return {dict(labels)["outcome"]: value for labels, value in found.items()}


def hit_share(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Of the rows that were looked up in between; nothing when there were none."""
    grown = {outcome: value - before.get(outcome, 0.0) for outcome, value in after.items()}
    looked = sum(grown.values())
    return grown.get("hit", 0.0) / looked if looked else None
