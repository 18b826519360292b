"""What must hold of every plan that a controller writes, whatever happens to it; told by what is true in the world.

Decides nothing about rollouts. It looks at each document at the moment in which it is stored, knows from the world what
no controller can know for certain, and complains in a sentence. ``WrongStepError`` ends a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from foundation.audit_file import AuditError, Head
from foundation.audit_record import GENESIS, AuditRecord, parse_line, seal
from rollout.checking import document_faults_of
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, State, decode_plan, weights_ppm
from rollout.ports import Conflict, Written
from rollout.split import weight_ppm

if TYPE_CHECKING:
    from tests.sim.rollout_world import World

SEEN_LATE_S = 12.0
"""A silent gateway is doubted after ten seconds, and beats once a second."""
SEEN_LATEST_S = 63.0
"""Where clocks were set back: then only the store's own minute is certain."""
UNRECORDED_S = 8.0
"""From a look at the log to the write: a process may be stopped for six seconds in between."""
LEASELESS_S = 8.0
UNANSWERED_S = 25.0
"""Harm that was counted, with a store that is there and a controller that nobody disturbs."""
FORWARD = {Event.SHADOW_DONE.value, Event.ADVANCE.value, Event.PROMOTE.value}


class WrongStepError(AssertionError):
    """Something happened that must not."""


class MemoryAudit:
    """The audit log in memory; it may be full."""

    def __init__(self, wall_s: Callable[[], Any]) -> None:
        self._wall = wall_s
        self.records: list[AuditRecord] = []
        self.is_broken = False

    def append(self, **fields: Any) -> AuditRecord:
        self.probe()
        head = self.head()
        details = fields.pop("details", None) or {}
        line = seal(
            seq=head.seq + 1,
            at=self._wall(),
            prev=head.hash,
            details=details,
            **{"reason": "", "before_digest": "", "after_digest": "", **fields},
        )
        self.records.append(parse_line(line).record)
        return self.records[-1]

    def head(self) -> Head:
        if not self.records:
            return Head(0, GENESIS)
        return Head(self.records[-1].seq, self.records[-1].hash)

    def tail(self, count: int) -> list[AuditRecord]:
        return self.records[-count:]

    def probe(self) -> None:
        if self.is_broken:
            raise AuditError("the log in memory is full: make room")


class BookedStore(MemoryRollouts):
    """The store, every written document of which is looked at."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(lambda: world.now_s)
        self.book = Book(world)

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        raise NotImplementedError("say who writes")

    async def write_by(
        self, writer: str, plan: Plan, expected_revision: int, fence: int
    ) -> Written | Conflict:
        outcome = await super().write(plan, expected_revision, fence)
        found = self._documents.get(plan.model)
        if found is not None and found != self.book.documents.get(plan.model):
            self.book.written(writer, found, fence)
        return outcome

    @property
    def lease_owner(self) -> str:
        held = self._held()
        return held.owner if held else ""

    def documents(self) -> dict[str, bytes]:
        return self._documents


class Book:
    """All that was written."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.documents: dict[str, bytes] = {}
        self._fences: Counter[str] = Counter()
        self.problem = ""
        self.ours: list[tuple[str, str, int]] = []
        """What controllers have changed: model, event, revision."""
        self.events: Counter[str] = Counter()
        self._harm_since_s: dict[str, float] = {}

    def fail(self, words: str) -> None:
        """The first complaint counts. It is raised by the world: a controller may catch what is raised within it."""
        self.problem = self.problem or f"at {self._world.now_s:.3f} s: {words}"

    def must_be_well(self) -> None:
        if self.problem:
            raise WrongStepError(self.problem)

    def written(self, writer: str, document: bytes, fence: int) -> None:
        plan = decode_plan(document)
        model, before = plan.model, self._before(plan.model)
        self.documents[model] = document
        self.events[plan.history[-1].event] += 1
        wanted = {one: ppm for one, ppm in weights_ppm(plan, plan.state, plan.step).items() if ppm}
        weights = {arm.version: weight_ppm(arm.intervals) for arm in plan.arms if arm.intervals}
        if weights != wanted:
            self.fail(f"{writer} gave the weights {weights} where the plan says {wanted}")
        if faults := document_faults_of(plan):
            self.fail(f"{writer} wrote a plan with faults: {faults}")
        if plan.revision != (before.revision if before else 0) + 1:
            self.fail(f"{writer} skipped a revision: {plan.revision} after {before}")
        if not writer.startswith("driver"):
            return
        if fence < max(self._fences[model], 1):
            self.fail(f"{writer} wrote with fence {fence} after fence {self._fences[model]}")
        self._fences[model] = fence
        self.ours.append((model, plan.history[-1].event, plan.revision))
        leaseless_s = self._world.leaseless_s(writer)
        if leaseless_s > LEASELESS_S:
            self.fail(f"{writer} wrote {leaseless_s:.1f} s after it had lost the lease")
        if plan.history[-1].event in FORWARD:
            assert before is not None
            self._went_forward(before, plan)

    def _before(self, model: str) -> Plan | None:
        found = self.documents.get(model)
        return decode_plan(found) if found else None

    def _went_forward(self, before: Plan, plan: Plan) -> None:
        world, event = self._world, plan.history[-1].event
        late_s = SEEN_LATEST_S if world.was_set_back else SEEN_LATE_S
        if world.now_s - world.log_broken_since_s > UNRECORDED_S:
            self.fail(f"{event} while changes could not be recorded")
        needed = {arm.version for arm in plan.arms if arm.intervals}
        for worker in world.workers:
            if worker.lost_at_s is not None:
                acted = worker.lost_revisions.get(plan.model, 0)
                if acted >= before.evidence_since and world.now_s - worker.lost_at_s > late_s:
                    self.fail(
                        f"{event} on incomplete evidence: {worker.name} died and was not final"
                    )
            elif worker.is_alive and not worker.is_forgotten:
                cold_s = worker.cold_for_s(plan.model, needed)
                if cold_s > late_s:
                    self.fail(f"{event} while {worker.name} has not been warm for {cold_s:.0f} s")
                stale_s = worker.stale_for_s(before)
                if stale_s > late_s:
                    self.fail(
                        f"{event} while {worker.name} acts on an old plan for {stale_s:.0f} s"
                    )

    def look_for_harm(self, disturbed_at_s: float) -> None:
        """Once a second: harm that was reported must be answered, also without a log."""
        world = self._world
        for model in self.documents:
            plan = self._before(model)
            assert plan is not None
            watched = plan.state in {State.SHADOWING, State.STEPPING, State.PAUSED, State.HOLDING}
            if not (watched and world.reported_errors(plan) >= 60):
                self._harm_since_s.pop(model, None)
                continue
            since_s = self._harm_since_s.setdefault(model, world.now_s)
            if world.now_s - max(since_s, disturbed_at_s) > UNANSWERED_S:
                self.fail(f"the candidate of {model} does harm and nobody answers")

    def look_at_the_log(self, records: list[AuditRecord]) -> None:
        """At the end of a day: each of the controllers' changes once, in the order of its model."""
        for model in self.documents:
            wanted = [(event, revision) for name, event, revision in self.ours if name == model]
            found = [
                (one.action.removeprefix("rollout."), one.details["revision"])
                for one in records
                if one.target == model
            ]
            for one in wanted:
                if one not in found:
                    self.fail(f"{one} of {model} is not in the audit log")
            if len(set(found)) < len(found):
                self.fail(f"changes of {model} are in the audit log twice: {found}")
            if found != wanted:
                self.fail(f"the audit log has {found} of {model}, and {wanted} was written")
        self.must_be_well()
