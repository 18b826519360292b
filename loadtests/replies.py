"""Decides what can become of a request, and what a client connection offers its driver.

Every request has exactly one outcome. It must never know a protocol.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

# `refused` is 503 or UNAVAILABLE, `expired` is 504 or DEADLINE_EXCEEDED. `failed` is any other
# error, and `unanswered` is what had no reply when the client gave up waiting.
Outcome = Literal["answered", "refused", "expired", "failed", "unanswered"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of one request."""

    token: int
    outcome: Outcome
    detail: str
    body: bytes


class Connection(Protocol):
    """A non-blocking client connection; the driver polls and calls."""

    def fileno(self) -> int:
        """For the poller."""

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent now."""

    @property
    def broken(self) -> bool:
        """Whether it is lost for good; its requests have failed."""

    def send(self, token: int) -> None:
        """Sends one request, known by its token."""

    def flush(self) -> None:
        """Writes bytes that an earlier send left over."""

    def receive(self) -> list[Reply]:
        """Reads what is there; returns the replies that it completed."""

    def close(self) -> None:
        """Closes the socket."""
