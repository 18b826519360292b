"""Which requests run together, and when. The heart of the gateway, without a heartbeat of its own.

Rules that hold after every call:

* An idle servable never waits for company, unless ``max_queue_delay_us`` says so: batches form from what queued
  while it was busy, as late as possible.
* Rows of different shapes never meet in a batch; each shape has its own bucket, the most urgent head goes first.
* Inside a bucket: priority level, then earliest deadline, then arrival.
* What cannot finish before its deadline is refused in ``offer``; what no longer can is returned by ``expire``.
* Nobody is let in who would make an admitted item of its level late, or who leaves a batch that fills up while it
  waits no time to run: under overload, batches that leave early and small would cost the servable its throughput.
* Limits are exact: the counts below are of live items only.
* Every item ends exactly once: completed, expired, or withdrawn. A running batch never depends on its members.

Time comes in as ``now`` (seconds, any monotonic origin). This module must never call a clock, a loop or a model.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator, Mapping
from itertools import chain
from math import inf
from typing import Generic

from gateway.core.batch import (
    Batch,
    BatchLimits,
    BatchReason,
    ItemState,
    ItemT,
    Key,
    QueueItem,
    QueueSnapshot,
    Refusal,
    RefusalReason,
)
from gateway.core.forecast import (
    finish_s,
    late_or_tight,
    next_batch,
    pushes_into_trouble,
    whole_members,
)
from gateway.core.service_time import ServiceTime

NOTHING_TAKEN: Mapping[int, int] = {}
WALK_REQUESTS = 128
"""Up to this many queued requests, what an overtaker does to those behind it is found by walking through the batches to
come, at half a microsecond for each; beyond, by one pass of arithmetic: overload asks often, with long queues.
"""
DOUBT_AFTER_RUNS = 10.0
"""After this many predicted runs without one, a lane doubts its prediction and tries a request that it would refuse.

Otherwise a model that was slow once would be refused work for ever, and never show that it has recovered.
"""


class BatchQueue(Generic[ItemT]):
    """The queue and batcher of one servable."""

    __slots__ = (
        "_arrivals",
        "_buckets",
        "_closed",
        "_deadlines",
        "_limits",
        "_ran_s",
        "_running",
        "_troubled",
        "queued_requests",
        "queued_rows",
        "service_time",
    )

    def __init__(self, limits: BatchLimits, service_time: ServiceTime) -> None:
        self._limits = limits
        self.service_time = service_time
        self._buckets: dict[Hashable, list[Key]] = {}
        self._deadlines: list[tuple[float, int, ItemT]] = []
        self._running: list[Batch[ItemT]] = []
        self._troubled: dict[int, set[tuple[QueueItem, bool]]] = {}
        self._arrivals = 0
        self._ran_s = inf
        self._closed = False
        self.queued_requests = 0
        self.queued_rows = 0

    # -- entering ---------------------------------------------------------------------------------

    def offer(self, item: ItemT, now: float) -> Refusal | None:
        """Take an item in, or say at once why not. None means it is queued."""
        limits = self._limits
        rows = item.rows
        if self._closed:
            return Refusal(RefusalReason.CLOSED, 0.0)
        if rows > limits.max_queue_rows:
            return Refusal(RefusalReason.TOO_LARGE, 0.0)
        if (
            self.queued_requests >= limits.max_queue_requests
            or self.queued_rows + rows > limits.max_queue_rows
        ):
            return Refusal(RefusalReason.QUEUE_FULL, self._finish_s(self._queued_load, now) - now)
        priority = item.priority
        if priority > limits.priority_levels:
            priority = item.priority = limits.priority_levels
        item.enqueued_s = now
        self._arrivals = arrival = self._arrivals + 1
        item.order = arrival
        deadline_s = item.deadline_s
        key: Key = (priority, deadline_s, arrival, item)
        bucket = self._buckets.get(item.bucket)
        if deadline_s != inf:
            refusal = self._judge(key, rows, bucket, now)
            if refusal is not None:
                return refusal
            insort(self._deadlines, (deadline_s, arrival, item))
        if bucket is None:
            self._buckets[item.bucket] = [key]
        elif bucket[-1] < key:
            bucket.append(key)
        else:
            insort(bucket, key)
        item.state = ItemState.QUEUED
        self._troubled.clear()
        self.queued_requests += 1
        self.queued_rows += rows
        return None

    def _judge(self, key: Key, rows: int, bucket: list[Key] | None, now: float) -> Refusal | None:
        """Admission by arithmetic: would this item, or one that it overtakes, miss its deadline (or nearly)?"""
        deadline_s = key[1]
        if deadline_s <= now:
            return Refusal(RefusalReason.DEADLINE_PASSED, 0.0)
        load = rows if self._limits.batched else 1
        finish_s = self._finish_s(self._queued_load + load, now)
        head = min(bucket[0], key) if bucket else key
        if finish_s > deadline_s:
            # Behind everything it would be late; but it may stand before some of what is queued.
            ahead = self._load_before(key, head, bucket)
            too_late = self._finish_s(ahead + load, now) > deadline_s
            if too_late and (self.queued_requests or not self._doubts(now)):
                return Refusal(RefusalReason.WOULD_MISS_DEADLINE, finish_s - deadline_s)
        overtakes = bucket is not None and bucket[-1] > key
        if len(self._buckets) > (bucket is not None) and not overtakes:
            overtakes = any(one[-1] > head for one in self._buckets.values() if one is not bucket)
        if overtakes and self._does_harm(key, load, now):
            return Refusal(RefusalReason.WOULD_MISS_DEADLINE, finish_s - now)
        return None

    def _doubts(self, now: float) -> bool:
        """Whether nothing has run for so long that what was learned may be of another time."""
        if self._running:
            return False
        if self._ran_s == inf:
            self._ran_s = now
        return now - self._ran_s > DOUBT_AFTER_RUNS * self.service_time.predict_s(1)

    @property
    def _queued_load(self) -> int:
        """What is queued, in the unit that fills batches: rows, or requests where each runs alone."""
        return self.queued_rows if self._limits.batched else self.queued_requests

    def _load_before(self, key: Key, head: Key, bucket: list[Key] | None) -> int:
        """What surely runs before an item with this key, in a bucket with this head."""
        ahead = 0
        for other in self._buckets.values():
            for before in other[: bisect_left(other, key if other is bucket else head)]:
                ahead += before[3].rows - before[3].taken_rows if self._limits.batched else 1
        return ahead

    def _does_harm(self, newcomer: Key, load: int, now: float) -> bool:
        """Whether the new item, or one of its level or above that was fine until now, would be late or tight."""
        if self.queued_requests > WALK_REQUESTS:
            return self._does_harm_nearly(newcomer, load, now)
        queues = {name: list(bucket) for name, bucket in self._buckets.items()}
        insort(queues.setdefault(newcomer[3].bucket, []), newcomer)
        level = newcomer[0]
        for trouble in self._late_or_tight(queues, now, level):
            if level not in self._troubled:
                # Remembered until the queue changes: overload refuses many in a row.
                as_it_is = {name: list(bucket) for name, bucket in self._buckets.items()}
                self._troubled[level] = set(self._late_or_tight(as_it_is, now, level))
            if trouble not in self._troubled[level]:
                return True
        return False

    def _does_harm_nearly(self, newcomer: Key, load: int, now: float) -> bool:
        """The same for long queues, in one pass of arithmetic that takes all batches for full."""
        buckets = self._buckets
        order = (
            next(iter(buckets.values())) if len(buckets) == 1 else sorted(chain(*buckets.values()))
        )
        first = bisect_left(order, newcomer)
        behind = order[first : bisect_left(order, (newcomer[0], inf, 0))]
        if not behind:
            return False
        ahead = first
        if self._limits.batched:
            ahead = sum([key[3].rows - key[3].taken_rows for key in order[:first]])
        return pushes_into_trouble(
            load, ahead, behind, now, self._limits, self.service_time, self._running
        )

    def _late_or_tight(
        self, queues: dict[Hashable, list[Key]], now: float, level: int
    ) -> Iterator[tuple[QueueItem, bool]]:
        return late_or_tight(queues, now, self._limits, self.service_time, self._running, level)

    def _finish_s(self, load: int, now: float) -> float:
        return finish_s(load, now, self._limits, self.service_time, self._running)

    # -- leaving ----------------------------------------------------------------------------------

    def take(self, now: float) -> Batch[ItemT] | None:
        """The next batch to run now, or None when nothing is due or every instance is busy."""
        if not self.queued_requests or len(self._running) >= self._limits.instances:
            return None
        bucket_key, bucket, reason = self._most_urgent(now)
        if bucket is None:
            return None
        batch: Batch[ItemT] = Batch(bucket_key, now)
        batch.reason = self._fill(batch, bucket, now) or reason
        if not bucket:
            del self._buckets[bucket_key]
        batch.expected_s = self.service_time.predict_s(batch.rows if self._limits.batched else 1)
        self._running.append(batch)
        self._troubled.clear()
        return batch

    def _most_urgent(self, now: float) -> tuple[Hashable, list[Key] | None, BatchReason]:
        """The bucket whose head goes first among those that are due."""
        buckets = self._buckets
        if self._limits.max_queue_delay_us == 0:
            if len(buckets) == 1:
                for only, bucket in buckets.items():
                    return only, bucket, BatchReason.IDLE
            best = min(buckets, key=lambda name: buckets[name][0])
            return best, buckets[best], BatchReason.IDLE
        due = [name for name, bucket in buckets.items() if self._release_s(bucket) <= now]
        if not due:
            return None, None, BatchReason.WAITED
        best = min(due, key=lambda name: buckets[name][0])
        return best, buckets[best], BatchReason.WAITED

    def _release_s(self, bucket: list[Key]) -> float:
        """When a bucket must stop waiting for company (only with ``max_queue_delay_us``)."""
        limits = self._limits
        oldest_s = earliest_s = inf
        rows = 0
        for key in bucket:
            item = key[3]
            rows += item.rows - item.taken_rows
            if rows >= limits.max_batch_rows:
                return 0.0
            oldest_s = min(oldest_s, item.enqueued_s)
            earliest_s = min(earliest_s, item.deadline_s)
        return min(
            oldest_s + limits.max_queue_delay_us * 1e-6,
            earliest_s - 2.0 * self.service_time.predict_s(rows),
        )

    def _fill(self, batch: Batch[ItemT], bucket: list[Key], now: float) -> BatchReason | None:
        """Move members from the bucket into the batch; says why it stopped early, None when the bucket is empty."""
        batch.parts, batch.rows, why = next_batch(
            bucket, now, self._limits, self.service_time, NOTHING_TAKEN
        )
        for item, _, end in batch.parts:
            item.taken_rows = end
            item.state = ItemState.RUNNING
        whole = whole_members(batch.parts)
        del bucket[:whole]
        self.queued_rows -= batch.rows
        self.queued_requests -= whole
        return why

    def finished(self, batch: Batch[ItemT], now: float) -> list[ItemT]:
        """Free the batch's instance, learn from it, and return the members that are now complete.

        Members that ended meanwhile (expired, withdrawn) are not returned: their rows are thrown away.
        """
        self._running.remove(batch)
        self._troubled.clear()
        self._ran_s = now
        self.service_time.observe(batch.rows if self._limits.batched else 1, now - batch.started_s)
        complete: list[ItemT] = []
        for item, first, end in batch.parts:
            if item.state == ItemState.ENDED:
                continue
            item.done_rows += end - first
            if item.done_rows == item.rows:
                self._end(item)
                complete.append(item)
        return complete

    def expire(self, now: float) -> list[ItemT]:
        """End and return what is late, and what could not finish any more even if it ran alone at once."""
        expired: list[ItemT] = []
        if not self._deadlines:
            return expired
        predict_s = self.service_time.predict_s
        room = self._limits.max_batch_rows if self._limits.batched else 1
        safe_s = now if self._doubts(now) else now + predict_s(room)
        for deadline_s, _, item in self._deadlines:
            if deadline_s >= safe_s and deadline_s > now:
                break
            # What runs already has until its deadline; what only waits is not worth starting.
            if deadline_s <= now or (
                item.state == ItemState.QUEUED
                and deadline_s < now + predict_s(min(item.rows, room))
            ):
                expired.append(item)
        for item in expired:
            self.withdraw(item)
        return expired

    def withdraw(self, item: ItemT) -> bool:
        """End an item early, wherever it is; False when it had ended already. Its batch runs on without it."""
        if item.state in (ItemState.ENDED, ItemState.NEW):
            return False
        self._troubled.clear()
        left_rows = item.rows - item.taken_rows
        if left_rows:
            bucket = self._buckets[item.bucket]
            key: Key = (item.priority, item.deadline_s, item.order, item)
            del bucket[bisect_left(bucket, key)]
            if not bucket:
                del self._buckets[item.bucket]
            self.queued_requests -= 1
            self.queued_rows -= left_rows
        self._end(item)
        return True

    def _end(self, item: ItemT) -> None:
        item.state = ItemState.ENDED
        if item.deadline_s != inf:
            deadlines = self._deadlines
            del deadlines[bisect_left(deadlines, (item.deadline_s, item.order, item))]

    # -- looking ----------------------------------------------------------------------------------

    def next_wakeup(self) -> float | None:
        """When to call ``expire`` and ``take`` again although nothing arrived or finished; None: never."""
        wakeup_s = self._deadlines[0][0] if self._deadlines else inf
        if self._limits.max_queue_delay_us and len(self._running) < self._limits.instances:
            for bucket in self._buckets.values():
                wakeup_s = min(wakeup_s, self._release_s(bucket))
        return None if wakeup_s == inf else wakeup_s

    def close(self) -> None:
        """Refuse everything from now on; what is inside still runs."""
        self._closed = True

    @property
    def idle(self) -> bool:
        """Nothing queued, nothing running."""
        return not self.queued_requests and not self._running

    @property
    def has_free_instance(self) -> bool:
        """Whether ``take`` could start something."""
        return len(self._running) < self._limits.instances

    def snapshot(self) -> QueueSnapshot:
        """The state, as values."""
        return QueueSnapshot(
            queued_requests=self.queued_requests,
            queued_rows=self.queued_rows,
            buckets=len(self._buckets),
            running_batches=len(self._running),
            closed=self._closed,
            per_batch_us=self.service_time.per_batch_s * 1e6,
            per_row_us=self.service_time.per_row_s * 1e6,
        )

    def __repr__(self) -> str:
        return (
            f"BatchQueue({self.queued_requests} requests, {self.queued_rows} rows, "
            f"{len(self._running)}/{self._limits.instances} running{', closed' if self._closed else ''})"
        )
