"""Process-wide capacity: how many requests, and how many of their bytes, may be inside at once.

Decides yes or no by counting. It must never queue, wait or read a clock: what does not fit is refused at once,
because a queue in front of the queues only hides overload.
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class AdmissionLimits(msgspec.Struct, frozen=True):
    """The two walls of the process."""

    max_requests: Annotated[int, msgspec.Meta(ge=1)] = 8192
    """Requests decoded and not yet answered."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 512 * 1024 * 1024
    """Bytes of those requests, bodies still being received included."""


class Admission:
    """Counts what is inside. Every ``admit`` that returned True owes one ``release`` of the same size."""

    __slots__ = ("_limits", "bytes_inside", "requests_inside", "requests_refused")

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self.requests_inside = 0
        self.bytes_inside = 0
        self.requests_refused = 0

    def admit(self, size_bytes: int) -> bool:
        """Reserve room for one request; False when there is none."""
        inside = self.requests_inside
        total = self.bytes_inside + size_bytes
        # A single request above the byte wall still gets in when nobody else is inside: the body limit bounds it.
        if inside >= self._limits.max_requests or (inside and total > self._limits.max_bytes):
            self.requests_refused += 1
            return False
        self.requests_inside = inside + 1
        self.bytes_inside = total
        return True

    def release(self, size_bytes: int) -> None:
        """Give the room back."""
        self.requests_inside -= 1
        self.bytes_inside -= size_bytes
        assert self.requests_inside >= 0, self
        assert self.bytes_inside >= 0, self

    def reserve_bytes(self, size_bytes: int) -> bool:
        """Room for a body that is still arriving; False when the byte wall is reached."""
        total = self.bytes_inside + size_bytes
        if total > self._limits.max_bytes:
            self.requests_refused += 1
            return False
        self.bytes_inside = total
        return True

    def release_bytes(self, size_bytes: int) -> None:
        """Give back what ``reserve_bytes`` took."""
        self.bytes_inside -= size_bytes
        assert self.bytes_inside >= 0, self

    def __repr__(self) -> str:
        limits = self._limits
        return (
            f"Admission({self.requests_inside}/{limits.max_requests} requests, "
            f"{self.bytes_inside}/{limits.max_bytes} bytes)"
        )
