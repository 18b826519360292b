"""The demo's claims, against callers that answer what they are told: a claim that does not hold is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from examples.flights import demo
from examples.flights.callers import Asked, RestByHand, Told, TritonGrpc, UnexpectedAnswerError
from examples.flights.claims import (
    BATCH_CALLS,
    BATCH_ROWS,
    SINGLE_CALLS,
    WrongAnswerError,
    check_agreement,
    check_answers,
    check_stranger,
    check_versions,
    measure_front,
    push,
)
from examples.flights.inputs import Rows

FLIGHTS = 120
ASKED: Asked = {
    "flight": np.arange(FLIGHTS)[:, None],
    "tailnum": np.array([b"N1"] * FLIGHTS, np.object_)[:, None],
}
CHANCES = np.linspace(0.1, 0.9, FLIGHTS)
BY_VERSION = {1: CHANCES / 2, 2: CHANCES}


class Front:
    """Answers with the flight's chance, by version; ``slip`` is added to the last flight's."""

    name = "a front"

    def __init__(self, *, newest: int = 2, swapped: bool = False, slip: float = 0.0) -> None:
        first, second = (2, 1) if swapped else (1, 2)
        self._answers = {"1": BY_VERSION[first], "2": BY_VERSION[second], "": BY_VERSION[newest]}
        self._slip = slip

    def ask(self, asked: Asked, version: str = "") -> Rows:
        places = asked["flight"][:, 0]
        slip = np.where(places == FLIGHTS - 1, self._slip, 0.0)
        return (self._answers[version][places] + slip).astype(np.float32)

    def close(self) -> None: ...


def versions_of(front: Front) -> dict[int, float]:
    return check_versions(cast("TritonGrpc", front), ASKED, BY_VERSION)


def test_every_version_is_judged_by_its_own_answers() -> None:
    assert versions_of(Front()) == {1: pytest.approx(0.25), 2: pytest.approx(0.5)}


def test_a_default_that_is_not_the_newest_is_found_out() -> None:
    with pytest.raises(WrongAnswerError, match="names no version"):
        versions_of(Front(newest=1))


def test_a_version_that_answers_for_another_is_found_out() -> None:
    with pytest.raises(WrongAnswerError, match="version 1 answers"):
        versions_of(Front(swapped=True))


def test_a_front_is_measured_and_one_wrong_answer_among_all_is_found_out() -> None:
    front = measure_front(Front(), ASKED, CHANCES)
    assert len(front.answers) == SINGLE_CALLS + BATCH_CALLS * BATCH_ROWS
    assert front.difference <= 1e-7
    with pytest.raises(WrongAnswerError, match=r"a front answers 0\.900100 for flight"):
        measure_front(Front(slip=1e-4), ASKED, CHANCES)


def test_fronts_that_disagree_are_found_out() -> None:
    front = measure_front(Front(), ASKED, CHANCES)
    assert check_agreement([front, front]) == 0
    other = np.append(front.answers[:-1], front.answers[-1] + np.float32(1e-4))
    with pytest.raises(WrongAnswerError, match="differ by"):
        check_agreement([front, _with(front, other)])


def _with(front: Any, answers: Rows) -> Any:
    return type(front)("other", 1.0, 1.0, 1.0, 0.0, answers)


def test_too_few_answers_and_none_are_found_out() -> None:
    chances = CHANCES.astype(np.float32)
    assert check_answers("it", chances, CHANCES) <= 1e-7
    with pytest.raises(WrongAnswerError, match=r"gives \(119,\) answers for \(120,\) flights"):
        check_answers("it", chances[1:], CHANCES)
    with pytest.raises(WrongAnswerError, match="answers nan for flight 3"):
        check_answers("it", np.where(np.arange(FLIGHTS) == 3, np.nan, chances), CHANCES)


class Gateway:
    """Takes every plane for a known one, and pushes for older than what is there."""

    def ask_with_status(self, asked: Asked) -> Told:
        rows = len(asked["flight"])
        views = {name: {"status": {"PRESENT": rows}} for name in ("plane", "plane_last_leg")}
        report = {"views": views, "defaulted_fraction": 0.0}
        return Told(np.zeros(rows, np.float32), report)

    def answer(self, path: str, text: str) -> dict[str, int]:
        assert path == "/v2/features/plane/push"
        return {"created": 1, "older": 1}


def test_an_unknown_plane_that_is_known_and_rows_that_are_not_taken_are_found_out() -> None:
    gateway = cast("RestByHand", Gateway())
    with pytest.raises(WrongAnswerError, match="is unknown, but"):
        check_stranger(gateway, ASKED, CHANCES)
    with pytest.raises(WrongAnswerError, match="2 rows of plane were pushed"):
        push(gateway, "plane", [{}, {}])


def test_the_demo_ends_with_a_sentence_when_the_command_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--folder", str(tmp_path), "--headrace", "/no/such/headrace"]) == 1
    said = capsys.readouterr().out
    assert "The demo failed: headrace features apply" in said
    assert "No such file" in said


def test_an_answer_without_the_report_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = RestByHand("127.0.0.1:1")  # never connected
    monkeypatch.setattr(by_hand, "post", lambda path, text: (200, '{"outputs": []}'))
    with pytest.raises(UnexpectedAnswerError, match="no feature_status"):
        by_hand.ask_with_status(ASKED)
    with pytest.raises(UnexpectedAnswerError, match="no probabilities"):
        by_hand.ask(ASKED)
    monkeypatch.setattr(by_hand, "post", lambda path, text: (424, '{"error": "store"}'))
    with pytest.raises(UnexpectedAnswerError, match="HTTP 424"):
        by_hand.ask(ASKED)
