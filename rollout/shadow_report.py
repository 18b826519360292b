"""What a worker has found by comparing copies: one report per version, which add up over workers.

Decides which of two answers is the champion's, what of a comparison is kept by slice, and how large a report may grow.
It must never hold an answer, nor depend on the order in which parts are added up.

Slices keep the figures of the score output alone, without pairs, and count differing answers over all outputs: else a
report could not be rewritten several times a second. A report of eight outputs and four full slices is about 130 kB of
JSON; of one output without slices, 6 kB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from rollout.comparison_rules import LARGEST_DIFFERENCE
from rollout.comparison_slices import SlicedComparison
from rollout.comparison_stats import Comparison
from rollout.evidence import PairedScores

MAX_REPORTS = 8
"""Versions with figures of their own, the champion's own noise floor included."""


class Pairing(NamedTuple):
    """Which report a pair of answers belongs to, and on which side it has the champion."""

    version: str
    """That is compared with the champion; the champion itself: its noise floor."""
    primary_is_champion: bool


def pairing_of(champion: str, primary: str, copied: str) -> Pairing | None:
    """How the answer of ``primary`` is compared with that of a copy to ``copied``; None where no champion is in it."""
    if primary == champion:
        return Pairing(copied, primary_is_champion=True)
    if copied == champion:
        return Pairing(primary, primary_is_champion=False)
    return None


class ScoreSums(msgspec.Struct, omit_defaults=True):
    """Differences of scores, the version's minus the champion's: one for each pair of answers."""

    pairs: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, difference: float) -> None:
        """Count one pair; what is no finite number is left out."""
        if not math.isfinite(difference):
            return
        difference = max(-LARGEST_DIFFERENCE, min(LARGEST_DIFFERENCE, difference))
        self.pairs += 1
        self.total += difference
        self.squares += difference * difference

    def absorb(self, other: ScoreSums) -> None:
        """Adds the sums of ``other``, which stays as it is."""
        self.pairs += other.pairs
        self.total += other.total
        self.squares += other.squares

    def paired(self) -> PairedScores | None:
        """As guardrails take them; None below two pairs, of which no variance is known."""
        if self.pairs < 2:
            return None
        mean = self.total / self.pairs
        variance = max(0.0, (self.squares - self.total * mean) / (self.pairs - 1))
        return PairedScores(pairs=self.pairs, mean=mean, variance=variance)


class ShadowReport(msgspec.Struct, omit_defaults=True):
    """Everything that one worker, or all of them, found out about one version."""

    version: str
    is_floor: bool = False
    """The champion against itself: what differs here is noise."""
    failed: int = 0
    """Copies that the version could not answer, though the other one did."""
    total: Comparison = msgspec.field(default_factory=Comparison)
    scores: ScoreSums = msgspec.field(default_factory=ScoreSums)
    slices: dict[str, SlicedComparison] = {}
    """By the plan's name of a slice."""
    slices_left_out: bool = False
    """There were some, and they did not fit."""

    def record(
        self,
        comparison: Comparison,
        difference: float | None,
        slices: Mapping[str, object],
        score_output: str,
    ) -> None:
        """Adds one pair of answers. ``slices``: its value by the plan's names; ``difference``: of the scores."""
        self.total.absorb(comparison)
        if difference is not None:
            self.scores.add(difference)
        if slices:
            kept = for_slices(comparison, score_output)
            for name, value in slices.items():
                sliced = self.slices.get(name)
                if sliced is None:
                    sliced = self.slices[name] = SlicedComparison()
                sliced.record(value, kept)

    def absorb(self, other: ShadowReport) -> None:
        """Adds the figures of ``other``, of the same version, which stays as it is."""
        self.failed += other.failed
        self.total.absorb(other.total)
        self.scores.absorb(other.scores)
        self.slices_left_out |= other.slices_left_out
        for name, sliced in other.slices.items():
            mine = self.slices.get(name)
            if mine is None:
                mine = self.slices[name] = SlicedComparison()
            mine.absorb(sliced)


def for_slices(comparison: Comparison, score_output: str) -> Comparison:
    """What is kept of a comparison by slice."""
    kept = Comparison(
        answers=comparison.answers, differing=comparison.differing, flipped=comparison.flipped
    )
    stats = comparison.outputs.get(score_output)
    if stats is not None:
        kept.outputs[score_output] = msgspec.structs.replace(stats, pairs=[])
    return kept


def score_shift(comparison: Comparison, output: str) -> float | None:
    """The shift of the score in one compared pair; None where there is none."""
    stats = comparison.outputs.get(output)
    return stats.shift_sum / stats.shifts if stats is not None and stats.shifts else None


def merged(parts: Iterable[Iterable[ShadowReport]]) -> dict[tuple[str, bool], ShadowReport]:
    """The reports of several workers as one, by (version, whether it is the noise floor)."""
    whole: dict[tuple[str, bool], ShadowReport] = {}
    for reports in parts:
        for report in reports:
            key = (report.version, report.is_floor)
            if key not in whole:
                whole[key] = ShadowReport(version=report.version, is_floor=report.is_floor)
            whole[key].absorb(report)
    return whole


def copy_of(report: ShadowReport) -> ShadowReport:
    """A report of the same figures, which does not change with the first."""
    return merged([[report]])[report.version, report.is_floor]


def without_slices(reports: Iterable[ShadowReport]) -> tuple[ShadowReport, ...]:
    """The same, as short as they can be without hurting a verdict."""
    return tuple(
        msgspec.structs.replace(
            report,
            slices={},
            slices_left_out=report.slices_left_out or bool(report.slices),
        )
        for report in reports
    )
