"""The demo's claim about versions, against callers that answer what they are told."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from examples.flights.callers import TritonGrpc
from examples.flights.claims import WrongAnswerError, check_versions
from examples.flights.features import FEATURES, Rows
from examples.flights.questions import Questions
from examples.flights.train import Year
from tests.unit.flights.days import Days

ASKED = 1_200


@pytest.fixture
def questions(month: Days) -> Questions:
    position = np.flatnonzero(month.log.has_outcome)[:ASKED]
    column = [feature.name for feature in FEATURES].index("minute_of_day")
    day = month.rows[position, column] / 1440.0
    year = Year(month.log, month.codes, month.rows)
    return Questions(year, position, month.rows[position], {1: day * 0.5, 2: day * 0.9})


class Versions:
    """Answers by version; the empty one is that of calls that name none."""

    def __init__(self, questions: Questions, newest: int) -> None:
        self._questions = questions
        self._answers = {str(k): v for k, v in questions.by_version.items()}
        self._answers[""] = questions.by_version[newest]
        self._asked: dict[str, int] = {}

    def ask(self, rows: Rows, version: str = "") -> Rows:
        start = self._asked.get(version, 0)
        self._asked[version] = start + len(rows)
        assert np.array_equal(rows, self._questions.rows[start : start + len(rows)])
        return self._answers[version][start : start + len(rows)].astype(np.float32)


def caller(versions: Versions) -> TritonGrpc:
    return cast("TritonGrpc", versions)


def test_every_version_is_judged_by_its_own_answers(questions: Questions) -> None:
    first, second = check_versions(caller(Versions(questions, newest=2)), questions)
    assert (first.version, second.version) == (1, 2)
    assert first.flights == second.flights == ASKED
    assert second.mean_chance == pytest.approx(questions.by_version[2].mean(), abs=1e-6)
    assert first.mean_chance < second.mean_chance
    assert first.served_auc == pytest.approx(first.lightgbm_auc, abs=1e-6)


def test_a_default_that_is_not_the_newest_is_found_out(questions: Questions) -> None:
    with pytest.raises(WrongAnswerError, match="names no version"):
        check_versions(caller(Versions(questions, newest=1)), questions)


def test_a_version_that_answers_for_another_is_found_out(questions: Questions) -> None:
    swapped = Questions(
        questions.year,
        questions.position,
        questions.rows,
        {1: questions.by_version[2], 2: questions.by_version[1]},
    )
    with pytest.raises(WrongAnswerError, match="version 1 answers"):
        check_versions(caller(Versions(swapped, newest=2)), questions)
