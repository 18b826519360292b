"""Every refusal is one sentence and the next useful command."""

from __future__ import annotations

import re

import msgspec
import pytest

from headrace.rollout_asking import NoAnswerError, RefusedError
from headrace.rollout_refusals import changes_since, next_command, refused, unanswered
from rollout.plan import Event, State
from tests.support.rollout_walks import walked


@pytest.mark.parametrize(
    ("status", "sentence", "said", "following"),
    [
        (401, "this is nobody's token", "this is nobody's token", "HEADRACE_TOKEN or --token-file"),
        (403, "'eve' is a viewer", "'eve' is a viewer", "ask somebody with that role"),
        (
            404,
            "model 'x' has no rollout",
            "has no rollout",
            "headrace rollout status (all rollouts)",
        ),
        (404, "no such path: /v2/rollouts/x", "set enabled = true in [rollout]", "headrace health"),
        (409, "cannot be paused", "cannot be paused", "headrace rollout status flights"),
        (412, "not at revision 1 but at 3", "somebody was first: not at", "status flights, then"),
        (422, "another request", "another request", "the same command again"),
        (428, "say which one", "say which one", "headrace rollout status flights, then"),
        (429, "too many", "too many", "wait 7 s"),
        (503, "the store is away", "the store is away", "wait 7 s"),
        (
            500,
            "it is in force, and not recorded",
            "not recorded",
            "headrace rollout status flights",
        ),
    ],
)
def test_every_refusal_has_a_sentence_and_a_next_command(
    status: int, sentence: str, said: str, following: str
) -> None:
    error = RefusedError(status, sentence, retry_after_s=7)
    words = refused(error, "flights", None)
    assert said in words.sentence
    assert following in words.next


def test_faults_are_lines_of_their_own() -> None:
    words = refused(RefusedError(400, "two things", faults=("one\x1b", "two")), "flights", None)
    assert words.more == (r"- one\x1b", "- two")


def test_who_was_first_is_told() -> None:
    read = walked(Event.START)
    now = walked(Event.ADVANCE, Event.PAUSE, plan=read)
    lines = changes_since(read, now)
    assert [re.sub(r"^[\d: -]+  ", "", line) for line in lines] == [
        "revision 3  advance: stepping  (controller: why)",
        "revision 4  pause: stepping → paused, step 2 of 2, version 1 has 50 %, version 2 has 50 %  (ada: why)",
    ]
    assert len(changes_since(None, now)) == 4
    assert changes_since(read, None) == ["there is no plan any more"]
    assert changes_since(now, read) == ["the plan is at revision 2 (stepping, step 1 of 2)"]


def test_a_change_without_an_answer_may_have_been_made() -> None:
    unsure = unanswered(NoAnswerError("cut off", may_have_happened=True), "http://h", "flights")
    assert "whether the change was made is not known" in unsure.sentence
    assert unsure.next == "headrace rollout status flights"
    sure = unanswered(NoAnswerError("refused"), "http://h:1", "flights")
    assert sure.next.startswith("headrace health --url http://h:1")


def test_every_state_has_a_next_command() -> None:
    for state in State:
        plan = msgspec.structs.replace(walked(), state=state)
        assert next_command(plan).startswith("headrace rollout ")
