"""Decides when the open-loop client sends, and when it saw each answer.

It sends each request at its due time whether or not earlier ones were answered, and measures
from the due time, so that a stall of server or client counts against the latency and not for it.
One thread that polls: it has a core of its own, and a timer would be a millisecond late. It must
never slow down because the server does.
"""

import gc
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.replies import Connection, Outcome

# Closer than this to the next send, it spins instead of sleeping.
_SPIN_S = 0.0015
_LEAD_S = 0.05


@dataclass(slots=True)
class Flight:
    """What became of each request; all times in seconds from the start of the schedule."""

    due: Sequence[float]
    # When the client got to it; later than due only when the client itself was held up.
    noticed: list[float]
    sent: list[float]
    ended: list[float]
    outcome: list[Outcome]
    details: dict[str, int] = field(default_factory=dict)
    connections_lost: int = 0

    def latencies(self, outcome: Outcome) -> list[float]:
        """Seconds from due to ended, sorted, of the requests with this outcome."""
        rows = zip(self.due, self.ended, self.outcome, strict=True)
        return sorted(ended - due for due, ended, kind in rows if kind == outcome)


class Driver:
    """One run of one schedule over connections that are already open."""

    def __init__(self, connections: Sequence[Connection], due: Sequence[float]) -> None:
        count = len(due)
        self._flight = Flight(
            due=due,
            noticed=[0.0] * count,
            sent=[0.0] * count,
            ended=[0.0] * count,
            outcome=["unanswered"] * count,
        )
        self._connections = deque(connections)
        self._by_fd = {connection.fileno(): connection for connection in connections}
        self._backlog: deque[int] = deque()
        self._open = 0
        self._start = 0.0

    def run(self, grace: float) -> Flight:
        """Drives the schedule, then waits at most `grace` seconds for the last answers."""
        poller = select.epoll()
        for fd in self._by_fd:
            poller.register(fd, select.EPOLLIN)
        gc_was_on = gc.isenabled()
        # A collection in the middle of the run would be read as the server's latency.
        gc.disable()
        try:
            self._loop(poller, grace)
        finally:
            if gc_was_on:
                gc.enable()
            poller.close()
        return self._flight

    def _loop(self, poller: select.epoll, grace: float) -> None:
        due, clock = self._flight.due, time.perf_counter
        self._start = clock() + _LEAD_S
        end = (due[-1] if due else 0.0) + grace
        at, count = 0, len(due)
        while True:
            now = clock() - self._start
            while at < count and due[at] <= now:
                self._flight.noticed[at] = now
                self._backlog.append(at)
                at += 1
            self._send_backlog()
            if now > end or (at == count and not self._open and not self._backlog):
                return
            gap = (due[at] if at < count else end) - now - _SPIN_S
            for fd, _ in poller.poll(max(0.0, min(gap, 0.1))):
                self._receive(poller, fd)

    def _send_backlog(self) -> None:
        while self._backlog:
            connection = self._free_connection()
            if connection is None:
                return
            token = self._backlog.popleft()
            self._open += 1
            connection.send(token)
            self._flight.sent[token] = time.perf_counter() - self._start

    def _free_connection(self) -> Connection | None:
        for _ in range(len(self._connections)):
            self._connections.rotate(-1)
            if self._connections[0].has_room:
                return self._connections[0]
        return None

    def _receive(self, poller: select.epoll, fd: int) -> None:
        connection, flight = self._by_fd[fd], self._flight
        connection.flush()
        replies = connection.receive()
        now = time.perf_counter() - self._start
        for reply in replies:
            self._open -= 1
            flight.outcome[reply.token] = reply.outcome
            flight.ended[reply.token] = now
            flight.details[reply.detail] = flight.details.get(reply.detail, 0) + 1
        if connection.broken and fd in self._by_fd:
            poller.unregister(fd)
            del self._by_fd[fd]
            flight.connections_lost += 1
