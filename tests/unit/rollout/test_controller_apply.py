"""What a plan becomes: weights, revisions, clocks and history, event by event."""

from __future__ import annotations

import msgspec
import pytest

from rollout.checking import document_faults_of
from rollout.controller import apply, submit
from rollout.plan import MAX_HISTORY_ENTRIES, NO_STEP, Arm, Event, State, Sticky
from rollout.split import SplitError
from rollout.transitions import Author, Change
from tests.unit.rollout.plans import (
    APPROVER,
    CONTROLLER,
    OPERATOR,
    START_S,
    VIEWER,
    WARM,
    after,
    draft,
    happen,
    made,
    proposal,
    refused,
    shadowed,
    stepping,
    weights,
    with_other,
)

LATER_S = START_S + 100


def test_a_first_plan_is_a_draft_and_all_is_the_champions() -> None:
    plan = draft(with_other())
    assert (plan.revision, plan.state, plan.step) == (1, State.DRAFT, NO_STEP)
    assert weights(plan) == {"3": 100, "4": 0, "5": 0}
    assert plan.shares() == {"3": ((0, 1_000_000),), "4": (), "5": ()}
    assert [entry.event for entry in plan.history] == ["submit"]


def test_a_bad_submission_is_refused_with_every_fault() -> None:
    bad = proposal(candidate="3", alpha=3)
    answer = refused(submit(bad, START_S, OPERATOR, "x"))
    assert answer.kind == "invalid"
    assert len(answer.sentence.splitlines()) == 2
    assert refused(submit(proposal(), START_S, VIEWER, "x")).kind == "forbidden"
    assert refused(submit(proposal(), START_S, OPERATOR, "")).kind == "invalid"
    assert "no time" in refused(submit(proposal(), float("nan"), OPERATOR, "x")).sentence


def test_steps_take_from_the_champion_and_leave_everybody_else_where_he_is() -> None:
    plan = stepping(with_other())
    for percent in (5, 25):
        before, plan = plan.shares(), after(plan, Event.ADVANCE)
        assert weights(plan) == {"3": 90 - percent, "4": percent, "5": 10}
        assert plan.shares()["5"] == before["5"]
        for start, end in before["4"]:
            assert any(low <= start and end <= high for low, high in plan.shares()["4"])


def test_an_event_happens_once() -> None:
    plan = stepping()
    change = Change(Event.ADVANCE, plan.revision)
    moved = made(apply(plan, change, LATER_S, CONTROLLER, "fine", WARM))
    again = refused(apply(moved, change, LATER_S, CONTROLLER, "fine", WARM))
    assert again.kind == "stale"
    assert "revision 2" in again.sentence
    assert "revision 3" in again.sentence
    ahead = Change(Event.ADVANCE, plan.revision + 1)
    assert refused(apply(plan, ahead, LATER_S, CONTROLLER, "", WARM)).kind == "stale"


def test_the_same_plan_and_change_make_the_same_revision() -> None:
    plan = stepping(with_other())
    assert happen(plan, Event.ADVANCE, CONTROLLER) == happen(plan, Event.ADVANCE, CONTROLLER)


@pytest.mark.parametrize("event", [Event.ADVANCE, Event.STEP, Event.PROMOTE])
def test_no_weight_moves_to_a_candidate_that_is_not_warm(event: Event) -> None:
    author = CONTROLLER if event is Event.ADVANCE else APPROVER
    aim = {"step": 1} if event is Event.STEP else {}
    answer = refused(happen(stepping(), event, author, warm=frozenset({"3"}), **aim))
    assert answer.kind == "not_warm"
    assert "version 4" in answer.sentence


def test_a_start_wants_the_others_warm_too() -> None:
    plan = draft(with_other())
    answer = refused(happen(plan, Event.START, warm=frozenset({"3", "4"})))
    assert "version 5" in answer.sentence


@pytest.mark.parametrize("event", [Event.ROLLBACK, Event.ABORT, Event.BREACH])
@pytest.mark.parametrize("stop", [None, Event.PAUSE, Event.HOLD])
def test_the_way_back_waits_for_nothing(event: Event, stop: Event | None) -> None:
    plan = stepping(with_other())
    if stop:
        plan = after(plan, stop)
    author = CONTROLLER if event is Event.BREACH else OPERATOR
    plan = made(happen(plan, event, author, warm=frozenset()))
    assert weights(plan) == {"3": 100, "4": 0, "5": 0}
    assert plan.shares()["4"] == plan.shares()["5"] == ()


def test_a_rollback_heals_a_damaged_split() -> None:
    damaged = msgspec.structs.replace(
        stepping(), arms=(Arm(version="3", weight_percent=99, intervals=((5, 3),)),)
    )
    plan = made(happen(damaged, Event.BREACH, CONTROLLER, warm=frozenset()))
    assert document_faults_of(plan) == []
    with pytest.raises(SplitError):
        happen(damaged, Event.ADVANCE, CONTROLLER)


def test_a_promotion_gives_all_and_keeps_the_way_back() -> None:
    plan = after(stepping(with_other()), Event.PROMOTE)
    assert weights(plan) == {"3": 0, "4": 100, "5": 0}
    assert plan.champion == "3"
    assert refused(happen(plan, Event.ROLLBACK, warm=frozenset({"4"}))).kind == "not_warm"
    back = made(happen(plan, Event.ROLLBACK, warm=frozenset({"3"})))
    assert weights(back) == {"3": 100, "4": 0, "5": 0}


def test_promoting_early_takes_an_approver_and_says_why() -> None:
    plan = stepping()
    assert refused(happen(plan, Event.PROMOTE, OPERATOR)).kind == "forbidden"
    assert refused(happen(plan, Event.PROMOTE, APPROVER, reason="")).kind == "invalid"
    promoted = made(happen(plan, Event.PROMOTE, APPROVER, reason="the old one is wrong"))
    last = promoted.history[-1]
    assert (last.author, last.reason, last.source, last.target) == (
        "grace",
        "the old one is wrong",
        "stepping",
        "promoted",
    )


def test_a_resume_keeps_the_evidence_and_restarts_the_time() -> None:
    plan = after(stepping(), Event.ADVANCE)
    paused = after(plan, Event.PAUSE, now_s=LATER_S)
    assert weights(paused) == weights(plan)
    assert paused.step_began_s == plan.step_began_s
    resumed = after(paused, Event.RESUME, now_s=LATER_S + 50)
    assert resumed.step_began_s == LATER_S + 50
    assert resumed.evidence_since == plan.evidence_since < resumed.revision
    assert resumed.step == plan.step


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_step_by_hand_begins_everything_anew(step: int) -> None:
    plan = after(stepping(), Event.ADVANCE)
    moved = made(happen(plan, Event.STEP, OPERATOR, now_s=LATER_S, step=step))
    assert moved.step == step
    assert moved.step_began_s == LATER_S
    assert moved.evidence_since == moved.revision
    assert weights(moved)["4"] == plan.steps[step].percent


def test_a_step_while_paused_stays_paused_and_one_while_holding_goes_on() -> None:
    paused = after(stepping(), Event.PAUSE)
    assert made(happen(paused, Event.STEP, step=2)).state is State.PAUSED
    holding = after(stepping(), Event.INCONCLUSIVE)
    assert made(happen(holding, Event.STEP, step=0)).state is State.STEPPING


def test_the_shadowing_comes_before_the_first_weight() -> None:
    plan = after(draft(shadowed()), Event.START)
    assert (plan.state, plan.step, weights(plan)["4"]) == (State.SHADOWING, NO_STEP, 0)
    plan = after(plan, Event.SHADOW_DONE)
    assert (plan.state, plan.step, weights(plan)["4"]) == (State.STEPPING, 0, 1)


# -- replacing -----------------------------------------------------------------------------------


def test_a_running_plan_is_replaced_by_a_draft_that_goes_on_counting_revisions() -> None:
    plan = after(stepping(with_other()), Event.ADVANCE)
    new = proposal(candidate="6", sticky=Sticky(salt="another"))
    drafted = made(happen(plan, Event.REPLACE, OPERATOR, now_s=LATER_S, proposal=new))
    assert (drafted.revision, drafted.began_revision) == (plan.revision + 1, plan.revision + 1)
    assert (drafted.state, drafted.step) == (State.DRAFT, NO_STEP)
    assert weights(drafted) == {"3": 100, "6": 0}
    assert drafted.created_s == drafted.step_began_s == LATER_S
    assert drafted.history[:-1] == plan.history
    assert document_faults_of(drafted) == []


def test_a_replacement_names_what_answers_as_champion() -> None:
    promoted = after(stepping(), Event.PROMOTE)
    old = refused(happen(promoted, Event.REPLACE, OPERATOR, proposal=proposal()))
    assert "version 4 is what answers" in old.sentence
    new = proposal(champion="4", candidate="5")
    assert weights(made(happen(promoted, Event.REPLACE, OPERATOR, proposal=new)))["4"] == 100


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (None, "give a proposal"),
        (proposal(model="weather"), "for model weather"),
        (proposal(champion="9"), "champion is version 9"),
        (proposal(alpha=3), "alpha"),
    ],
)
def test_a_bad_replacement_is_refused(new: object, said: str) -> None:
    answer = refused(happen(stepping(), Event.REPLACE, OPERATOR, proposal=new))
    assert answer.kind == "invalid"
    assert said in answer.sentence


def test_a_whole_plan_can_be_proposed_again() -> None:
    rolled_back = after(stepping(), Event.ROLLBACK)
    again = made(happen(rolled_back, Event.REPLACE, OPERATOR, proposal=rolled_back))
    assert again.state is State.DRAFT
    assert again.steps == rolled_back.steps


# -- history and words ---------------------------------------------------------------------------


def test_the_history_is_bounded_and_keeps_the_newest() -> None:
    plan = stepping()
    for _ in range(MAX_HISTORY_ENTRIES):
        plan = after(plan, Event.PAUSE, Event.RESUME)
    assert len(plan.history) == MAX_HISTORY_ENTRIES
    assert [entry.revision for entry in plan.history][-2:] == [plan.revision - 1, plan.revision]
    assert document_faults_of(plan) == []


def test_the_controllers_words_are_cut_and_peoples_refused() -> None:
    plan = stepping()
    assert len(made(happen(plan, Event.BREACH, CONTROLLER, reason="x" * 9000)).reason) == 500
    assert refused(happen(plan, Event.ROLLBACK, OPERATOR, reason="x" * 9000)).kind == "invalid"


def test_a_clock_that_says_no_time_changes_nothing() -> None:
    answer = refused(happen(stepping(), Event.PAUSE, OPERATOR, now_s=float("nan")))
    assert "no time" in answer.sentence


def test_an_author_is_kept() -> None:
    plan = made(happen(stepping(), Event.PAUSE, Author("ada lovelace", "operator"), reason=""))
    assert (plan.author, plan.reason) == ("ada lovelace", "")
