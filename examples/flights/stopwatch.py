"""How long calls take, seen by one client that waits for each answer before it asks again.

Decides which figures are reported. It must never leave out a slow call, and never run without a
limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from examples.flights.inputs import Rows

Asked = TypeVar("Asked")


class TooSlowError(Exception):
    """The calls did not end within their limit."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call, and all answers one after the other (float32 [N])."""

    p50_ms: float
    p99_ms: float
    answers: Rows


def time_calls(
    ask: Callable[[Asked], Rows], questions: Sequence[Asked], *, warmup: int, limit_s: float
) -> Timing:
    """Ask the first ``warmup`` questions untimed, then all, timed. Raises ``TooSlowError``."""
    until = time.monotonic() + limit_s
    for question in questions[:warmup]:
        ask(question)
    seconds: list[float] = []
    answers: list[Rows] = []
    for question in questions:
        if time.monotonic() > until:
            raise TooSlowError(f"{len(seconds)} of {len(questions)} calls in {limit_s:.0f} s")
        started = time.perf_counter()
        answers.append(ask(question))
        seconds.append(time.perf_counter() - started)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return Timing(float(p50), float(p99), np.concatenate(answers))
