"""When a worker that died may be started again.

Pure: deaths and the time come in, a delay goes out. The first death after a quiet time is answered at once; a worker
that dies again and again has to wait longer each time. It must never give up: a machine whose disk is full now may
have room later.
"""

from __future__ import annotations

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 15.0
QUIET_S = 30.0
"""A life as long as this wipes the slate clean."""


class Restarts:
    """The deaths of one worker's seat."""

    def __init__(self) -> None:
        self.count = 0
        self._streak = 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to wait after a life of ``lived_s`` seconds, counted from being ready (0 if it never was)."""
        self.count += 1
        if lived_s >= QUIET_S:
            self._streak = 0
        delay_s = 0.0 if self._streak == 0 and lived_s > 0 else FIRST_DELAY_S * 2.0**self._streak
        self._streak += 1
        return min(MAX_DELAY_S, delay_s)
