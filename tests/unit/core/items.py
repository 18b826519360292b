"""Requests and queues with invented costs, for the tests of batching."""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Any

from gateway.core.batch import Batch, BatchLimits, QueueItem, Refusal, RefusalReason
from gateway.core.batching import BatchQueue
from gateway.core.service_time import ServiceTime

Queue = BatchQueue[QueueItem]


class KnownTime(ServiceTime):
    """A cost that is known exactly and never learned anew, so that sums in tests come out even."""

    def __init__(self, per_batch_s: float, per_row_s: float) -> None:
        super().__init__()
        self._a_s = per_batch_s
        self._c_s = per_row_s

    def observe(self, rows: int, duration_s: float) -> None:
        """Nothing is learned."""


def queue(per_batch_s: float = 0.0, per_row_s: float = 0.0, **limits: Any) -> Queue:
    """A queue whose batches take a known time."""
    return BatchQueue(BatchLimits(**limits), KnownTime(per_batch_s, per_row_s))


def item(
    rows: int = 1, deadline_s: float = inf, priority: int = 1, bucket: Hashable = None
) -> QueueItem:
    return QueueItem(rows, deadline_s, priority, bucket)


def offered(queue: Queue, *items: QueueItem, now: float = 0.0) -> list[QueueItem]:
    """The items, after the queue has taken all of them in."""
    for one in items:
        assert queue.offer(one, now) is None, one
    return list(items)


def reason(refusal: Refusal | None) -> RefusalReason | None:
    """Why it was refused; None when it was not."""
    return None if refusal is None else refusal.reason


def members(batch: Batch[QueueItem] | None) -> list[QueueItem]:
    """Who is in a batch, in order."""
    assert batch is not None
    return [one for one, _, _ in batch.parts]


def taken(queue: Queue, now: float = 0.0) -> Batch[QueueItem]:
    """The next batch; there must be one."""
    batch = queue.take(now)
    assert batch is not None
    return batch
