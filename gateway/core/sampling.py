"""Which requests are traced.

The caller's ``traceparent`` (W3C Trace Context) decides where there is one; of the other calls a share is picked, and a
ceiling per second bounds what both together may cost. ``now`` and random numbers come in, answers go out. It must never
draw a number for a request that is not picked: the distance to the next one is drawn instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf, log, log1p

import msgspec

from gateway.core.quota import TokenBucket

SMALLEST_RATIO = 1e-12
"""Less counts as nothing."""

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])(-.*)?"
)
_SAMPLED = frozenset(b"13579bdf")
"""Last digits of flags whose lowest bit is set."""


class TraceParent(msgspec.Struct, frozen=True):
    """The caller's span. Without one, both ids are 0."""

    trace_id: int
    span_id: int


NO_PARENT = TraceParent(0, 0)


def _match(header: bytes) -> re.Match[bytes] | None:
    """The header's parts; None for one that says nothing valid, which counts as absent."""
    match = _TRACEPARENT.fullmatch(header)
    if match is not None and match[4] is not None and header.startswith(b"00"):
        return None  # only later versions may say more
    return match


class Sampler:
    """Says for each call whether it is traced."""

    __slots__ = ("_bucket", "_draw", "_left", "_ratio", "over_limit", "taken")

    def __init__(self, ratio: float, max_per_s: float, draw: Callable[[], float]) -> None:
        """``ratio`` of the calls without a parent, at most ``max_per_s`` in all; ``draw`` gives numbers in [0, 1)."""
        self._ratio = ratio
        self._draw = draw
        self._left = self._gap()
        self._bucket = TokenBucket(max_per_s, max(1.0, max_per_s), 0.0) if max_per_s else None
        self.taken = 0
        self.over_limit = 0
        """Calls that were to be traced and were not, for the ceiling's sake."""

    def choose(self, traceparent: bytes, now: float) -> TraceParent | None:
        """The parent of the call's trace (``NO_PARENT`` where a new one begins), or None: do not trace it."""
        if traceparent:
            match = _match(traceparent)
            if match is not None:
                if match[3][0] not in _SAMPLED or not self._is_allowed(now):
                    return None
                return TraceParent(int(match[1], 16), int(match[2], 16))
        self._left -= 1.0
        if self._left >= 0.0:
            return None
        self._left = self._gap()
        return NO_PARENT if self._is_allowed(now) else None

    def _gap(self) -> float:
        """How many calls to let pass before the next: as often as if each had thrown its own dice."""
        if self._ratio < SMALLEST_RATIO:
            return inf
        if self._ratio >= 1.0:
            return 0.0
        return log(1.0 - self._draw()) // log1p(-self._ratio)

    def _is_allowed(self, now: float) -> bool:
        if self._bucket is None or self._bucket.take(now):
            self.over_limit += 1
            return False
        self.taken += 1
        return True
