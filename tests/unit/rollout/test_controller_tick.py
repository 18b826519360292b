"""What should happen now: harm first, then what is missing, then the next step; clocks may jump."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.controller import (
    FORGOTTEN_AFTER_S,
    SILENT_AFTER_S,
    Decision,
    Heartbeat,
    decide,
    findings_of,
    tick,
    warm_everywhere,
)
from rollout.evidence import ArmCounts, Evidence, PairedScores, RecentOutcomes, Stretch
from rollout.plan import Event, Plan, PlannedGuardrail, State
from tests.unit.rollout.plans import (
    CONTROLLER,
    START_S,
    after,
    draft,
    findings,
    happen,
    heartbeat,
    made,
    proposal,
    shadowed,
    stepping,
    verdict,
    with_other,
)

ENOUGH_S = START_S + 700


def decided(plan: Plan, now_s: float = ENOUGH_S, beats: Any = None, **found: Any) -> Decision:
    beats = [heartbeat(plan, now_s)] if beats is None else beats
    return decide(plan, findings(**found), beats, now_s)


def fired(decision: Decision) -> Event:
    assert decision.action == "fire", decision
    assert decision.change is not None
    return decision.change.event


def test_each_step_leads_to_the_next_and_the_last_to_the_promotion() -> None:
    plan, now_s, events = stepping(), START_S, []
    while plan.state is State.STEPPING:
        now_s += 700
        decision = decided(plan, now_s)
        events.append(fired(decision))
        plan = made(happen(plan, events[-1], CONTROLLER, now_s=now_s, reason=decision.reason))
    assert events == [Event.ADVANCE, Event.ADVANCE, Event.PROMOTE]
    assert plan.state is State.PROMOTED


@pytest.mark.parametrize(
    "finished",
    [
        draft(),
        after(stepping(), Event.PROMOTE),
        after(stepping(), Event.ROLLBACK),
        after(stepping(), Event.ABORT),
        after(draft(shadowed(candidate="", steps=())), Event.START),
    ],
)
def test_what_does_not_run_is_left_alone(finished: Plan) -> None:
    assert decided(finished, errors="harmful").action == "nothing"


# -- time and samples ----------------------------------------------------------------------------


def test_minimum_time_and_samples_are_both_needed() -> None:
    plan = stepping()
    assert fired(decided(plan, START_S + 300, samples=100)) is Event.ADVANCE
    early = decided(plan, START_S + 299, samples=100)
    assert (early.action, early.reason) == ("nothing", "299 of 300 s have passed")
    few = decided(plan, START_S + 300, samples=99)
    assert (few.action, few.reason) == ("nothing", "99 of 100 samples are in")


def test_a_clock_that_jumps_ahead_ends_no_step() -> None:
    plan, now_s = stepping(), START_S + 3600
    beats = [heartbeat(plan, now_s, acting_s=20.0)]
    assert decided(plan, now_s, beats).reason == "20 of 300 s have passed"


def test_a_clock_that_jumps_back_makes_a_step_longer_and_never_shorter() -> None:
    plan, now_s = stepping(), START_S + 10
    beats = [heartbeat(plan, now_s, acting_s=400.0)]
    assert decided(plan, now_s, beats).reason == "10 of 300 s have passed"
    before = START_S - 50
    decision = decided(plan, before, [heartbeat(plan, before, acting_s=400.0)])
    assert decision.action == "hold"
    assert "50 s before the step's beginning" in decision.reason


def test_a_clock_set_back_by_a_year_still_comes_to_a_deadline() -> None:
    plan, now_s = stepping(), START_S - 366 * 86_400
    beats = [heartbeat(plan, now_s, acting_s=90_000.0)]
    assert fired(decided(plan, now_s, beats)) is Event.INCONCLUSIVE


@pytest.mark.parametrize("now_s", [float("nan"), float("inf"), float("-inf")])
def test_a_clock_that_says_no_time_moves_nothing(now_s: float) -> None:
    plan = stepping()
    assert decided(plan, now_s, [heartbeat(plan, ENOUGH_S)]).action == "hold"


def test_a_resumed_step_waits_again_and_keeps_its_samples() -> None:
    plan = after(stepping(), Event.PAUSE, now_s=START_S + 200)
    plan = after(plan, Event.RESUME, now_s=START_S + 1000)
    assert decided(plan, START_S + 1200).reason == "200 of 300 s have passed"
    assert fired(decided(plan, START_S + 1300)) is Event.ADVANCE


def test_without_an_answer_at_the_deadline_a_person_is_asked() -> None:
    plan = stepping(proposal(deadline_s=1000.0))
    assert decided(plan, START_S + 999, slow="not_yet").action == "nothing"
    decision = decided(plan, START_S + 1000, slow="not_yet")
    assert fired(decision) is Event.INCONCLUSIVE
    assert "1000 s" in decision.reason
    assert "slow is not_yet" in decision.reason
    assert fired(decided(plan, START_S + 1000)) is Event.ADVANCE


# -- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["not_yet"])
@pytest.mark.parametrize("kind", ["errors", "slow"])
def test_every_guardrail_has_to_be_fine(kind: str, outcome: str) -> None:
    assert decided(stepping(), **{kind: outcome}).reason == f"{kind} is {outcome}"


def test_a_guardrail_that_nobody_judged_is_not_fine() -> None:
    plan = stepping()
    found = findings()
    some = type(found)(samples=found.samples, verdicts=(verdict("errors"),), is_complete=True)
    assert (
        decide(plan, some, [heartbeat(plan, ENOUGH_S)], ENOUGH_S).reason == "slow: not judged yet"
    )


@pytest.mark.parametrize("events", [[], [Event.ADVANCE, Event.ADVANCE]])
def test_lost_counters_keep_the_step(events: list[Event]) -> None:
    plan = after(stepping(), *events)
    decision = decided(plan, is_complete=False)
    assert decision.action == "hold"
    assert "lost" in decision.reason
    assert fired(decided(plan, START_S + 86_400, is_complete=False)) is Event.INCONCLUSIVE


def test_counters_that_cannot_be_read_keep_the_step() -> None:
    plan = stepping()
    assert tick(plan, None, [heartbeat(plan, ENOUGH_S)], ENOUGH_S).action == "hold"


@pytest.mark.parametrize("stop", [None, Event.PAUSE, Event.HOLD])
@pytest.mark.parametrize("beats", [None, []])
def test_harm_rolls_back_whatever_else_is_missing(stop: Event | None, beats: Any) -> None:
    plan = stepping()
    if stop:
        plan = after(plan, stop)
    decision = decided(plan, START_S - 5, beats, errors="harmful", samples=1, is_complete=False)
    assert fired(decision) is Event.BREACH
    assert decision.reason == "errors is harmful"
    back = made(happen(plan, Event.BREACH, CONTROLLER, reason=decision.reason))
    assert (back.state, back.reason) == (State.ROLLED_BACK, "errors is harmful")


def test_breakage_rolls_back_at_once() -> None:
    decision = decided(stepping(), START_S + 1, samples=5, breakage="5 failures on end")
    assert fired(decision) is Event.BREACH
    assert decision.reason == "5 failures on end"


@pytest.mark.parametrize("stop", [Event.PAUSE, Event.HOLD])
def test_what_stands_does_not_move_by_itself(stop: Event) -> None:
    plan = after(stepping(), stop)
    assert decided(plan, START_S + 1e6).action == "nothing"


def test_copies_only_have_to_be_harmless() -> None:
    plan = after(draft(shadowed(shadow_min_time_s=60.0)), Event.START)
    assert fired(decided(plan, START_S + 60, errors="not_yet")) is Event.SHADOW_DONE
    assert decided(plan, START_S + 59).action == "nothing"
    assert decided(plan, START_S + 60, samples=499).reason == "499 of 500 samples are in"
    assert fired(decided(plan, START_S + 60, errors="harmful")) is Event.BREACH
    scored = shadowed(guardrails=(PlannedGuardrail(kind="score_shift"),))
    plan = after(draft(scored), Event.START)
    assert decided(plan).reason == "score_shift: not judged yet"


# -- heartbeats ----------------------------------------------------------------------------------


def beats(plan: Plan, now_s: float = ENOUGH_S, **second: Any) -> list[Heartbeat]:
    return [heartbeat(plan, now_s), heartbeat(plan, now_s, "b", **second)]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"warm": frozenset({"3"})}, "gateway b has not warm: version 4"),
        ({"warm": frozenset({"4"})}, "gateway b has not warm: version 3"),
        ({"revision": 1}, "gateway b acts on revision 1 and not on 2"),
        ({"revision": 9}, "gateway b acts on revision 9 and not on 2"),
        ({"at_s": ENOUGH_S - SILENT_AFTER_S - 1}, "gateway b has been silent for 11 s"),
        ({"at_s": ENOUGH_S + FORGOTTEN_AFTER_S + 1}, "clock of gateway b is 61 s ahead"),
    ],
)
def test_one_gateway_that_is_not_ready_keeps_the_step(second: dict[str, Any], said: str) -> None:
    plan = stepping()
    decision = decided(plan, beats=beats(plan, **second))
    assert decision.action == "hold"
    assert said in decision.reason


def test_a_gateway_that_is_gone_is_forgotten() -> None:
    plan = stepping()
    second = {"at_s": ENOUGH_S - FORGOTTEN_AFTER_S - 1, "warm": frozenset()}
    assert fired(decided(plan, beats=beats(plan, **second))) is Event.ADVANCE


def test_without_any_heartbeat_nothing_is_known() -> None:
    assert "no gateway" in decided(stepping(), beats=[]).reason


def test_a_gateway_that_just_came_does_not_restart_the_time() -> None:
    plan = stepping()
    assert fired(decided(plan, beats=beats(plan, acting_s=1.0))) is Event.ADVANCE


def test_the_others_have_to_be_warm_for_a_step_and_not_for_the_promotion() -> None:
    plan = stepping(with_other())
    second = {"warm": frozenset({"3", "4"})}
    assert "version 5" in decided(plan, beats=beats(plan, **second)).reason
    plan = after(plan, Event.ADVANCE, Event.ADVANCE)
    second = {"warm": frozenset({"4"})}
    assert fired(decided(plan, beats=beats(plan, **second))) is Event.PROMOTE


def test_a_candidate_that_nobody_has_or_loads_is_lost() -> None:
    plan = stepping()
    gone = {"warm": frozenset({"3"}), "gone": frozenset({"4"})}
    all_gone = [heartbeat(plan, ENOUGH_S, name, **gone) for name in "ab"]
    decision = decided(plan, beats=all_gone)
    assert fired(decision) is Event.CANDIDATE_LOST
    assert made(happen(plan, Event.CANDIDATE_LOST, CONTROLLER)).state is State.HOLDING
    assert decided(plan, beats=beats(plan, **gone)).action == "hold"
    loading = [all_gone[0], heartbeat(plan, ENOUGH_S, "b", warm=frozenset({"3"}))]
    assert decided(plan, beats=loading).action == "hold"
    assert fired(decided(after(plan, Event.PAUSE), beats=all_gone)) is Event.CANDIDATE_LOST
    assert decided(after(plan, Event.HOLD), beats=all_gone).action == "nothing"


def test_warm_everywhere_is_what_every_gateway_has() -> None:
    plan = stepping()
    assert warm_everywhere(beats(plan, warm=frozenset({"4", "9"})), ENOUGH_S) == {"4"}
    assert warm_everywhere([], ENOUGH_S) == frozenset()
    forgotten = beats(plan, at_s=ENOUGH_S - 100, warm=frozenset())
    assert warm_everywhere(forgotten, ENOUGH_S) == {"3", "4", "5"}


# -- real evidence -------------------------------------------------------------------------------


def stretch(revision: int, step: int, requests: int, errors: int = 0) -> Stretch:
    return Stretch(
        revision=revision,
        step=step,
        candidate=ArmCounts(requests=requests, errors=errors),
        champion=ArmCounts(requests=requests * 10),
    )


def test_only_the_current_visit_of_a_step_counts_for_its_samples() -> None:
    plan = after(stepping(), Event.ADVANCE)
    plan = made(happen(plan, Event.STEP, step=0))
    assert plan.evidence_since == plan.revision == 4
    evidence = Evidence(
        step=0, stretches=(stretch(2, 0, 1000), stretch(3, 1, 2000), stretch(4, 0, 70))
    )
    assert findings_of(plan, evidence).samples == 70


def test_a_pause_keeps_the_samples_of_before() -> None:
    plan = after(stepping(), Event.PAUSE, Event.RESUME)
    evidence = Evidence(step=0, stretches=tuple(stretch(r, 0, 10) for r in (2, 3, 4)))
    assert findings_of(plan, evidence).samples == 30


def test_what_an_older_plan_saw_is_no_evidence() -> None:
    old = stepping()
    plan = made(happen(old, Event.REPLACE, proposal=proposal(candidate="5")))
    plan = after(plan, Event.START)
    harm = Evidence(step=0, stretches=(stretch(2, 0, 1000, errors=900),))
    assert fired(tick(old, harm, [heartbeat(old, ENOUGH_S)], ENOUGH_S)) is Event.BREACH
    assert tick(plan, harm, [heartbeat(plan, ENOUGH_S)], ENOUGH_S).action == "nothing"


def test_harm_of_an_earlier_step_is_not_forgotten() -> None:
    plan = after(stepping(), Event.ADVANCE)
    harm = Evidence(step=1, stretches=(stretch(2, 0, 1000, errors=900), stretch(3, 1, 10)))
    decision = tick(plan, harm, [heartbeat(plan, ENOUGH_S)], ENOUGH_S)
    assert fired(decision) is Event.BREACH
    assert "candidate" in decision.reason


def test_much_good_evidence_leaves_the_step_by_itself() -> None:
    plan = stepping()
    good = Evidence(step=0, stretches=(stretch(2, 0, 50_000),))
    assert fired(tick(plan, good, [heartbeat(plan, ENOUGH_S)], ENOUGH_S)) is Event.ADVANCE
    lost = Evidence(step=0, stretches=(stretch(2, 0, 50_000),), is_complete=False)
    assert tick(plan, lost, [heartbeat(plan, ENOUGH_S)], ENOUGH_S).action == "hold"


def test_five_failures_on_end_are_enough() -> None:
    plan, broken = stepping(), RecentOutcomes()
    for _ in range(5):
        broken = broken.then(failed=True)
    evidence = Evidence(step=0, candidate_recent=(broken,))
    assert fired(tick(plan, evidence, [], START_S + 1)) is Event.BREACH


def test_compared_copies_are_the_samples_of_the_shadowing() -> None:
    plan = after(draft(shadowed()), Event.START)
    evidence = Evidence(step=0, paired_scores=PairedScores(pairs=600, mean=0.0, variance=0.1))
    assert findings_of(plan, evidence).samples == 600
