"""How long a batch will take: ``a + c * rows``, learned from the batches that ran.

Decides nothing; it answers "how long would this many rows take". It must never read a clock: durations come in.
A weighted least-squares line whose weights fade, so that a model that became slower is believed within some tens
of batches. (The affine law is what Clipper, Nexus and BentoML's dispatcher found to hold for batched inference.)
"""

from __future__ import annotations

FADE_PER_BATCH = 0.96
OUTLIER_FACTOR = 4.0
"""One stalled batch may not poison the estimate: an observation counts as at most this many predictions."""
MIN_TRUST = 3.0
"""Observations (weighted) before outliers are clipped."""


class ServiceTime:
    """The learned cost of one servable. Durations in seconds."""

    __slots__ = ("_a_s", "_c_s", "_r", "_rr", "_rt", "_t", "_w")

    def __init__(self) -> None:
        self._w = self._r = self._rr = self._t = self._rt = 0.0
        self._a_s = self._c_s = 0.0

    def observe(self, rows: int, duration_s: float) -> None:
        """Learn from one batch of ``rows`` rows that took ``duration_s``."""
        weight = self._w
        if weight >= MIN_TRUST:
            bound_s = OUTLIER_FACTOR * (self._a_s + self._c_s * rows)
            if duration_s > bound_s > 0.0:
                duration_s = bound_s
        self._w = w = weight * FADE_PER_BATCH + 1.0
        self._r = r = self._r * FADE_PER_BATCH + rows
        self._rr = rr = self._rr * FADE_PER_BATCH + rows * rows
        self._t = t = self._t * FADE_PER_BATCH + duration_s
        self._rt = rt = self._rt * FADE_PER_BATCH + rows * duration_s
        spread = w * rr - r * r
        if spread > 1e-3 * rr * w:
            self._c_s = max(0.0, (w * rt - r * t) / spread)
        # All recent batches of one size: the slope cannot be seen now, so the last one stays (never beyond the mean).
        self._c_s = min(self._c_s, t / r) if r else self._c_s
        self._a_s = max(0.0, (t - self._c_s * r) / w)

    def predict_s(self, rows: int) -> float:
        """Expected duration of a batch of ``rows``; 0.0 before anything was observed."""
        return self._a_s + self._c_s * rows

    @property
    def per_batch_s(self) -> float:
        """The learned fixed cost ``a``."""
        return self._a_s

    @property
    def per_row_s(self) -> float:
        """The learned cost per row ``c``."""
        return self._c_s

    def __repr__(self) -> str:
        return f"ServiceTime({self._a_s * 1e6:.0f} us + {self._c_s * 1e6:.1f} us/row)"
