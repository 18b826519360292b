"""What copies of requests may take: how many at once, how many bytes, and none at all while the process is busy.

Decides yes or no by counting and by figures that are handed in. It must never queue, wait or read a clock.

Copies are the first thing to go at saturation. "Busy" is what can be seen for nothing, once per turn of the loop:

* the loop came late: the turn in which answers were given took long, so whoever waits for the loop waits already;
* the process holds many requests, measured against what it admits at most;
* the loop's own thread, or the process on all of its cores, has hardly rested of late: what copies cost would come
  from live requests;
* requests wait in a live lane, and what waits there takes longer than a moment.

After any of them no copy is taken for ``pause_s``: a signal that is only looked at when copies come would else be asked
for each of them. That the shadows themselves do not keep up shows in the first two limits, which stay exhausted.
"""

from __future__ import annotations

from math import inf
from typing import Annotated

import msgspec
from msgspec import Meta

IN_FLIGHT = "in_flight"
BYTES = "bytes"
LOOP_LATE = "loop_late"
CORES_BUSY = "cores_busy"
GATEWAY_BUSY = "gateway_busy"
LIVE_QUEUE = "live_queue"


class ShadowLimits(msgspec.Struct, frozen=True):
    """The walls of shadow traffic in one process."""

    max_copies: Annotated[int, Meta(ge=1)] = 64
    """Copies taken and not yet compared."""
    max_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    """Of their inputs and of both answers."""
    max_wait_s: Annotated[float, Meta(gt=0)] = 10.0
    """For an answer to a copy, its features and its turn included."""
    max_loop_late_s: Annotated[float, Meta(gt=0)] = 5e-3
    max_cores_busy_share: Annotated[float, Meta(gt=0)] = 0.75
    """Of the time of late in which the loop's thread had a core or waited for one, or in which the process used all of
    its cores; beyond 1 they are never too busy."""
    max_inside_share: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """Of the requests that the process admits."""
    max_live_wait_s: Annotated[float, Meta(gt=0)] = 10e-3
    """That what is queued in a live lane is predicted to take."""
    pause_s: Annotated[float, Meta(ge=0)] = 0.05


class ShadowBudget:
    """Counts copies. Every ``admit`` without a refusal owes one ``release`` of the same size."""

    __slots__ = ("_limits", "_paused_until_s", "_why_paused", "bytes_inside", "copies_inside")

    def __init__(self, limits: ShadowLimits) -> None:
        self._limits = limits
        self._paused_until_s = -inf
        self._why_paused = ""
        self.copies_inside = 0
        self.bytes_inside = 0

    def admit(self, size_bytes: int, now_s: float) -> str:
        """Room for one copy; else why there is none, as a word for a metric. Empty: it is counted in."""
        if now_s < self._paused_until_s:
            return self._why_paused
        limits = self._limits
        if self.copies_inside >= limits.max_copies:
            return IN_FLIGHT
        if self.bytes_inside + size_bytes > limits.max_bytes:
            return BYTES
        self.copies_inside += 1
        self.bytes_inside += size_bytes
        return ""

    def grow(self, size_bytes: int) -> bool:
        """Room for more bytes of a copy that is inside; what it took is released with it."""
        if self.bytes_inside + size_bytes > self._limits.max_bytes:
            return False
        self.bytes_inside += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give the room back."""
        self.copies_inside -= 1
        self.bytes_inside -= size_bytes
        assert self.copies_inside >= 0, self
        assert self.bytes_inside >= 0, self

    def may_run(
        self,
        now_s: float,
        loop_late_s: float,
        inside_share: float,
        live_wait_s: float,
        cores_busy_share: float = 0.0,
    ) -> str:
        """Empty, or why no copy may run now; then none is taken for a while.

        ``inside_share``: requests inside over the most that are admitted; ``live_wait_s``: the longest of the lanes;
        ``cores_busy_share``: of the time, the part in which the loop's thread or the process needed its cores.
        """
        limits = self._limits
        if loop_late_s > limits.max_loop_late_s:
            why = LOOP_LATE
        elif cores_busy_share > limits.max_cores_busy_share:
            why = CORES_BUSY
        elif inside_share > limits.max_inside_share:
            why = GATEWAY_BUSY
        elif live_wait_s > limits.max_live_wait_s:
            why = LIVE_QUEUE
        else:
            return ""
        self._paused_until_s = now_s + limits.pause_s
        self._why_paused = why
        return why

    def __repr__(self) -> str:
        limits = self._limits
        return (
            f"ShadowBudget({self.copies_inside}/{limits.max_copies} copies, "
            f"{self.bytes_inside}/{limits.max_bytes} bytes)"
        )
