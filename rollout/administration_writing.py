"""Changes that were decided: written to the store, recorded in the audit log.

Decides what is called written when the store gives no answer, and what happens between the write and the record. A
change is written over the very revision that it was checked against, and never again by itself. It must never write
while the log's end is not as it was left, and never let a caller who goes away come between write and record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from foundation.audit import AuditError, AuditLog, digest
from rollout.administration_denials import DeniedError
from rollout.plan import Plan
from rollout.ports import Conflict, CorruptPlanError, Rollouts, StoreAwayError, Stored
from rollout.transitions import Author

logger = logging.getLogger("headrace.rollouts")

SETTLE_TIMEOUT_S = 15.0
"""How long ``settle`` waits for changes that are being written and recorded."""

_ResultT = TypeVar("_ResultT")


class Planned(msgspec.Struct, frozen=True):
    """The next revision, not written yet."""

    event: str
    plan: Plan
    document: bytes


class ChangeWriter:
    """Makes what was decided happen."""

    def __init__(self, rollouts: Rollouts, audit: AuditLog) -> None:
        self._rollouts = rollouts
        self._audit = audit
        # One at a time: records would wait for each other anyway, and each would hold a thread meanwhile.
        self._recording = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    async def make(self, before: Stored | None, planned: Sequence[Planned], author: Author) -> None:
        """Write and record, each over the one before it, also when the caller goes away amid it.

        Raises ``DeniedError``, and ``CorruptPlanError`` when the store holds something else than a plan by now.
        """
        task = asyncio.ensure_future(self._write_all(before, planned, author))
        self._under_way.add(task)
        task.add_done_callback(self._end)
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait until every change that was begun is written and recorded, or for ``SETTLE_TIMEOUT_S``."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=SETTLE_TIMEOUT_S)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, what matters was logged

    async def _write_all(
        self, before: Stored | None, planned: Sequence[Planned], author: Author
    ) -> None:
        try:
            await self._in_log(self._audit.head)
        except AuditError as error:
            logger.error("the audit log cannot be used, so no rollout is changed: %s", error)
            raise DeniedError(
                "log_unusable",
                f"nothing was changed, because it could not be recorded: {error}",
                current=before,
            ) from None
        for index, one in enumerate(planned):
            try:
                await self._write(before, one, author)
            except DeniedError as denied:
                if index:
                    denied.sentence = (
                        f"revision {planned[index - 1].plan.revision} is written, and what was to follow "
                        f"({one.event}) is not: {denied.sentence}"
                    )
                raise
            before = Stored(one.plan, one.document)

    async def _write(self, before: Stored | None, one: Planned, author: Author) -> None:
        expected = before.plan.revision if before else 0
        try:
            outcome = await self._rollouts.write(one.plan, expected, fence=0)
        except StoreAwayError as error:
            if not await self._is_written(one):
                await self._record(before, one, author, outcome="unknown")
                raise DeniedError(
                    "outcome_unknown",
                    f"nobody knows whether the change was made: {error}; look at the plan before you try again",
                ) from None
        else:
            if isinstance(outcome, Conflict):
                raise _was_first(one.plan.model, outcome.stored)
        await self._record(before, one, author)

    async def _is_written(self, one: Planned) -> bool:
        """After a write without an answer: whether the store has it. ``DeniedError`` if it never will; else False."""
        try:
            found = await self._rollouts.plan(one.plan.model)
        except (StoreAwayError, CorruptPlanError):
            return False
        if found is None or found.plan.revision < one.plan.revision:
            return False  # it may still be on its way
        # Whatever came after it keeps it in its history; and over anything else it can never be written any more.
        if one.plan.history[-1] in found.plan.history:
            return True
        raise _was_first(one.plan.model, found)

    async def _record(
        self, before: Stored | None, one: Planned, author: Author, *, outcome: str = ""
    ) -> None:
        plan = one.plan
        entry = plan.history[-1]
        details: dict[str, Any] = {
            "revision": plan.revision,
            "at_s": entry.at_s,
            "from": entry.source,
            "to": entry.target,
            "step": plan.step,
            "weights": {arm.version: arm.weight_percent for arm in plan.arms},
        }
        if outcome:
            details["outcome"] = outcome
        try:
            await self._in_log(
                lambda: self._audit.append(
                    author=author.name,
                    role=author.role,
                    action=f"rollout.{one.event}",
                    target=plan.model,
                    reason=plan.reason,
                    before_digest=digest(before.document) if before else "",
                    after_digest=digest(one.document),
                    details=details,
                )
            )
        except (AuditError, ValueError) as error:
            logger.error(
                "a change of a rollout is not in the audit log: model %s, revision %d, %s by %s: %s",
                plan.model, plan.revision, one.event, author.name, error,
            )  # fmt: skip
            if outcome:
                return  # the caller hears that nobody knows, which is worse
            raise DeniedError(
                "not_recorded",
                f"revision {plan.revision} of model {plan.model} IS in force, and could not be recorded in the "
                f"audit log: {error}; tell whoever keeps the log, and do not send the change again",
                current=Stored(plan, one.document),
            ) from None

    async def _in_log(self, call: Callable[[], _ResultT]) -> _ResultT:
        """On a thread: it waits for a lock and for the disk, and says itself for how long at most."""
        async with self._recording:
            return await asyncio.to_thread(call)


def _was_first(model: str, found: Stored | None) -> DeniedError:
    if found is None:
        return DeniedError("stale", f"the plan of model {model} is gone: look, and decide again")
    return DeniedError(
        "stale",
        f"{found.plan.author} changed the plan of model {model} just now, to revision "
        f"{found.plan.revision}: look at it, and decide again",
        current=found,
    )
