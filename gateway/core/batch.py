"""The values of batching: limits, items, batches, refusals. Plain data that decides nothing.

``core/batching.py`` is where they move. This module must never call a clock, a loop or a model.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec


class BatchLimits(msgspec.Struct, frozen=True):
    """The walls of one lane."""

    max_batch_rows: int = 64
    """Most rows in one batch; 1 for a servable that must not be batched (one request at a time)."""
    batched: bool = True
    """False: every request is a batch of its own, whatever its rows."""
    max_queue_requests: int = 1024
    max_queue_rows: int = 65536
    max_queue_delay_us: int = 0
    """How long an idle servable may wait for company. 0: never."""
    instances: int = 1
    """Batches that may run at the same time."""
    priority_levels: int = 3


class RefusalReason(Enum):
    """Why ``offer`` said no."""

    QUEUE_FULL = "queue_full"
    WOULD_MISS_DEADLINE = "would_miss_deadline"
    DEADLINE_PASSED = "deadline_passed"
    TOO_LARGE = "too_large"
    CLOSED = "closed"


class Refusal(NamedTuple):
    """A no, with the time after which asking again makes sense (seconds; 0.0 when it never will)."""

    reason: RefusalReason
    retry_after_s: float


class BatchReason(Enum):
    """Why a batch left the queue when it did."""

    FULL = "full"
    IDLE = "idle"
    WAITED = "waited"
    DEADLINE = "deadline"


class ItemState(IntEnum):
    """Where an item is. ENDED is final."""

    NEW = 0
    QUEUED = 1
    RUNNING = 2
    ENDED = 3


class QueueItem:
    """One request in a lane. The shell subclasses it to carry what it must answer.

    ``bucket`` is any hashable that is equal exactly for requests whose rows may be concatenated.
    """

    __slots__ = (
        "bucket",
        "deadline_s",
        "done_rows",
        "enqueued_s",
        "order",
        "priority",
        "rows",
        "state",
        "taken_rows",
    )

    def __init__(self, rows: int, deadline_s: float, priority: int, bucket: Hashable) -> None:
        self.rows = rows
        self.deadline_s = deadline_s
        self.priority = priority
        self.bucket = bucket
        self.state = ItemState.NEW
        self.taken_rows = 0
        self.done_rows = 0
        self.enqueued_s = 0.0
        self.order = 0

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(#{self.order} rows={self.taken_rows}/{self.rows} p{self.priority} "
            f"deadline={self.deadline_s:.6f} {ItemState(self.state).name})"
        )


ItemT = TypeVar("ItemT", bound=QueueItem)
Key = tuple[int, float, int, Any]
"""(priority, deadline, arrival, item): arrival is unique, so two items are never compared."""


class Batch(Generic[ItemT]):
    """Rows that run together: ``parts`` are (item, first row, end row) of each member."""

    __slots__ = ("bucket", "cost_s", "expected_s", "parts", "reason", "rows", "started_s")

    def __init__(self, bucket: Hashable, started_s: float) -> None:
        self.bucket = bucket
        self.started_s = started_s
        self.parts: list[tuple[ItemT, int, int]] = []
        self.rows = 0
        self.expected_s = 0.0
        self.cost_s = 0.0
        self.reason = BatchReason.IDLE

    def __repr__(self) -> str:
        return f"Batch(rows={self.rows}, members={len(self.parts)}, {self.reason.value})"


class QueueSnapshot(msgspec.Struct, frozen=True):
    """What a lane looks like now, for people and tests."""

    queued_requests: int
    queued_rows: int
    buckets: int
    running_batches: int
    closed: bool
    per_batch_us: float
    per_row_us: float
