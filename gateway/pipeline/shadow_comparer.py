"""Compares the two answers to a request that was copied, without holding up whoever waits for the loop.

Decides where: small answers on the loop, for at most ``TURN_S`` in one turn of it; large ones on the shadows' thread. A
small comparison is python all through, so a thread of low priority would hold the interpreter for it, and on a machine
without an idle core may be made to wait while it does; a large one lets go of it. It must never raise.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Container, Sequence
from typing import Protocol

import msgspec
import numpy as np

from backends.signature import Signature, Tensor
from gateway.pipeline.execution import Outcome
from gateway.pipeline.lane import Loop, Worker
from gateway.pipeline.shadow_copy import ShadowCopy
from gateway.ports import Clock
from rollout.comparison import compare
from rollout.comparison_plan import ScoreRule
from rollout.comparison_rules import Rules
from rollout.comparison_stats import Comparison
from rollout.shadow_report import score_shift

logger = logging.getLogger("headrace.shadow")

TURN_S = 200e-6
"""For comparisons in one turn of the loop; the last one may take longer."""
MAX_LOOP_ELEMENTS = 2048
"""Numbers of an answer that are compared on the loop: some 100 µs."""
MAX_SLICE_ROWS = 1024
"""Rows of a request that are looked at for its slice."""
SEVERAL = "several"
"""The slice of a request whose rows have different values."""


class Comparing(msgspec.Struct, frozen=True):
    """By what the copies of one plan are compared."""

    rules: Rules
    score: ScoreRule


class Finding(msgspec.Struct, frozen=True):
    """What came of one pair of answers."""

    comparison: Comparison
    difference: float | None
    """Of the scores, the other version's minus the champion's; None where there is none."""
    slices: dict[str, object]


class ToCompare(Protocol):
    """What a copy's owner says about how it is compared."""

    def comparing(self, copy: ShadowCopy) -> tuple[Comparing, bool] | None:
        """The rules, and whether the primary is the champion; None when nobody wants the finding any more."""
        ...

    def compared(self, copy: ShadowCopy, finding: Finding | None) -> None:
        """None: they could not be compared."""
        ...


class ShadowComparer:
    """Answered copies, one by one. Bounded by whoever hands them over."""

    def __init__(self, owner: ToCompare, *, loop: Loop, clock: Clock, worker: Worker) -> None:
        self._owner = owner
        self._loop = loop
        self._clock = clock
        self._worker = worker
        self._waiting: deque[ShadowCopy] = deque()
        self._turn_is_due = False

    def add(self, copy: ShadowCopy) -> None:
        """A copy that has both its answers."""
        self._waiting.append(copy)
        self._turn_soon()

    def keep(self, wanted: Container[ShadowCopy]) -> None:
        """Forget all others that wait; what a thread compares now goes when it has."""
        self._waiting = deque(copy for copy in self._waiting if copy in wanted)

    def _turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        ends_s = self._clock() + TURN_S
        while self._waiting:
            copy = self._waiting.popleft()
            how = self._owner.comparing(copy)
            if how is not None:
                self._compare(copy, *how)
            if self._clock() >= ends_s:
                break
        if self._waiting:
            self._turn_soon()

    def _compare(self, copy: ShadowCopy, how: Comparing, primary_is_champion: bool) -> None:
        if sum(one.size for one in copy.answer) <= MAX_LOOP_ELEMENTS:
            self._owner.compared(copy, attempt(copy, how, primary_is_champion))
            return
        found: list[Finding | None] = []

        def work() -> list[Outcome]:
            found.append(attempt(copy, how, primary_is_champion))
            return []

        self._worker.submit(work, lambda _: self._owner.compared(copy, found[0]))


def attempt(copy: ShadowCopy, how: Comparing, primary_is_champion: bool) -> Finding | None:
    """The finding, on any thread; None, and a line in the log, where it cannot be had."""
    try:
        return find(copy, how, primary_is_champion)
    except Exception:
        logger.exception("the answers to a copy cannot be compared")
        return None


def find(copy: ShadowCopy, how: Comparing, primary_is_champion: bool) -> Finding:
    """What the two answers of a copy differ in, seen from the champion."""
    primary, shadow = (
        by_name(copy.signature, copy.answer),
        by_name(copy.shadow_signature, copy.outputs),
    )
    champion, other = (primary, shadow) if primary_is_champion else (shadow, primary)
    comparison = compare(champion, other, how.rules, copy.key)
    score = how.score
    if score.column is None:
        difference = score_shift(comparison, score.output)
    else:
        difference = _column_difference(champion, other, score.output, score.column)
    return Finding(comparison, difference, slices_of(copy))


def by_name(signature: Signature, outputs: Sequence[Tensor]) -> dict[str, object]:
    """Outputs as ``rollout.comparison`` takes them; bfloat16, which travels as its bits, as the numbers they are."""
    return {
        spec.name: _numbers_of_bits(output) if spec.datatype == "BF16" else output
        for spec, output in zip(signature.outputs, outputs, strict=True)
    }


def _numbers_of_bits(bits: Tensor) -> Tensor:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _column_difference(
    champion: dict[str, object], other: dict[str, object], output: str, column: int
) -> float | None:
    """The mean of a column over the rows, the other's minus the champion's; None where one has no such numbers."""
    means = []
    for outputs in (champion, other):
        values = outputs.get(output)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or not values.size:
            return None
        columns = values.shape[-1] if values.ndim > 1 else 1
        if not -columns <= column < columns:
            return None
        with np.errstate(all="ignore"):
            means.append(float(values.reshape(-1, columns)[:, column].mean(dtype=np.float64)))
    return means[1] - means[0]


def slices_of(copy: ShadowCopy) -> dict[str, object]:
    """The value of each slice of the request, by the plan's name."""
    return {
        name: _value(copy.client_inputs[place]) if is_input else copy.context[place]
        for name, is_input, place in copy.way.slices
    }


def _value(tensor: Tensor) -> object:
    """The value of all rows; ``SEVERAL`` where they differ, None where there is none."""
    if tensor.size == 0:
        return None
    if tensor.size > MAX_SLICE_ROWS:
        return SEVERAL
    values: list[object] = tensor.reshape(-1).tolist()
    first = values[0]
    return first if all(one == first for one in values[1:]) else SEVERAL
