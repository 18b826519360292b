"""How much one key may ask: calls per second, and calls at once.

Decides yes or no by arithmetic on numbers that it keeps. It must never read a clock, queue or wait: what is over the
quota is refused at once, with the time after which asking again makes sense.
"""

from __future__ import annotations

from math import ceil

import msgspec

RETRY_AFTER_BUSY_S = 1.0
"""When a call of the same key ends, nobody knows: this is a guess that keeps callers from asking in a loop."""
_TOLERANCE = 1e-9
"""Tokens. Who comes back exactly when told may not be turned away by the last bit of a float."""


class QuotaLimits(msgspec.Struct, frozen=True):
    """The quota of one key; None is no limit."""

    requests_per_s: float | None = None
    burst_requests: float | None = None
    """Calls that may come in one go after a pause; None means what a second allows, at least one."""
    max_concurrent_requests: int | None = None

    def share(self, workers: int) -> QuotaLimits:
        """The part of one of several workers: they do not talk to each other about calls.

        Each part lets at least one call through, so with more workers than a quota has calls the sum is above it.
        """
        rate, burst, concurrent = (
            self.requests_per_s,
            self.burst_requests,
            self.max_concurrent_requests,
        )
        return QuotaLimits(
            None if rate is None else rate / workers,
            None if burst is None else max(1.0, burst / workers),
            None if concurrent is None else ceil(concurrent / workers),
        )


class QuotaRefusal(msgspec.Struct, frozen=True):
    """Why a call is over the quota, and when to ask again."""

    reason: str
    retry_after_s: float


class TokenBucket:
    """Lets ``rate_per_s`` calls through on average, ``burst`` in one go, and in any time t at most burst + rate · t."""

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        assert rate_per_s > 0, rate_per_s
        assert burst >= 1, burst
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now

    def take(self, now: float) -> float:
        """Take a token: 0.0, or the seconds until there will be one."""
        if now > self._at_s:
            tokens = self._tokens + (now - self._at_s) * self._rate_per_s
            self._tokens = min(tokens, self._burst)
            self._at_s = now
        if self._tokens >= 1 - _TOLERANCE:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate_per_s

    def __repr__(self) -> str:
        return f"TokenBucket({self._tokens:.3g}/{self._burst:g}, {self._rate_per_s:g}/s)"


class Quota:
    """One key's calls. Every ``enter`` that gave None owes one ``leave``."""

    __slots__ = ("_bucket", "_limits", "inside")

    def __init__(self, limits: QuotaLimits, now: float) -> None:
        self.inside = 0
        self._limits = limits
        self._bucket = _bucket(limits, now)

    def enter(self, now: float) -> QuotaRefusal | None:
        """Count a call in; or why not."""
        at_most = self._limits.max_concurrent_requests
        if at_most is not None and self.inside >= at_most:
            return QuotaRefusal(f"{at_most} calls at once", RETRY_AFTER_BUSY_S)
        if self._bucket is not None:
            wait_s = self._bucket.take(now)
            if wait_s:
                return QuotaRefusal(f"{self._limits.requests_per_s:g} calls per second", wait_s)
        self.inside += 1
        return None

    def leave(self) -> None:
        """Count a call out."""
        self.inside -= 1
        assert self.inside >= 0, self

    def change(self, limits: QuotaLimits, now: float) -> None:
        """Other limits from now on; who is inside stays counted. The same limits change nothing."""
        if limits != self._limits:
            self._limits = limits
            self._bucket = _bucket(limits, now)

    def __repr__(self) -> str:
        return f"Quota({self.inside} inside, {self._bucket}, {self._limits})"


def _bucket(limits: QuotaLimits, now: float) -> TokenBucket | None:
    rate = limits.requests_per_s
    if rate is None:
        return None
    burst = limits.burst_requests
    return TokenBucket(rate, max(1.0, rate if burst is None else burst), now)
