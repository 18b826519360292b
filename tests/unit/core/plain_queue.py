"""The queue again, slow and simple: lists, no bookkeeping. What ``BatchQueue`` must agree with."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.batch import BatchLimits, QueueItem, RefusalReason

Part = tuple[QueueItem, int, int]


class PlainQueue:
    """Runs take no time here, so nobody is refused or left behind for a deadline that has not passed."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.waiting: list[QueueItem] = []
        self.left: dict[QueueItem, int] = {}
        """Rows that have not been taken yet, of each item that has not ended."""
        self.running: list[list[Part]] = []
        self.open_rows: dict[QueueItem, int] = {}
        """Rows that have not been answered yet, of each item that has not ended."""
        self.closed = False

    def offer(self, item: QueueItem, now: float) -> RefusalReason | None:
        limits = self.limits
        if self.closed:
            return RefusalReason.CLOSED
        if item.rows > limits.max_queue_rows:
            return RefusalReason.TOO_LARGE
        if len(self.waiting) == limits.max_queue_requests:
            return RefusalReason.QUEUE_FULL
        if self.queued_rows + item.rows > limits.max_queue_rows:
            return RefusalReason.QUEUE_FULL
        if item.deadline_s <= now:
            return RefusalReason.DEADLINE_PASSED
        self.waiting.append(item)
        self.left[item] = self.open_rows[item] = item.rows
        return None

    def take(self) -> list[Part] | None:
        if not self.waiting or len(self.running) == self.limits.instances:
            return None
        in_order = sorted(self.waiting, key=lambda one: (one.priority, one.deadline_s, one.order))
        same_shape = [one for one in in_order if one.bucket == in_order[0].bucket]
        parts = list(self._cut(same_shape)) if self.limits.batched else [self._whole(same_shape[0])]
        for item, first, end in parts:
            self.left[item] -= end - first
            if not self.left[item]:
                self.waiting.remove(item)
        self.running.append(parts)
        return parts

    def _whole(self, item: QueueItem) -> Part:
        return item, 0, item.rows

    def _cut(self, items: list[QueueItem]) -> Iterable[Part]:
        room = self.limits.max_batch_rows
        for item in items:
            first, rows = item.rows - self.left[item], self.left[item]
            if rows > room:
                if item.rows > self.limits.max_batch_rows and room:
                    yield item, first, first + room
                return
            yield item, first, first + rows
            room -= rows

    def finish(self, which: int) -> list[QueueItem]:
        complete = []
        for item, first, end in self.running.pop(which):
            if item in self.open_rows:
                self.open_rows[item] -= end - first
                if not self.open_rows[item]:
                    complete.append(item)
        for item in complete:
            self.end(item)
        return complete

    def expire(self, now: float) -> list[QueueItem]:
        late = [one for one in self.open_rows if one.deadline_s <= now]
        late.sort(key=lambda one: (one.deadline_s, one.order))
        for item in late:
            self.end(item)
        return late

    def withdraw(self, item: QueueItem) -> bool:
        was_inside = item in self.open_rows
        if was_inside:
            self.end(item)
        return was_inside

    def end(self, item: QueueItem) -> None:
        del self.open_rows[item]
        del self.left[item]
        if item in self.waiting:
            self.waiting.remove(item)

    @property
    def queued_rows(self) -> int:
        return sum(self.left[one] for one in self.waiting)

    @property
    def next_deadline_s(self) -> float:
        return min((one.deadline_s for one in self.open_rows), default=float("inf"))
