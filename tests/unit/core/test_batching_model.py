"""Any sequence of offers, batches, deadlines and withdrawals: the queue agrees with a simple one."""

from __future__ import annotations

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.batch import Batch, BatchLimits, ItemState, QueueItem
from gateway.core.batching import BatchQueue
from tests.unit.core.items import KnownTime, Queue, item, reason
from tests.unit.core.plain_queue import PlainQueue

limits = st.builds(
    BatchLimits,
    max_batch_rows=st.sampled_from([1, 3, 4]),
    batched=st.sampled_from([True, True, True, False]),
    max_queue_requests=st.sampled_from([3, 8]),
    max_queue_rows=st.sampled_from([9, 20]),
    instances=st.sampled_from([1, 2]),
    priority_levels=st.just(2),
)


class QueueAgainstPlainQueue(RuleBasedStateMachine):
    queue: Queue
    plain: PlainQueue

    @initialize(limits=limits)
    def open(self, limits: BatchLimits) -> None:
        self.queue = BatchQueue(limits, KnownTime(0.0, 0.0))
        self.plain = PlainQueue(limits)
        self.now = 0.0
        self.seen: list[QueueItem] = []
        self.batches: list[Batch[QueueItem]] = []
        self.endings: dict[QueueItem, int] = {}

    @rule(
        rows=st.integers(1, 10),
        patience_s=st.sampled_from([0.0, 1.0, 2.0, 5.0, inf]),
        priority=st.integers(1, 3),
        bucket=st.sampled_from(["a", "b"]),
    )
    def offer(self, rows: int, patience_s: float, priority: int, bucket: str) -> None:
        one = item(rows, self.now + patience_s, priority, bucket)
        self.seen.append(one)
        refusal = self.queue.offer(one, self.now)
        assert reason(refusal) is self.plain.offer(one, self.now)
        assert (refusal is None) == (one.state is ItemState.QUEUED)

    @rule()
    def take(self) -> None:
        batch = self.queue.take(self.now)
        parts = self.plain.take()
        assert (None if batch is None else batch.parts) == parts
        if batch is not None:
            assert batch.rows == sum(end - first for _, first, end in batch.parts)
            assert {one.bucket for one, _, _ in batch.parts} == {batch.bucket}
            self.batches.append(batch)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.batches) - 1))
        complete = self.queue.finished(self.batches.pop(which), self.now)
        assert complete == self.plain.finish(which)
        self.ended(complete)

    @rule(after_s=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def expire(self, after_s: float) -> None:
        self.now += after_s
        expired = self.queue.expire(self.now)
        assert expired == self.plain.expire(self.now)
        self.ended(expired)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.seen))
        withdrawn = self.queue.withdraw(one)
        assert withdrawn is self.plain.withdraw(one)
        self.ended([one] * withdrawn)

    @precondition(lambda self: len(self.seen) > 10)
    @rule()
    def close(self) -> None:
        self.queue.close()
        self.plain.closed = True

    def ended(self, items: list[QueueItem]) -> None:
        for one in items:
            assert one.state is ItemState.ENDED
            assert one not in self.endings, "an item ends once"
            self.endings[one] = one.order

    @invariant()
    def counts_are_exact(self) -> None:
        queue, plain = self.queue, self.plain
        assert queue.queued_requests == len(plain.waiting)
        assert queue.queued_rows == plain.queued_rows
        snapshot = queue.snapshot()
        assert snapshot.buckets == len({one.bucket for one in plain.waiting})
        assert snapshot.running_batches == len(plain.running)
        assert queue.has_free_instance == (len(plain.running) < plain.limits.instances)
        assert queue.idle == (not plain.waiting and not plain.running)

    @invariant()
    def the_next_deadline_is_known(self) -> None:
        assert (self.queue.next_wakeup() or inf) == self.plain.next_deadline_s

    def teardown(self) -> None:
        """Whatever happened: what is inside can be run to its end, and then nothing is left."""
        if not hasattr(self, "queue"):
            return
        self.ended(self.queue.expire(self.now))
        while not self.queue.idle:
            batch = self.queue.take(self.now)
            if batch is not None:
                self.batches.append(batch)
            self.ended(self.queue.finished(self.batches.pop(0), self.now))
        assert self.queue.next_wakeup() is None
        assert self.queue.snapshot().buckets == 0


TestQueueAgainstPlainQueue = QueueAgainstPlainQueue.TestCase
TestQueueAgainstPlainQueue.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=40
)
