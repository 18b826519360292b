"""Decides how the rollouts bench calls: as users who ask several gateways in turn, when calls are due.

An open loop in a process of its own that tells when each call was due, sent and answered, and which version answered.
It must never call again what failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import select
import signal
import socket
import sys
import time

import msgspec

from loadtests import arrivals, json_payload
from loadtests.http_connection import HttpConnection
from loadtests.operations_client import READY, Caller, Line
from loadtests.replies import Connection, Reply
from loadtests.rollouts_stage import USER

NO_VERSION = "no version"
_VERSION = re.compile(rb'"model_version"\s*:\s*"([^"]*)"')


def user_of(token: int, users: int) -> str:
    """Who makes a call."""
    return f"u{token % users}"


def version_of(body: bytes) -> str:
    """The version that an answer names."""
    found = _VERSION.search(body)
    return found[1].decode() if found else NO_VERSION


class UserConnection(HttpConnection):
    """Sends the name of a call's user with it, and tells in ``detail`` which version answered."""

    def __init__(self, address: tuple[str, int], path: str, body: bytes, users: int) -> None:
        super().__init__(address, path, body)
        self._users = users
        self._head, _, rest = self._request.partition(b"\r\n\r\n")
        self._rest = b"\r\n\r\n" + rest

    def send(self, token: int) -> None:
        """Writes the request of the token's user."""
        name = f"\r\n{USER}: {user_of(token, self._users)}".encode()
        self._request = self._head + name + self._rest
        super().send(token)

    def receive(self) -> list[Reply]:
        """Replies, an answer's with its version."""
        return [
            one
            if one.outcome != "answered"
            else Reply(one.token, one.outcome, version_of(one.body), b"")
            for one in super().receive()
        ]


class UsersCaller(Caller):
    """Calls several gateways, each connection at the next of them."""

    def __init__(
        self, addresses: list[tuple[str, int]], model: str, rows: int, users: int, kept: int
    ) -> None:
        self._next_address = itertools.cycle(addresses)
        self._users = users
        self._what = json_payload.infer_path(model), json_payload.infer_body(rows=rows)
        super().__init__("http", addresses[0], model, kept, 0)

    def _open(self, *, lasts: bool) -> tuple[Connection, int]:
        connection = UserConnection(next(self._next_address), *self._what, self._users)
        fd = connection.fileno()
        self._poller.register(fd, select.EPOLLIN)
        with socket.socket(fileno=os.dup(fd)) as same:
            port = int(same.getsockname()[1])
        self.seen.lines.append(Line(port, time.monotonic(), lasts))
        entry = (connection, len(self.seen.lines) - 1)
        self._by_fd[fd] = entry
        return entry


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One open loop; prints what it saw as JSON.")
    parser.add_argument("--addresses", required=True, help="host:port,host:port …")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, required=True, help="in each call")
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="calls per second")
    parser.add_argument("--seconds", type=float, required=True, help="at most; SIGTERM ends it")
    parser.add_argument("--kept", type=int, required=True, help="connections")
    parser.add_argument("--seed", type=int, default=1, help="of the Poisson arrivals")
    return parser.parse_args()


def main() -> None:
    """Connects, says so, drives, prints."""
    given = _options()
    addresses = [_address(one) for one in given.addresses.split(",")]
    caller = UsersCaller(addresses, given.model, given.rows, given.users, given.kept)
    signal.signal(signal.SIGTERM, caller.stop)
    schedule = arrivals.poisson(given.rate, given.seconds, given.seed)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    seen = caller.run(schedule)
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")


if __name__ == "__main__":
    main()
