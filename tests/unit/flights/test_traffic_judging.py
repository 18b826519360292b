"""Travellers' notes, made up: each claim about a rollout holds for good ones, and is found out for bad ones."""

from __future__ import annotations

import math
import random

import pytest

from examples.flights.claims import WrongAnswerError
from examples.flights.traffic import GRPC, REST, Call
from examples.flights.traffic_judging import (
    between,
    check_all_by,
    check_answered,
    check_forward,
    check_share,
    harm_of,
    share_of,
)


def call(at_s: float, traveller: int, version: int, chance: float = 0.5, failure: str = "") -> Call:
    front = REST if traveller % 2 else GRPC
    return Call(at_s, at_s + 0.01, traveller, front, version, chance, failure)


def dealt(share: float, travellers: int = 2000, calls: int = 3000, seed: int = 1) -> list[Call]:
    """Travellers of whom ``share`` belong to version 2, who ask at random."""
    chance = random.Random(seed)
    own = {one for one in range(travellers) if chance.random() < share}
    asked = (chance.randrange(travellers) for _ in range(calls))
    return [call(at, one, 2 if one in own else 1) for at, one in enumerate(asked)]


@pytest.mark.parametrize("planned", [0.05, 0.25, 0.5])
def test_a_share_that_chance_explains_is_as_planned(planned: float) -> None:
    for seed in range(20):
        share = share_of(dealt(planned, seed=seed), 2, planned)
        assert share.of_calls == pytest.approx(planned, abs=0.06)
        check_share(share, "step")


@pytest.mark.parametrize(("planned", "was"), [(0.05, 0.12), (0.25, 0.15), (0.5, 0.0), (0.05, 1.0)])
def test_a_share_that_chance_does_not_explain_is_found_out(planned: float, was: float) -> None:
    with pytest.raises(WrongAnswerError, match=r"was planned, and .* travellers had it"):
        check_share(share_of(dealt(was), 2, planned), "step")


def test_a_share_of_nothing_is_found_out() -> None:
    with pytest.raises(WrongAnswerError, match="nobody asked"):
        check_share(share_of([], 2, 0.05), "step")


def test_only_calls_that_lie_in_the_time_whole_are_in_it() -> None:
    calls = [call(at, 0, 1) for at in (0.995, 1.0, 1.5, 1.995)]
    assert [one.began_s for one in between(calls, 1.0, 2.0)] == [1.0, 1.5]


def test_who_goes_forward_is_counted_and_who_goes_back_is_found_out() -> None:
    forward = [call(0, 7, 1), call(1, 8, 1), call(2, 7, 2), call(3, 7, 2), call(4, 9, 2)]
    assert check_forward(forward) == 1
    with pytest.raises(
        WrongAnswerError, match="traveller 7 was answered by version 2 and then by 1"
    ):
        check_forward([*forward, call(5, 7, 1)])


def test_a_failed_call_says_nothing_of_the_way() -> None:
    assert check_forward([call(0, 7, 2), call(1, 7, 0, math.nan, "HTTP 503"), call(2, 7, 2)]) == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_is_found_out(odd: float) -> None:
    check_answered([call(0, 1, 2, 0.0), call(0, 1, 2, 1.0)])
    with pytest.raises(WrongAnswerError, match="version 2 answered"):
        check_answered([call(0, 1, 2), call(1, 1, 2, odd)])


def test_a_call_without_an_answer_is_found_out() -> None:
    with pytest.raises(WrongAnswerError, match="over REST failed: HTTP 503"):
        check_answered([call(0, 1, 0, math.nan, "HTTP 503")])


def test_another_version_among_the_answers_and_too_few_are_found_out() -> None:
    calls = [call(at, at, 2) for at in range(20)]
    check_all_by(calls, 2, least=20)
    with pytest.raises(WrongAnswerError, match="19 calls are too few"):
        check_all_by(calls[1:], 2, least=20)
    with pytest.raises(WrongAnswerError, match="version 3 still answers"):
        check_all_by([*calls, call(30, 5, 3)], 2, least=20)


def test_harm_is_what_callers_saw_of_it() -> None:
    calls = [
        call(0, 1, 2),
        call(1, 2, 3),
        call(2, 3, 3, math.nan),
        call(3, 4, 2),
        call(4, 3, 3, math.nan),
        call(5, 5, 0, math.nan, "HTTP 500"),
        call(6, 6, 3),
        call(7, 1, 2),
    ]
    harm = harm_of(calls, 3)
    assert (harm.answers, harm.odd, harm.failed, harm.travellers) == (4, 2, 1, 2)
    assert (harm.last_s, harm.calls) == (5, 6)
    with pytest.raises(WrongAnswerError, match="never answered anybody"):
        harm_of(calls[:1], 3)
