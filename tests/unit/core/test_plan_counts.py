"""Counts of a plan over its revisions: none is lost, also of requests on their way, and none is another plan's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.arm_counts import Tally
from gateway.core.plan_counts import MAX_KEPT_STRETCHES, PlanCounts
from gateway.errors import ErrorCode
from rollout.plan import Event, Plan
from rollout.ports import Counters
from tests.unit.rollout.plans import after, draft, happen, made, proposal, stepping

ADVANCED = (Event.PAUSE, Event.RESUME)


def revisions(count: int) -> list[Plan]:
    """One plan, again and again paused and resumed."""
    plans = [stepping()]
    for number in range(count - 1):
        plans.append(after(plans[-1], ADVANCED[number % 2]))
    return plans


def requests(counters: Counters) -> tuple[int, int]:
    return (
        sum(one.candidate.requests for one in counters.stretches),
        sum(one.champion.requests for one in counters.stretches),
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new revision", "leave", "enter candidate", "enter champion"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_no_request_is_lost_however_many_revisions_pass_it(steps: list[tuple[str, bool]]) -> None:
    counts, plans = PlanCounts(), iter(revisions(61))
    current = counts.begin(next(plans))
    inside: list[Tally] = []
    left = 0
    by_revision: dict[int, int] = {}
    revision_of: dict[int, int] = {}
    for what, oldest in steps:
        if what == "new revision":
            current = counts.begin(next(plans))
        elif what == "leave" and inside:
            tally = inside.pop(0 if oldest else -1)
            tally.answered(False, True, False)
            left += 1
            by_revision[revision_of[id(tally)]] = by_revision.get(revision_of[id(tally)], 0) + 1
        elif what != "leave":
            tally = current.candidate if what == "enter candidate" else current.champion
            revision_of[id(tally)] = current.revision
            inside.append(tally)
    for tally in inside:
        tally.failed(ErrorCode.INTERNAL)
        by_revision[revision_of[id(tally)]] = by_revision.get(revision_of[id(tally)], 0) + 1
    counters = counts.counters(is_final=True)
    assert sum(requests(counters)) == left + len(inside)
    assert by_revision == {
        one.revision: one.candidate.requests + one.champion.requests for one in counters.stretches
    }, "each under the weights with which it was sent"
    assert counters.is_complete
    assert counters.is_final


def test_another_plan_begins_from_nothing() -> None:
    counts = PlanCounts()
    first = stepping()
    counts.begin(first).candidate.failed(ErrorCode.INTERNAL)
    second = made(
        happen(after(first, Event.ABORT), Event.REPLACE, proposal=proposal(candidate="5"))
    )
    counts.begin(second)
    assert counts.counters(is_final=False) == Counters()


def test_a_plan_of_the_same_revision_from_an_emptied_store_is_another_one() -> None:
    counts = PlanCounts()
    counts.begin(draft(now_s=100.0)).champion.answered(False, True, False)
    counts.begin(draft(now_s=200.0))
    assert counts.counters(is_final=False).stretches == ()


def test_what_failed_last_is_remembered_across_revisions() -> None:
    counts = PlanCounts()
    first, second = revisions(2)
    for _ in range(4):
        counts.begin(first).candidate.failed(ErrorCode.INTERNAL)
    counts.begin(second)
    assert counts.counters(is_final=False).candidate_recent.consecutive == 4


def test_more_stretches_than_can_be_kept_are_told() -> None:
    counts = PlanCounts()
    plan = stepping()
    for _ in range(MAX_KEPT_STRETCHES):
        counts.begin(plan).champion.answered(False, True, False)
    assert counts.counters(is_final=False).is_complete
    counts.begin(plan).champion.answered(False, True, False)
    counters = counts.counters(is_final=False)
    assert not counters.is_complete
    assert len(counters.stretches) == MAX_KEPT_STRETCHES
    counts.begin(draft(now_s=1.0))
    assert counts.counters(is_final=False).is_complete, "the next plan is a new one"
