"""Decides what one load of the lookup bench reports: a process of its own, one JSON line on stdout.

With ``--rate`` an open loop at that rate; without, a closed one that keeps every connection busy and stops by the
clock. Connections and bodies are made before the first request. It must never judge what it measured.
"""

from __future__ import annotations

import argparse
import gc
import resource
import select
import sys
import time

import msgspec

from loadtests import arrivals
from loadtests.drive import Driver
from loadtests.feature_lookups_data import VARIANTS, Requests
from loadtests.feature_lookups_wire import FrameConnection, MixedHttp
from loadtests.load_result import percentile
from loadtests.replies import Connection

_GRACE_S = 5.0


class Load(msgspec.Struct, frozen=True):
    """One load as its client saw it. Latencies in milliseconds: of an open loop from the due time on."""

    answered: int
    served: int
    """With those of the warm-up: what the server's CPU time was spent on."""
    seconds: float
    least_ms: float
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float
    """How late the client itself was; 0 in a closed loop."""
    busy_share: float
    """Of its core, while the load ran: near 1, figures are about the client."""
    failures: dict[str, int]
    """What became of the others, by kind."""

    @property
    def per_second(self) -> float:
        """Requests answered."""
        return self.answered / self.seconds

    @property
    def complaint(self) -> str:
        """What went wrong, or nothing."""
        return ", ".join(f"{count} × {what}" for what, count in self.failures.items())


class ClosedLoop:
    """Keeps every connection as busy as it may be."""

    def __init__(self, connections: list[Connection]) -> None:
        self._by_fd = {one.fileno(): one for one in connections}
        self._sent_s: dict[int, float] = {}
        self._token = 0
        self._took_s: list[float] = []
        self._failures: dict[str, int] = {}

    def run(self, seconds: float) -> tuple[list[float], dict[str, int], float]:
        """Seconds of each answered request, sorted; the others by kind, also those of runs before; and how long it
        took in all. What is on its way at the end is counted by the next run.
        """
        poller = select.epoll()
        self._took_s = []
        began_s = time.perf_counter()
        for fd, connection in self._by_fd.items():
            poller.register(fd, select.EPOLLIN)
            self._fill(connection)
        end_s = began_s + seconds
        while (now_s := time.perf_counter()) < end_s and self._by_fd:
            for fd, _ in poller.poll(end_s - now_s):
                connection = self._by_fd[fd]
                self._take(connection)
                if connection.broken:
                    poller.unregister(fd)
                    del self._by_fd[fd]
                else:
                    self._fill(connection)
        took_s = time.perf_counter() - began_s
        poller.close()
        self._took_s.sort()
        return self._took_s, self._failures, took_s

    def _take(self, connection: Connection) -> None:
        connection.flush()
        replies = connection.receive()
        now_s = time.perf_counter()
        for one in replies:
            sent_s = self._sent_s.pop(one.token)
            if one.outcome == "answered":
                self._took_s.append(now_s - sent_s)
            else:
                what = f"{one.outcome}: {one.detail}"
                self._failures[what] = self._failures.get(what, 0) + 1

    def _fill(self, connection: Connection) -> None:
        while connection.has_room:
            token, self._token = self._token, self._token + 1
            self._sent_s[token] = time.perf_counter()
            connection.send(token)


def _closed(connections: list[Connection], warm_s: float, seconds: float) -> Load:
    loop = ClosedLoop(connections)
    before = len(loop.run(warm_s)[0]) if warm_s else 0
    cpu_s = _cpu_s()
    took_s, failures, wall_s = loop.run(seconds)
    return Load(
        answered=len(took_s),
        served=before + len(took_s),
        seconds=wall_s,
        least_ms=percentile(took_s, 0.0) * 1e3,
        p50_ms=percentile(took_s, 0.50) * 1e3,
        p99_ms=percentile(took_s, 0.99) * 1e3,
        lag_p99_ms=0.0,
        busy_share=(_cpu_s() - cpu_s) / wall_s,
        failures=failures,
    )


def _open(connections: list[Connection], options: argparse.Namespace) -> Load:
    due = arrivals.poisson(options.rate, options.seconds, options.seed)
    cpu_s, began_s = _cpu_s(), time.perf_counter()
    flight = Driver(connections, due).run(_GRACE_S)
    wall_s = time.perf_counter() - began_s
    took_s = flight.latencies("answered")
    lags = sorted(at - due_s for due_s, at in zip(flight.due, flight.noticed, strict=True))
    details = dict(flight.details)
    for good in ("HTTP 200", "message"):
        details.pop(good, None)
    unanswered = flight.outcome.count("unanswered")
    if unanswered:
        details["unanswered"] = unanswered
    return Load(
        answered=len(took_s),
        served=len(took_s),
        seconds=max(options.seconds, max(flight.ended, default=0.0)),
        least_ms=percentile(took_s, 0.0) * 1e3,
        p50_ms=percentile(took_s, 0.50) * 1e3,
        p99_ms=percentile(took_s, 0.99) * 1e3,
        lag_p99_ms=percentile(lags, 0.99) * 1e3,
        busy_share=(_cpu_s() - cpu_s) / wall_s,
        failures=details,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _connect(options: argparse.Namespace) -> list[Connection]:
    requests = Requests(options.variant, options.protocol, options.rows, options.seed)
    address = (options.host, options.port)
    if options.protocol == "grpc":
        return [
            FrameConnection(address, requests, options.streams) for _ in range(options.connections)
        ]
    return [MixedHttp(address, options.variant, requests) for _ in range(options.connections)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One load; prints one line of JSON.")
    parser.add_argument("--protocol", choices=("http", "grpc"), required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: closed")
    parser.add_argument("--warm-up", type=float, default=0.0, help="of a closed loop, in seconds")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--streams", type=int, default=1, help="calls at once on one connection")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Connects, loads, prints."""
    options = _options()
    connections = _connect(options)
    # A collection in the middle of the run would be read as the server's latency.
    gc.disable()
    try:
        if options.rate:
            load = _open(connections, options)
        else:
            load = _closed(connections, options.warm_up, options.seconds)
    finally:
        for connection in connections:
            connection.close()
    sys.stdout.write(msgspec.json.encode(load).decode() + "\n")


if __name__ == "__main__":
    main()
