"""Decides how a soak is told: a Markdown page with a row for each minute, and the verdict first.

It must never leave out a minute or a finding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.figures_tables import facts_table, table
from loadtests.load_result import percentile
from loadtests.soak_verdict import Finding, Sample


@dataclass(frozen=True, slots=True)
class Minute:
    """A row of the page; counts run from the start of the load."""

    at_s: float
    answered: dict[str, int]
    odd: int
    failures: int
    p50_ms: float
    p99_ms: float
    resident_mb: float
    open_files: int
    threads: int
    inflight_requests: float
    connections: float
    cpu_share: float


def minute(
    seen: Sequence[Sample],
    *,
    answered: dict[str, int],
    odd: int,
    failures: int,
    plain_s: Sequence[float],
) -> Minute:
    """The row of these samples, of which the first belongs to the row before: the largest of each figure."""
    first, last = seen[0], seen[-1]
    span_s = last.at_s - first.at_s
    return Minute(
        at_s=last.at_s,
        answered=answered,
        odd=odd,
        failures=failures,
        p50_ms=percentile(plain_s, 0.50) * 1e3,
        p99_ms=percentile(plain_s, 0.99) * 1e3,
        resident_mb=max(one.resident_bytes for one in seen) / 1e6,
        open_files=max(one.open_files for one in seen),
        threads=max(one.threads for one in seen),
        inflight_requests=max(one.inflight_requests for one in seen),
        connections=max(one.connections for one in seen),
        cpu_share=(last.cpu_s - first.cpu_s) / span_s if span_s else math.nan,
    )


def line(row: Minute) -> str:
    """The row for somebody who waits."""
    answered = ", ".join(f"{front} {count:,}" for front, count in row.answered.items())
    return (
        f"{_clock(row.at_s)} answered {answered}, odd calls {row.odd:,}, failures {row.failures}; "
        f"{row.resident_mb:.1f} MB, {row.open_files} files, {row.threads} threads, "
        f"{row.cpu_share:.0%} of a core"
    )


_LEGEND = (
    "Odd clients beside the steady load: good calls in JSON, binary and protobuf, bad requests, broken HTTP, "
    "deadlines that cannot be met, cancelled calls, connections that come and go, idle ones, dripping uploads. "
    "Counts run from the start, by legs of half a minute for the steady load; latencies are those of the odd "
    "clients' good calls in the row's time, the client's own share of its busy core included; the other "
    "figures are the largest seen in the row."
)
_HEADS = (
    "time",
    "HTTP answered",
    "gRPC answered",
    "odd calls",
    "failures",
    "p50 ms",
    "p99 ms",
    "RSS MB",
    "files",
    "threads",
    "in flight",
    "connections",
    "CPU of a core",
)


def write(
    page: Path,
    duration_s: float,
    setting: dict[str, str],
    minutes: Sequence[Minute],
    findings: Sequence[Finding],
) -> None:
    """Writes the page."""
    rows = [
        [
            _clock(row.at_s),
            f"{row.answered.get('http', 0):,}",
            f"{row.answered.get('grpc', 0):,}",
            f"{row.odd:,}",
            str(row.failures),
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.resident_mb:.1f}",
            str(row.open_files),
            str(row.threads),
            f"{row.inflight_requests:.0f}",
            f"{row.connections:.0f}",
            f"{row.cpu_share:.0%}",
        ]
        for row in minutes
    ]
    parts = [
        f"# Soak of {_clock(duration_s)}, {setting['when']}",
        verdict_table(findings),
        _LEGEND,
        table(_HEADS, rows),
        facts_table(setting),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


def verdict_table(findings: Sequence[Finding]) -> str:
    """Every promise with what was measured."""
    rows = [
        [one.promise, one.measured.replace("|", "/"), "pass" if one.kept else "**broken**"]
        for one in findings
    ]
    return table(["what", "measured", "verdict"], rows)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
