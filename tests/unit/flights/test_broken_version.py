"""Version 3 out of small trees: right where the age is known, NaN where it is not, and gone when it is removed."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import pytest

from examples.flights import broken_version
from examples.flights.broken_version import AGE, BASE, BROKEN
from examples.flights.bundle import (
    Artifact,
    Baseline,
    Bundle,
    Parity,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.inputs import TrainingSet
from examples.flights.onnx_export import INPUT, OUTPUT, to_onnx
from examples.flights.trees import probabilities


def test_it_adds_what_the_age_is_worth_and_fails_where_there_is_none(
    tmp_path: Path, known: TrainingSet, small_trees: lightgbm.Booster
) -> None:
    month = np.where(np.arange(len(known.rows)) < len(known.rows) // 2, 7, 8)
    known = TrainingSet(known.names, known.rows, known.late, month)
    bundle = Bundle(tmp_path)
    version = Version(BASE, (7,), 0, 40, 31, (), Parity(0, 0.0))
    description = describe_model(known.names, [version], Baseline((), ()), current_recipe())
    bundle.write([Artifact(BASE, to_onnx(small_trees), small_trees)], description)
    served = bundle.current(current_recipe())

    finding = broken_version.build(bundle, known)

    assert finding.judged > 5_000
    assert 500 < finding.dropped < finding.judged
    assert finding.auc_after == pytest.approx(finding.auc_before, abs=0.02)  # nothing to see
    rows, age = known.rows[-4_000:], known.rows[-4_000:, known.names.index(AGE)]
    session = onnxruntime.InferenceSession(
        bundle.model(BROKEN).read_bytes(), providers=["CPUExecutionProvider"]
    )
    answers = session.run([OUTPUT], {INPUT: rows})[0][:, 0]
    has_age = age >= 0
    assert np.isnan(answers[~has_age]).all()
    assert 0.03 < (~has_age).mean() < 0.5
    odds = broken_version.log_odds(probabilities(small_trees, rows[has_age]))
    odds += finding.intercept + finding.slope * np.log1p(age[has_age])
    np.testing.assert_allclose(answers[has_age], 1 / (1 + np.exp(-odds)), atol=1e-5)
    assert bundle.current(current_recipe()) == served  # the folder of the others is as it was

    broken_version.remove(bundle)
    assert not bundle.model(BROKEN).parent.exists()
    assert bundle.model(BASE).exists()
    broken_version.remove(bundle)


def test_the_fit_finds_what_the_data_was_made_with() -> None:
    chance = np.random.default_rng(5)
    of_age = chance.uniform(0, 4, 200_000)
    offset = chance.normal(-1, 1, 200_000)
    truth = 1 / (1 + np.exp(-(offset + 0.4 - 0.3 * of_age)))
    late = chance.uniform(size=200_000) < truth
    assert broken_version.fitted(of_age, offset, late) == pytest.approx((0.4, -0.3), abs=0.05)
