"""Decides how an operations row loads its server: half of the capacity measured just before, from a client beside.

It must never take a client for ready that has not said so, nor wait for it without a limit.
"""

import contextlib
import http.client
import queue
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtests import client_process, closed_loop, operations_client, probe
from loadtests.failures import RowError
from loadtests.load_result import percentile
from loadtests.operations_client import Seen
from loadtests.operations_models import ROWS, TREES
from loadtests.rows import ClosedRow
from loadtests.server_process import ServerProcess
from loadtests.servers import Catalogue, Protocol
from loadtests.workbench import Workbench

SHARE = 0.5
CAPACITY_S = 2.0
KEPT: dict[Protocol, int] = {"http": 48, "grpc": 8}
_SATURATING: dict[Protocol, ClosedRow] = {
    "http": ClosedRow("capacity-http", "headrace", "http", 32, 1),
    "grpc": ClosedRow("capacity-grpc", "headrace", "grpc", 4, 8),
}
_READY_WITHIN_S = 15.0
_END_WITHIN_S = 20.0


def command(bench: Workbench, repository: Path, *options: str) -> list[str]:
    """A gateway over another repository than the bench's."""
    listed = Catalogue(repository, bench.servers.headrace).command("headrace")
    return [*listed, *options]


def capacity(bench: Workbench, server: ServerProcess, protocol: Protocol) -> float:
    """Calls per second that the server answers as fast as it can; raises `RowError` when any went wrong."""
    bench.write_bodies(TREES, ROWS)
    size = len(probe.check(protocol, server.address(protocol), TREES, None, ROWS).body)
    load = _SATURATING[protocol]
    return closed_loop.saturate(bench, server, load, TREES, CAPACITY_S, size).per_second


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from the due time to the answer."""

    calls: int
    p50: float
    p99: float
    most: float


def latency_of(seen: Seen, calls: list[int]) -> Latency:
    """What these calls waited, if they were answered; raises `RowError` when none was."""
    spent_s = sorted(
        seen.ended_s[at] - seen.due_s[at] for at in calls if seen.outcome[at] == "answered"
    )
    if not spent_s:
        raise RowError("no call was answered in one of the phases: give it more --seconds")
    at_ms = (round(percentile(spent_s, share) * 1000, 3) for share in (0.5, 0.99, 1.0))
    return Latency(len(spent_s), *at_ms)


@dataclass(slots=True)
class Client:
    """A client that runs."""

    process: subprocess.Popen[str]
    _lines: "queue.SimpleQueue[str]"

    def result(self) -> Seen:
        """Ends the calling: what it saw. Raises `RowError` when it does not end in time."""
        self.process.terminate()
        try:
            line = self._lines.get(timeout=_END_WITHIN_S)
        except queue.Empty:
            raise RowError("the client did not end in time") from None
        if not line:
            raise RowError("the client ended without a result")
        return msgspec.json.decode(line, type=Seen)


@contextlib.contextmanager
def client(
    bench: Workbench,
    address: tuple[str, int],
    protocol: Protocol,
    rate: float,
    seconds: float,
    fresh_every: int = 0,
) -> Iterator[Client]:
    """A client that has connected and calls; it is ended with the block."""
    options = {
        "protocol": protocol,
        "host": address[0],
        "port": address[1],
        "model": TREES,
        "rate": rate,
        "seconds": seconds,
        "kept": KEPT[protocol],
        "fresh-every": fresh_every,
    }
    line = client_process.command(bench.load_core, operations_client.__name__, options)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines))
    reader.start()
    try:
        try:
            first = lines.get(timeout=_READY_WITHIN_S)
        except queue.Empty:
            raise RowError("the client did not connect in time") from None
        if first.strip() != operations_client.READY:
            raise RowError("the client could not connect")
        yield Client(process, lines)
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def ask(address: tuple[str, int], method: str, path: str, timeout_s: float) -> tuple[int, str]:
    """One HTTP request on a connection of its own: (status, body)."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_s)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    finally:
        connection.close()
