"""The table of a rollout's life: which event leads from which state where, and why the others lead nowhere.

Decides that, and who may cause an event and must say why. Every state meets every event either in ``TRANSITIONS`` or in
``REFUSALS``, where a sentence says what to do instead. The diagram and the list in ``docs/rollout-states.md`` are
written from these tables. It must never look at evidence, weights or clocks: what a transition does to a plan is
``rollout.controller``'s.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from rollout.plan import (
    MAX_REASON_CHARACTERS,
    NO_STEP,
    SUBMIT,
    Event,
    Plan,
    Proposal,
    State,
)

Role = Literal["viewer", "operator", "approver", "controller"]
"""``controller`` is the process that watches the evidence; the others are people, each may what the one before may."""
MAX_AUTHOR_CHARACTERS = 64


class Condition(enum.StrEnum):
    """What tells two targets of one event apart."""

    SHADOWS_FIRST = "copies first"
    STRAIGHT = "no copies wanted"
    BEFORE_STEPS = "no step begun"
    AMID_STEPS = "amid the steps"


class Transition(msgspec.Struct, frozen=True):
    """One arrow of the diagram."""

    source: State
    event: Event
    target: State
    condition: Condition | None = None


class Author(msgspec.Struct, frozen=True):
    """Who causes an event."""

    name: str
    role: Role


class Change(msgspec.Struct, frozen=True):
    """An event for one revision of a plan. Meant for that one and no other, it can be sent twice and happens once."""

    event: Event
    revision: int
    step: int | None = None
    """Where ``Event.STEP`` leads, from 0."""
    proposal: Proposal | None = None
    """What ``Event.REPLACE`` puts in the plan's place."""


class Refused(msgspec.Struct, frozen=True):
    """Why there is no next revision, for people."""

    kind: Literal["stale", "state", "forbidden", "invalid", "not_warm"]
    """``stale``: read the plan again, it may be done already."""
    sentence: str


def _rows() -> tuple[Transition, ...]:
    draft, shadowing, stepping = State.DRAFT, State.SHADOWING, State.STEPPING
    paused, holding, promoted = State.PAUSED, State.HOLDING, State.PROMOTED
    running = {
        Event.PROMOTE: promoted,
        Event.ROLLBACK: State.ROLLED_BACK,
        Event.ABORT: State.ABORTED,
        Event.BREACH: State.ROLLED_BACK,
        Event.REPLACE: draft,
    }
    watched = {
        Event.STEP: stepping,
        Event.PAUSE: paused,
        Event.HOLD: holding,
        Event.INCONCLUSIVE: holding,
        Event.CANDIDATE_LOST: holding,
        **running,
    }
    by_state: dict[State, dict[Event, State]] = {
        draft: {Event.ABORT: State.ABORTED, Event.REPLACE: draft},
        shadowing: {Event.SHADOW_DONE: stepping, **watched},
        stepping: {Event.ADVANCE: stepping, **watched},
        # A step by hand while paused moves the weight and nothing more: who paused wants to keep the wheel.
        paused: {Event.STEP: paused, Event.CANDIDATE_LOST: holding, **running},
        holding: {Event.STEP: stepping, **running},
        promoted: {Event.ROLLBACK: State.ROLLED_BACK, Event.REPLACE: draft},
        State.ROLLED_BACK: {Event.REPLACE: draft},
        State.ABORTED: {Event.REPLACE: draft},
    }
    rows = [
        Transition(draft, Event.START, shadowing, Condition.SHADOWS_FIRST),
        Transition(draft, Event.START, stepping, Condition.STRAIGHT),
    ]
    for stopped in (paused, holding):
        rows += [
            Transition(stopped, Event.RESUME, shadowing, Condition.BEFORE_STEPS),
            Transition(stopped, Event.RESUME, stepping, Condition.AMID_STEPS),
        ]
    rows += [
        Transition(source, event, target)
        for source, targets in by_state.items()
        for event, target in targets.items()
    ]
    states, events = list(State), list(Event)
    rows.sort(key=lambda row: (states.index(row.source), events.index(row.event)))
    return tuple(rows)


TRANSITIONS: tuple[Transition, ...] = _rows()

_STARTED_ONCE = "it runs already; replace it with a new plan to begin again"
_NO_SHADOWING = "its candidate has live traffic, and copies are compared before that"
_OVER = "it is over; submit a new plan for the model in its place"
_DRAFT = "no weight has moved yet; start it first"
_NOT_STOPPED = "it runs; pause or hold it to stop it"

_REMEDIES: Mapping[State, Mapping[Event, str]] = {
    State.DRAFT: {
        Event.SHADOW_DONE: _DRAFT,
        Event.ADVANCE: _DRAFT,
        Event.STEP: _DRAFT,
        Event.PAUSE: "nothing runs yet; leave it, or abort it",
        Event.RESUME: "nothing was stopped; start it",
        Event.HOLD: "nothing runs yet; leave it, or abort it",
        Event.PROMOTE: "its candidate has shown nothing; start it first",
        Event.ROLLBACK: "the champion answers everybody; abort it to put it away",
        Event.BREACH: "its candidate answers nobody, so it can harm nobody; abort it to put it away",
        Event.INCONCLUSIVE: "nothing is being judged; start it first",
        Event.CANDIDATE_LOST: "nothing depends on its candidate yet; load that before the start",
    },
    State.SHADOWING: {
        Event.START: _STARTED_ONCE,
        Event.ADVANCE: "it is before its first step; wait for the copies, or step by hand",
        Event.RESUME: _NOT_STOPPED,
    },
    State.STEPPING: {
        Event.START: _STARTED_ONCE,
        Event.SHADOW_DONE: _NO_SHADOWING,
        Event.RESUME: _NOT_STOPPED,
    },
    State.PAUSED: {
        Event.START: "it was started before; resume it",
        Event.SHADOW_DONE: "somebody stopped it; resume it first",
        Event.ADVANCE: "somebody stopped it; resume it, or step by hand",
        Event.PAUSE: "it stands already; resume it, step by hand, roll back or promote",
        Event.HOLD: "it stands already; resume it, step by hand, roll back or promote",
        Event.INCONCLUSIVE: "its deadline does not run while it stands; resume it first",
    },
    State.HOLDING: {
        Event.START: "it was started before; resume it",
        Event.SHADOW_DONE: "it waits for a person's decision; resume it first",
        Event.ADVANCE: "it waits for a person's decision; resume it, or step by hand",
        Event.PAUSE: "it stands already; resume it, step by hand, roll back or promote",
        Event.HOLD: "it stands already; resume it, step by hand, roll back or promote",
        Event.INCONCLUSIVE: "it waits for a person's decision already; resume it, step, roll back or promote",
        Event.CANDIDATE_LOST: "it waits for a person's decision already; load the candidate and resume, or roll back",
    },
    State.PROMOTED: {
        Event.START: _OVER,
        Event.SHADOW_DONE: _OVER,
        Event.ADVANCE: "its candidate has all traffic; submit a new plan for the next version",
        Event.STEP: "its candidate has all traffic; roll back to return to the champion, or submit a new plan",
        Event.PAUSE: "nothing moves any more; submit a new plan, or roll back to return to the champion",
        Event.RESUME: _OVER,
        Event.HOLD: "nothing moves any more; roll back to return to the champion",
        Event.PROMOTE: "it was; submit a new plan for the next version",
        Event.ABORT: "it is over; roll back to return to the champion",
        Event.BREACH: "nobody compares any more; roll back by hand to return to the champion",
        Event.INCONCLUSIVE: "nothing is being judged any more; submit a new plan for the next version",
        Event.CANDIDATE_LOST: "the promoted version answers everybody; load it again, or roll back to the champion",
    },
    State.ROLLED_BACK: {
        **{event: _OVER for event in Event if event is not Event.REPLACE},
        Event.PROMOTE: "the champion has all traffic again; submit a new plan to try once more",
        Event.RESUME: "the champion has all traffic again; submit a new plan to try once more",
        Event.ROLLBACK: "it was; the champion has all traffic",
        Event.BREACH: "it was before; the champion has all traffic",
        Event.CANDIDATE_LOST: "nothing depends on its candidate any more; submit a new plan to try once more",
    },
    State.ABORTED: {
        **{event: _OVER for event in Event if event is not Event.REPLACE},
        Event.PROMOTE: "it was put away; submit a new plan to try once more",
        Event.RESUME: "it was put away; submit a new plan to try once more",
        Event.ROLLBACK: "the champion has all traffic already",
        Event.BREACH: "the champion has all traffic already",
        Event.ABORT: "it was; submit a new plan to try once more",
        Event.CANDIDATE_LOST: "nothing depends on its candidate any more; submit a new plan to try once more",
    },
}

_DOINGS: Mapping[Event, str] = {
    Event.START: "be started",
    Event.SHADOW_DONE: "end its shadowing",
    Event.ADVANCE: "advance",
    Event.STEP: "be moved to a step",
    Event.PAUSE: "be paused",
    Event.RESUME: "be resumed",
    Event.HOLD: "be held",
    Event.PROMOTE: "be promoted",
    Event.ROLLBACK: "be rolled back",
    Event.ABORT: "be aborted",
    Event.BREACH: "be rolled back for a breach",
    Event.INCONCLUSIVE: "end without an answer",
    Event.CANDIDATE_LOST: "lose its candidate",
    Event.REPLACE: "be replaced",
}

REFUSALS: Mapping[tuple[State, Event], str] = {
    (state, event): (
        f"a rollout that is {state.value.replace('_', ' ')} cannot {_DOINGS[event]}: {remedy}"
    )
    for state, remedies in _REMEDIES.items()
    for event, remedy in remedies.items()
}
"""Why an event leads nowhere from a state, and what to do instead."""

_BY_CONTROLLER_ONLY = frozenset(
    {Event.SHADOW_DONE, Event.ADVANCE, Event.BREACH, Event.INCONCLUSIVE, Event.CANDIDATE_LOST}
)
"""What follows from evidence and heartbeats; people step, hold and roll back instead."""
_BY_CONTROLLER = _BY_CONTROLLER_ONLY | {Event.PROMOTE, Event.HOLD}
_WITH_REASON = frozenset({Event.STEP, Event.PROMOTE, Event.HOLD, Event.ABORT, Event.REPLACE})
"""What people have to give a reason for. A rollback is none of it: it must not wait for words."""

_TARGETS: dict[tuple[State, Event], list[Transition]] = {}
for _row in TRANSITIONS:
    _TARGETS.setdefault((_row.source, _row.event), []).append(_row)


def target_of(plan: Plan, event: Event) -> State | None:
    """The state that ``event`` leads ``plan`` to; None where ``REFUSALS`` has the sentence."""
    for row in _TARGETS.get((plan.state, event), ()):
        if row.condition is None or _holds(row.condition, plan):
            return row.target
    return None


def _holds(condition: Condition, plan: Plan) -> bool:
    copies_first = plan.shadows_candidate or not plan.candidate
    match condition:
        case Condition.SHADOWS_FIRST:
            return copies_first
        case Condition.STRAIGHT:
            return not copies_first
        case Condition.BEFORE_STEPS:
            return plan.step == NO_STEP
        case Condition.AMID_STEPS:
            return plan.step != NO_STEP


def refusal_of(plan: Plan, change: Change, author: Author, reason: str) -> Refused | None:
    """Why this author cannot cause this event now; None when he can, as far as the table and his role go."""
    event = change.event
    if change.revision != plan.revision:
        return Refused(
            "stale",
            f"this {event.value} was meant for revision {change.revision} of the plan for model "
            f"{plan.model}, which is at revision {plan.revision} ({plan.state.value}): look at it again",
        )
    if target_of(plan, event) is None:
        return Refused("state", REFUSALS[plan.state, event])
    sentence = _against_author(author) or (
        _against_controller(plan, event)
        if author.role == "controller"
        else _against_person(event, author)
    )
    if sentence:
        return Refused("forbidden", sentence)
    if sentence := _against_reason(event, author, reason) or _against_aim(plan, change):
        return Refused("invalid", sentence)
    return None


def refusal_to_submit(author: Author, reason: str) -> Refused | None:
    """Why this author cannot submit a model's first plan."""
    if sentence := _against_author(author) or _against_person(Event.REPLACE, author):
        return Refused("forbidden", sentence)
    sentence = _against_reason(Event.REPLACE, author, reason)
    return Refused("invalid", sentence) if sentence else None


def _against_author(author: Author) -> str:
    if not 1 <= len(author.name) <= MAX_AUTHOR_CHARACTERS or not author.name.isprintable():
        return f"say who you are, in 1 to {MAX_AUTHOR_CHARACTERS} printable characters"
    return ""


def _against_controller(plan: Plan, event: Event) -> str:
    if event not in _BY_CONTROLLER:
        return (
            f"the controller does not {event.value} a rollout by itself: that is for a person to do"
        )
    if event is Event.PROMOTE and not (plan.state is State.STEPPING and plan.is_last_step):
        return "the controller promotes after the last step only: before it, an approver may promote by hand"
    return ""


def _against_person(event: Event, author: Author) -> str:
    if author.role not in {"operator", "approver"}:
        return f"{author.name} may look at rollouts and not change them: ask an operator or an approver"
    if event in _BY_CONTROLLER_ONLY:
        return (
            f"{event.value} is the controller's conclusion from what it counts: "
            "step, hold, promote or roll back instead"
        )
    if event is Event.PROMOTE and author.role != "approver":
        return f"{author.name} is an operator, and promoting by hand takes an approver: ask one"
    return ""


def _against_reason(event: Event, author: Author, reason: str) -> str:
    if author.role == "controller":
        return ""  # its words are cut to length; harm must not wait for them to be shortened
    if event in _WITH_REASON and not reason.strip():
        return f"say why: to {event.value} a rollout takes a reason, which is kept in its history"
    if len(reason) > MAX_REASON_CHARACTERS:
        return f"the reason has {len(reason)} characters: at most {MAX_REASON_CHARACTERS}"
    return ""


def _against_aim(plan: Plan, change: Change) -> str:
    """What the table does not see: where to, and with what."""
    event = change.event
    if event is not Event.REPLACE and change.proposal is not None:
        return f"a {event.value} takes no proposal: replace the plan with it, or leave it out"
    if event is not Event.STEP and change.step is not None:
        return f"a {event.value} takes no step: step by hand, or leave it out"
    if event is Event.STEP and not plan.steps:
        return f"the plan for model {plan.model} has no steps: submit one with a candidate"
    if event is Event.STEP and (change.step is None or not 0 <= change.step < len(plan.steps)):
        return f"say which step, from 0 to {len(plan.steps) - 1}"
    if event is Event.ADVANCE and plan.is_last_step:
        return "it is at its last step: what follows is the promotion"
    if event in {Event.PROMOTE, Event.SHADOW_DONE} and not plan.candidate:
        return "the plan has no candidate, it only shadows: submit one with a candidate"
    if event is Event.REPLACE and change.proposal is None:
        return "say with what to replace the plan: give a proposal"
    return ""


# ---- for people --------------------------------------------------------------------------------------------


def diagram() -> str:
    """The table as a mermaid state diagram: one arrow for each pair of states, with all its events."""
    labels: dict[tuple[State, State], list[str]] = {}
    for row in TRANSITIONS:
        label = row.event.value + (f" ({row.condition.value})" if row.condition else "")
        labels.setdefault((row.source, row.target), []).append(label)
    lines = ["stateDiagram-v2", f"    [*] --> {State.DRAFT.value} : {SUBMIT}"]
    lines += [
        f"    {source.value} --> {target.value} : {', '.join(events)}"
        for (source, target), events in labels.items()
    ]
    return "\n".join(lines)


def documentation() -> str:
    """The generated part of the page on states, in Markdown: the diagram, and every refusal with its sentence."""
    lines = ["```mermaid", diagram(), "```", "", "## What is refused, and what to do instead", ""]
    lines += ["| state | event | answer |", "|---|---|---|"]
    lines += [
        f"| {state.value} | {event.value} | {REFUSALS[state, event]} |"
        for state in State
        for event in Event
        if (state, event) in REFUSALS
    ]
    return "\n".join(lines)
