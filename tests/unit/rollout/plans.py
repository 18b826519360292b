"""Plans, people, heartbeats and findings, as the tests of rollouts need them."""

from __future__ import annotations

from typing import Any

import msgspec

from rollout.controller import Findings, Heartbeat, apply, submit
from rollout.evidence import GuardrailKind, Outcome, Verdict
from rollout.plan import Event, Other, Plan, PlannedGuardrail, Proposal, Shadow, Step, Sticky
from rollout.transitions import Author, Change, Refused

OPERATOR = Author("ada", "operator")
APPROVER = Author("grace", "approver")
CONTROLLER = Author("controller", "controller")
VIEWER = Author("eve", "viewer")
WARM = frozenset({"3", "4", "5"})
START_S = 1_800_000_000.0


def proposal(**changed: Any) -> Proposal:
    """Champion 3, candidate 4, three steps, two guardrails, no shadows."""
    fields: dict[str, Any] = {
        "model": "delays",
        "champion": "3",
        "candidate": "4",
        "sticky": Sticky(source="header:x-user", salt="delays 4"),
        "steps": (
            Step(percent=1, min_time_s=300, min_samples=100),
            Step(percent=5, min_time_s=300, min_samples=200),
            Step(percent=25, min_time_s=600, min_samples=300),
        ),
        "guardrails": (PlannedGuardrail(kind="errors"), PlannedGuardrail(kind="slow")),
    }
    return Proposal(**{**fields, **changed})


def shadowed(**changed: Any) -> Proposal:
    return proposal(shadows=(Shadow(version="4", percent=10, salt="copies"),), **changed)


def with_other(**changed: Any) -> Proposal:
    return proposal(others=(Other(version="5", percent=10),), **changed)


def draft(made_of: Proposal | None = None, now_s: float = START_S) -> Plan:
    return made(submit(made_of or proposal(), now_s, OPERATOR, "a new version"))


def made(outcome: Plan | Refused) -> Plan:
    assert isinstance(outcome, Plan), outcome
    return outcome


def refused(outcome: Plan | Refused) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def happen(
    plan: Plan,
    event: Event,
    author: Author = APPROVER,
    *,
    now_s: float = START_S,
    reason: str = "because",
    warm: frozenset[str] = WARM,
    **aim: Any,
) -> Plan | Refused:
    change = Change(event=event, revision=plan.revision, **aim)
    return apply(plan, change, now_s, author, reason, warm)


def after(plan: Plan, *events: Event, now_s: float = START_S) -> Plan:
    """The plan after events that nobody refuses; the controller causes what only it may."""
    for event in events:
        author = CONTROLLER if event in BY_CONTROLLER else APPROVER
        plan = made(happen(plan, event, author, now_s=now_s))
    return plan


BY_CONTROLLER = {
    Event.SHADOW_DONE,
    Event.ADVANCE,
    Event.BREACH,
    Event.INCONCLUSIVE,
    Event.CANDIDATE_LOST,
}


def stepping(made_of: Proposal | None = None, now_s: float = START_S) -> Plan:
    return after(draft(made_of, now_s), Event.START, now_s=now_s)


def verdict(kind: GuardrailKind, outcome: Outcome = "fine") -> Verdict:
    fields = dict.fromkeys(Verdict.__struct_fields__, 0.0)
    words = f"{kind} is {outcome}"
    return msgspec.convert(
        {**fields, "guardrail": kind, "outcome": outcome, "words": words}, Verdict
    )


def findings(
    *,
    samples: int = 1_000_000,
    errors: Outcome = "fine",
    slow: Outcome = "fine",
    is_complete: bool = True,
    breakage: str | None = None,
) -> Findings:
    return Findings(
        samples=samples,
        verdicts=(verdict("errors", errors), verdict("slow", slow)),
        is_complete=is_complete,
        breakage=breakage,
    )


def heartbeat(plan: Plan, now_s: float, gateway: str = "a", **changed: Any) -> Heartbeat:
    """Of a gateway that acts on the plan since its step began, and has everything warm."""
    fields = {
        "gateway": gateway,
        "at_s": now_s - 1,
        "revision": plan.revision,
        "acting_s": max(now_s - plan.step_began_s, 0),
        "warm": WARM,
    }
    return Heartbeat(**{**fields, **changed})


def weights(plan: Plan) -> dict[str, float]:
    return {arm.version: arm.weight_percent for arm in plan.arms}
