"""Decides which promises the measured figures keep. Pure: figures in, verdicts out.

A figure that is missing is `not measured`, never a pass; the reason stands beside it. It must
never round a figure before it is compared, nor leave a promise out because it was missed.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from loadtests.measured import ClosedSample, Results, median
from loadtests.rows import COLD_START, PIPELINE

Status = Literal["pass", "short", "not measured"]

# What the two baselines cost where the promises were made. Far from these, the bench is wrong.
BASELINE_CPU_US = {"http-32-starlette": 105.0, "grpc-8x8-grpcaio": 436.0}
_BASELINE_FACTOR = 1.6


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise beside what was measured."""

    promise: str
    limit: str
    measured: str
    status: Status


def judge(results: Results) -> list[Verdict]:
    """All promises, in a fixed order."""
    return [
        _at_least(results, "Starlette CPU ÷ ours", 2.5, "http-32-starlette", "http-32-headrace"),
        _at_most("CPU per HTTP request", 42, "µs", *_cpu(results, "http-32-headrace")),
        _at_least(results, "grpc.aio CPU ÷ ours", 10, "grpc-8x8-grpcaio", "grpc-8x8-headrace"),
        _at_most("CPU per gRPC request", 40, "µs", *_cpu(results, "grpc-8x8-headrace")),
        _above_echo(results, "HTTP, 1 connection", "http-1"),
        _above_echo(results, "gRPC, 1 call at a time", "grpc-1x1"),
        _at_most(
            "in-process pipeline per request",
            30,
            "µs",
            results.pipeline_us.get("total"),
            _why(results, PIPELINE),
        ),
        *_overload(results, "gRPC", "open-grpc-headrace"),
        *_overload(results, "HTTP", "open-http-headrace"),
        _at_most(
            "cold start to first answer",
            2.5,
            "s",
            median(results.cold_start_s),
            _why(results, COLD_START),
        ),
        _at_most("resident memory after load", 200, "MB", results.resident_mb("headrace"), ""),
    ]


def baselines(results: Results) -> list[Verdict]:
    """Whether the baselines cost about what they are known to cost."""
    verdicts = []
    for row, known in BASELINE_CPU_US.items():
        measured, why = _cpu(results, row)
        low, high = known / _BASELINE_FACTOR, known * _BASELINE_FACTOR
        status: Status = "not measured"
        if measured is not None:
            status = "pass" if low <= measured <= high else "short"
        text = (why or "no figure") if measured is None else f"{measured:.1f} µs"
        verdicts.append(Verdict(f"CPU of {row}", f"{low:.0f} to {high:.0f} µs", text, status))
    return verdicts


def kept(verdicts: list[Verdict]) -> bool:
    """Whether every promise was measured and kept."""
    return all(verdict.status == "pass" for verdict in verdicts)


def _overload(results: Results, front: str, row: str) -> list[Verdict]:
    samples, why = results.open_samples(row), _why(results, row)
    goodput = median(sample.goodput for sample in samples)
    counts = [sample.late_at_server for sample in samples]
    late = None if None in counts or not counts else sum(c for c in counts if c is not None)
    reason = "not exported" if samples else why
    in_time = None if goodput is None else goodput * 100
    answered = _compared(
        f"{front} at twice capacity, answered in time",
        85,
        "% of capacity",
        in_time,
        why,
        operator.ge,
    )
    seen = median(sample.client_goodput for sample in samples)
    if seen is not None:
        # The promise is about the server's write; what is left of it at the client belongs beside.
        text = f"{answered.measured} (the client saw {seen:.2%})"
        answered = replace(answered, measured=text)
    late_promise = f"{front} late at the server's write, all rounds"
    return [answered, _at_most(late_promise, 0, "answers", late, reason)]


def _above_echo(results: Results, load: str, prefix: str) -> Verdict:
    ours = results.closed_median(f"{prefix}-headrace", _p50)
    echo = results.closed_median(f"{prefix}-echo", _p50)
    above = None if ours is None or echo is None else ours - echo
    why = _why(results, f"{prefix}-headrace") or _why(results, f"{prefix}-echo")
    return _at_most(f"p50 above the echo server, {load}", 150, "µs", above, why)


def _at_least(results: Results, promise: str, limit: float, theirs: str, ours: str) -> Verdict:
    (their_cpu, their_why), (our_cpu, our_why) = _cpu(results, theirs), _cpu(results, ours)
    ratio = None if their_cpu is None or our_cpu is None else their_cpu / our_cpu
    return _compared(promise, limit, "times", ratio, our_why or their_why, operator.ge)


def _at_most(promise: str, limit: float, unit: str, value: float | None, why: str) -> Verdict:
    return _compared(promise, limit, unit, value, why, operator.le)


def _compared(
    promise: str,
    limit: float,
    unit: str,
    value: float | None,
    why: str,
    keeps: Callable[[float, float], bool],
) -> Verdict:
    sign = "≥" if keeps is operator.ge else "≤"
    bound = f"{sign} {limit:g} {unit}"
    if value is None:
        return Verdict(promise, bound, why or "no figure", "not measured")
    status: Status = "pass" if keeps(value, limit) else "short"
    return Verdict(promise, bound, f"{value:,.2f} {unit}", status)


def _cpu(results: Results, row: str) -> tuple[float | None, str]:
    return results.closed_median(row, lambda sample: sample.cpu_us), _why(results, row)


def _p50(sample: ClosedSample) -> float:
    return sample.p50_us


def _why(results: Results, row: str) -> str:
    if row in results.failed:
        return "failed: " + results.failed[row].splitlines()[0]
    return results.skipped.get(row, "")
