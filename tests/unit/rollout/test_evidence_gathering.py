"""What workers reported, as one evidence; and when something may be missing."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from rollout.controller import FORGOTTEN_AFTER_S
from rollout.evidence import ArmCounts, Evidence, PairedScores, RecentOutcomes, Stretch
from rollout.evidence_gathering import (
    MAX_WITNESSED,
    Trace,
    Witnessed,
    gather,
    heard,
    pooled,
    witness,
)
from rollout.plan import Event, Plan
from rollout.ports import Counters, ModelBeat, WorkerBeat
from tests.unit.rollout.plans import APPROVER, START_S, happen, made, stepping

PLAN = stepping()
"""Began with revision 1; its first step's evidence counts from revision 2."""
STEPPED = made(happen(PLAN, Event.STEP, APPROVER, step=1))
assert (PLAN.began_revision, PLAN.evidence_since, STEPPED.evidence_since) == (1, 2, 3)


def stretch(revision: int, step: int = 0, requests: int = 10, errors: int = 1) -> Stretch:
    return Stretch(revision, step, ArmCounts(requests, errors), ArmCounts(10 * requests))


def counters(*revisions: int, **more: Any) -> Counters:
    return Counters(stretches=tuple(stretch(one) for one in revisions), **more)


def beat(worker: str, revision: int = 2, **more: Any) -> WorkerBeat:
    return WorkerBeat(worker, START_S, (ModelBeat("delays", revision, 1.0),), **more)


def gathered(
    reports: dict[str, Counters],
    beats: list[WorkerBeat],
    before: Witnessed | None = None,
    plan: Plan = PLAN,
) -> Evidence:
    seen = witness(before or Witnessed(), plan, reports, beats)
    return gather(plan, reports, beats, seen)


def complete(*arguments: Any, **more: Any) -> bool:
    return gathered(*arguments, **more).is_complete


# -- sums ----------------------------------------------------------------------------------------


def test_stretches_add_up_by_revision_and_step() -> None:
    found = gathered(
        {
            "a": Counters(stretches=(stretch(2), stretch(3, 1))),
            "b": Counters(
                stretches=(stretch(3, 1, 5, 2), stretch(3, 1, 1, 0), stretch(2, 0, 7, 0))
            ),
        },
        [beat("a"), beat("b")],
        plan=STEPPED,
    )
    assert found.stretches == (
        Stretch(2, 0, ArmCounts(17, 1), ArmCounts(170)),
        Stretch(3, 1, ArmCounts(16, 3), ArmCounts(160)),
    )
    assert (found.step, found.since_revision, found.is_complete) == (1, 3, True)


def test_only_revisions_of_this_plan_up_to_the_one_that_was_read_count() -> None:
    plan = msgspec.structs.replace(PLAN, began_revision=2)
    found = gathered({"a": counters(1, 2, 3)}, [beat("a")], plan=plan)
    assert [one.revision for one in found.stretches] == [2]


def test_nothing_is_complete_and_empty() -> None:
    found = gathered({}, [])
    assert found == Evidence(step=0, since_revision=2)


def test_differences_are_pooled_as_one_sample() -> None:
    rng = random.Random(5)
    samples = [[rng.gauss(at, 2) for _ in range(count)] for at, count in ((0, 7), (3, 1), (-9, 40))]

    def scores(values: list[float]) -> PairedScores:
        mean = sum(values) / len(values)
        squares = sum((one - mean) ** 2 for one in values)
        return PairedScores(len(values), mean, squares / max(len(values) - 1, 1))

    whole = pooled([*map(scores, samples), PairedScores(0, 0.0, 0.0)])
    expected = scores([one for sample in samples for one in sample])
    assert whole is not None
    assert whole.pairs == expected.pairs
    assert whole.mean == pytest.approx(expected.mean)
    assert whole.variance == pytest.approx(expected.variance)
    assert pooled([]) is None
    assert pooled([PairedScores(0, 0.0, 0.0)]) == PairedScores(0, 0.0, 0.0)
    assert pooled([PairedScores(1, 2.0, 0.0)]) == PairedScores(1, 2.0, 0.0)


# -- the last outcomes ----------------------------------------------------------------------------

ILL = RecentOutcomes(0b11111, 20)


def test_last_outcomes_are_those_of_workers_heard_of() -> None:
    reports = {
        "live": counters(2, candidate_recent=ILL),
        "left": counters(2, champion_recent=RecentOutcomes(0, 9), is_final=True),
        "dead": counters(2, champion_recent=ILL),
    }
    found = gathered(reports, [beat("live"), beat("left", has_left=True), beat("idle")])
    assert found.candidate_recent == (RecentOutcomes(), ILL)
    assert ILL not in found.champion_recent, "a champion that was ill long ago stops nothing"
    assert ILL in gathered(reports, []).candidate_recent, "with nobody to hear of, all count"


# -- what may be missing ---------------------------------------------------------------------------


def test_who_lives_or_has_finished_misses_nothing() -> None:
    assert complete({"a": counters(2)}, [beat("a")])
    assert complete({"a": counters(2, is_final=True)}, [])
    assert complete({"a": counters(2, is_final=True)}, [beat("a", has_left=True)])
    assert complete({}, [beat("a")]), "a live worker without traffic reports nothing"
    assert complete({}, [beat("a", has_left=True)])


def test_who_vanished_without_a_last_word_may_have_counted_more() -> None:
    assert not complete({"a": counters(2)}, [])
    assert not complete({"a": counters(2)}, [beat("a", has_left=True)]), "its last report is lost"
    assert not complete({"a": Counters()}, []), "when it stopped nobody knows"
    assert not complete({"a": counters(2), "b": counters(2)}, [beat("b")])


def test_a_step_by_hand_counts_anew_without_those_that_vanished_before() -> None:
    assert complete({"a": counters(2)}, [], plan=STEPPED)
    assert complete({"a": counters(2, is_complete=False)}, [], plan=STEPPED)
    assert not complete({"a": counters(2, 3)}, [], plan=STEPPED)
    acted = witness(Witnessed(), STEPPED, {}, [beat("a", 3)])
    assert not complete({"a": counters(2)}, [], acted, plan=STEPPED), "it was seen to act on it"


def test_a_worker_that_knows_of_a_loss_is_believed() -> None:
    assert not complete({"a": counters(2, is_complete=False)}, [beat("a")])
    assert not complete({"a": counters(2, is_complete=False, is_final=True)}, [])
    assert not complete({"a": Counters(is_complete=False)}, [], plan=STEPPED), "unreadable"


def test_who_was_seen_and_vanished_before_its_first_report_is_missed() -> None:
    seen = witness(Witnessed(), PLAN, {}, [beat("a"), beat("b")])
    assert not complete({}, [beat("b")], seen)
    seen = witness(seen, PLAN, {}, [beat("a", has_left=True), beat("b")])
    assert complete({}, [beat("b")], seen), "it left in order"
    idle = witness(Witnessed(), PLAN, {}, [WorkerBeat("c", START_S)])
    assert complete({}, [], idle), "it never acted on the plan"
    ahead = witness(Witnessed(), PLAN, {}, [beat("d", 7)])
    assert complete({}, [], ahead), "what it acts on is none that was read"


def test_a_report_that_was_there_and_is_gone_is_missed() -> None:
    seen = witness(Witnessed(), PLAN, {"a": counters(2, is_final=True)}, [])
    assert not complete({}, [], seen)
    assert not complete({}, [beat("a")], seen)
    assert complete({"a": counters(2, is_final=True)}, [], seen)
    assert complete({}, [], seen, plan=STEPPED), "what came before counts no more"


def test_another_plan_has_other_workers() -> None:
    seen = witness(Witnessed(), PLAN, {"a": counters(2)}, [])
    plan = msgspec.structs.replace(PLAN, began_revision=2)
    assert witness(seen, plan, {}, []) == Witnessed(2, {})


def test_only_so_many_workers_are_remembered() -> None:
    full = Witnessed(1, {str(at): Trace(2) for at in range(MAX_WITNESSED)})
    assert len(witness(full, PLAN, {"a": counters(2)}, [beat("b")]).workers) == MAX_WITNESSED


# -- heartbeats -----------------------------------------------------------------------------------


def test_a_gateway_that_the_store_remembers_is_never_forgotten() -> None:
    beats = [beat("a"), msgspec.structs.replace(beat("b"), at_s=5.0), beat("c", has_left=True)]
    found = heard(beats, "delays", START_S)
    assert [(one.gateway, one.at_s) for one in found] == [
        ("a", START_S),
        ("b", START_S - FORGOTTEN_AFTER_S),
    ]
