"""The figures of compared answers: counts and sums that workers can add up in any order.

Decides how figures of two parts become those of the whole, and what is derived from them. It must never look at an
answer (`rollout.comparison` does), and nothing in it grows beyond the bounds of `rollout.comparison_rules`.

Plain sums and sums of squares rather than running means: they add up anywhere. The variance they give is off by up to
about 1e-16 * sqrt(n) * mean**2, which is lost only where the mean is millions of times its own standard deviation.
"""

from __future__ import annotations

import math
from bisect import insort

import msgspec
import numpy as np

from rollout.comparison_rules import MAX_OUTPUTS, MAX_PAIRS, rank

Pair = tuple[int, float, float]
"""A ticket (the lowest ones are kept), the champion's score, the other's."""


class OutputStats(msgspec.Struct, omit_defaults=True):
    """The figures of one output over many answers; `a` is the champion, `b` the version it is compared with.

    Every answer has one outcome: `compared`, or why it could not be. All other figures are of compared answers.
    """

    compared: int = 0
    missing_a: int = 0
    missing_b: int = 0
    shape_mismatches: int = 0
    dtype_mismatches: int = 0
    unsupported: int = 0
    """Answers with something that is no array of numbers, booleans or strings."""

    cut: int = 0
    """Answers of which only the front was compared, because there was more than MAX_ELEMENTS (MAX_STRINGS)."""
    answers_beyond: int = 0
    """Answers with at least one element beyond tolerance."""
    answers_flipped: int = 0
    """Answers with at least one flip."""

    elements: int = 0
    beyond: int = 0
    """Elements beyond tolerance; also those of which one is NaN or infinite and the other is not the same."""
    nonfinite_a: int = 0
    nonfinite_b: int = 0

    measured: int = 0
    """Elements that are finite numbers on both sides: those behind the next four."""
    difference_sum: float = 0.0
    absolute_sum: float = 0.0
    square_sum: float = 0.0
    largest: float = 0.0
    """The largest |b - a|."""

    decisions: int = 0
    flips: int = 0

    shifts: int = 0
    """Answers with scores: each one's mean of b - a over its scores is one shift, for rows of one answer may hang
    together, and whoever tests needs independent samples."""
    shift_sum: float = 0.0
    shift_square_sum: float = 0.0

    pairs: list[Pair] = []
    """A uniform sample of the pairs of scores, sorted by ticket."""

    @property
    def answers(self) -> int:
        mismatches = self.shape_mismatches + self.dtype_mismatches + self.unsupported
        return self.compared + self.missing_a + self.missing_b + mismatches

    @property
    def share_compared(self) -> float | None:
        return _ratio(self.compared, self.answers)

    @property
    def share_beyond(self) -> float | None:
        return _ratio(self.beyond, self.elements)

    @property
    def flip_rate(self) -> float | None:
        return _ratio(self.flips, self.decisions)

    @property
    def mean_absolute(self) -> float | None:
        return _ratio(self.absolute_sum, self.measured)

    @property
    def mean_difference(self) -> float | None:
        return _ratio(self.difference_sum, self.measured)

    @property
    def variance_of_absolute(self) -> float | None:
        """The sample variance of |b - a| over the elements; None below two."""
        return _variance(self.measured, self.absolute_sum, self.square_sum)

    @property
    def mean_shift(self) -> float | None:
        """The mean of b - a of the score, over answers."""
        return _ratio(self.shift_sum, self.shifts)

    @property
    def variance_of_shift(self) -> float | None:
        """The sample variance of the shifts; None below two."""
        return _variance(self.shifts, self.shift_sum, self.shift_square_sum)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of the kept pairs; None below three, and where one side's scores are all the same."""
        return spearman([(a, b) for _, a, b in self.pairs])

    def absorb(self, other: OutputStats) -> None:
        """Adds the figures of `other`, which stays as it is."""
        for field in _SUMMED:
            if value := getattr(other, field):
                setattr(self, field, getattr(self, field) + value)
        if other.largest > self.largest:
            self.largest = other.largest
        if other.pairs:
            self._absorb_pairs(other.pairs)

    def _absorb_pairs(self, others: list[Pair]) -> None:
        # The lowest tickets of two parts are the lowest of the whole: this adds up like a sum.
        if len(others) > 1:
            self.pairs = sorted(self.pairs + others)[:MAX_PAIRS]  # two sorted runs: linear
        elif len(self.pairs) < MAX_PAIRS:
            insort(self.pairs, others[0])
        elif others[0] < self.pairs[-1]:
            self.pairs.pop()
            insort(self.pairs, others[0])


_SUMMED = tuple(
    field for field in OutputStats.__struct_fields__ if field not in ("largest", "pairs")
)


class Comparison(msgspec.Struct, omit_defaults=True):
    """The figures of one pair of answers or of many: by output, and over outputs."""

    answers: int = 0
    differing: int = 0
    """Answers with an output beyond tolerance, missing, or of another shape or dtype."""
    flipped: int = 0
    """Answers with at least one flip in any output."""
    uncompared: int = 0
    """Outputs (each once per answer) that were not looked at, or dropped, because there were more than MAX_OUTPUTS."""
    outputs: dict[str, OutputStats] = {}

    @property
    def share_differing(self) -> float | None:
        return _ratio(self.differing, self.answers)

    @property
    def share_flipped(self) -> float | None:
        return _ratio(self.flipped, self.answers)

    def absorb(self, other: Comparison) -> None:
        """Adds the figures of `other`, which stays as it is."""
        self.answers += other.answers
        self.differing += other.differing
        self.flipped += other.flipped
        self.uncompared += other.uncompared
        for name, stats in other.outputs.items():
            mine = self.outputs.get(name)
            if mine is None:
                mine = self.outputs[name] = OutputStats()
            mine.absorb(stats)
        while len(self.outputs) > MAX_OUTPUTS:
            dropped = self.outputs.pop(max(self.outputs, key=rank))
            self.uncompared += dropped.answers


def added(*parts: Comparison) -> Comparison:
    """The figures of all `parts` together, which stay as they are. Of none: a comparison of no answers."""
    whole = Comparison()
    for part in parts:
        whole.absorb(part)
    return whole


def spearman(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank, of finite pairs; None where it is not defined."""
    if len(pairs) < 3:
        return None
    a, b = np.asarray(pairs, dtype=np.float64).T
    ranks_a, ranks_b = _centred_ranks(a), _centred_ranks(b)
    scale = math.sqrt(float(ranks_a @ ranks_a) * float(ranks_b @ ranks_b))
    if scale == 0.0:
        return None
    return max(-1.0, min(1.0, float(ranks_a @ ranks_b) / scale))


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of `values` [n] less their mean, float64 [n]; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2.0
    return np.asarray(mean_rank[index] - (len(values) + 1) / 2.0, dtype=np.float64)


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _variance(count: int, total: float, squares: float) -> float | None:
    if count < 2:
        return None
    return max(0.0, (squares - total * total / count) / (count - 1))
