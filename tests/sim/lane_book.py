"""A second set of books for one lane, kept from what can be seen outside of it.

Decides whether every run was the batch that should have been formed: of the right members, in the right order, as full
as it may be, at the right time and place. It sees calls enter and end, and the rows that reach the model; it must never
look into the queue that it checks. Only what the lane has learned about durations is read from it, never doubted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf
from typing import TYPE_CHECKING, cast

from backends.errors import InvalidModelInput
from gateway.errors import ErrorCode
from gateway.pipeline.lane import INLINE_TURN_S, Lane
from gateway.telemetry.metrics import LaneMetrics
from tests.sim.plans import ModelPlan
from tests.sim.records import CallRecord, History
from tests.sim.virtual_loop import VirtualLoop
from tests.sim.virtual_worker import Part, VirtualWorker

if TYPE_CHECKING:
    from gateway.core.servables import ServableVersion

TINY_S = 1e-9
"""Differences of this size are rounding."""

Bucket = list[tuple[tuple[int, float, int], CallRecord]]


class LaneBook:
    """Who waits in one lane, who has run, and what is wrong with that."""

    def __init__(
        self,
        plan: ModelPlan,
        calls: dict[int, CallRecord],
        loop: VirtualLoop,
        worker: VirtualWorker,
        history: History,
        process: str,
    ) -> None:
        self.plan = plan
        self.name = f"{process}{plan.name}/{plan.version}"
        """Loads of one number share it, as they share their counters."""
        self.lane: Lane
        self.meters: LaneMetrics
        self.inside = 0
        """Calls that were taken in and have not ended."""
        self.held = 0
        """Calls inside whose rows were waited for: the hop that did holds the version as well."""
        self.retired = False
        self.gone = 0
        """How often its owner was told that it is gone."""
        self.worker = worker
        self.waiting_requests = 0
        self.waiting_rows = 0
        self.batches = 0
        self.batched_rows = 0
        self._calls = calls
        self._loop = loop
        self._history = history
        self._buckets: dict[int, Bucket] = {}
        self._tried_alone: list[Part] = []
        self._failed: list[CallRecord] = []

    @property
    def has_free_instance(self) -> bool:
        return self.worker.busy < self.plan.instances

    @property
    def is_idle(self) -> bool:
        return not self.waiting_requests and not self.worker.busy

    def _wrong(self, problem: str) -> None:
        self._history.complain(self._loop.now_s, f"{self.name}: {problem}")

    # -- calls ------------------------------------------------------------------------------------

    def enter(self, record: CallRecord) -> None:
        """The lane took the call in."""
        if self.retired and not record.waited_for_rows:
            self._wrong(f"call {record.number} was taken in by a version that had been replaced")
        record.reached_lane = True
        self.inside += 1
        record.priority = min(record.priority, self.plan.priority_levels)
        record.enqueued_s = self._loop.now_s
        record.enqueued_turn = self._loop.turn
        record.waiting = True
        insort(self._buckets.setdefault(record.width, []), (record.key, record))
        self.waiting_requests += 1
        self.waiting_rows += record.rows
        if self.waiting_requests > self.plan.max_queue_requests:
            self._wrong(f"{self.waiting_requests} requests in the queue")
        if self.waiting_rows > self.plan.max_queue_rows:
            self._wrong(f"{self.waiting_rows} rows in the queue")
        if record.deadline_s <= self._loop.now_s - TINY_S:
            self._wrong(f"call {record.number} was taken in after its deadline")

    def leave(self, record: CallRecord) -> None:
        """The call ended; what it still had waiting goes with it."""
        self.inside -= 1
        self.forget(record)

    def forget(self, record: CallRecord) -> None:
        """What the call still had waiting will not run."""
        if record.waiting:
            self.waiting_rows -= record.rows - record.taken_rows
            self._remove(record)

    def _remove(self, record: CallRecord) -> None:
        record.waiting = False
        bucket = self._buckets[record.width]
        del bucket[bisect_left(bucket, (record.key, record))]
        if not bucket:
            del self._buckets[record.width]
        self.waiting_requests -= 1

    # -- runs -------------------------------------------------------------------------------------

    def run_starts(self, parts: list[Part], width: int, *, inline: bool) -> None:
        """The model is about to run these rows."""
        self._history.note(
            self._loop.now_s, "run", self.name, "inline" if inline else "worker", parts
        )
        if self.gone:
            self._wrong(f"{parts} ran after the version was gone")
        if self._tried_alone:
            if parts != [self._tried_alone.pop(0)]:
                self._wrong(f"{parts} ran although a failed batch had to be tried one by one first")
            return
        running = self.worker.busy + inline
        if running > self.plan.instances:
            self._wrong(f"{running} batches run on {self.plan.instances} instances")
        self.batches += 1
        bucket = self._buckets.get(width, [])
        self._check_order(parts, bucket)
        self._check_place(parts, inline=inline)
        self._check_members(parts)
        self._check_full(parts, bucket)
        self._take(parts)

    def _check_order(self, parts: list[Part], bucket: Bucket) -> None:
        members = [number for number, _, _ in parts]
        first_in_line = [record.number for _, record in bucket[: len(parts)]]
        if members != first_in_line:
            self._wrong(f"{members} ran, but {first_in_line} are first in line")
        if not self.plan.max_queue_delay_us and bucket:
            heads = [other[0] for other in self._buckets.values()]
            most_urgent = min(heads, key=lambda head: head[0])[1]
            if bucket[0][1] is not most_urgent:
                self._wrong(f"{members} ran before {most_urgent.number} of another bucket")

    def _check_place(self, parts: list[Part], *, inline: bool) -> None:
        plan = self.plan
        expected_s = self.lane._run_cost.predict_s(self._rows(parts))
        belongs_inline = {
            "always": True,
            "never": False,
            "auto": expected_s <= plan.inline_limit_us * 1e-6,
        }[plan.inline]
        if inline != belongs_inline:
            self._wrong(f"a run of {expected_s} s was {'not ' * belongs_inline}inline")

    def _check_members(self, parts: list[Part]) -> None:
        plan, now_s = self.plan, self._loop.now_s
        for position, (number, first, end) in enumerate(parts):
            record = self._calls[number]
            if record.ended:
                self._wrong(f"call {number} ran after its end")
            if record.deadline_s <= now_s - TINY_S:
                self._wrong(f"call {number} was started after its deadline")
            if not plan.batched:
                if len(parts) > 1 or first or end != len(record.inputs[0]):
                    self._wrong(f"{parts} ran, but requests of this model are never mixed or cut")
                continue
            if first != record.taken_rows or end > record.rows:
                self._wrong(f"rows {first}-{end} of call {number} ran after {record.taken_rows}")
            if end < record.rows and record.rows <= plan.max_batch_size:
                self._wrong(f"call {number} was cut although it fits into a batch")
            if end < record.rows and position + 1 < len(parts):
                self._wrong(f"call {number} was cut before the batch was full")
        if self._rows(parts) > plan.limit_rows:
            self._wrong(f"{self._rows(parts)} rows in one batch")

    def _check_full(self, parts: list[Part], bucket: Bucket) -> None:
        """Nothing that could have come along was left behind."""
        if not self.plan.batched or len(bucket) <= len(parts):
            return
        rows, limit = self._rows(parts), self.plan.limit_rows
        candidate = bucket[len(parts)][1]
        wanted = candidate.rows - candidate.taken_rows
        if wanted > limit - rows:
            if candidate.rows <= limit or rows == limit:
                return
            wanted = limit - rows
        earliest_s = min(
            candidate.deadline_s, *(self._calls[number].deadline_s for number, _, _ in parts)
        )
        longer_s = self.lane.queue.service_time.predict_s(rows + wanted)
        if earliest_s == inf or self._loop.now_s + longer_s < earliest_s - TINY_S:
            self._wrong(f"call {candidate.number} was left behind by a batch of {rows} rows")

    def _take(self, parts: list[Part]) -> None:
        self.batched_rows += self._rows(parts)
        for number, first, end in parts:
            record = self._calls[number]
            rows = end - first if self.plan.batched else 1
            record.taken_rows += rows
            self.waiting_rows -= rows
            if record.taken_rows == record.rows and record.waiting:
                self._remove(record)

    def _rows(self, parts: list[Part]) -> int:
        if not self.plan.batched:
            return 1
        return sum(end - first for _, first, end in parts)

    def run_ends(self, parts: list[Part], failure: Exception | None) -> None:
        """The model has run them."""
        if len(parts) > 1:
            if failure is not None:
                self._history.note(self._loop.now_s, "failed", self.name, parts)
                self._tried_alone = list(parts)
            return
        number, first, _ = parts[0]
        record = self._calls[number]
        if isinstance(failure, InvalidModelInput):
            record.failures.add(ErrorCode.INVALID_ARGUMENT)
        elif failure is not None:
            record.failures.add(ErrorCode.INTERNAL)
        elif self.plan.ragged and first:
            record.failures.add(ErrorCode.INTERNAL)  # found out when all pieces are there
            return
        else:
            return
        self._failed.append(record)

    def take_failed(self) -> list[CallRecord]:
        """The calls that failed in the runs since this was asked last."""
        failed, self._failed = self._failed, []
        return failed

    def reported(self, failed: list[CallRecord]) -> None:
        """The lane is about to hear of these failures: what else they have in the queue goes."""
        for record in failed:
            self.forget(record)

    # -- moments ----------------------------------------------------------------------------------

    def check_turn(self) -> None:
        """At the end of a turn of the loop: counts agree, and nobody waits beside an idle instance."""
        queue = self.lane.queue
        handles = cast("ServableVersion", self.lane.servable).handles
        if handles != self.inside + self.held:
            self._wrong(
                f"it is still held by {handles}, {self.inside} calls are inside, {self.held} with rows"
            )
        if self.worker.closed and (self.worker.closed_while_busy or not self.gone):
            self._wrong("its worker was closed before it was gone")
        counted = (queue.queued_requests, queue.queued_rows)
        if counted != (self.waiting_requests, self.waiting_rows):
            self._wrong(f"queue counts {counted}, {self.waiting_requests} requests wait")
        if self._tried_alone:
            self._wrong(f"{self._tried_alone} of a failed batch were not tried alone")
        if self.waiting_requests and self.has_free_instance:
            for bucket in self._buckets.values():
                self._check_conserving(bucket)

    def _check_conserving(self, bucket: Bucket) -> None:
        """What entered in an earlier turn has been started, or waits for company within its time."""
        turn = self._loop.turn
        if self._loop.now_s - self._loop.turn_started_s > INLINE_TURN_S:
            return  # a lane that held the loop this long lets the others have a turn first
        waited = [record for _, record in bucket if record.enqueued_turn < turn]
        if not waited:
            return
        due_s = min(one.enqueued_s for one in waited) + self.plan.max_queue_delay_us * 1e-6
        rows = sum(one.rows - one.taken_rows for one in waited)
        if not self.plan.max_queue_delay_us or rows >= self.plan.limit_rows:
            self._wrong(f"{rows} rows wait beside an idle instance")
        elif due_s < self._loop.turn_started_s - self._loop.timer_resolution_s - TINY_S:
            self._wrong(f"call {waited[0].number} waited too long for company")
