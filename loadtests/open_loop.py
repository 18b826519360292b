"""Decides how overload is measured: capacity first, then twice as much with a deadline.

The capacity is measured again afterwards, on the same server. It must never take refused or
expired requests for errors, nor any other error for one of those.
"""

import msgspec

from loadtests import (
    client_process,
    closed_loop,
    models,
    open_loop_client,
    probe,
    server_metrics,
)
from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.measured import OpenSample
from loadtests.open_loop_client import OpenLoopReport
from loadtests.rows import OpenRow
from loadtests.server_process import ServerProcess
from loadtests.workbench import Workbench

OVERLOAD = 2.0
DEADLINE_MS = 50
_CAPACITY_S = 3.0


def measure(
    bench: Workbench,
    server: ServerProcess,
    row: OpenRow,
    round_number: int,
    seconds: float,
    pattern: str,
) -> OpenSample:
    """The row's figures; raises `RowError` when any request met a real error."""
    before = _capacity(bench, server, row)
    late_before = server_metrics.late_answers(server)
    offered = before * OVERLOAD
    meter = CoreMeter(server, bench.server_core, bench.load_core)
    client = _overload(bench, server, row, offered, seconds, pattern, seed=round_number)
    used = meter.read()
    late_after = server_metrics.late_answers(server)
    failed = client.outcomes.get("failed", 0)
    if failed:
        raise RowError(f"{failed} of {client.scheduled} requests failed: {client.details}")
    return OpenSample(
        row=row.name,
        round=round_number,
        capacity_before=before,
        capacity_after=_capacity(bench, server, row),
        offered=offered,
        client=client,
        late_at_server=_grown(late_before, late_after),
        foreign_core=used.foreign_share,
        resident_mb=server.resident_bytes() / 1e6,
    )


def _capacity(bench: Workbench, server: ServerProcess, row: OpenRow) -> float:
    expected = bench.answers[models.HEAVY]
    reply = probe.check(row.protocol, server.address(row.protocol), models.HEAVY, expected)
    load = closed_loop.capacity_row(row)
    size = len(reply.body)
    return closed_loop.saturate(bench, server, load, models.HEAVY, _CAPACITY_S, size).per_second


def _overload(
    bench: Workbench,
    server: ServerProcess,
    row: OpenRow,
    rate: float,
    seconds: float,
    pattern: str,
    seed: int,
) -> OpenLoopReport:
    host, port = server.address(row.protocol)
    options = {
        "protocol": row.protocol,
        "host": host,
        "port": port,
        "model": models.HEAVY,
        "rate": rate,
        "seconds": seconds,
        "arrivals": pattern,
        "seed": seed,
        "deadline-ms": DEADLINE_MS,
        "connections": row.connections,
    }
    line = client_process.command(bench.load_core, open_loop_client.__name__, options)
    said = client_process.printed("the open-loop client", line, server, seconds)
    return msgspec.json.decode(said, type=OpenLoopReport)


def _grown(before: float | None, after: float | None) -> float | None:
    """A counter that appears with the first late answer starts from zero."""
    return None if after is None else after - (before or 0.0)
