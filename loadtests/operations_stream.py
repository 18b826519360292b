"""Decides how an infer stream is compared with unary calls: one connection each, as many messages in flight.

Both go to the same server in the same round. It must never compare clients: the server's CPU time for a message stands
beside the rates.
"""

import msgspec

from loadtests import client_process, closed_loop, models, operations_stream_client, probe
from loadtests.core_meter import CoreMeter, CoreUse
from loadtests.rows import ClosedRow
from loadtests.server_process import ServerProcess, running
from loadtests.workbench import Workbench

IN_FLIGHT = 64
_UNARY = ClosedRow("unary-1x64", "headrace", "grpc", 1, IN_FLIGHT)
_WARM_UP_S = 1.0


class Counted(msgspec.Struct, frozen=True):
    """What a client counted."""

    messages: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Messages answered per second."""
        return self.messages / self.seconds


class StreamSample(msgspec.Struct, frozen=True):
    """One round."""

    row: str
    round: int
    stream_per_second: float
    unary_per_second: float
    stream_cpu_us: float
    """CPU time of the server for one message."""
    unary_cpu_us: float
    stream_server_share: float
    """Of its core, while the stream ran: well below 1, the client was the limit."""
    foreign_core: float

    @property
    def ratio(self) -> float:
        """The promise is about this one."""
        return self.stream_per_second / self.unary_per_second

    @property
    def cpu_ratio(self) -> float:
        """The same, in what it costs the server."""
        return self.unary_cpu_us / self.stream_cpu_us

    @property
    def summary(self) -> str:
        """One line of progress."""
        return (
            f"stream {self.stream_per_second:,.0f}/s at {self.stream_cpu_us:.1f} µs, unary "
            f"{self.unary_per_second:,.0f}/s at {self.unary_cpu_us:.1f} µs ({self.ratio:.2f} ×, by CPU "
            f"{self.cpu_ratio:.2f} ×), the stream's server used {self.stream_server_share:.0%} of its core, "
            f"others on a core {self.foreign_core:.0%}"
        )


def measure(bench: Workbench, row: str, round_number: int, seconds: float) -> StreamSample:
    """The figures of one round; raises `BenchError` when there are none."""
    line = bench.servers.command("headrace")
    with running("headrace", line, bench.server_core, bench.logs) as server:
        address, expected = server.address("grpc"), bench.answers[models.TINY]
        size = len(probe.check("grpc", address, models.TINY, expected).body)
        _stream(bench, server, _WARM_UP_S)
        closed_loop.saturate(bench, server, _UNARY, models.TINY, _WARM_UP_S, size)
        meter = CoreMeter(server, bench.server_core, bench.load_core)
        stream = _stream(bench, server, seconds)
        stream_use = meter.read()
        meter = CoreMeter(server, bench.server_core, bench.load_core)
        unary = closed_loop.saturate(bench, server, _UNARY, models.TINY, seconds, size)
        unary_use = meter.read()
    return StreamSample(
        row=row,
        round=round_number,
        stream_per_second=stream.per_second,
        unary_per_second=unary.per_second,
        stream_cpu_us=_cpu_us(stream_use, stream.messages),
        unary_cpu_us=_cpu_us(unary_use, unary.answered),
        stream_server_share=stream_use.server_s / stream.seconds,
        foreign_core=max(stream_use.foreign_share, unary_use.foreign_share),
    )


def _cpu_us(use: CoreUse, messages: int) -> float:
    return use.server_s / messages * 1e6


def _stream(bench: Workbench, server: ServerProcess, seconds: float) -> Counted:
    host, port = server.address("grpc")
    options = {
        "host": host,
        "port": port,
        "in-flight": IN_FLIGHT,
        "seconds": seconds,
        "expected": bench.answers[models.TINY],
    }
    line = client_process.command(bench.load_core, operations_stream_client.__name__, options)
    said = client_process.printed("the stream's client", line, server, seconds)
    return msgspec.json.decode(said, type=Counted)
