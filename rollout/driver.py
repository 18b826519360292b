"""The controller's loop: one process at a time reads plans, counters and heartbeats, and writes what they lead to.

Decides the order in which things are read and written, and what stops what. What should happen is
``rollout.controller``'s to say; whether this process may act is ``rollout.leadership``'s.

It may die, or be stopped for any time, at every line: a change is one write over the revision that was judged, with the
lease's fence; whether it is in the audit log is told by the plan's history, at every look, by whoever leads then
(``rollout.change_log``). It must never act on a lease that may be another's, move weights forward while changes cannot
be recorded, or let one model's trouble reach another model.

- The lease is looked at after every wait and kept from within; what takes longer than the lease loses it.
- Without the audit log no weight of a candidate grows by itself. A rollback is written all the same, shouted into the
  process's log, and recorded as soon as that can be done.
- A store that is away is tried again and again, at most ``MAX_AWAY_PAUSE_S`` apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from foundation.audit import AuditError
from rollout.change_log import AUTHOR, ChangeLog
from rollout.checking import document_faults_of
from rollout.controller import Decision, Heartbeat, apply, tick, warm_everywhere
from rollout.driver_status import (
    AUDIT_LOG,
    STORE,
    TOO_MANY,
    DriverSnapshot,
    DriverStatus,
    about_model,
)
from rollout.evidence_gathering import Witnessed, gather, heard, witness
from rollout.leadership import Leadership, LostLeaseError
from rollout.plan import UNDER_WAY, Event, Plan, encode
from rollout.ports import LEASE_MS, MAX_MODELS, Conflict, Rollouts, StoreAwayError, Stored
from rollout.settings import RolloutSettings
from rollout.transitions import Author, Refused

CONTROLLER = Author(AUTHOR, "controller")
FIRST_AWAY_PAUSE_S = 0.25
MAX_AWAY_PAUSE_S = 2.0
LOG_AGAIN_S = 5.0
"""After the audit log has failed: it may take its time to fail, and a rollback must not wait for that each time."""
LEAST_PAUSE_S = 0.01

_FORWARD = frozenset({Event.SHADOW_DONE, Event.ADVANCE, Event.PROMOTE})
"""What gives the candidate more traffic."""

AnswerT = TypeVar("AnswerT")


class Stop(Protocol):
    """An ``asyncio.Event``, set to end the driver."""

    def is_set(self) -> bool: ...


async def until_stop_or(stop: Any, seconds: float) -> None:
    """Wait until ``stop`` is set, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class Driver:
    """The controller of one process. ``owner``: different for every process; ``run`` is called once.

    ``wall_s`` gives the times of plans, ``monotonic_s`` those of the lease; ``rest`` waits for a stop or so many
    seconds; ``in_thread`` calls what waits for a disk.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        log: ChangeLog,
        settings: RolloutSettings,
        *,
        owner: str,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        rest: Callable[[Any, float], Awaitable[None]] = until_stop_or,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._rollouts = rollouts
        self._changes = log
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._rest = rest
        self._in_thread = in_thread
        self._lead = Leadership(
            rollouts, owner, wall_s=wall_s, monotonic_s=monotonic_s, lease_ms=lease_ms
        )
        self._status = DriverStatus(owner)
        self._tick_s = settings.tick_interval_ms / 1000
        self._next_tick_s = float("-inf")
        self._away_pause_s = FIRST_AWAY_PAUSE_S
        self._log_again_s = float("-inf")
        self._witnessed: dict[str, Witnessed] = {}

    def snapshot(self) -> DriverSnapshot:
        """What it does and what troubles it, for status and metrics."""
        return self._status.snapshot(self._lead.fence)

    async def run(self, stop: Stop) -> None:
        """Until ``stop`` is set; then the lease is let go. Who is cancelled instead leaves it to run out."""
        while not stop.is_set():
            await self._rest(stop, await self._turn())
        if self._lead.fence:
            with suppress(StoreAwayError):  # it runs out by itself
                await self._lead.drop()

    async def _turn(self) -> float:
        """Act if it is our turn; how many seconds nothing is to be done."""
        try:
            if await self._lead.seek():
                self._status.leads(self._lead.fence)
                if self._monotonic_s() >= self._next_tick_s:
                    self._next_tick_s = self._monotonic_s() + self._tick_s
                    await self._tick()
                pause_s = min(self._next_tick_s - self._monotonic_s(), self._lead.keep_in_s)
            else:
                self._status.stands_by()
                pause_s = min(self._tick_s, self._lead.keep_every_s)
        except StoreAwayError as error:
            self._status.trouble(STORE, error)
            pause_s = self._away_pause_s
            self._away_pause_s = min(2 * pause_s, MAX_AWAY_PAUSE_S)
        except LostLeaseError as error:
            self._status.lost(str(error))
            pause_s = self._lead.keep_every_s
        else:
            self._status.well(STORE)
            self._away_pause_s = FIRST_AWAY_PAUSE_S
        return max(pause_s, LEAST_PAUSE_S)

    async def _asked(self, question: Awaitable[AnswerT]) -> AnswerT:
        """The answer, if the lease is still ours then."""
        answer = await question
        await self._lead.hold()
        return answer

    # -- one look at everything -------------------------------------------------------------------

    async def _tick(self) -> None:
        models = await self._asked(self._rollouts.models())
        if len(models) > MAX_MODELS:
            self._status.trouble(
                TOO_MANY, ValueError(f"{len(models)} have plans: only {MAX_MODELS} are looked at")
            )
            models = models[:MAX_MODELS]
        else:
            self._status.well(TOO_MANY)
        for model in self._witnessed.keys() - set(models):
            del self._witnessed[model]
        for model in models:
            await self._look_at(model)
        self._status.ticked(self._wall_s(), set(models))

    async def _look_at(self, model: str) -> None:
        try:
            decision = await self._drive(model)
        except LostLeaseError:
            raise
        except StoreAwayError as error:
            self._status.trouble(about_model(model), error)
            await self._lead.hold(now=True)  # unless it is the store itself, the others go on
        except Exception as error:  # noqa: BLE001  a model's trouble is no other model's; the status tells it
            self._status.trouble(about_model(model), error)
        else:
            self._status.well(about_model(model))
            self._status.decided(model, decision)

    async def _drive(self, model: str) -> Decision:
        stored = await self._asked(self._rollouts.plan(model))
        if stored is None:
            return Decision("nothing", "there is no plan")
        await self._record(stored, None, {})  # what somebody wrote who died before he recorded it
        plan = stored.plan
        if plan.state not in UNDER_WAY or not plan.candidate:
            self._witnessed.pop(model, None)
            return tick(plan, None, (), self._wall_s())
        # Heartbeats first: who lives now has reported what it counted up to now, or will before it is gone.
        beats = await self._asked(self._rollouts.beats())
        reports = await self._asked(self._rollouts.reports(model, plan.began_revision))
        seen = witness(self._witnessed.get(model, Witnessed()), plan, reports, beats)
        self._witnessed[model] = seen
        now_s = self._wall_s()
        heartbeats = heard(beats, model, now_s)
        decision = tick(plan, gather(plan, reports, beats, seen), heartbeats, now_s)
        if decision.action == "fire":
            return await self._fire(stored, decision, heartbeats, now_s)
        return decision

    # -- one change -------------------------------------------------------------------------------

    async def _fire(
        self, stored: Stored, decision: Decision, heartbeats: Sequence[Heartbeat], now_s: float
    ) -> Decision:
        change, plan = decision.change, stored.plan
        assert change is not None, "a decision to fire says what"
        event = change.event
        if event in _FORWARD and (against := await self._against_forward(stored)):
            return Decision("hold", f"{event.value} is due, but {against}")
        warm = warm_everywhere(heartbeats, now_s)
        outcome = apply(plan, change, now_s, CONTROLLER, decision.reason, warm)
        if isinstance(outcome, Refused):
            return Decision("hold", f"{event.value} is due, but refused: {outcome.sentence}")
        await self._lead.hold()
        answer = await self._rollouts.write(outcome, plan.revision, self._lead.fence)
        if isinstance(answer, Conflict):
            if answer.newer_fence:
                raise self._lead.yield_to(answer.newer_fence)
            return Decision(
                "nothing", f"{event.value} was due, but somebody changed the plan first"
            )
        self._status.changed(outcome, event)
        await self._lead.hold()  # another leader finds it in the plan and records it
        await self._record(Stored(outcome, encode(outcome)), stored, _details(outcome))
        return decision

    async def _against_forward(self, stored: Stored) -> str:
        """Why no weight may go to the candidate now, whatever the evidence says; empty when it may."""
        if faults := document_faults_of(stored.plan):
            return "no controller can have written this plan: " + "; ".join(faults)
        is_waiting = self._monotonic_s() < self._log_again_s
        if is_waiting or not self._changes.is_recorded(stored):
            why = self._status.sentence_of(AUDIT_LOG) or "one of them is in no record yet"
            return f"changes cannot be recorded: {why}"
        try:
            await self._in_thread(self._changes.must_take_more)
        except AuditError as error:
            self._log_failed(error)
            return f"changes cannot be recorded: {error}"
        self._status.well(AUDIT_LOG)
        return ""

    async def _record(self, stored: Stored, before: Stored | None, details: dict[str, Any]) -> None:
        """Append what the audit log lacks of the plan's history; if that fails, the next look tries it again."""
        if self._changes.is_recorded(stored) or self._monotonic_s() < self._log_again_s:
            return
        try:
            await self._in_thread(self._changes.record, stored, before, details)
        except (AuditError, ValueError) as error:  # the latter: what no record can hold
            self._log_failed(error)
        else:
            self._log_again_s = float("-inf")
            self._status.well(AUDIT_LOG)
        await self._lead.hold()

    def _log_failed(self, error: Exception) -> None:
        self._log_again_s = self._monotonic_s() + LOG_AGAIN_S
        self._status.trouble(AUDIT_LOG, error)


def _details(plan: Plan) -> dict[str, Any]:
    return {
        "step": plan.step,
        "weights": {arm.version: arm.weight_percent for arm in plan.arms},
    }
