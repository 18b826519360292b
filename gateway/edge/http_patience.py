"""How long an HTTP connection may be held for nothing.

Pure: what a connection is doing and the time come in, what has stalled goes out. One rule for each way to hold a
connection without using it. It must never touch a socket.
"""

from __future__ import annotations

from enum import Enum

from gateway.settings import HttpLimits


class Phase(Enum):
    """What the connection is in the middle of."""

    HEAD = "head"
    BODY = "body"
    ANSWERING = "answering"
    IDLE = "idle"


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

    def allowed_s(self, phase: Phase) -> float:
        """Seconds that a request may take to arrive, up to the end of the phase."""
        return self._limits.head_timeout_s if phase is Phase.HEAD else self._limits.body_timeout_s

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
            return Stall.INCOMPLETE if now - since_s > self.allowed_s(phase) else None
        if phase is Phase.IDLE and idle_s > self._limits.keep_alive_s:
            return Stall.IDLE
        return None
