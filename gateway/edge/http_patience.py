"""How long an HTTP connection may be held for nothing.

Pure: what a connection is doing and the time come in, what has stalled goes out. One rule for each way to hold a
connection without using it. It must never touch a socket.
"""

from __future__ import annotations

from enum import Enum

from gateway.errors import ErrorCode, HeadraceError
from gateway.settings import HttpLimits


class Phase(Enum):
    """What the connection is in the middle of."""

    HEAD = "head"
    BODY = "body"
    ANSWERING = "answering"
    IDLE = "idle"


def phase_of(*, in_head: bool, is_arriving: bool, is_answered: bool) -> Phase:
    """The phase of a connection whose request is in its head, is still arriving, or has its answer."""
    if in_head:
        return Phase.HEAD
    if is_arriving:
        return Phase.BODY
    return Phase.IDLE if is_answered else Phase.ANSWERING


class Stall(Enum):
    """Why the connection has to end."""

    UNREAD = "unread"
    """The peer does not read its answers."""
    INCOMPLETE = "incomplete"
    """A request began and does not come to its end."""
    IDLE = "idle"
    """Nobody asks anything."""


class Patience:
    """The clocks of one connection; ``touched`` is set with every byte in either direction."""

    __slots__ = ("_idle_since_s", "_limits", "_unread_bytes", "touched")

    def __init__(self, limits: HttpLimits, now: float) -> None:
        self._limits = limits
        self._idle_since_s = now
        self._unread_bytes = 0
        self.touched = True

    def _allowed_s(self, *, in_head: bool) -> float:
        return self._limits.head_timeout_s if in_head else self._limits.body_timeout_s

    def too_slow(self, *, in_head: bool) -> HeadraceError:
        """What the sender of a request reads that did not come to its end."""
        allowed_s = self._allowed_s(in_head=in_head)
        return HeadraceError(
            ErrorCode.DEADLINE_EXCEEDED, f"the request was not complete after {allowed_s:g} s"
        )

    def look(
        self, phase: Phase, now: float, *, since_s: float, unread_bytes: int, write_paused: bool
    ) -> Stall | None:
        """Called about once a second; ``since_s`` is when the request that is arriving began."""
        before_bytes, self._unread_bytes = self._unread_bytes, unread_bytes
        if self.touched or unread_bytes < before_bytes:
            self.touched = False
            self._idle_since_s = now
        idle_s = now - self._idle_since_s
        if write_paused:
            return Stall.UNREAD if idle_s > self._limits.write_stall_timeout_s else None
        if phase in (Phase.HEAD, Phase.BODY):
            allowed_s = self._allowed_s(in_head=phase is Phase.HEAD)
            return Stall.INCOMPLETE if now - since_s > allowed_s else None
        if phase is Phase.IDLE and idle_s > self._limits.keep_alive_s:
            return Stall.IDLE
        return None
