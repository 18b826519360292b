"""Decides which rows a bench has: which server, under which load, and which come first in a round.

A row's name is what a person types to select it. It must never say how a row is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TypeVar

from loadtests.failures import BenchError
from loadtests.servers import TITLES, Kind, Protocol

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class ClosedRow:
    """A fixed number of requests in flight, always."""

    name: str
    server: Kind
    protocol: Protocol
    connections: int
    streams: int

    @property
    def load(self) -> str:
        """The load in words."""
        if self.protocol == "http":
            return f"HTTP JSON, {_count(self.connections, 'connection')}"
        return f"gRPC, {_count(self.connections, 'connection')} × {self.streams}"

    @property
    def title(self) -> str:
        """The server in words."""
        return TITLES[self.server]


@dataclass(frozen=True, slots=True)
class OpenRow:
    """Requests that come at their own times, twice as many as the server can answer."""

    name: str
    server: Kind
    protocol: Protocol
    connections: int

    @property
    def deadline_by(self) -> str:
        """How the client states its deadline."""
        return "grpc-timeout" if self.protocol == "grpc" else "parameters.timeout"


# HTTP carries one request per connection, so its pool bounds what can be in flight.
_HTTP_POOL, _GRPC_POOL = 256, 8

CLOSED: tuple[ClosedRow, ...] = (
    ClosedRow("http-32-headrace", "headrace", "http", 32, 1),
    ClosedRow("http-32-starlette", "starlette", "http", 32, 1),
    ClosedRow("http-32-echo", "http-echo", "http", 32, 1),
    ClosedRow("http-1-headrace", "headrace", "http", 1, 1),
    ClosedRow("http-1-starlette", "starlette", "http", 1, 1),
    ClosedRow("http-1-echo", "http-echo", "http", 1, 1),
    ClosedRow("grpc-8x8-headrace", "headrace", "grpc", 8, 8),
    ClosedRow("grpc-8x8-grpcaio", "grpc-aio", "grpc", 8, 8),
    ClosedRow("grpc-8x8-echo", "grpc-echo", "grpc", 8, 8),
    ClosedRow("grpc-1x1-headrace", "headrace", "grpc", 1, 1),
    ClosedRow("grpc-1x1-grpcaio", "grpc-aio", "grpc", 1, 1),
    ClosedRow("grpc-1x1-echo", "grpc-echo", "grpc", 1, 1),
)
OPEN: tuple[OpenRow, ...] = (
    OpenRow("open-grpc-headrace", "headrace", "grpc", _GRPC_POOL),
    OpenRow("open-http-headrace", "headrace", "http", _HTTP_POOL),
    OpenRow("open-grpc-grpcaio", "grpc-aio", "grpc", _GRPC_POOL),
    OpenRow("open-http-starlette", "starlette", "http", _HTTP_POOL),
)
COLD_START, PIPELINE = "cold-start", "pipeline"
NAMES: tuple[str, ...] = (
    *(row.name for row in CLOSED),
    *(row.name for row in OPEN),
    COLD_START,
    PIPELINE,
)


def select(patterns: list[str], names: Sequence[str] = NAMES) -> list[str]:
    """The names that match any pattern, in their own order; all when there is none.

    Raises `BenchError` for a pattern that matches none.
    """
    if not patterns:
        return list(names)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise BenchError(f"no row matches {pattern!r}; the rows are: {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def turned(listed: list[_Row], number: int) -> list[_Row]:
    """The order of a round: each begins one further on, so that no row always follows the same one."""
    at = (number - 1) % len(listed) if listed else 0
    return listed[at:] + listed[:at]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
