"""How the demo reads a rollout's plan: steps in their order, shares step by step, an end that is another one."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from examples.flights import rollout_act
from examples.flights.claims import WrongAnswerError
from examples.flights.demo_page import Page
from examples.flights.rollout_act import (
    RolloutStuckError,
    Stage,
    Story,
    check_order,
    percent_after,
    shares_by_step,
)
from examples.flights.rollout_page import RolloutPage
from examples.flights.rollout_seen import Change, Decision, PlanSeen, Seen, Step
from examples.flights.traffic import REST, Call

GOOD = (
    ("submit", "draft"),
    ("start", "shadowing"),
    ("shadow_done", "stepping"),
    ("advance", "stepping"),
    ("advance", "stepping"),
    ("promote", "promoted"),
)
BAD = (("replace", "draft"), ("start", "stepping"), ("breach", "rolled_back"))


def plan_of(events: tuple[tuple[str, str], ...], began: int = 1) -> PlanSeen:
    """A change every ten seconds, the first at 1000 s."""
    history = tuple(
        Change(1000.0 + 10 * place, began + place, event, to, f"why {event}")
        for place, (event, to) in enumerate(events)
    )
    steps = (Step(5), Step(25), Step(50))
    taken = sum(one.event in {"shadow_done", "advance"} for one in history) - 1
    return PlanSeen(history[-1].revision, began, history[-1].to, "1", "2", taken, steps, history)


def test_the_weights_follow_from_the_changes() -> None:
    good, bad = plan_of(GOOD), plan_of(BAD, began=7)
    assert [percent_after(one, good) for one in good.changes()] == [0, 0, 5, 25, 50, 100]
    assert [percent_after(one, bad) for one in bad.changes()] == [0, 5, 0]


def test_a_step_that_is_missing_or_one_too_many_is_found_out() -> None:
    check_order(plan_of(GOOD))
    hold = ("hold", "holding")
    for events in ((*GOOD[:3], *GOOD[4:]), (*GOOD[:3], hold, *GOOD[3:]), (*GOOD[:2], *GOOD[3:])):
        with pytest.raises(WrongAnswerError, match="the rollout went"):
            check_order(plan_of(events))


def test_changes_of_the_plan_before_do_not_count() -> None:
    before = plan_of(GOOD).history
    plan = plan_of(BAD, began=7)
    both = PlanSeen(9, 7, "rolled_back", "2", "3", 0, plan.steps, before + plan.history)
    assert [one.event for one in both.changes()] == ["replace", "start", "breach"]


def test_each_step_is_judged_by_its_own_calls() -> None:
    # In the step of 5 % everybody has version 1, in that of 25 % one of four has version 2, then one of two.
    calls = []
    for began_s, every in ((1020.0, 0), (1030.0, 4), (1040.0, 2)):
        for place in range(90):
            version = 2 if every and place % every == 0 else 1
            at_s = began_s + place / 10 + 0.05
            calls.append(Call(at_s, at_s, place, REST, version, 0.5))
    shares = shares_by_step(plan_of(GOOD), calls)
    assert list(shares) == [5, 25, 50]
    assert shares[5].of_calls == 0
    assert shares[25].of_calls == pytest.approx(0.25, abs=0.02)
    assert shares[50].of_calls == pytest.approx(0.5, abs=0.02)
    assert shares[5].calls == 70  # without the two seconds in which plans change


class Nobody:
    """Travellers who have not asked anything."""

    def calls(self, since_s: float = 0.0) -> list[Call]:
        return []


def story_of(plan: PlanSeen, out: io.StringIO) -> Story:
    page = RolloutPage(Page(Console(file=out, width=120)))
    stage = Stage(cast("Any", None), "", page, cast("Any", Nobody()))
    return Story(stage, lambda _: Seen(plan, Decision("errors: too little to tell")))


def test_every_change_is_told_once_with_its_time() -> None:
    out = io.StringIO()
    story_of(plan_of(GOOD), out).follow("promoted")
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[0] for line in lines] == ["0.0", "10.0", "20.0", "30.0", "40.0"]
    assert "100 %" in out.getvalue()


def test_another_end_is_an_error_with_the_reason() -> None:
    with pytest.raises(RolloutStuckError, match="ended rolled_back, not promoted: why breach"):
        story_of(plan_of(BAD, began=7), io.StringIO()).follow("promoted")


def test_a_rollout_that_does_not_move_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_act, "ACT_LIMIT_S", 0.0)
    with pytest.raises(RolloutStuckError, match=r"stepping after 0 s: errors: too little"):
        story_of(plan_of(GOOD[:4]), io.StringIO()).follow("promoted")
