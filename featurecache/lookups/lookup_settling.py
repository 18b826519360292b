"""How lookups come to their end: slot by slot as rows arrive, or all at once from what is at hand.

Decides what stands in for a row that did not come. It must never settle a lookup twice, and never run what follows
a lookup before the tables are in order: that may ask again, or let go of another lookup.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from featurecache.lookups.lookup_limits import LookupCounters
from featurecache.lookups.lookup_waiting import UNREACHABLE, WAITING, KeyRead, Lookup
from featurecache.lookups.near_cache import NearCache

logger = logging.getLogger("headrace.features")


class Settling:
    """Fills slots and counts who still waits. Those in ``done`` are settled; ``tell`` calls them back."""

    def __init__(self, cache: NearCache, counters: LookupCounters) -> None:
        self.waiting_lookups = 0
        self._entries = cache.entries
        self._counters = counters

    def fill(self, lookup: Lookup, slot: int, row: bytes | None, done: list[Lookup]) -> None:
        """One slot of a lookup that is not settled; joins ``done`` when it was the last."""
        lookup.rows[slot] = row
        lookup.open_slots -= 1
        if not lookup.open_slots:
            lookup.settled = True
            self.waiting_lookups -= 1
            done.append(lookup)

    def fail(self, key: bytes, read: KeyRead, now_s: float, done: list[Lookup]) -> None:
        """A key will not be read: who waits for it takes what is at hand."""
        waiting = [] if read.lookup is None else [(read.lookup, read.slot)]
        for lookup, slot in waiting + (read.more or []):
            if not lookup.settled:
                self.fill(lookup, slot, self._at_hand(key, lookup, slot, now_s), done)

    def give_up(self, lookup: Lookup, now_s: float) -> None:
        """Settle now: every open slot takes what is at hand."""
        assert lookup.missed is not None
        rows = lookup.rows
        for slot, key in zip(*lookup.missed, strict=True):
            if rows[slot] is WAITING:
                rows[slot] = self._at_hand(key, lookup, slot, now_s)
        lookup.settled = True
        lookup.missed = None
        self.waiting_lookups -= 1

    def let_go(self, lookup: Lookup) -> None:
        """Nobody is interested in it any longer."""
        lookup.settled = True
        lookup.missed = None
        self.waiting_lookups -= 1

    def _at_hand(self, key: bytes, lookup: Lookup, slot: int, now_s: float) -> bytes | None:
        """A copy, or UNREACHABLE. That there was no such row stands in for nothing once it is old."""
        entry = self._entries.get(key)
        if entry is not None:
            if now_s < entry.expires_s:
                return entry.row
            if not entry.negative:
                self._counters.aged_slots += 1
                lookup.aged.add(slot)
                return entry.row
        self._counters.unreachable_slots += 1
        return UNREACHABLE

    @staticmethod
    def tell(done: Iterable[Lookup]) -> None:
        """Run what follows each of them. One that was let go of meanwhile is passed over."""
        for lookup in done:
            lookup.missed = None
            on_done = lookup.on_done
            if on_done is not None:
                lookup.on_done = None
                try:
                    on_done()
                except Exception:
                    logger.exception("what follows a lookup failed")
