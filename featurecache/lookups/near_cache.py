"""Copies of rows in this process: bounded in bytes, each with an end, the least asked for let go first (SIEVE).

Decides what stays, until when, and when a copy should be renewed. It must never hold more bytes than it was given,
never serve a copy as fresh after its end or after it was invalidated, and never let ids that do not exist push out
rows that do: "the store has none" has a small budget of its own. It knows no clock and no dice: both come in.

SIEVE keeps entries in the order in which they came. A hand goes from the oldest to the newest and round again: it
lets go of the first entry that was not asked for since it last passed, and leaves the others where they are. Here
``_ahead`` is what the hand has still to pass, ``_passed`` what it has passed on this round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf

import msgspec

ENTRY_OVERHEAD_BYTES = 270
"""What an entry costs beside the bytes of its key and its row: the entry, two object headers, two floats, its places
in the table and in the order. Measured: tests/unit/features/test_near_cache.py."""
JITTER = 0.1
"""Lives differ by this share to both sides, so that what came together does not end together."""
RENEW_SHARE = 0.1
"""An entry asked for in this last share of its life should be renewed."""
MAX_LOOKS = 128
"""How many entries the hand passes at most before it takes the next, asked for or not: no pause grows with size."""


class Entry(msgspec.Struct, gc=False, eq=False):
    """A copy. Times are monotonic seconds. It refers to bytes and floats alone, so the collector need not see it."""

    key: bytes
    row: bytes | None
    """None, or a mark that is no row, where ``negative``."""
    fresh_until_s: float
    """Before this nothing needs a second look; hits compare only this."""
    expires_s: float
    """From now on it is an old copy: for when the store fails."""
    negative: bool
    visited: bool = False
    alive: bool = True
    fit: int = 0
    """For whom the row was judged and found good, see ``ViewUse.fit``; 0: for nobody."""
    fit_until_s: float = -inf
    """Before this it is fresh, and good for ``fit`` without another look."""


class NearCache:
    """The copies by key. Hits read ``entries`` themselves and set ``visited``; everything else goes through here."""

    def __init__(
        self, limit_bytes: int, negative_limit_bytes: int, random_unit: Callable[[], float]
    ) -> None:
        """Limits in bytes, overhead included; 0 keeps nothing. ``random_unit`` gives numbers from 0 to 1."""
        self.entries: dict[bytes, Entry] = {}
        self.limit_bytes = limit_bytes
        self.negative_limit_bytes = negative_limit_bytes
        self.used_bytes = 0
        self.negative_bytes = 0
        self.negative_entries = 0
        self.evictions = 0
        self._random_unit = random_unit
        self._ahead: deque[Entry] = deque()
        self._passed: deque[Entry] = deque()
        self._negatives: deque[Entry] = deque()
        self._dead = 0

    # -- keeping ----------------------------------------------------------------------------------

    def put(self, key: bytes, row: bytes, ttl_s: float, now_s: float) -> None:
        """Keep a row for about ``ttl_s``; a row larger than the whole cache is not kept."""
        ttl_s *= 1.0 - JITTER + 2.0 * JITTER * self._random_unit()
        expires_s = now_s + ttl_s
        fresh_until_s = expires_s - RENEW_SHARE * ttl_s
        entry = self.entries.get(key)
        if entry is not None:
            if not entry.negative:
                used_bytes = self.used_bytes + len(row) - len(entry.row or b"")
                if used_bytes <= self.limit_bytes:
                    self.used_bytes = used_bytes
                    entry.row = row
                    entry.fit_until_s = -inf
                    entry.fresh_until_s = fresh_until_s
                    entry.expires_s = expires_s
                    return
            self._remove(entry)
        size_bytes = len(key) + len(row) + ENTRY_OVERHEAD_BYTES
        if self.used_bytes + size_bytes > self.limit_bytes:
            if size_bytes > self.limit_bytes:
                return
            while self.used_bytes + size_bytes > self.limit_bytes:
                self._evict()
        elif self._dead > len(self.entries):
            self._sweep_dead()
        self.used_bytes += size_bytes
        self.entries[key] = entry = Entry(key, row, fresh_until_s, expires_s, negative=False)
        self._ahead.append(entry)

    def put_negative(self, key: bytes, row: bytes | None, ttl_s: float, now_s: float) -> None:
        """Keep for about ``ttl_s`` that there is no row, or a mark in its stead; the oldest of these go first."""
        entry = self.entries.get(key)
        if entry is not None:
            self._remove(entry)
        size_bytes = len(key) + ENTRY_OVERHEAD_BYTES
        room_bytes = self.negative_limit_bytes - size_bytes
        if room_bytes < 0:
            return
        negatives = self._negatives
        while negatives:
            oldest = negatives[0]
            if oldest.alive and oldest.expires_s > now_s:
                places_bytes = (
                    len(negatives) + 1
                ) * ENTRY_OVERHEAD_BYTES  # dead ones have places too
                if self.negative_bytes <= room_bytes and places_bytes <= self.negative_limit_bytes:
                    break
                self.evictions += 1
            negatives.popleft()
            if oldest.alive:
                self._remove(oldest)
        expires_s = now_s + ttl_s * (1.0 - JITTER + 2.0 * JITTER * self._random_unit())
        self.negative_bytes += size_bytes
        self.negative_entries += 1
        self.entries[key] = entry = Entry(key, row, expires_s, expires_s, negative=True)
        negatives.append(entry)

    # -- letting go -------------------------------------------------------------------------------

    def invalidate(self, keys: Iterable[bytes]) -> int:
        """These rows changed or went: their copies are gone, also as old copies. Returns how many there were."""
        entries = self.entries
        count = 0
        for key in keys:
            entry = entries.get(key)
            if entry is not None:
                self._remove(entry)
                count += 1
        return count

    def expire_all(self) -> int:
        """Any row may have changed unnoticed: none is fresh any longer, but old copies stay. Returns how many."""
        for entry in self.entries.values():
            entry.fit_until_s = entry.fresh_until_s = entry.expires_s = -inf
        return len(self.entries)

    def _remove(self, entry: Entry) -> None:
        """Its place in the order stays behind, empty, until the hand passes."""
        del self.entries[entry.key]
        if entry.negative:
            self.negative_bytes -= len(entry.key) + ENTRY_OVERHEAD_BYTES
            self.negative_entries -= 1
        else:
            self.used_bytes -= len(entry.key) + len(entry.row or b"") + ENTRY_OVERHEAD_BYTES
            self._dead += 1
        entry.key = b""
        entry.row = None
        entry.alive = False
        entry.fit_until_s = entry.fresh_until_s = entry.expires_s = -inf

    def _evict(self) -> None:
        """Move the hand until one entry is gone."""
        self.evictions += 1
        looks = 0
        while True:
            if not self._ahead:
                self._ahead, self._passed = self._passed, self._ahead
            entry = self._ahead.popleft()
            if not entry.alive:
                self._dead -= 1
            elif entry.visited and looks < MAX_LOOKS:
                looks += 1
                entry.visited = False
                self._passed.append(entry)
            else:
                self._remove(entry)
                self._dead -= 1
                return

    def _sweep_dead(self) -> None:
        """A few steps of the hand that change nothing but drop the places of the dead: they never pile up."""
        for _ in range(4):
            if not self._ahead:
                self._ahead, self._passed = self._passed, self._ahead
                if not self._ahead:
                    return
            entry = self._ahead.popleft()
            if entry.alive:
                self._passed.append(entry)
            else:
                self._dead -= 1

    def __repr__(self) -> str:
        return (
            f"NearCache({len(self.entries)} entries, {self.used_bytes}/{self.limit_bytes} bytes, "
            f"{self.negative_entries} negative)"
        )
