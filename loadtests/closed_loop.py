"""Decides how one row of closed-loop load is measured on a running server.

Probe, warm up, read the CPU, load, read the CPU, probe. It must never return figures of a load
in which anything went wrong.
"""

from loadtests import h2load, json_payload, models, probe, protobuf_payload, wrk
from loadtests.core_meter import CoreMeter
from loadtests.failures import BenchError, RowError
from loadtests.load_result import LoadResult
from loadtests.measured import ClosedSample
from loadtests.rows import ClosedRow, OpenRow
from loadtests.server_process import ServerProcess
from loadtests.servers import answers_truly
from loadtests.workbench import Workbench

_WARM_UP_S = 1.0


def measure(
    bench: Workbench, server: ServerProcess, row: ClosedRow, round_number: int, seconds: float
) -> ClosedSample:
    """The row's figures; raises `RowError` when any request did."""
    address = server.address(row.protocol)
    expected = bench.answers[models.TINY] if answers_truly(row.server) else None
    try:
        reply = probe.check(row.protocol, address, models.TINY, expected)
        reply_bytes = len(reply.body)
        saturate(bench, server, row, models.TINY, _WARM_UP_S, reply_bytes)
        meter = CoreMeter(server, bench.server_core, bench.load_core)
        load = saturate(bench, server, row, models.TINY, seconds, reply_bytes)
        used = meter.read()
        probe.check(row.protocol, address, models.TINY, expected)
    except RowError:
        raise
    except BenchError as problem:
        raise RowError(str(problem)) from problem
    return ClosedSample(
        row=row.name,
        round=round_number,
        requests=load.answered,
        per_second=load.per_second,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        cpu_us=used.server_s / load.answered * 1e6,
        foreign_core=used.foreign_share,
        resident_mb=server.resident_bytes() / 1e6,
    )


def saturate(
    bench: Workbench,
    server: ServerProcess,
    row: ClosedRow,
    model: str,
    seconds: float,
    reply_bytes: int,
) -> LoadResult:
    """Runs the load of the row's protocol; raises `RowError` when any request did."""
    load = _load(bench, server.address(row.protocol), row, model, seconds, reply_bytes)
    complaint = load.complaint()
    if complaint:
        raise RowError(f"{complaint} among {load.answered} requests")
    if not load.answered:
        raise RowError("no request was answered")
    return load


def capacity_row(row: OpenRow) -> ClosedRow:
    """The load that finds a server's capacity: enough in flight to keep it busy, no more."""
    connections, streams = (16, 1) if row.protocol == "http" else (4, 4)
    return ClosedRow(f"capacity-of-{row.name}", row.server, row.protocol, connections, streams)


def _load(
    bench: Workbench,
    address: tuple[str, int],
    row: ClosedRow,
    model: str,
    seconds: float,
    reply_bytes: int,
) -> LoadResult:
    host, port = address
    if row.protocol == "http":
        url = f"http://{host}:{port}{json_payload.infer_path(model)}"
        body = bench.http_body(model)
        return wrk.load(bench.wrk, url, body, row.connections, seconds, bench.load_core)
    return h2load.load(
        bench.h2load,
        f"http://{host}:{port}{protobuf_payload.INFER_PATH}",
        body=bench.grpc_body(model),
        log=bench.folder / "h2load.log",
        connections=row.connections,
        streams=row.streams,
        seconds=seconds,
        core=bench.load_core,
        reply_bytes=reply_bytes,
    )
