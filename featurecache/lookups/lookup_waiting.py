"""What waits for what: lookups for keys, keys for reads, lookups for their deadlines.

Values and one small table; it decides nothing but whose deadline is next. It must never hold on to a lookup for
longer than to its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import TypeAlias

import msgspec

UNREACHABLE = b""
"""Slot: the store could not be asked in time and no copy is at hand."""
CORRUPT = b"\0"
"""Slot: what the store answered is no sound row."""
WAITING = b"waiting"
"""Slot of a lookup that is not settled; compared by identity, so no row can be it."""


class Caching(msgspec.Struct, frozen=True):
    """How long copies of a view's rows live, in seconds."""

    cache_ttl_s: float
    """0: no copy is kept, and every lookup asks the store."""
    negative_ttl_s: float = 2.0
    """For "there is no such row", and for rows that arrived damaged; also 0 when ``cache_ttl_s`` is."""


class ViewKeys(msgspec.Struct, gc=False):
    """The rows that one lookup wants of one view. A key may stand there twice."""

    caching: Caching
    keys: list[bytes]


MissedOfView: TypeAlias = tuple[Caching, Sequence[int], Sequence[bytes]]
"""Slots of one view in a lookup that wait, at least one; and their keys."""


class Lookup(msgspec.Struct, eq=False):
    """The rows that somebody asked for, when ``settled``."""

    rows: list[bytes | None]
    """Flat over all views in order; None where the store has no such row, else a row, UNREACHABLE or CORRUPT."""
    aged: set[int] = msgspec.field(default_factory=set)
    """Slots with an expired copy because the store failed."""
    settled: bool = False
    on_done: Callable[[], None] | None = None
    """Called once, on the loop, when it settles; never for one that was settled when it was given out."""
    open_slots: int = 0
    """How many slots still wait."""
    missed: tuple[Sequence[int], Sequence[bytes]] | None = None
    """Slots that were no hits, and their keys."""

    def open_keys(self) -> set[bytes]:
        """Keys that it still waits for."""
        if self.missed is None:
            return set()
        rows = self.rows
        return {key for slot, key in zip(*self.missed, strict=True) if rows[slot] is WAITING}


class KeyRead(msgspec.Struct, eq=False, gc=False):
    """A key that is being asked for, and who waits for it. It ends with its read, so the collector need not see it."""

    caching: Caching
    lookup: Lookup | None
    """The first who asked; None: a copy is being renewed, or the breaker tries the store."""
    slot: int
    more: list[tuple[Lookup, int]] | None = None

    @property
    def slots(self) -> int:
        """How many slots wait, or one where nobody does."""
        return 1 if self.more is None else 1 + len(self.more)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits."""
        if self.lookup is None or not self.lookup.settled:
            return True
        return self.more is not None and any(not lookup.settled for lookup, _ in self.more)


class Read(msgspec.Struct, eq=False):
    """One fetch in flight."""

    keys: list[bytes]
    kept: bool
    """Copies of its rows are kept."""
    sent_s: float
    probe_due_s: float | None = None
    """For the read that tries the store: when it must be back to count as a success."""
    late: bool = False
    ended: bool = False


class Deadlines:
    """Lookups by deadline. Those that settle before are dropped on the way, never searched for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lookup]] = []
        self._added = 0

    def add(self, deadline_s: float, lookup: Lookup, waiting: int) -> None:
        """``waiting``: how many lookups wait at all, so that the table can tell how many of its own are done."""
        if deadline_s == inf:
            return
        self._added += 1
        if len(self._heap) > 64 + 2 * waiting:
            self._heap = [one for one in self._heap if not one[2].settled]
            heapify(self._heap)
        heappush(self._heap, (deadline_s, self._added, lookup))

    def next_s(self) -> float | None:
        """The earliest deadline of a lookup that is not settled."""
        heap = self._heap
        while heap and heap[0][2].settled:
            heappop(heap)
        return heap[0][0] if heap else None

    def take(self, until_s: float) -> list[Lookup]:
        """Lookups that are not settled and whose deadline is not after ``until_s``, the earliest first."""
        heap = self._heap
        taken = []
        while heap and heap[0][0] <= until_s:
            lookup = heappop(heap)[2]
            if not lookup.settled:
                taken.append(lookup)
        return taken

    def __len__(self) -> int:
        return len(self._heap)
