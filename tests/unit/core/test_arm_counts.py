"""What is counted of an arm's requests, and what of it a failing arm takes along into the next stretch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.arm_counts import FAULTS, StretchTallies, Tally
from gateway.errors import ErrorCode
from rollout.evidence import HISTORY, ArmCounts, RecentOutcomes

SEED = 20_261_123

outcomes = st.one_of(
    st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(ErrorCode)
)


@given(st.lists(outcomes, max_size=3 * HISTORY))
def test_a_tally_counts_as_a_list_of_outcomes_would(
    happened: list[tuple[bool, bool, bool] | ErrorCode],
) -> None:
    tally, recent = Tally(), RecentOutcomes()
    requests = errors = slow = invalid = defaulted = 0
    for one in happened:
        if isinstance(one, ErrorCode):
            tally.failed(one)
            if one not in FAULTS:
                continue
            requests += 1
            errors += 1
            slow += one is ErrorCode.DEADLINE_EXCEEDED
            recent = recent.then(failed=True)
            continue
        late, valid, with_default = one
        tally.answered(late, valid, with_default)
        requests += 1
        slow += late
        invalid += not valid
        defaulted += with_default
        recent = recent.then(failed=not valid)
    assert tally.counts() == ArmCounts(requests, errors, slow, invalid, defaulted)
    assert tally.recent() == recent


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.NOT_FOUND,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.QUOTA_EXCEEDED,
    ],
)
def test_the_callers_mistakes_are_no_requests_at_all(code: ErrorCode) -> None:
    tally = Tally()
    tally.failed(code)
    assert tally.counts() == ArmCounts()
    assert tally.recent() == RecentOutcomes()


@pytest.mark.parametrize(
    "code", [ErrorCode.INTERNAL, ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED]
)
def test_a_fault_behind_the_routing_is_the_arms(code: ErrorCode) -> None:
    tally = Tally()
    tally.failed(code)
    assert (tally.requests, tally.errors) == (1, 1)
    assert tally.recent() == RecentOutcomes(failed=1, seen=1)


def test_a_failing_arm_fails_on_across_a_step() -> None:
    random_outcomes = random.Random(SEED)
    earlier = StretchTallies(3, 0)
    for _ in range(HISTORY + 5):
        earlier.candidate.answered(False, random_outcomes.random() < 0.5, False)
    earlier.champion.failed(ErrorCode.INTERNAL)
    later = StretchTallies(4, 1)
    later.follow(earlier)
    assert later.is_empty, "only the outcomes come along, not the counts"
    assert later.candidate.recent() == earlier.candidate.recent()
    assert later.champion.recent() == RecentOutcomes(failed=1, seen=1)


def test_before_the_first_step_the_stretch_is_one_of_step_0() -> None:
    assert StretchTallies(2, -1).stretch().step == 0
    assert StretchTallies(9, 3).stretch().step == 3
