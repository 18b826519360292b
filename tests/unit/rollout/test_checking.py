"""Every fault of a plan is told, all at once, in sentences."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rollout.checking import (
    MAX_OTHERS,
    MAX_SHADOWS,
    MAX_STEPS,
    Facts,
    document_faults_of,
    faults_of,
    guardrails_of,
)
from rollout.evidence import default_guardrails
from rollout.plan import Arm, Event, Other, PlannedGuardrail, Shadow, State, Step, Sticky
from tests.unit.rollout.plans import after, draft, proposal, shadowed, stepping, with_other

NAN = float("nan")
FACTS = Facts(frozenset({"3", "4", "5"}))


def steps(*percents: float) -> tuple[Step, ...]:
    return tuple(Step(percent=percent) for percent in percents)


@pytest.mark.parametrize("good", [proposal(), shadowed(), with_other(), shadowed(steps=steps(99))])
def test_a_good_proposal_has_no_fault(good: Any) -> None:
    assert faults_of(good, FACTS) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format is 2"),
        ({"model": "a b"}, "model 'a b'"),
        ({"champion": ""}, "champion ''"),
        ({"candidate": "a/b"}, "candidate 'a/b'"),
        ({"candidate": "3"}, "both version 3"),
        ({"candidate": "", "steps": ()}, "neither candidate nor shadows"),
        ({"others": (Other(version="4", percent=1),)}, "champion or candidate"),
        ({"others": (Other(version="a b", percent=1),)}, "'a b' is no version"),
        ({"others": (Other(version="5", percent=1),) * 2}, "there 2 times"),
        ({"others": (Other(version="5", percent=101),)}, "not between 0 and 100"),
        ({"others": (Other(version="5", percent=0),)}, "more than 0"),
        ({"others": (Other(version="5", percent=80),)}, "more than 100 %"),
        ({"others": (Other(version="5", percent=75),)}, "leaves the champion no traffic"),
        (
            {"others": tuple(Other(version=f"1{i}", percent=1) for i in range(MAX_OTHERS + 1))},
            "at most",
        ),
        ({"sticky": Sticky(source="cookie", salt="s")}, "sticky.from is 'cookie'"),
        ({"sticky": Sticky(source="header:", salt="s")}, "sticky.from"),
        ({"sticky": Sticky(salt="")}, "sticky.salt"),
        ({"sticky": Sticky(salt="a\nb")}, "sticky.salt"),
        ({"sticky": Sticky(salt="x" * 65)}, "sticky.salt"),
        ({"shadows": (Shadow(version="4", percent=NAN, salt="s"),)}, "not between 0 and 100"),
        ({"shadows": (Shadow(version="4", percent=1, salt=""),)}, "salt of shadow 4"),
        ({"shadows": (Shadow(version="", percent=1, salt="s"),)}, "'' is no version"),
        ({"shadows": (Shadow(version="4", percent=1, salt="s"),) * 2}, "there 2 times"),
        (
            {
                "shadows": tuple(
                    Shadow(version=f"1{i}", percent=1, salt="s") for i in range(MAX_SHADOWS + 1)
                )
            },
            "at most",
        ),
        ({"shadow_min_time_s": -1.0}, "shadow_min_time_s"),
        ({"shadow_min_samples": 0}, "shadow_min_samples"),
        ({"steps": ()}, "there are no steps"),
        ({"steps": steps(5, 1)}, "higher than the one before"),
        ({"steps": steps(5, 5)}, "higher than the one before"),
        ({"steps": steps(5, 101)}, "not between 0 and 100"),
        ({"steps": steps(5, 100)}, "leaves the champion no traffic"),
        ({"steps": steps(NAN)}, "not between 0 and 100"),
        ({"steps": steps(0)}, "more than 0"),
        ({"steps": steps(1.00001)}, "more than four decimals"),
        ({"steps": steps(*range(1, MAX_STEPS + 2))}, "at most"),
        ({"steps": (Step(percent=1, min_time_s=-1),)}, "min_time_s is -1"),
        ({"steps": (Step(percent=1, min_time_s=NAN),)}, "min_time_s is nan"),
        ({"steps": (Step(percent=1, min_samples=0),)}, "min_samples is 0"),
        ({"candidate": "", "shadows": (Shadow(version="4", percent=1, salt="s"),)}, "no candidate"),
        ({"guardrails": (PlannedGuardrail(kind="vibes"),)}, "no guardrail 'vibes'"),
        ({"guardrails": (PlannedGuardrail(kind="errors"),) * 2}, "2 times"),
        ({"guardrails": (PlannedGuardrail(kind="errors", tolerated=-1.0),)}, "cannot be read"),
        ({"guardrails": (PlannedGuardrail(kind="errors"),) * 9}, "at most 8"),
        ({"guardrails": (PlannedGuardrail(kind="score_shift"),)}, "add the champion"),
        ({"slo_ms": 0.0}, "slo_ms"),
        ({"slo_ms": NAN}, "slo_ms"),
        ({"alpha": 0.5}, "alpha"),
        ({"alpha": 0.0}, "alpha"),
        ({"deadline_s": 10.0}, "deadline_s is 10"),
        ({"deadline_s": 600.0}, "must be later"),
        ({"deadline_s": NAN}, "deadline_s"),
    ],
)
def test_a_fault_is_told(changed: dict[str, Any], said: str) -> None:
    faults = faults_of(proposal(**changed))
    assert any(said in fault for fault in faults), faults
    assert len(set(faults)) == len(faults)


def test_all_faults_are_told_at_once() -> None:
    bad = proposal(
        model="",
        candidate="3",
        sticky=Sticky(source="cookie", salt=""),
        steps=steps(5, 1, 300),
        guardrails=(PlannedGuardrail(kind="vibes"), PlannedGuardrail(kind="errors", burst=0)),
        alpha=3,
        deadline_s=0,
    )
    assert len(faults_of(bad, FACTS)) >= 10


def test_facts_of_others_are_told() -> None:
    facts = Facts(frozenset({"3", "5"}), {"5": "input 'x' is INT64 and not FP32"})
    faults = faults_of(
        with_other(shadows=(Shadow(version="6", percent=1, salt="s"),)),
        facts,
    )
    assert [fault.partition(":")[0] for fault in faults] == ["candidate", "others", "shadows"]
    assert "no version 4; it has 3, 5" in faults[0]
    assert "INT64" in faults[1]
    assert faults_of(with_other()) == []


def test_decimals_add_up() -> None:
    tenths = tuple(Other(version=f"1{i}", percent=0.1) for i in range(3))
    assert faults_of(proposal(others=tenths, steps=steps(99.6999))) == []
    assert "no traffic" in faults_of(proposal(others=tenths, steps=steps(99.7)))[0]


def test_the_guardrails_that_are_judged() -> None:
    assert guardrails_of(proposal(guardrails=())) == default_guardrails()
    (one,) = guardrails_of(proposal(guardrails=(PlannedGuardrail(kind="slow", tolerated=0.03),)))
    assert (one.kind, one.tolerated) == ("slow", 0.03)


# -- stored plans --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Event.START],
        [Event.START, Event.ADVANCE, Event.PAUSE],
        [Event.START, Event.PROMOTE],
        [Event.START, Event.ROLLBACK],
    ],
)
def test_what_the_controller_made_has_no_fault(events: list[Event]) -> None:
    assert document_faults_of(after(draft(with_other()), *events)) == []


def arms(*weights: tuple[str, float, Any]) -> tuple[Arm, ...]:
    return tuple(
        Arm(version=version, weight_percent=percent, intervals=intervals)
        for version, percent, intervals in weights
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arms": arms(("3", 90, ((0, 900_000),)), ("4", 1, ((900_000, 910_000),)))}, "sum to 91"),
        ({"arms": arms(("3", 90, ((0, 900_000),)), ("4", 10, ((900_000, 1_000_000),)))}, "weigh"),
        ({"arms": arms(("3", 99, ((0, 900_000),)), ("4", 1, ((900_000, 1_000_000),)))}, "are 90"),
        ({"arms": arms(("3", 99, ((0, 990_000),)), ("4", 1, ((980_000, 990_000),)))}, "no split"),
        ({"step": 3}, "at step 3"),
        ({"step": -1}, "cannot be at step -1"),
        ({"state": State.DRAFT}, "cannot be at step 0"),
        ({"revision": 0}, "out of order"),
        ({"evidence_since": 9}, "out of order"),
        ({"alpha": 3.0}, "alpha"),
    ],
)
def test_what_no_controller_made_is_told(changed: dict[str, Any], said: str) -> None:
    faults = document_faults_of(msgspec.structs.replace(stepping(), **changed))
    assert any(said in fault for fault in faults), faults


def test_a_history_without_end_is_told() -> None:
    plan = stepping()
    long = msgspec.structs.replace(plan, history=plan.history * 30)
    assert "60 entries" in document_faults_of(long)[0]
