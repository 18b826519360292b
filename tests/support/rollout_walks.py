"""Plans of one rollout, as what happened to it has made them."""

from __future__ import annotations

from headrace.rollout_asking import DecisionSeen, StatusSeen
from rollout.controller import apply, submit
from rollout.plan import Event, Plan, Proposal, Step, Sticky
from rollout.transitions import Author, Change

BEGAN_S = 1_800_000_000.0
ADA = Author("ada", "approver")
MACHINE = Author("controller", "controller")
WARM = frozenset({"1", "2"})
PROPOSAL = Proposal(
    model="flights",
    champion="1",
    candidate="2",
    sticky=Sticky(salt="flights-1a2b"),
    steps=(Step(percent=5), Step(percent=50)),
)


def walked(
    *events: Event | tuple[Event, int], plan: Plan | None = None, reason: str = "why"
) -> Plan:
    """A plan after what happened to it, a minute apart."""
    if plan is None:
        made = submit(PROPOSAL, BEGAN_S, ADA, reason)
        assert isinstance(made, Plan)
        plan = made
    for one in events:
        event, step = one if isinstance(one, tuple) else (one, None)
        change = Change(
            event=event,
            revision=plan.revision,
            step=step,
            proposal=PROPOSAL if event is Event.REPLACE else None,
        )
        author = MACHINE if event in {Event.ADVANCE, Event.BREACH} else ADA
        after = apply(plan, change, plan.updated_s + 60, author, reason, WARM)
        assert isinstance(after, Plan), after
        plan = after
    return plan


def seen(plan: Plan, action: str = "nothing", reason: str = "5 of 300 s have passed") -> StatusSeen:
    """As the admin port would tell of it."""
    return StatusSeen(plan=plan, decision=DecisionSeen(action, reason))
