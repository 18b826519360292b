"""What is left of a difference after the champion's own noise."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from rollout.comparison import compare
from rollout.comparison_noise import beyond_noise
from rollout.comparison_rules import Rules
from rollout.comparison_stats import Comparison, added

SEED = 5


def comparisons(rng: np.random.Generator, count: int, shift: float = 0.0) -> Comparison:
    """Champion and another version whose answers are noisy by 0.05, the other's moved by `shift`."""
    truth = rng.random((count, 1, 1))
    a = truth + 0.05 * rng.standard_normal(truth.shape)
    b = truth + 0.05 * rng.standard_normal(truth.shape) + shift
    return added(
        *(
            compare({"y": x}, {"y": y}, Rules(), str(number).encode())
            for number, (x, y) in enumerate(zip(a, b, strict=True))
        )
    )


def test_a_version_as_noisy_as_the_champion_has_nothing_left_for_sure() -> None:
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    claims = 0
    for _ in range(100):
        report = beyond_noise(comparisons(rng, 200), comparisons(rng, 100))
        flipped = report.outputs["y"].answers_flipped
        assert flipped.value is not None
        assert flipped.floor is not None
        assert flipped.left == max(0.0, flipped.value - flipped.floor)
        claims += flipped.at_least != 0.0
    assert claims <= 8  # 2.5 are expected


def test_what_a_shift_flips_is_left() -> None:
    rng = np.random.default_rng(SEED)
    report = beyond_noise(comparisons(rng, 1500, shift=0.3), comparisons(rng, 500))
    flipped = report.outputs["y"].answers_flipped
    assert flipped.left == pytest.approx(0.26, abs=0.05)
    assert flipped.at_least is not None
    assert flipped.left is not None
    assert 0.1 < flipped.at_least < flipped.left
    assert report.flipped == flipped  # one output: the same answers
    assert report.outputs["y"].mean_absolute.left == pytest.approx(0.3 - 0.056, abs=0.03)
    assert report.outputs["y"].largest.left is not None
    assert report.outputs["y"].largest.left > 0.1


def test_identical_versions_and_a_quiet_champion_have_nothing_left() -> None:
    y = np.ones((1, 1))
    quiet = added(*(compare({"y": y}, {"y": y}, Rules(), b"") for _ in range(50)))
    report = beyond_noise(quiet, quiet)
    for excess in (report.differing, report.flipped, report.outputs["y"].mean_absolute,
                   report.outputs["y"].mismatched, report.outputs["y"].nonfinite):  # fmt: skip
        assert (excess.value, excess.floor, excess.left) == (0.0, 0.0, 0.0)
    assert report.differing.at_least == 0.0


def test_a_floor_that_was_not_measured_is_not_zero() -> None:
    y = np.ones((1, 1))
    found = compare({"y": y}, {"y": y + 1}, Rules(), b"")
    report = beyond_noise(found, Comparison())
    assert (report.differing.value, report.differing.floor) == (1.0, None)
    assert (report.differing.left, report.differing.at_least) == (None, None)
    output = report.outputs["y"]
    assert (output.answers_beyond.value, output.answers_beyond.left) == (1.0, None)
    assert output.mean_absolute.left is None
    assert output.largest.left is None
    assert beyond_noise(Comparison(), found).differing.left is None


def test_the_lower_bound_is_newcombes() -> None:
    """The published example: 56 of 70 against 48 of 80 gives 0.0524 to 0.3339 (Newcombe 1998, method 10)."""
    report = beyond_noise(Comparison(70, differing=56), Comparison(80, differing=48))
    assert report.differing.at_least == pytest.approx(0.0524, abs=5e-5)


def test_mismatches_and_nan_are_left() -> None:
    y = np.ones((1, 2))
    good = added(*(compare({"y": y}, {"y": y}, Rules(), b"") for _ in range(8)))
    bad = added(
        good,
        compare({"y": y}, {"y": y[:, :1]}, Rules(), b""),
        compare({"y": y}, {"y": y * np.nan}, Rules(), b""),
    )
    output = beyond_noise(bad, good).outputs["y"]
    assert output.mismatched.left == pytest.approx(0.1)
    assert output.nonfinite.left == pytest.approx(2 / 18)
    assert output.answers_beyond.left == pytest.approx(1 / 9)
    report = beyond_noise(bad, good)
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report
