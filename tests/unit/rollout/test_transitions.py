"""Every state meets every event; the page on states says what the table says.

Run as a script, this module writes the generated part of the page anew.
"""

from __future__ import annotations

import re
import sys
from itertools import product
from pathlib import Path

import pytest

from rollout.plan import Event, State
from rollout.transitions import (
    REFUSALS,
    TRANSITIONS,
    Author,
    Change,
    diagram,
    documentation,
    refusal_of,
    target_of,
)
from tests.unit.rollout.plans import (
    APPROVER,
    BY_CONTROLLER,
    CONTROLLER,
    OPERATOR,
    VIEWER,
    after,
    draft,
    happen,
    made,
    proposal,
    refused,
    shadowed,
    stepping,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "rollout-states.md"
BEGIN, END = "<!-- generated: the table -->\n", "\n<!-- end of the generated part -->"
PRESENT = {(row.source, row.event) for row in TRANSITIONS}


def plan_in(state: State):
    ways = {
        State.DRAFT: [],
        State.SHADOWING: [Event.START],
        State.STEPPING: [Event.START, Event.SHADOW_DONE],
        State.PAUSED: [Event.START, Event.PAUSE],
        State.HOLDING: [Event.START, Event.HOLD],
        State.PROMOTED: [Event.START, Event.PROMOTE],
        State.ROLLED_BACK: [Event.START, Event.ROLLBACK],
        State.ABORTED: [Event.ABORT],
    }
    plan = after(draft(shadowed()), *ways[state])
    assert plan.state is state
    return plan


def test_every_combination_is_in_the_table_or_refused_by_name() -> None:
    everything = set(product(State, Event))
    assert everything == PRESENT | REFUSALS.keys()
    assert not PRESENT & REFUSALS.keys()


@pytest.mark.parametrize(("state", "event"), REFUSALS)
def test_a_refusal_names_the_state_and_says_what_to_do(state: State, event: Event) -> None:
    plan = plan_in(state)
    author = CONTROLLER if event in BY_CONTROLLER else APPROVER
    answer = refused(happen(plan, event, author))
    assert answer.kind == "state"
    assert answer.sentence == REFUSALS[state, event]
    said, _, remedy = answer.sentence.partition(": ")
    assert state.value.replace("_", " ") in said
    assert len(remedy.split()) >= 2


@pytest.mark.parametrize("state", State)
def test_exactly_the_rows_of_the_table_lead_somewhere(state: State) -> None:
    plan = plan_in(state)
    leading = {event for event in Event if target_of(plan, event)}
    assert leading == {event for source, event in PRESENT if source is state}


def test_rows_for_one_event_differ_in_their_condition() -> None:
    rows = [(row.source, row.event, row.condition) for row in TRANSITIONS]
    assert len(set(rows)) == len(rows)
    for source, event in PRESENT:
        mine = [row for row in TRANSITIONS if (row.source, row.event) == (source, event)]
        assert len(mine) == 1 or all(row.condition for row in mine)


def test_every_state_can_be_reached_and_left() -> None:
    assert {row.target for row in TRANSITIONS} == set(State)
    assert {row.source for row in TRANSITIONS} == set(State)


def test_a_start_goes_by_the_shadows_if_the_candidate_has_one() -> None:
    assert target_of(draft(), Event.START) is State.STEPPING
    assert target_of(draft(shadowed()), Event.START) is State.SHADOWING


@pytest.mark.parametrize("stop", [Event.PAUSE, Event.HOLD])
def test_a_resume_goes_on_where_it_was(stop: Event) -> None:
    assert target_of(after(stepping(), stop), Event.RESUME) is State.STEPPING
    shadowing = after(draft(shadowed()), Event.START, stop)
    assert target_of(shadowing, Event.RESUME) is State.SHADOWING


# -- who may -------------------------------------------------------------------------------------


def by(author: Author, event: Event, plan=None, reason: str = "because", step: int | None = None):
    plan = plan or stepping()
    return refusal_of(plan, Change(event, plan.revision, step=step), author, reason)


@pytest.mark.parametrize("event", [Event.PAUSE, Event.ROLLBACK, Event.PROMOTE])
def test_a_viewer_changes_nothing(event: Event) -> None:
    assert by(VIEWER, event).kind == "forbidden"


def test_promoting_by_hand_takes_an_approver_and_a_reason() -> None:
    assert "approver" in by(OPERATOR, Event.PROMOTE).sentence
    assert by(APPROVER, Event.PROMOTE, reason=" ").kind == "invalid"
    assert by(APPROVER, Event.PROMOTE) is None


def test_the_controller_promotes_after_the_last_step_only() -> None:
    plan = stepping()
    assert by(CONTROLLER, Event.PROMOTE, plan).kind == "forbidden"
    plan = after(plan, Event.ADVANCE, Event.ADVANCE)
    assert by(CONTROLLER, Event.PROMOTE, plan) is None
    assert by(CONTROLLER, Event.PROMOTE, after(plan, Event.PAUSE)).kind == "forbidden"
    assert by(CONTROLLER, Event.ADVANCE, plan).kind == "invalid"


@pytest.mark.parametrize("event", [Event.PAUSE, Event.STEP, Event.ROLLBACK, Event.REPLACE])
def test_the_controller_does_not_do_what_people_do(event: Event) -> None:
    assert by(CONTROLLER, event, step=0).kind == "forbidden"


@pytest.mark.parametrize(
    "event", [Event.ADVANCE, Event.BREACH, Event.INCONCLUSIVE, Event.CANDIDATE_LOST]
)
def test_people_do_not_do_what_the_controller_does(event: Event) -> None:
    assert by(APPROVER, event).kind == "forbidden"


def test_a_rollback_needs_no_words_and_an_abort_does() -> None:
    assert by(OPERATOR, Event.ROLLBACK, reason="") is None
    assert by(OPERATOR, Event.ABORT, reason="").kind == "invalid"
    assert by(OPERATOR, Event.ROLLBACK, reason="x" * 501).kind == "invalid"


@pytest.mark.parametrize("step", [None, -1, 3])
def test_a_step_by_hand_says_a_step_that_there_is(step: int | None) -> None:
    assert "from 0 to 2" in by(OPERATOR, Event.STEP, step=step).sentence


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_nobody_in_particular_changes_nothing(name: str) -> None:
    assert by(Author(name, "operator"), Event.PAUSE).kind == "forbidden"


def test_an_aim_for_an_event_that_has_none_is_refused() -> None:
    plan = stepping()
    aimed = Change(Event.PAUSE, plan.revision, step=1)
    assert refusal_of(plan, aimed, OPERATOR, "").kind == "invalid"
    aimed = Change(Event.ROLLBACK, plan.revision, proposal=proposal())
    assert refusal_of(plan, aimed, OPERATOR, "").kind == "invalid"


def test_a_plan_that_only_shadows_is_neither_promoted_nor_stepped() -> None:
    plan = after(draft(shadowed(candidate="", steps=())), Event.START)
    assert plan.state is State.SHADOWING
    assert "no candidate" in refused(happen(plan, Event.PROMOTE)).sentence
    assert "no candidate" in refused(happen(plan, Event.SHADOW_DONE, CONTROLLER)).sentence
    assert "no steps" in refused(happen(plan, Event.STEP, step=0)).sentence
    assert made(happen(plan, Event.ABORT)).state is State.ABORTED


# -- the page ------------------------------------------------------------------------------------


def test_the_page_says_what_the_table_says() -> None:
    head, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    generated, end, _ = rest.partition(END)
    assert head
    assert begin
    assert end
    assert generated == documentation(), (
        "write it anew: python -m tests.unit.rollout.test_transitions"
    )


def test_the_diagram_has_every_row_and_nothing_else() -> None:
    arrows = set()
    for line in diagram().splitlines()[2:]:
        found = re.fullmatch(r"    (\w+) --> (\w+) : (.+)", line)
        assert found, line
        for label in found[3].split(", "):
            arrows.add((found[1], found[2], label.partition(" (")[0]))
    assert arrows == {(row.source, row.target, row.event) for row in TRANSITIONS}


def _write() -> None:
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(head + BEGIN + documentation() + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    sys.exit(_write())
