"""Decides which promises of operation the measured figures keep. Pure: samples in, verdicts out.

Ratios are medians of the rounds; counts of failures are sums, so that one bad round is enough. It must never pass a row
that failed, was not measured, or cannot be measured on this machine.
"""

from typing import TypeVar

import msgspec

from loadtests.measured import median
from loadtests.operations_kill import KillSample
from loadtests.operations_stream import StreamSample
from loadtests.operations_swap import SwapSample
from loadtests.operations_workers import WorkersSample
from loadtests.servers import Protocol
from loadtests.telemetry_cost import AT_LEAST, Cost
from loadtests.verdict import Verdict

_S = TypeVar("_S", SwapSample, KillSample, WorkersSample, StreamSample)

FRONTS: tuple[Protocol, ...] = ("http", "grpc")
STREAM, TELEMETRY = "stream", "telemetry"
NAMES = (
    *(f"{what}-{front}" for what in ("swap", "kill", "workers") for front in FRONTS),
    STREAM,
    TELEMETRY,
)
SWAP_RATIO, BACK_S, WORKERS_RATIO, STREAM_RATIO = 1.3, 3.0, 1.7, 1.3


class Results(msgspec.Struct):
    """All that one bench measured, and all that went wrong."""

    swap: list[SwapSample] = []
    kill: list[KillSample] = []
    workers: list[WorkersSample] = []
    stream: list[StreamSample] = []
    telemetry: list[Cost] = []
    failed: dict[str, str] = {}

    def shares(self) -> list[float]:
        """For every sample that knows it, the share of a core that others used."""
        samples: list[SwapSample | KillSample | StreamSample]
        samples = [*self.swap, *self.kill, *self.stream]
        return [sample.foreign_core for sample in samples]


def judge(results: Results, names: list[str]) -> list[Verdict]:
    """The promises of these rows, in a fixed order."""
    verdicts: list[Verdict] = []
    for front in FRONTS:
        if (row := f"swap-{front}") in names:
            verdicts += _swap(row, _of(results.swap, row, results), results)
    for front in FRONTS:
        if (row := f"kill-{front}") in names:
            verdicts += _kill(row, _of(results.kill, row, results), results)
    for front in FRONTS:
        if (row := f"workers-{front}") in names:
            verdicts.append(_workers(row, _of(results.workers, row, results), results))
    if STREAM in names:
        verdicts.append(_stream(_of(results.stream, STREAM, results), results))
    if TELEMETRY in names:
        verdicts += _telemetry(results)
    return verdicts


def _of(samples: list[_S], row: str, results: Results) -> list[_S]:
    """The rounds of a row, none when it failed in any."""
    return [] if row in results.failed else [one for one in samples if one.row == row]


def _swap(row: str, samples: list[SwapSample], results: Results) -> list[Verdict]:
    ratio = median(one.ratio for one in samples)
    failed = sum(one.failed for one in samples) if samples else None
    before = median(one.before.p99 for one in samples)
    during = median(one.during.p99 for one in samples)
    beside = "" if before is None else f" ({before:.2f} ms, then {during:.2f} ms)"
    return [
        _at_most(
            f"{row}: p99 while loading ÷ before", SWAP_RATIO, ratio, " ×", beside, row, results
        ),
        _at_most(f"{row}: failed calls, all rounds", 0, failed, "", "", row, results),
    ]


def _kill(row: str, samples: list[KillSample], results: Results) -> list[Verdict]:
    beyond = sum(one.beyond for one in samples) if samples else None
    lost = sum(one.lost_with_worker for one in samples)
    kinds = dict.fromkeys(one.commonest for one in samples if one.failures)
    what = "".join(f"; {kind}" for kind in kinds)
    slowest = max((one.back_s for one in samples), default=None)
    return [
        _at_most(
            f"{row}: failed calls beyond the dead worker's, all rounds",
            0,
            beyond,
            "",
            f" ({lost} were lost with it{what})" if samples else "",
            row,
            results,
        ),
        _at_most(
            f"{row}: two workers again, slowest round", BACK_S, slowest, " s", "", row, results
        ),
    ]


def _workers(row: str, samples: list[WorkersSample], results: Results) -> Verdict:
    promise = f"{row}: two workers ÷ one"
    ratio = median(one.ratio for one in samples)
    if samples and not all(one.measurable for one in samples):
        text = f"not measurable here: {samples[-1].summary}"
        return Verdict(promise, f"at least {WORKERS_RATIO:g} ×", text, "not measured")
    return _at_least(promise, WORKERS_RATIO, ratio, "", row, results)


def _stream(samples: list[StreamSample], results: Results) -> Verdict:
    ratio = median(one.ratio for one in samples)
    by_cpu = median(one.cpu_ratio for one in samples)
    beside = "" if by_cpu is None else f" ({by_cpu:.2f} × by the server's CPU time)"
    promise = "stream: messages a second ÷ unary calls, one channel each"
    return _at_least(promise, STREAM_RATIO, ratio, beside, STREAM, results)


def _telemetry(results: Results) -> list[Verdict]:
    """The promise is about everything on beside everything off, on each front."""
    limit = f"at least {AT_LEAST:.0%}"
    if TELEMETRY in results.failed or not results.telemetry:
        return [Verdict("telemetry: throughput", limit, _why(TELEMETRY, results), "not measured")]
    return [
        Verdict(
            f"telemetry: {one.load}, {one.variant} beside {one.beside}, throughput",
            limit,
            f"{one.throughput:.1%}",
            "pass" if one.is_kept else "short",
        )
        for one in results.telemetry
    ]


def _at_most(
    promise: str,
    limit: float,
    value: float | None,
    unit: str,
    beside: str,
    row: str,
    results: Results,
) -> Verdict:
    told = f"at most {limit:g}{unit}"
    if value is None:
        return Verdict(promise, told, _why(row, results), "not measured")
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
    return Verdict(promise, told, f"{shown}{unit}{beside}", "pass" if value <= limit else "short")


def _at_least(
    promise: str, limit: float, value: float | None, beside: str, row: str, results: Results
) -> Verdict:
    told = f"at least {limit:g} ×"
    if value is None:
        return Verdict(promise, told, _why(row, results), "not measured")
    return Verdict(promise, told, f"{value:.2f} ×{beside}", "pass" if value >= limit else "short")


def _why(row: str, results: Results) -> str:
    failure = results.failed.get(row)
    return "no figure" if failure is None else f"failed: {failure.splitlines()[0]}"
