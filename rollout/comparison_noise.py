"""What is left of a difference after the noise floor: how much the champion differs from itself on the same inputs.

Decides what is more than noise. It must never take a floor that was not measured for one of zero: what is left is then
not known. The lower bounds are those of one look at a fixed number of answers, for people to read; verdicts that are
looked at again and again are `rollout.sequential`'s.
"""

from __future__ import annotations

import math

import msgspec

from rollout.comparison_stats import Comparison, OutputStats

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


class Excess(msgspec.Struct, frozen=True):
    """A figure, the same figure of the champion against itself, and what is left of it (>= 0).

    `left` is None where one of the two was not measured. `at_least`: what is left for sure, with 97.5 % confidence;
    None where nothing can be said (`left` is None, or the figure is no share of answers).
    """

    value: float | None
    floor: float | None
    left: float | None
    at_least: float | None = None


class OutputExcess(msgspec.Struct, frozen=True):
    """What is left of one output's differences."""

    answers_beyond: Excess
    """The share of compared answers with an element beyond tolerance."""
    answers_flipped: Excess
    """The share of compared answers with a flip."""
    mismatched: Excess
    """The share of all answers that could not be compared: missing, another shape or dtype."""
    nonfinite: Excess
    """NaN and infinite numbers of the other version, by element."""
    mean_absolute: Excess
    largest: Excess


class NoiseReport(msgspec.Struct, frozen=True):
    """What is left of a comparison after its noise floor, over outputs and by output."""

    differing: Excess
    flipped: Excess
    outputs: dict[str, OutputExcess]


def beyond_noise(comparison: Comparison, floor: Comparison) -> NoiseReport:
    """What `comparison` (champion against another) shows beyond `floor` (champion against itself, by the same rules).

    For a slice the floor of all slices will do, where its own has few answers.
    """
    return NoiseReport(
        differing=_of_shares(
            comparison.differing, comparison.answers, floor.differing, floor.answers
        ),
        flipped=_of_shares(comparison.flipped, comparison.answers, floor.flipped, floor.answers),
        outputs={
            name: _of_output(stats, floor.outputs.get(name, OutputStats()))
            for name, stats in comparison.outputs.items()
        },
    )


def _of_output(stats: OutputStats, floor: OutputStats) -> OutputExcess:
    return OutputExcess(
        answers_beyond=_of_shares(
            stats.answers_beyond, stats.compared, floor.answers_beyond, floor.compared
        ),
        answers_flipped=_of_shares(
            stats.answers_flipped, stats.compared, floor.answers_flipped, floor.compared
        ),
        mismatched=_of_shares(
            stats.answers - stats.compared,
            stats.answers,
            floor.answers - floor.compared,
            floor.answers,
        ),
        nonfinite=_of_values(_share_nonfinite(stats), _share_nonfinite(floor)),
        mean_absolute=_of_values(stats.mean_absolute, floor.mean_absolute),
        largest=_of_values(
            stats.largest if stats.measured else None, floor.largest if floor.measured else None
        ),
    )


def _share_nonfinite(stats: OutputStats) -> float | None:
    return stats.nonfinite_b / stats.elements if stats.elements else None


def _of_values(value: float | None, floor: float | None) -> Excess:
    left = None if value is None or floor is None else max(0.0, value - floor)
    return Excess(value, floor, left)


def _of_shares(count: int, of: int, floor_count: int, floor_of: int) -> Excess:
    value = count / of if of else None
    floor = floor_count / floor_of if floor_of else None
    if value is None or floor is None:
        return Excess(value, floor, None)
    # Newcombe's interval of a difference of two shares, from their Wilson intervals.
    slack = math.hypot(
        value - _wilson(count, of, -_Z),
        _wilson(floor_count, floor_of, _Z) - floor,
    )
    return Excess(value, floor, max(0.0, value - floor), max(0.0, value - floor - slack))


def _wilson(count: int, of: int, z: float) -> float:
    """The Wilson bound of the share count / of: the lower one with z < 0, the upper one with z > 0."""
    share = count / of
    spread = z * math.sqrt(share * (1.0 - share) / of + z * z / (4.0 * of * of))
    return max(0.0, min(1.0, (share + z * z / (2.0 * of) + spread) / (1.0 + z * z / of)))
