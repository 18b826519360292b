"""What a lane will do next if nothing else comes: which rows leave together, when answers end, who comes too late.

The arithmetic behind admission, on the same rules by which batches are taken. Pure functions over the queue's own
lists. They must never move an item.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.core.batch import Batch, BatchLimits, BatchReason, ItemT, Key, QueueItem
from gateway.core.service_time import ServiceTime

HEADROOM = 1.1
"""A wait is taken to be this much longer than the batches ahead need by themselves.

A queue filled to the brink has no time for what no prediction knows: a run that takes longer, a batch that is not
quite full. The next one then leaves small to be in time, which costs those behind it more: under overload most of
the throughput, until it ends.
"""

Parts: TypeAlias = list[tuple[ItemT, int, int]]
"""(item, first row, end row) of each member of a batch."""


def next_batch(
    bucket: Sequence[Key],
    now: float,
    limits: BatchLimits,
    service_time: ServiceTime,
    taken: Mapping[int, int],
) -> tuple[Parts[Any], int, BatchReason | None]:
    """The members of a batch that starts now, their rows, and why it stops there (None: nothing is left behind).

    ``taken`` overrules how many rows of an item have left already (by arrival number).
    """
    room = limits.max_batch_rows
    parts: Parts[Any] = []
    rows = 0
    earliest_s = inf
    why: BatchReason | None = None
    for key in bucket:
        item = key[3]
        first = taken.get(item.order, item.taken_rows)
        wanted = item.rows - first
        if not limits.batched:
            parts.append((item, first, item.rows))
            rows = wanted
            break
        if wanted > room - rows:
            why = BatchReason.FULL
            # Only what is larger than a whole batch is cut; everything else stays in one piece.
            if item.rows <= room or rows == room:
                break
            wanted = room - rows
        if item.deadline_s < earliest_s:
            earliest_s = item.deadline_s
        if parts and earliest_s != inf and now + service_time.predict_s(rows + wanted) > earliest_s:
            why = BatchReason.DEADLINE
            break
        parts.append((item, first, first + wanted))
        rows += wanted
        if first + wanted < item.rows:
            break
    if why is None and rows == room:
        why = BatchReason.FULL
    return parts, rows, why


def whole_members(parts: Sequence[tuple[QueueItem, int, int]]) -> int:
    """How many members leave the queue with this batch; only the last may be cut."""
    item, _, end = parts[-1]
    return len(parts) - (end < item.rows)


def finish_s(
    load: int,
    now: float,
    limits: BatchLimits,
    service_time: ServiceTime,
    running: Sequence[Batch[Any]],
) -> float:
    """When the last of ``load`` queued rows (requests, where each runs alone) would be answered."""
    room = limits.max_batch_rows if limits.batched else 1
    full = max(0, load - 1) // room
    rest = load - full * room
    # The last batch grows while it waits: behind a full one it will be full too, else as much may come as runs now.
    if full:
        rest = room
    elif running:
        rest = min(room, rest + max(batch.rows for batch in running))
    rounds, place = divmod(full, limits.instances)
    wait_s = _waits_s(now, limits, running)[place] + rounds * service_time.predict_s(room)
    if running:
        wait_s *= HEADROOM
    return now + wait_s + service_time.predict_s(rest)


def _waits_s(now: float, limits: BatchLimits, running: Sequence[Batch[Any]]) -> list[float]:
    """How long until each instance is free, the free ones first."""
    ends_s = sorted(batch.started_s + batch.expected_s for batch in running)
    free = limits.instances - len(running)
    return [0.0] * free + [max(0.0, end_s - now) for end_s in ends_s]


def late_or_tight(
    queues: dict[Hashable, list[Key]],
    now: float,
    limits: BatchLimits,
    service_time: ServiceTime,
    running: Sequence[Batch[Any]],
    level: int,
) -> Iterator[tuple[QueueItem, bool]]:
    """Walk through the batches to come, and name who of this level or above is in trouble: late (True) or only tight.

    Late: answered after its deadline. Tight: in time only if its batch leaves before it is as full as what waits
    (of this level or above) would make it. A queue with tight items loses its throughput when it needs it most,
    because each small batch makes the next item tight as well. Empties ``queues``.
    """
    left = {
        name: sum(key[3].rows - key[3].taken_rows for key in bucket if key[0] <= level)
        for name, bucket in queues.items()
    }
    free_s = [max(now, batch.started_s + batch.expected_s) for batch in running]
    free_s += [now] * (limits.instances - len(free_s))
    taken: dict[int, int] = {}
    while queues:
        name = min(queues, key=lambda one: queues[one][0])
        bucket = queues[name]
        start_s = min(free_s)
        parts, rows, _ = next_batch(bucket, start_s, limits, service_time, taken)
        most = min(left[name], limits.max_batch_rows)
        end_s = start_s + service_time.predict_s(rows if limits.batched else 1)
        full_end_s = start_s + service_time.predict_s(most if limits.batched else 1)
        for item, first, end in parts:
            if item.priority <= level:
                left[name] -= end - first
                if full_end_s > item.deadline_s or end_s > item.deadline_s:
                    yield item, end_s > item.deadline_s
        free_s[free_s.index(start_s)] = end_s
        whole = whole_members(parts)
        if whole < len(parts):
            item, _, taken[item.order] = parts[-1]
        del bucket[:whole]
        if not bucket:
            del queues[name]


def pushes_into_trouble(
    load: int,
    ahead: int,
    behind: Sequence[Key],
    now: float,
    limits: BatchLimits,
    service_time: ServiceTime,
    running: Sequence[Batch[Any]],
) -> bool:
    """Whether ``load`` more rows before ``behind`` put one of them into trouble that it was not in, nearly.

    For queues too long to walk through: one pass of NumPy, as if rows of all shapes filled batches without a gap.
    ``ahead`` rows stand before both; ``behind`` is in the order in which it will run. Trouble is to end after the
    deadline, or to have no headroom left before it.
    """
    deadlines_s = np.array([key[1] for key in behind])
    if limits.batched:
        rows = np.array([key[3].rows - key[3].taken_rows for key in behind])
    else:
        rows = np.ones(len(behind), dtype=np.int64)
    loads = ahead + np.cumsum(rows)
    waits_s, runs_s = _waits_and_runs_s(loads, now, limits, service_time, running)
    later_waits_s, later_runs_s = _waits_and_runs_s(
        loads + load, now, limits, service_time, running
    )
    slacks_s = deadlines_s - now
    for headroom in (1.0, HEADROOM) if running else (1.0,):
        fine = headroom * waits_s + runs_s <= slacks_s
        fine_later = headroom * later_waits_s + later_runs_s <= slacks_s
        if bool(np.any(fine & ~fine_later)):
            return True
    return False


def _waits_and_runs_s(
    loads: npt.NDArray[np.int64],
    now: float,
    limits: BatchLimits,
    service_time: ServiceTime,
    running: Sequence[Batch[Any]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """As ``finish_s`` for many loads at once, without headroom: (until its batch starts, how long that runs)."""
    room = limits.max_batch_rows if limits.batched else 1
    full = np.maximum(0, loads - 1) // room
    rounds, place = np.divmod(full, limits.instances)
    waits_s = np.array(_waits_s(now, limits, running))[place] + rounds * service_time.predict_s(
        room
    )
    growth = max((batch.rows for batch in running), default=0)
    rest = np.where(full > 0, room, np.minimum(room, loads + growth))
    return waits_s, service_time.per_batch_s + service_time.per_row_s * rest
