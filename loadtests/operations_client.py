"""Decides how the operations rows call: when it is due, over connections that are opened again when they break.

An open loop in a process of its own, on the load's core. It tells everything it saw, with times on the machine's
monotonic clock, so that others can say what happened meanwhile. It must never call again what failed: a call has one
outcome, and the row judges it.
"""

import argparse
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque

import msgspec

from loadtests import arrivals, json_payload, protobuf_payload
from loadtests.grpc_connection import GrpcConnection
from loadtests.http_connection import HttpConnection
from loadtests.operations_models import ROWS
from loadtests.replies import Connection, Outcome

READY = "ready"
_LEAD_S = 0.05
_SPIN_S = 0.0015
_GRACE_S = 5.0
_RECONNECT_S = 0.01
_NO_LINE = -1


class Line(msgspec.Struct):
    """One connection: the client's port, since when, whether it is used again, and when it broke."""

    port: int
    opened_s: float
    lasts: bool
    broke_s: float | None = None


class Seen(msgspec.Struct):
    """What became of every call; times in seconds of `time.monotonic`, zero where it never came to that."""

    due_s: list[float]
    noticed_s: list[float]
    sent_s: list[float]
    ended_s: list[float]
    outcome: list[Outcome]
    detail: list[str]
    line: list[int]
    """Which connection carried it: an index into `lines`, -1 for none."""
    lines: list[Line]
    refused_connects: int = 0

    def cut(self, count: int) -> None:
        """Forgets the calls that never became due."""
        for listed in (self.due_s, self.noticed_s, self.sent_s, self.ended_s, self.line):
            del listed[count:]
        del self.outcome[count:], self.detail[count:]


class Caller:
    """Calls one front on a schedule."""

    def __init__(
        self, protocol: str, address: tuple[str, int], model: str, kept: int, fresh_every: int
    ) -> None:
        self._protocol = protocol
        self._address = address
        self._message = protobuf_payload.infer_request(model, ROWS)
        self._path, self._body = json_payload.infer_path(model), json_payload.infer_body(rows=ROWS)
        self._fresh_every = fresh_every
        self._poller = select.epoll()
        self._by_fd: dict[int, tuple[Connection, int]] = {}
        self._kept: deque[tuple[Connection, int]] = deque()
        self._missing = 0
        self._again_s = 0.0
        self._fresh: deque[int] = deque()
        self._backlog: deque[int] = deque()
        self._waiting = 0
        self._is_over = False
        self.seen = Seen([], [], [], [], [], [], [], [])
        for _ in range(kept):
            self._kept.append(self._open(lasts=True))

    def run(self, schedule: list[float]) -> Seen:
        """Drives the schedule, then waits some seconds for the last answers."""
        seen, count = self.seen, len(schedule)
        start_s = time.monotonic() + _LEAD_S
        seen.due_s = [start_s + offset for offset in schedule]
        for times in (seen.noticed_s, seen.sent_s, seen.ended_s):
            times += [0.0] * count
        seen.outcome += ["unanswered"] * count
        seen.detail += [""] * count
        seen.line += [_NO_LINE] * count
        # A collection in the middle of the run would be read as the server's latency.
        gc.disable()
        try:
            self._loop(count)
        finally:
            gc.enable()
            for connection, _ in list(self._by_fd.values()):
                connection.close()
            self._poller.close()
        return seen

    def stop(self, *_: object) -> None:
        """Nothing more is due: for a signal."""
        self._is_over = True

    def _loop(self, count: int) -> None:
        seen, due, clock, at = self.seen, self.seen.due_s, time.monotonic, 0
        end_s = (due[-1] if due else clock()) + _GRACE_S
        while True:
            now = clock()
            if self._is_over and at < count:
                count, end_s = at, now + _GRACE_S
                seen.cut(count)
            while at < count and due[at] <= now:
                seen.noticed_s[at] = now
                if self._fresh_every and at % self._fresh_every == 0:
                    self._fresh.append(at)
                else:
                    self._backlog.append(at)
                at += 1
            self._mend(now)
            self._send()
            done = at == count and not (self._waiting or self._backlog or self._fresh)
            if done or now > end_s:
                return
            gap_s = (due[at] if at < count else end_s) - now - _SPIN_S
            for fd, _ in self._poller.poll(max(0.0, min(gap_s, 0.02))):
                self._receive(fd)

    # -- connections ------------------------------------------------------------------------------

    def _open(self, *, lasts: bool) -> tuple[Connection, int]:
        connection: Connection
        if self._protocol == "grpc":
            connection = GrpcConnection(self._address, self._message, None)
        else:
            connection = HttpConnection(self._address, self._path, self._body)
        self._poller.register(connection.fileno(), select.EPOLLIN)
        self.seen.lines.append(Line(_port(connection.fileno()), time.monotonic(), lasts))
        entry = (connection, len(self.seen.lines) - 1)
        self._by_fd[connection.fileno()] = entry
        return entry

    def _mend(self, now: float) -> None:
        """Opens what broke again, as clients do that keep a pool."""
        while self._missing and now >= self._again_s:
            try:
                self._kept.append(self._open(lasts=True))
            except OSError:
                self.seen.refused_connects += 1
                self._again_s = now + _RECONNECT_S
                return
            self._missing -= 1

    def _close(self, connection: Connection) -> None:
        del self._by_fd[connection.fileno()]
        self._poller.unregister(connection.fileno())
        connection.close()

    # -- calls ------------------------------------------------------------------------------------

    def _send(self) -> None:
        while self._fresh:
            token = self._fresh.popleft()
            try:
                connection, line = self._open(lasts=False)
            except OSError as problem:
                self._note(token, "failed", f"connect: {problem}")
                self.seen.refused_connects += 1
                continue
            self._carry(token, connection, line)
        while self._backlog:
            for _ in range(len(self._kept)):
                self._kept.rotate(-1)
                if self._kept[0][0].has_room:
                    break
            else:
                return
            self._carry(self._backlog.popleft(), *self._kept[0])

    def _carry(self, token: int, connection: Connection, line: int) -> None:
        self._waiting += 1
        self.seen.line[token] = line
        self.seen.sent_s[token] = time.monotonic()
        connection.send(token)

    def _receive(self, fd: int) -> None:
        if fd not in self._by_fd:
            return
        connection, line = self._by_fd[fd]
        connection.flush()
        replies = connection.receive()
        for reply in replies:
            self._waiting -= 1
            self._note(reply.token, reply.outcome, reply.detail)
        its = self.seen.lines[line]
        if connection.broken:
            its.broke_s = time.monotonic()
            self._close(connection)
            if its.lasts:
                self._kept.remove((connection, line))
                self._missing += 1
        elif replies and not its.lasts:
            self._close(connection)

    def _note(self, token: int, outcome: Outcome, detail: str) -> None:
        self.seen.ended_s[token] = time.monotonic()
        self.seen.outcome[token] = outcome
        self.seen.detail[token] = detail


def _port(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as same:
        return int(same.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One open loop; prints what it saw as JSON.")
    parser.add_argument("--protocol", choices=("http", "grpc"), required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rate", type=float, required=True, help="calls per second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--kept", type=int, required=True, help="connections that last")
    parser.add_argument("--fresh-every", type=int, default=0, help="calls to one on its own line")
    return parser.parse_args()


def main() -> None:
    """Connects, says so, drives, prints."""
    given = _options()
    address = (given.host, given.port)
    caller = Caller(given.protocol, address, given.model, given.kept, given.fresh_every)
    signal.signal(signal.SIGTERM, caller.stop)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    seen = caller.run(arrivals.constant(given.rate, given.seconds))
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")


if __name__ == "__main__":
    main()
