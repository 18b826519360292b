"""What people do to rollouts: look at them, submit plans, and cause the events that people may cause.

Decides in which order a change is checked, written and recorded, and how each refusal is named for whoever words it on
a wire. Whether a change makes sense is for ``rollout.checking`` and ``rollout.transitions``, what it does to a plan for
``rollout.controller``; how it is written and recorded, for ``rollout.administration_writing``; who may come here at
all, for whoever calls. When somebody else was first, the caller hears what is there now: it must never decide again
in the caller's place.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from foundation.audit import AuditLog
from rollout.administration_denials import DeniedError
from rollout.administration_status import (
    Status,
    Summary,
    status_of,
    summary_of,
    summary_of_unreadable,
)
from rollout.administration_writing import ChangeWriter, Planned
from rollout.change_log import AUTHOR as CONTROLLER
from rollout.checking import Facts, document_faults_of, faults_of
from rollout.controller import apply, submit, warm_everywhere
from rollout.evidence_gathering import heard
from rollout.plan import (
    MAX_DOCUMENT_BYTES,
    SUBMIT,
    Event,
    HistoryEntry,
    Plan,
    PlanError,
    Proposal,
    decode_proposal,
    encode,
)
from rollout.ports import (
    CorruptPlanError,
    Rollouts,
    Stored,
)
from rollout.transitions import Author, Change, Refused, refusal_of

WARM_TIMEOUT_S = 30.0
"""How long a start waits until every gateway has loaded what the plan names."""
WARM_AGAIN_S = 0.1
PLANS_AT_ONCE = 32
"""That are read for the list of all."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


class Changed(msgspec.Struct, frozen=True):
    """A change that was made, or would be."""

    plan: Plan
    document: bytes
    """The plan's, as it is stored."""
    is_new: bool
    """The model had no plan before."""
    is_written: bool
    """False for a dry run."""


class Administration:
    """Everything that people can ask for. Raises ``StoreAwayError`` and ``CorruptPlanError`` besides ``DeniedError``.

    ``facts(model)``: which versions exist, asked only for a proposal that could be submitted otherwise; what it raises
    goes to the caller. ``wall_clock``: seconds since 1970. Whoever ends the process waits for ``settle`` before.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        audit: AuditLog,
        facts: Callable[[str], Awaitable[Facts]],
        wall_clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rollouts = rollouts
        self._writer = ChangeWriter(rollouts, audit)
        self._facts = facts
        self._wall_clock = wall_clock
        self._sleep = sleep

    # -- looking ----------------------------------------------------------------------------------

    async def list(self) -> list[Summary]:
        """A line for each model that has a plan, by name."""
        models = await self._rollouts.models()
        lines: list[Summary | None] = []
        for start in range(0, len(models), PLANS_AT_ONCE):
            some = models[start : start + PLANS_AT_ONCE]
            lines += await asyncio.gather(*(self._summary(model) for model in some))
        return [line for line in lines if line is not None]

    async def plan(self, model: str) -> Stored:
        """The plan as it is stored."""
        stored = await self._stored(model)
        if stored is None:
            raise _no_plan(model)
        return stored

    async def status(self, model: str) -> Status:
        """The plan, what its counters say, and what the controller makes of them."""
        stored = await self.plan(model)
        reports = await self._rollouts.reports(model, stored.plan.began_revision)
        beats = await self._rollouts.beats()
        return status_of(stored, reports, beats, self._wall_clock())

    async def history(self, model: str) -> tuple[HistoryEntry, ...]:
        """The last changes, the newest last."""
        return (await self.plan(model)).plan.history

    # -- changing ---------------------------------------------------------------------------------

    async def propose(
        self,
        model: str,
        proposal_document: bytes,
        *,
        author: Author,
        reason: str,
        expected_revision: int | None = None,
        must_be_new: bool = False,
        start: bool = False,
        dry_run: bool = False,
    ) -> Changed:
        """Submit a plan, the model's first or one in the place of ``expected_revision``; ``start`` it at once.

        The start is checked before anything is written, and is a revision of its own. Gateways load what a draft names:
        where they have not loaded it yet, the draft is written and the start waits for them, up to
        ``WARM_TIMEOUT_S``; after that the draft stays, and the refusal says so. A dry run checks all the same but for
        what is loaded, and writes and records nothing.
        """
        _must_be_a_person(author)
        proposal = _proposal(model, proposal_document)
        stored = await self._stored(model)
        _must_be_the_one(model, stored, expected_revision, must_be_new)
        if stored is not None and expected_revision is None:
            raise DeniedError(
                "unconditional",
                f"model {model} has a plan already, of revision {stored.plan.revision}: say which one you replace, "
                f'with If-Match: "{stored.plan.revision}" after a look at it',
                current=stored,
            )
        now_s = self._wall_clock()
        draft = await self._drafted(proposal, stored, now_s, author, reason)
        planned = [_planned(SUBMIT if stored is None else Event.REPLACE.value, draft)]
        if start:
            change = Change(event=Event.START, revision=draft.revision)
            started = await self._applied(draft, change, now_s, author, reason)
            if isinstance(started, Refused) and started.kind == "not_warm":
                if not dry_run:
                    return await self._started_once_warm(stored, planned[0], author, reason)
                started = apply(draft, change, now_s, author, reason, _versions_of(draft))
            if isinstance(started, Refused):
                raise _denied(started, stored)
            planned.append(_planned(Event.START.value, started))
        if dry_run:
            return _changed(planned, stored, is_written=False)
        await self._writer.make(stored, planned, author)
        return _changed(planned, stored, is_written=True)

    async def _started_once_warm(
        self, before: Stored | None, drafted: Planned, author: Author, reason: str
    ) -> Changed:
        await self._writer.make(before, [drafted], author)
        draft = Stored(drafted.plan, drafted.document)
        change = Change(event=Event.START, revision=draft.plan.revision)
        waited_s = 0.0
        give_up_s = asyncio.get_running_loop().time() + WARM_TIMEOUT_S  # the store may be slow, too
        while True:
            now_s = self._wall_clock()
            started = await self._applied(draft.plan, change, now_s, author, reason, draft)
            if not isinstance(started, Refused):
                break
            is_late = waited_s >= WARM_TIMEOUT_S or asyncio.get_running_loop().time() > give_up_s
            if started.kind != "not_warm" or is_late:
                sentence = (
                    f"the plan is submitted, as a draft of revision {draft.plan.revision}, and not started: "
                    f"{started.sentence}; start it when that is so, or abort it"
                )
                raise _denied(Refused(started.kind, sentence), draft)
            await self._sleep(WARM_AGAIN_S)
            waited_s += WARM_AGAIN_S
        planned = _planned(Event.START.value, started)
        await self._writer.make(draft, [planned], author)
        return _changed([planned], before, is_written=True)

    async def change(
        self,
        model: str,
        event: Event,
        *,
        step: int | None = None,
        author: Author,
        reason: str,
        expected_revision: int | None = None,
    ) -> Changed:
        """Let an event happen to the plan. ``step`` counts from 1, as people do."""
        _must_be_a_person(author)
        stored = await self.plan(model)
        _must_be_the_one(model, stored, expected_revision, must_be_new=False)
        steps = len(stored.plan.steps)
        is_a_step = step is None or 1 <= step <= steps
        if event is Event.STEP and (step is None or not is_a_step):
            # Who may not step, or not from this state, hears that first.
            some = Change(event=event, revision=stored.plan.revision, step=0)
            if refused := refusal_of(stored.plan, some, author, reason):
                raise _denied(refused, stored)
            raise DeniedError("invalid", f"say which step, from 1 to {steps}", current=stored)
        change = Change(
            event=event, revision=stored.plan.revision, step=None if step is None else step - 1
        )
        after = await self._applied(stored.plan, change, self._wall_clock(), author, reason, stored)
        if isinstance(after, Refused):
            raise _denied(after, stored)
        planned = [_planned(event.value, after)]
        await self._writer.make(stored, planned, author)
        return _changed(planned, stored, is_written=True)

    async def settle(self) -> None:
        """Before the process ends: wait, not for long, until what was begun is written and recorded."""
        await self._writer.settle()

    # -- what a change is checked against ---------------------------------------------------------

    async def _stored(self, model: str) -> Stored | None:
        """No store is asked for what cannot be a model's name."""
        return await self._rollouts.plan(model) if _NAME.fullmatch(model) else None

    async def _summary(self, model: str) -> Summary | None:
        try:
            stored = await self._rollouts.plan(model)
        except CorruptPlanError as error:
            return summary_of_unreadable(error)
        return summary_of(stored.plan) if stored else None

    async def _drafted(
        self, proposal: Proposal, stored: Stored | None, now_s: float, author: Author, reason: str
    ) -> Plan:
        """The draft; or all that is wrong with the proposal, at once."""
        if stored is None:
            outcome = submit(proposal, now_s, author, reason)
        else:
            change = Change(event=Event.REPLACE, revision=stored.plan.revision, proposal=proposal)
            outcome = apply(stored.plan, change, now_s, author, reason, frozenset())
        if isinstance(outcome, Refused) and outcome.kind != "invalid":
            raise _denied(outcome, stored)
        faults = outcome.sentence.split("\n") if isinstance(outcome, Refused) else []
        faults += faults_of(proposal, await self._facts(proposal.model))
        faults = list(dict.fromkeys(faults))
        if faults or isinstance(outcome, Refused):
            raise DeniedError("faulty", _how_many(faults), faults=faults)
        return outcome

    async def _applied(
        self,
        plan: Plan,
        change: Change,
        now_s: float,
        author: Author,
        reason: str,
        stored: Stored | None = None,
    ) -> Plan | Refused:
        if refused := refusal_of(plan, change, author, reason):
            return refused
        heartbeats = heard(await self._rollouts.beats(), plan.model, now_s)
        try:
            return apply(plan, change, now_s, author, reason, warm_everywhere(heartbeats, now_s))
        except (ValueError, IndexError) as error:
            # It can be read, but no controller wrote it: its weights or steps make no sense.
            if stored is None:
                raise
            why = "; ".join(document_faults_of(plan)) or str(error)
            found = hashlib.sha256(stored.document).hexdigest()
            raise CorruptPlanError(plan.model, why, found) from None


def _proposal(model: str, document: bytes) -> Proposal:
    """What somebody wrote; it need not repeat the model, and cannot name another."""
    if not _NAME.fullmatch(model):
        raise DeniedError(
            "invalid", f"model {model[:128]!r} is no model's name: letters, digits, _, . and -"
        )
    try:
        if len(document) > MAX_DOCUMENT_BYTES:
            decode_proposal(document)  # which has the sentence
        fields = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        fields.setdefault("model", msgspec.Raw(msgspec.json.encode(model)))
        proposal = decode_proposal(msgspec.json.encode(fields))
    except PlanError as error:
        raise DeniedError("invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DeniedError("invalid", f"this is no plan: {error}") from None
    if proposal.model != model:
        raise DeniedError(
            "invalid",
            f"the plan is for model {proposal.model[:128]!r}, and the path for {model}: leave model out of the plan",
        )
    return proposal


def _must_be_a_person(author: Author) -> None:
    """The controller's changes are told from people's by the name alone, wherever they are listed."""
    if CONTROLLER in (author.name, author.role):
        raise DeniedError(
            "forbidden", f"the name '{CONTROLLER}' is the controller's own: take one of yours"
        )


def _must_be_the_one(
    model: str, stored: Stored | None, expected_revision: int | None, must_be_new: bool
) -> None:
    if must_be_new and stored is not None:
        raise DeniedError(
            "stale", f"model {model} has a plan already: look at it first", current=stored
        )
    if expected_revision is None:
        return
    if stored is None:
        raise DeniedError(
            "stale",
            f"model {model} has no plan, so no revision {expected_revision}: submit its first",
        )
    if stored.plan.revision != expected_revision:
        raise DeniedError(
            "stale",
            f"the plan of model {model} is not at revision {expected_revision} but at "
            f"{stored.plan.revision}: look at what {stored.plan.author} changed, and decide again",
            current=stored,
        )


def _no_plan(model: str) -> DeniedError:
    return DeniedError(
        "unknown_model", f"model {model[:128]!r} has no rollout: submit a plan for it first"
    )


def _denied(refused: Refused, stored: Stored | None) -> DeniedError:
    return DeniedError(refused.kind, refused.sentence, current=stored)


def _how_many(faults: Sequence[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    return f"{len(faults)} things are wrong with the plan: {faults[0]}; …"


def _planned(event: str, plan: Plan) -> Planned:
    try:
        return Planned(event, plan, encode(plan))
    except PlanError as error:
        raise DeniedError("invalid", str(error)) from None


def _versions_of(plan: Plan) -> frozenset[str]:
    return frozenset(arm.version for arm in plan.arms)


def _changed(planned: Sequence[Planned], before: Stored | None, *, is_written: bool) -> Changed:
    last = planned[-1]
    return Changed(last.plan, last.document, is_new=before is None, is_written=is_written)
