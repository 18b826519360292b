"""How a rollout is followed to its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import pytest

from headrace.rollout_asking import NoAnswerError, RefusedError, StatusSeen
from headrace.rollout_watching import (
    EXIT_HOLDING,
    EXIT_PROMOTED,
    EXIT_TAKEN_BACK,
    INTERVAL_S,
    MAX_AWAY_LOOKS,
    Lines,
    exit_code_of,
    follow,
)
from rollout.controller import apply
from rollout.plan import Event, Plan
from rollout.transitions import Change
from tests.support.rollout_walks import ADA, BEGAN_S, PROPOSAL, WARM, seen, walked


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ((Event.START,), None),
        ((Event.START, Event.PAUSE), None),
        ((), None),
        ((Event.START, Event.PROMOTE), EXIT_PROMOTED),
        ((Event.START, Event.ROLLBACK), EXIT_TAKEN_BACK),
        ((Event.START, Event.BREACH), EXIT_TAKEN_BACK),
        ((Event.ABORT,), EXIT_TAKEN_BACK),
        ((Event.START, Event.HOLD), EXIT_HOLDING),
        ((Event.START, Event.PROMOTE, Event.ROLLBACK), EXIT_TAKEN_BACK),
        ((Event.START, Event.REPLACE, Event.START), EXIT_TAKEN_BACK),
        ((Event.START, Event.ABORT, Event.REPLACE), EXIT_TAKEN_BACK),
        ((Event.START, Event.HOLD, Event.REPLACE), EXIT_TAKEN_BACK),
    ],
)
def test_how_a_rollout_has_ended(events: Sequence[Event], code: int | None) -> None:
    assert exit_code_of(walked(*events), 1) == code


def test_a_promoted_one_that_was_replaced_between_two_looks_was_promoted() -> None:
    promoted = walked(Event.START, Event.PROMOTE)
    proposed = msgspec.structs.replace(PROPOSAL, champion="2", candidate="1")
    change = Change(event=Event.REPLACE, revision=promoted.revision, proposal=proposed)
    after = apply(promoted, change, BEGAN_S + 999, ADA, "next", WARM)
    assert isinstance(after, Plan)
    assert exit_code_of(after, 1) == EXIT_PROMOTED
    assert exit_code_of(after, after.began_revision) is None


class Watched:
    """Answers one after the other; the last one again and again."""

    def __init__(self, *answers: StatusSeen | Exception) -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []

    def look(self) -> StatusSeen:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def follow(self, since_revision: int = 0) -> int:
        return follow(self.look, Lines(since_revision), self.pauses.append)


def lines_of(text: str) -> list[str]:
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines), "no time"
    return [line[21:] for line in lines]


def test_one_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    started = walked(Event.START)
    done = walked(Event.ADVANCE, Event.PROMOTE, plan=started)
    watched = Watched(
        seen(started, reason="1 of 300 s have passed"),
        seen(started, reason="2 of 300 s have passed"),
        seen(started, "hold", "gateway a has been silent for 11 s"),
        seen(done, reason="there is nothing to watch"),
    )
    assert watched.follow(since_revision=1) == EXIT_PROMOTED
    assert watched.pauses == [INTERVAL_S] * 3
    assert lines_of(capsys.readouterr().out) == [
        "revision 2  start: draft → stepping, step 1 of 2, version 1 has 95 %, version 2 has 5 %  (ada: why)",
        "revision 2  waits: 1 of 300 s have passed",
        "revision 2  kept: gateway a has been silent for 11 s",
        "revision 3  advance: stepping  (controller: why)",
        "revision 4  promote: stepping → promoted, version 1 has 0 %, version 2 has 100 %  (ada: why)",
        "revision 4  waits: there is nothing to watch",
    ]


def test_a_server_that_is_away_is_looked_for_again(capsys: pytest.CaptureFixture[str]) -> None:
    away = [NoAnswerError("nobody"), RefusedError(503, "the store is away")]
    watched = Watched(*away, seen(walked(Event.START, Event.HOLD)))
    assert watched.follow(since_revision=9) == EXIT_HOLDING
    first, *rest = lines_of(capsys.readouterr().out)
    assert first == "the server is away, looking again: nobody"
    assert rest[0] == "revision 3  the plan went back from revision 9 to 3"
    assert len(rest) == 2, "away is told once"


@pytest.mark.parametrize(
    ("error", "looks"),
    [
        (NoAnswerError("nobody"), MAX_AWAY_LOOKS),
        (RefusedError(503, "away"), MAX_AWAY_LOOKS),
        (RefusedError(404, "no rollout"), 1),
        (RefusedError(401, "expired"), 1),
    ],
)
def test_nobody_waits_for_ever(error: Exception, looks: int) -> None:
    watched = Watched(error)
    with pytest.raises(type(error)):
        watched.follow()
    assert len(watched.pauses) == looks - 1


def test_any_answer_begins_the_patience_anew() -> None:
    away: list[StatusSeen | Exception] = [NoAnswerError("nobody")] * (MAX_AWAY_LOOKS - 1)
    running = seen(walked(Event.START))
    done = seen(walked(Event.START, Event.PROMOTE))
    assert Watched(*away, running, *away, done).follow() == EXIT_PROMOTED
