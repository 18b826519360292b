"""Copies are bounded in number and bytes, and none is taken while the process is busy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.shadow_budget import ShadowBudget, ShadowLimits

QUIET = {"loop_late_s": 0.0, "inside_share": 0.0, "live_wait_s": 0.0}
LIMITS = ShadowLimits(
    max_copies=2,
    max_bytes=100,
    max_loop_late_s=0.01,
    max_inside_share=0.5,
    max_live_wait_s=0.1,
    pause_s=1.0,
)


def test_as_many_as_allowed_and_no_more() -> None:
    budget = ShadowBudget(LIMITS)
    assert [budget.admit(10, 0.0) for _ in range(3)] == ["", "", "in_flight"]
    budget.release(10)
    assert budget.admit(91, 0.0) == "bytes"
    assert budget.admit(90, 0.0) == ""
    assert (budget.copies_inside, budget.bytes_inside) == (2, 100)


def test_one_copy_above_the_byte_wall_is_not_taken_even_alone() -> None:
    assert ShadowBudget(LIMITS).admit(101, 0.0) == "bytes"


def test_an_answer_larger_than_expected_needs_room_too() -> None:
    budget = ShadowBudget(LIMITS)
    budget.admit(60, 0.0)
    assert not budget.grow(41)
    assert budget.grow(40)
    budget.release(100)
    assert (budget.copies_inside, budget.bytes_inside) == (0, 0)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"loop_late_s": 0.011}, "loop_late"),
        ({"inside_share": 0.51}, "gateway_busy"),
        ({"live_wait_s": 0.11}, "live_queue"),
    ],
)
def test_a_busy_process_takes_no_copies_for_a_while(seen: dict[str, Any], why: str) -> None:
    budget = ShadowBudget(LIMITS)
    assert budget.may_run(5.0, **{**QUIET, **seen}) == why
    assert budget.admit(1, 5.999) == why
    assert budget.admit(1, 6.0) == ""


def test_a_quiet_process_runs_them_up_to_the_limits_themselves() -> None:
    budget = ShadowBudget(LIMITS)
    assert budget.may_run(0.0, loop_late_s=0.01, inside_share=0.5, live_wait_s=0.1) == ""
    assert budget.admit(1, 0.0) == ""


@pytest.mark.parametrize("wrong", [{"max_copies": 0}, {"max_wait_s": 0}, {"max_inside_share": 2}])
def test_limits_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, ShadowLimits)


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=60))
def test_the_walls_hold_whatever_comes_and_goes(steps: list[tuple[int, bool]]) -> None:
    budget = ShadowBudget(LIMITS)
    inside: list[int] = []
    for size, leaves in steps:
        if leaves and inside:
            budget.release(inside.pop())
        elif not budget.admit(size, 0.0):
            inside.append(size)
        assert budget.copies_inside == len(inside) <= LIMITS.max_copies
        assert budget.bytes_inside == sum(inside) <= LIMITS.max_bytes
