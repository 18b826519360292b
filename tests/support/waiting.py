"""Bounded waits on real processes: a tiny poll, an end, and a sentence about what did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.005

T = TypeVar("T")


def eventually(
    what: str, look: Callable[[], T], *, within_s: float = 5.0, poll_s: float = POLL_S
) -> T:
    """The first true value of ``look``; fails with ``what`` and the last value when there is none in time."""
    give_up_s = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > give_up_s:
            raise AssertionError(f"{what}: not within {within_s:g} s; last seen: {seen!r}")
        time.sleep(poll_s)
