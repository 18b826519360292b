"""The document: what it holds, that it survives JSON, and which weights belong to which state."""

from __future__ import annotations

import msgspec
import pytest

from rollout.plan import (
    MAX_DOCUMENT_BYTES,
    MAX_REASON_CHARACTERS,
    NO_STEP,
    Event,
    PlanError,
    State,
    decode_plan,
    decode_proposal,
    encode,
    seconds_between,
    storable,
    weights_ppm,
)
from tests.unit.rollout.plans import after, draft, proposal, shadowed, stepping, with_other

ONE_PERCENT = 10_000


def test_a_plan_survives_json() -> None:
    plan = after(stepping(with_other()), Event.ADVANCE, Event.PAUSE)
    assert decode_plan(encode(plan)) == plan
    assert decode_proposal(encode(shadowed())) == shadowed()


def test_the_document_has_the_names_that_people_write() -> None:
    document = msgspec.json.decode(encode(stepping()))
    assert document["sticky"] == {"from": "header:x-user", "salt": "delays 4"}
    assert document["history"][0]["from"] == ""
    assert document["history"][0]["to"] == "draft"
    assert document["history"][1]["event"] == "start"
    assert document["state"] == "stepping"
    assert document["format"] == 1
    candidate = document["arms"][1]
    assert candidate["version"] == "4"
    assert candidate["weight_percent"] == 1
    assert sum(end - start for start, end in candidate["intervals"]) == ONE_PERCENT


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"{", "no plan"),
        (b"\xff\xfe", "no plan"),
        (b"[]", "no plan"),
        (b'{"format": 2, "modell": 1}', "format 2"),
        (b'{"model": "m", "champion": "3"}', "sticky"),
        (b'{"model": "m", "champion": 3, "sticky": {"salt": "s"}}', "champion"),
        (b'{"model": "m", "champion": "3", "sticky": {"salt": "s"}, "state": "promoted"}', "state"),
        (b"[" * 100_000, "no plan"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "bytes"),
    ],
)
def test_what_is_no_proposal_is_told(document: bytes, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        decode_proposal(document)


def test_a_plan_too_long_to_be_read_is_not_written() -> None:
    with pytest.raises(PlanError, match="shorten"):
        encode(proposal(model="m" * MAX_DOCUMENT_BYTES))
    with pytest.raises(PlanError, match="Unicode"):
        encode(proposal(model="\ud800"))


def test_a_full_history_of_the_longest_reasons_fits() -> None:
    plan = stepping()
    entry = msgspec.structs.replace(plan.history[0], reason="\U0001f6a2" * MAX_REASON_CHARACTERS)
    assert encode(msgspec.structs.replace(plan, history=(entry,) * 50))


def test_a_reason_is_cut_and_mended() -> None:
    assert storable("a" * 600) == "a" * MAX_REASON_CHARACTERS
    assert storable("a\ud800b") == "a?b"


@pytest.mark.parametrize(
    ("state", "step", "expected"),
    [
        (State.DRAFT, NO_STEP, {"3": 100, "4": 0, "5": 0}),
        (State.SHADOWING, NO_STEP, {"3": 90, "4": 0, "5": 10}),
        (State.STEPPING, 0, {"3": 89, "4": 1, "5": 10}),
        (State.PAUSED, NO_STEP, {"3": 90, "4": 0, "5": 10}),
        (State.PAUSED, 2, {"3": 65, "4": 25, "5": 10}),
        (State.HOLDING, 1, {"3": 85, "4": 5, "5": 10}),
        (State.PROMOTED, 1, {"3": 0, "4": 100, "5": 0}),
        (State.ROLLED_BACK, 2, {"3": 100, "4": 0, "5": 0}),
        (State.ABORTED, 2, {"3": 100, "4": 0, "5": 0}),
    ],
)
def test_weights_of_a_state(state: State, step: int, expected: dict[str, int]) -> None:
    weights = weights_ppm(with_other(), state, step)
    assert weights == {version: percent * ONE_PERCENT for version, percent in expected.items()}


def test_who_answers_when_nothing_is_tried() -> None:
    assert draft().answering == "3"
    promoted = after(stepping(), Event.PROMOTE)
    assert (promoted.answering, promoted.champion) == ("4", "3")
    assert after(promoted, Event.ROLLBACK).answering == "3"


def test_durations_are_never_negative() -> None:
    assert seconds_between(10, 12.5) == 2.5
    assert seconds_between(12.5, 10) == 0
    assert seconds_between(0, float("nan")) == 0
    assert seconds_between(0, float("inf")) == 0
