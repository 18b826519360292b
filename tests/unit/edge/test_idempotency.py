"""Answers by key: replays, mismatches, bounds; against a model that remembers everything."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.idempotency import (
    KEPT_S,
    MAX_KEY_CHARACTERS,
    Answer,
    Fresh,
    IdempotentAnswers,
    Mismatch,
    Replay,
    UnderWay,
    key_fault,
    request_digest,
)

FIRST = Answer(201, (("etag", '"1"'),), b"first")
SECOND = Answer(409, (), b"second")


def begun(
    answers: IdempotentAnswers, key: str = "k", caller: str = "ada", now: float = 0.0
) -> Fresh:
    found = answers.begin(caller, key, b"digest", now)
    assert isinstance(found, Fresh)
    return found


def test_the_first_answer_is_the_answer() -> None:
    answers = IdempotentAnswers()
    fresh = begun(answers)
    assert answers.begin("ada", "k", b"digest", 1.0) == UnderWay(("ada", "k"))
    answers.finish(fresh, FIRST)
    answers.abandon_unfinished(fresh)  # it has an answer, and keeps it
    assert answers.begin("ada", "k", b"digest", 2.0) == Replay(FIRST)
    assert answers.begin("ada", "k", b"other", 2.0) == Mismatch()


def test_another_request_is_told_so_while_the_first_is_under_way() -> None:
    answers = IdempotentAnswers()
    begun(answers)
    assert answers.begin("ada", "k", b"other", 0.0) == Mismatch()


def test_callers_have_keys_of_their_own() -> None:
    answers = IdempotentAnswers()
    answers.finish(begun(answers, caller="ada"), FIRST)
    answers.finish(begun(answers, caller="grace"), SECOND)
    assert answers.begin("ada", "k", b"digest", 0.0) == Replay(FIRST)
    assert answers.begin("grace", "k", b"digest", 0.0) == Replay(SECOND)


def test_what_came_to_nothing_may_be_tried_again() -> None:
    answers = IdempotentAnswers()
    answers.abandon_unfinished(begun(answers))
    assert len(answers) == 0
    answers.finish(begun(answers), SECOND)
    assert answers.begin("ada", "k", b"digest", 0.0) == Replay(SECOND)


@pytest.mark.parametrize(("later_s", "is_kept"), [(KEPT_S - 0.001, True), (KEPT_S, False)])
def test_answers_are_kept_for_ten_minutes(later_s: float, is_kept: bool) -> None:
    answers = IdempotentAnswers()
    answers.finish(begun(answers, now=5.0), FIRST)
    found = answers.begin("ada", "k", b"digest", 5.0 + later_s)
    assert isinstance(found, Replay if is_kept else Fresh)
    assert KEPT_S == 600


def test_the_oldest_key_goes_first() -> None:
    answers = IdempotentAnswers(max_keys=3)
    for key in "abcd":
        answers.finish(begun(answers, key), FIRST)
    assert len(answers) == 3
    assert answers.begin("ada", "b", b"digest", 0.0) == Replay(FIRST)
    begun(answers, "a")


def test_the_oldest_answers_go_when_there_are_too_many_bytes() -> None:
    answers = IdempotentAnswers(max_bytes=100)
    for key in "abc":
        answers.finish(begun(answers, key), Answer(200, (("n", "v"),), b"x" * 38))
    assert (len(answers), answers.kept_bytes) == (2, 80)
    answers.finish(begun(answers, "d"), Answer(200, (), b"x" * 101))
    assert (len(answers), answers.kept_bytes) == (0, 0)


def test_an_answer_that_comes_after_its_key_went_is_nobody_elses() -> None:
    answers = IdempotentAnswers(max_keys=1)
    old = begun(answers, "a")
    begun(answers, "b")
    again = begun(answers, "a")
    answers.finish(old, FIRST)
    answers.abandon_unfinished(old)
    assert answers.begin("ada", "a", b"digest", 0.0) == UnderWay(("ada", "a"))
    answers.finish(again, SECOND)
    assert answers.begin("ada", "a", b"digest", 0.0) == Replay(SECOND)
    assert answers.kept_bytes == len(SECOND.body)


KEYS = st.sampled_from("abcdef")
ACTS = st.lists(
    st.tuples(KEYS, st.sampled_from([b"1", b"2"]), st.sampled_from(["finish", "abandon", "wait"])),
    max_size=40,
)


@given(ACTS, st.integers(1, 6), st.lists(st.floats(0, 300), min_size=40, max_size=40))
def test_no_key_is_ever_answered_with_anothers_answer(
    acts: list[Any], max_keys: int, pauses_s: list[float]
) -> None:
    answers = IdempotentAnswers(max_keys=max_keys)
    now = 0.0
    waiting: list[tuple[Fresh, Answer]] = []
    for (key, digest, what), pause_s in zip(acts, pauses_s, strict=False):
        now += pause_s
        found = answers.begin("ada", key, digest, now)
        mine = Answer(200, (), key.encode() + digest)
        if isinstance(found, Replay):
            assert found.answer == mine
        elif isinstance(found, Fresh):
            if what == "finish":
                answers.finish(found, mine)
            elif what == "abandon":
                answers.abandon_unfinished(found)
            else:
                waiting.append((found, mine))
        if what == "finish" and waiting:
            answers.finish(*waiting.pop(0))
        assert len(answers) <= max_keys
        assert 0 <= answers.kept_bytes <= 2 * max_keys


@given(st.text(max_size=MAX_KEY_CHARACTERS + 3))
def test_keys_are_visible_ascii(key: str) -> None:
    visible = set(string.ascii_letters + string.digits + string.punctuation)
    is_fine = 1 <= len(key) <= MAX_KEY_CHARACTERS and set(key) <= visible
    assert (key_fault(key) == "") == is_fine


@pytest.mark.parametrize("key", ["k", "!~", "x" * 128])
def test_usual_keys_are_taken(key: str) -> None:
    assert key_fault(key) == ""


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_requests_have_different_digests(one: list[bytes], two: list[bytes]) -> None:
    assert (request_digest(one) == request_digest(two)) == (one == two)


def test_parts_do_not_run_together() -> None:
    assert request_digest([b"ab", b"c"]) != request_digest([b"a", b"bc"])
