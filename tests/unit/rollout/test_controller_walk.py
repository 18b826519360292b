"""Random days of a rollout: every event in every state, by everybody, with clocks that jump; what must always hold.

Two ways: any change is thrown at ``apply``, and ``decide`` is left to drive by random evidence while people meddle.
Seeds are fixed and printed, so a day that fails can be walked again.
"""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from rollout.checking import document_faults_of
from rollout.controller import Findings, Heartbeat, apply, decide, warm_everywhere
from rollout.plan import MAX_HISTORY_ENTRIES, Event, Plan, State, decode_plan, encode, weights_ppm
from rollout.split import WHOLE_PPM, weight_ppm
from rollout.transitions import TRANSITIONS, Author, Change, Refused
from tests.unit.rollout.plans import (
    APPROVER,
    BY_CONTROLLER,
    CONTROLLER,
    OPERATOR,
    START_S,
    VIEWER,
    draft,
    proposal,
    shadowed,
    verdict,
    with_other,
)

SEEDS = range(40)
CHANGES = 400
"""Per seed; together they take about two seconds."""
AUTHORS = (OPERATOR, APPROVER, CONTROLLER, VIEWER)
ROWS = {(row.source, row.event, row.target) for row in TRANSITIONS}
ENDS = {Event.ROLLBACK, Event.BREACH, Event.ABORT}
WAY_BACK = {Event.ROLLBACK, Event.BREACH, Event.ABORT, Event.REPLACE}
PROPOSALS = (
    proposal(),
    shadowed(),
    with_other(),
    proposal(candidate="5"),
    proposal(champion="4", candidate="3"),
    proposal(champion="5", candidate="3"),
    shadowed(candidate="", steps=()),
    proposal(alpha=3),
)


def clock(rng: random.Random, now_s: float) -> float:
    """Mostly a few minutes on; sometimes an hour back, a day ahead, or nowhere."""
    jump = rng.choices([rng.uniform(0, 400), -3600.0, 86_400.0, float("nan")], [90, 4, 4, 2])[0]
    return now_s + jump


def assert_follows(before: Plan, change: Change, after: Plan, warm: frozenset[str]) -> None:
    assert after.revision == before.revision + 1
    assert (before.state, change.event, after.state) in ROWS
    assert sum(weight_ppm(arm.intervals) for arm in after.arms) == WHOLE_PPM
    assert (
        document_faults_of(after) == []
    )  # weights of state and step, intervals disjoint and complete
    assert decode_plan(encode(after)) == after
    assert len(after.history) == min(len(before.history) + 1, MAX_HISTORY_ENTRIES)
    last = after.history[-1]
    assert (last.revision, last.event) == (after.revision, change.event)
    assert (last.source, last.target) == (before.state, after.state)
    old, new = before.shares(), after.shares()
    grown = {v for v in new if weight_ppm(new[v]) > weight_ppm(old.get(v, ()))}
    if change.event in WAY_BACK:
        assert after.arms[0].weight_percent == 100
        assert not any(arm.intervals for arm in after.arms[1:])
        assert grown <= {after.champion}
        assert before.state is not State.PROMOTED or grown <= warm
    else:
        assert grown <= warm
    if change.event in {Event.PAUSE, Event.HOLD, Event.INCONCLUSIVE, Event.CANDIDATE_LOST}:
        assert after.arms == before.arms
    if change.event is Event.RESUME:
        assert (after.arms, after.evidence_since) == (before.arms, before.evidence_since)
    if after.state is State.PROMOTED:
        assert after.shares()[after.candidate] == ((0, WHOLE_PPM),)
        assert after.champion == before.champion


def any_change(rng: random.Random, plan: Plan) -> Change:
    events = list(Event)
    event = rng.choices(events, [1 if event in ENDS else 4 for event in events])[0]
    revision = plan.revision + rng.choices([0, -1, 1], [18, 1, 1])[0]
    step = rng.choice([0, 1, 2, 2, 7]) if event is Event.STEP else None
    new = rng.choice(PROPOSALS) if event is Event.REPLACE else None
    if new and rng.random() < 0.7:
        new = msgspec.structs.replace(
            new, champion=plan.answering, candidate="4" if plan.answering != "4" else "3", others=()
        )
    return Change(event=event, revision=revision, step=step, proposal=new)


def any_author(rng: random.Random, event: Event) -> Author:
    """Mostly somebody who may."""
    if rng.random() < 0.2:
        return rng.choice(AUTHORS)
    return CONTROLLER if event in BY_CONTROLLER else rng.choice([OPERATOR, APPROVER])


def any_warm(rng: random.Random) -> frozenset[str]:
    return frozenset(version for version in "345" if rng.random() < 0.8)


def walk(seed: int) -> Counter[object]:
    """One day of changes of all kinds; what happened, counted."""
    rng, plan, now_s = random.Random(seed), draft(PROPOSALS[seed % 4]), START_S
    seen: Counter[object] = Counter()
    for _ in range(CHANGES):
        time_s = clock(rng, now_s)
        now_s = time_s if time_s == time_s else now_s
        change, warm = any_change(rng, plan), any_warm(rng)
        author = any_author(rng, change.event)
        reason = rng.choice(["", "because", "because", "x" * 600])
        kept = encode(plan)
        outcome = apply(plan, change, time_s, author, reason, warm)
        assert encode(plan) == kept  # nothing that was handed in changed
        if isinstance(outcome, Refused):
            assert outcome.sentence
            seen[outcome.kind] += 1
            continue
        assert change.revision == plan.revision
        assert author is not VIEWER
        assert_follows(plan, change, outcome, warm)
        assert author is APPROVER or change.event is not Event.PROMOTE or plan.is_last_step
        twice = apply(outcome, change, time_s, author, reason, warm)
        assert isinstance(twice, Refused)
        assert twice.kind == "stale"
        seen[plan.state, change.event, outcome.state] += 1
        plan = outcome
    return seen


def test_any_change_by_anybody_keeps_what_must_hold() -> None:
    print(f"seeds {SEEDS}")
    seen: Counter[object] = Counter()
    for seed in SEEDS:
        seen += walk(seed)
    # The walk is worth something only if it went everywhere.
    assert seen.keys() >= ROWS, ROWS - seen.keys()
    assert seen.keys() >= {"stale", "state", "forbidden", "invalid", "not_warm"}


# -- the controller drives -----------------------------------------------------------------------


def any_findings(rng: random.Random) -> Findings:
    outcomes = rng.choices(["fine", "not_yet", "harmful"], [80, 15, 0.7], k=2)
    return Findings(
        samples=rng.choice([0, 150, 5000]),
        verdicts=(verdict("errors", outcomes[0]), verdict("slow", outcomes[1])),
        is_complete=rng.random() < 0.8,
        breakage="broken" if rng.random() < 0.005 else None,
    )


def any_heartbeat(rng: random.Random, plan: Plan, now_s: float, gateway: str) -> Heartbeat:
    return Heartbeat(
        gateway=gateway,
        at_s=now_s - rng.choices([1, 20, 90, -90], [90, 3, 4, 3])[0],
        revision=plan.revision - (rng.random() < 0.05),
        acting_s=rng.uniform(0, 2000),
        warm=any_warm(rng) if rng.random() < 0.3 else frozenset("345"),
        gone=frozenset("4") if rng.random() < 0.1 else frozenset(),
    )


def assert_earned(
    plan: Plan, event: Event, found: Findings, beats: list[Heartbeat], now_s: float
) -> None:
    """A step was left upwards: then everything was there, said once more in other words than the controller's."""
    assert found.is_complete
    assert not found.breakage
    outcomes = {one.outcome for one in found.verdicts}
    assert "harmful" not in outcomes
    live = [beat for beat in beats if now_s - beat.at_s <= 60]
    assert live
    assert all(beat.revision == plan.revision and "4" in beat.warm for beat in live)
    assert all(-60 <= now_s - beat.at_s <= 10 for beat in live)
    age_s = min(now_s - plan.step_began_s, max(beat.acting_s for beat in live))
    if event is Event.SHADOW_DONE:
        assert age_s >= plan.shadow_min_time_s
        assert found.samples >= plan.shadow_min_samples
        return
    assert outcomes == {"fine"}
    assert age_s >= plan.steps[plan.step].min_time_s
    assert found.samples >= plan.steps[plan.step].min_samples
    if event is Event.PROMOTE:
        assert plan.step == len(plan.steps) - 1


def drive(seed: int) -> Counter[object]:
    rng, now_s = random.Random(seed), START_S
    plan = draft([proposal(), shadowed(), with_other()][seed % 3])
    seen: Counter[object] = Counter()
    for _ in range(CHANGES):
        now_s += rng.choices([rng.uniform(0, 600), -3600.0, 90_000.0], [96, 2, 2])[0]
        found = any_findings(rng)
        beats = [
            any_heartbeat(rng, plan, now_s, name) for name in "abc"[: rng.choice([0, 1, 1, 3])]
        ]
        decision = decide(plan, found, beats, now_s)
        author: Author = CONTROLLER
        change, reason = decision.change, decision.reason
        assert reason
        if change is None and rng.random() < 0.3:
            event = rng.choice([Event.START, Event.RESUME, Event.PAUSE, Event.REPLACE])
            new = proposal(champion=plan.answering, candidate="4" if plan.answering != "4" else "3")
            change = Change(
                event,
                plan.revision,
                proposal=new if event is Event.REPLACE and rng.random() < 0.2 else None,
            )
            author, reason = OPERATOR, "meddling"
        elif decision.action != "fire":
            seen[decision.action] += 1
        if change is None:
            continue
        if author is CONTROLLER:
            harmful = found.breakage or any(one.outcome == "harmful" for one in found.verdicts)
            assert (change.event is Event.BREACH) == bool(harmful)
            if (
                change.event in {Event.ADVANCE, Event.PROMOTE, Event.SHADOW_DONE}
                and plan.candidate == "4"
            ):
                assert_earned(plan, change.event, found, beats, now_s)
        warm = warm_everywhere(beats, now_s)
        outcome = apply(plan, change, now_s, author, reason, warm)
        if isinstance(outcome, Refused):
            assert author is OPERATOR, (
                decision,
                outcome,
            )  # what the controller wants is never refused
            continue
        assert_follows(plan, change, outcome, warm)
        seen[change.event] += 1
        plan = outcome
    return seen


def test_the_controller_moves_a_weight_only_when_it_was_earned() -> None:
    print(f"seeds {SEEDS}")
    seen: Counter[object] = Counter()
    for seed in SEEDS:
        seen += drive(seed)
    wanted = {Event.SHADOW_DONE, Event.ADVANCE, Event.PROMOTE, Event.BREACH, Event.INCONCLUSIVE}
    assert seen.keys() >= wanted | {Event.CANDIDATE_LOST, "hold", "nothing"}, seen


@pytest.mark.parametrize("seed", range(3))
def test_a_controller_that_dies_between_deciding_and_telling_does_no_harm(seed: int) -> None:
    """Two controllers take turns on one document, each with a copy that may be old: compare-and-set decides."""
    rng, now_s = random.Random(seed), START_S
    stored = copy = draft()
    for _ in range(CHANGES):
        now_s += 400
        copy = stored if rng.random() < 0.5 else copy
        found = msgspec.structs.replace(any_findings(rng), is_complete=True)
        beats = [any_heartbeat(rng, copy, now_s, "a")]
        decision = decide(copy, found, beats, now_s)
        change = decision.change or Change(Event.START, copy.revision)
        author = CONTROLLER if decision.change else OPERATOR
        warm = warm_everywhere(beats, now_s)
        outcome = apply(stored, change, now_s, author, "r", warm)
        if isinstance(outcome, Refused):
            continue
        assert copy.revision == stored.revision
        assert_follows(stored, change, outcome, warm)
        stored = outcome
    assert {v: w for v, w in weights_ppm(stored, stored.state, stored.step).items() if w} == {
        v: weight_ppm(s) for v, s in stored.shares().items() if s
    }
