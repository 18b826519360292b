"""When to stop asking a store that does not answer, and when to try it again.

Decides from the ends of reads and the time it is told. It must never stay open for good: sooner or later it lets one
read through, and one that comes back in time closes it. It knows no clock and no dice: both come in.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import msgspec


class BreakerState(IntEnum):
    """Numbers, for a gauge."""

    CLOSED = 0
    """Reads go to the store."""
    HALF_OPEN = 1
    """One read is on its way to see whether the store is back."""
    OPEN = 2
    """No read goes to the store."""


class BreakerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens and for how long.

    With more ``failures`` than reads in flight, reads that never come back open it only after they time out.
    """

    failures: int = 3
    """Reads in a row that failed or came too late."""
    open_s: float = 1.0
    """How long it stays open at first; doubled each time that the read which tries the store fails."""
    max_open_s: float = 10.0
    jitter: float = 0.1
    """Times differ by this share to both sides, so that workers do not try together."""

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"failures is {self.failures}: give 1 or more")
        if not 0.0 < self.open_s <= self.max_open_s:
            raise ValueError(
                f"open_s is {self.open_s} and max_open_s {self.max_open_s}: give seconds above 0, "
                "max_open_s no smaller than open_s"
            )
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"jitter is {self.jitter}: give a share from 0 to below 1")


class Breaker:
    """Counts failures in a row. ``closed`` may be read as often as one likes; the rest is told to it."""

    def __init__(self, limits: BreakerLimits, random_unit: Callable[[], float]) -> None:
        """``random_unit`` gives numbers from 0 to 1."""
        self.limits = limits
        self.closed = True
        self.opened = 0
        """How often it opened, tries that failed not counted."""
        self.resets = 0
        """How often the store was reached anew."""
        self._random_unit = random_unit
        self._failures = 0
        self._probing = False
        self._open_s = limits.open_s
        self._until_s = 0.0

    @property
    def state(self) -> BreakerState:
        if self.closed:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing else BreakerState.OPEN

    def reset(self) -> None:
        """The store was reached anew: what failed before says nothing about it."""
        self.closed = True
        self.resets += 1
        self._probing = False
        self._failures = 0

    def succeeded(self) -> None:
        """A read came back in time. One that was sent before it opened closes nothing."""
        self._failures = 0

    def failed(self, now_s: float) -> bool:
        """A read failed or was too late. True when that opened it."""
        if not self.closed:
            return False
        self._failures += 1
        if self._failures < self.limits.failures:
            return False
        self.closed = False
        self.opened += 1
        self._probing = False
        self._open_s = self.limits.open_s
        self._wait(now_s)
        return True

    def may_probe(self, now_s: float) -> bool:
        """Whether one read may try the store now: ``probe_sent`` says that it does.

        A try that never ended counts as failed after ``max_open_s``.
        """
        if self.closed or now_s < self._until_s:
            return False
        if self._probing:
            self.probe_ended(now_s, ok=False)
            return False
        return True

    def probe_sent(self, now_s: float) -> None:
        """One read is on its way: half-open until ``probe_ended``."""
        self._probing = True
        self._until_s = now_s + self.limits.max_open_s

    def probe_ended(self, now_s: float, *, ok: bool) -> None:
        """The read that tried the store came back in time, or did not. Nothing, when it was given up before."""
        if not self._probing:
            return
        self._probing = False
        if ok:
            self.closed = True
            self._failures = 0
            return
        self._open_s = min(self._open_s * 2.0, self.limits.max_open_s)
        self._wait(now_s)

    def _wait(self, now_s: float) -> None:
        jitter = self.limits.jitter
        self._until_s = now_s + self._open_s * (1.0 - jitter + 2.0 * jitter * self._random_unit())

    def __repr__(self) -> str:
        return f"Breaker({self.state.name}, {self._failures} failures in a row)"
