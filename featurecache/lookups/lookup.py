"""Rows for many callers at once: copies first, then one shared read, and at the deadline what is at hand.

Decides who is served by copies and who waits, and for how long. It must never keep a caller beyond its deadline and
never let one that gives up disturb another.

No task and no lock: everything happens on one loop, in ``ask``, in one flush at the end of a turn, when a read
comes back, or when the one timer rings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import msgspec

from featurecache.lookups.breaker import Breaker, BreakerLimits
from featurecache.lookups.lookup_limits import LookupCounters, LookupLimits, LookupSnapshot
from featurecache.lookups.lookup_reads import SharedReads
from featurecache.lookups.lookup_settling import Settling
from featurecache.lookups.lookup_waiting import (
    CORRUPT,
    UNREACHABLE,
    WAITING,
    Caching,
    Deadlines,
    Lookup,
    MissedOfView,
    ViewKeys,
)
from featurecache.lookups.near_cache import Entry, NearCache
from featurecache.sources.ports import Clock, Loop, RowSource, Timer

__all__ = ["CORRUPT", "UNREACHABLE", "Caching", "Lookup", "RowLookup", "ViewKeys"]

TIMER_GRAIN_S = 0.5e-3
"""Loops round their timers to milliseconds: what is due within half of one is settled now, rather than late."""
HELD_UP_S = 1e-3
"""A timer that rings later than this says that this process was busy, not that the store was slow."""


class RowLookup:
    """Looks rows up for everybody on one loop. ``counters`` may be read at any time."""

    def __init__(
        self,
        source: RowSource,
        *,
        loop: Loop,
        clock: Clock,
        limits: LookupLimits,
        random_unit: Callable[[], float],
        breaker: BreakerLimits | None = None,
    ) -> None:
        """``clock`` must be the one that ``loop.call_at`` goes by. ``random_unit`` gives numbers from 0 to 1.

        Takes the source's ``on_invalidated`` for itself.
        """
        self.counters = counters = LookupCounters()
        self._source = source
        self._loop = loop
        self._clock = clock
        self._breaker = Breaker(breaker or BreakerLimits(), random_unit)
        self._cache = NearCache(limits.near_cache_bytes, limits.negative_bytes, random_unit)
        self._settling = Settling(self._cache, counters)
        self._reads = SharedReads(
            source,
            loop=loop,
            clock=clock,
            limits=limits,
            breaker=self._breaker,
            cache=self._cache,
            settling=self._settling,
            counters=counters,
        )
        self._uncached_ttl_s = self._reads.uncached_ttl_s
        self._deadlines = Deadlines()
        self._timer: Timer | None = None
        self._timer_due_s = inf
        self._was_down = False
        """Somebody asked while the source was away."""
        source.on_invalidated = self._on_invalidated

    # -- from the caller's side -------------------------------------------------------------------

    def ask(self, wanted: Sequence[ViewKeys], deadline_s: float) -> Lookup:
        """Look up every key of every view by ``deadline_s`` (of the clock; it may be inf).

        Settled at once when copies have all of it, or nothing is to be waited for; set ``on_done`` if not.
        """
        now_s = self._clock()
        find = self._cache.entries.get
        rows: list[bytes | None] = []
        append = rows.append
        complete = True
        for view in wanted:
            if view.caching.cache_ttl_s <= self._uncached_ttl_s:
                if view.keys:  # else there is nothing to wait for
                    rows += [WAITING] * len(view.keys)
                    complete = False
                continue
            for key in view.keys:
                entry = find(key)
                if entry is None:
                    append(WAITING)
                    complete = False
                elif now_s < entry.fresh_until_s:
                    if not entry.visited:
                        entry.visited = True
                    append(entry.row)
                elif now_s < entry.expires_s:
                    append(entry.row)
                    self._renew(entry, view.caching)
                else:
                    append(WAITING)
                    complete = False
        counters = self.counters
        counters.lookups += 1
        counters.slots += len(rows)
        if complete:
            return Lookup(rows, settled=True)
        return self._missed(wanted, rows, now_s, deadline_s)

    def known_good(self, keys: Sequence[bytes], fits: Sequence[int]) -> list[bytes] | None:
        """The rows of these keys, if all have fresh copies that ``note_good`` called good for ``fits``."""
        find = self._cache.entries.get
        now_s = self._clock()
        rows: list[bytes] = []
        for key, fit in zip(keys, fits, strict=True):
            entry = find(key)
            if entry is None or now_s >= entry.fit_until_s or entry.fit != fit:
                return None
            entry.visited = True
            rows.append(entry.row)  # type: ignore[arg-type]  # "none" is never good
        counters = self.counters
        counters.lookups += 1
        counters.slots += len(rows)
        return rows

    def note_good(self, key: bytes, row: bytes, fit: int, good_for_s: float) -> None:
        """A row was judged: it is good for ``fit``, and age alone will not change that for so long."""
        entry = self._cache.entries.get(key)
        if entry is not None and entry.row is row:
            entry.fit = fit
            entry.fit_until_s = min(entry.fresh_until_s, self._clock() + good_for_s)

    def detach(self, lookup: Lookup) -> None:
        """The caller went away: it is not called any more. What it asked for is still read, for others."""
        lookup.on_done = None
        if not lookup.settled:
            self.counters.detached_lookups += 1
            self._reads.someone_left = True
            self._settling.let_go(lookup)

    def snapshot(self) -> LookupSnapshot:
        """How everything stands now; the counters in it are a copy."""
        cache, reads = self._cache, self._reads
        return LookupSnapshot(
            counters=msgspec.structs.replace(self.counters),
            pending_keys=len(reads.pending),
            waiting_slots=reads.waiting_slots,
            waiting_lookups=self._settling.waiting_lookups,
            reads_in_flight=len(reads.in_flight),
            cache_bytes=cache.used_bytes + cache.negative_bytes,
            cache_entries=len(cache.entries),
            negative_entries=cache.negative_entries,
            evictions=cache.evictions,
            breaker=self._breaker.state,
            breaker_opened=self._breaker.opened,
        )

    # -- what copies do not have ------------------------------------------------------------------

    def _missed(
        self,
        wanted: Sequence[ViewKeys],
        rows: list[bytes | None],
        now_s: float,
        deadline_s: float,
    ) -> Lookup:
        """Wait for shared reads; or take what is at hand, where waiting leads nowhere."""
        groups = _missed_by_view(wanted, rows)
        slots: Sequence[int]
        if len(groups) == 1:
            _, slots, keys = groups[0]
        else:
            slots = [slot for _, some, _ in groups for slot in some]
            keys = [key for _, _, some in groups for key in some]
        lookup = Lookup(rows, open_slots=len(slots), missed=(slots, keys))
        settling, reads, counters = self._settling, self._reads, self.counters
        counters.missed_slots += len(slots)
        settling.waiting_lookups += 1
        if not self._source.is_up:
            # Nothing would be sent; and the source tries again sooner than an open breaker would.
            self._was_down = True
            counters.open_lookups += 1
            settling.give_up(lookup, now_s)
            return lookup
        if self._was_down:
            self._was_down = False
            self._breaker.reset()
        if not self._breaker.closed:
            counters.open_lookups += 1
            if self._breaker.may_probe(now_s):
                reads.probe(groups, now_s, deadline_s)
            settling.give_up(lookup, now_s)
        elif deadline_s <= now_s:
            counters.expired_lookups += 1
            settling.give_up(lookup, now_s)
        elif not reads.has_room(keys):
            counters.refused_lookups += 1
            settling.give_up(lookup, now_s)
        else:
            for caching, some_slots, some_keys in groups:
                reads.join(lookup, some_slots, some_keys, caching)
            self._deadlines.add(deadline_s, lookup, settling.waiting_lookups)
            if deadline_s < self._timer_due_s:
                self._arm_timer(deadline_s)
        return lookup

    def _renew(self, entry: Entry, caching: Caching) -> None:
        """A copy is near its end and still asked for: read it again, once, while it serves."""
        entry.visited = True
        if self._breaker.closed and self._source.is_up:
            entry.fresh_until_s = entry.expires_s
            self._reads.renew(entry.key, caching)

    # -- time and changes -------------------------------------------------------------------------

    def _arm_timer(self, due_s: float) -> None:
        """One timer for the earliest deadline. When nobody needs it any longer it rings once for nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        """Settle what is due, blame the reads that it waited for, arm the timer for the rest; then call back."""
        now_s = self._clock()
        held_up = now_s > self._timer_due_s + HELD_UP_S
        self._timer = None
        self._timer_due_s = inf
        done = self._deadlines.take(now_s + TIMER_GRAIN_S)
        if done:
            late_keys: set[bytes] = set()
            for lookup in done:
                late_keys |= lookup.open_keys()
                self._settling.give_up(lookup, now_s)
            self.counters.expired_lookups += len(done)
            self._reads.someone_left = True
            if not held_up:
                self._reads.blame(late_keys, now_s, done)
            self._reads.give_up_dead(now_s)
        next_s = self._deadlines.next_s()
        if next_s is not None:
            self._arm_timer(next_s)
        self._settling.tell(done)

    def _on_invalidated(self, keys: Sequence[bytes] | None) -> None:
        """Drop copies. The answers of reads in flight are younger than this, unless anything may have changed."""
        if keys is not None:
            self.counters.invalidated_rows += self._cache.invalidate(keys)
        else:
            self.counters.forgotten += 1
            self._cache.expire_all()
            self._reads.keep_none_in_flight()

    def __repr__(self) -> str:
        return (
            f"RowLookup({self._source.name}, {len(self._reads.pending)} keys pending, "
            f"{len(self._reads.in_flight)} reads in flight, {self._cache!r}, {self._breaker!r})"
        )


def _missed_by_view(wanted: Sequence[ViewKeys], rows: list[bytes | None]) -> list[MissedOfView]:
    """What copies do not have: of each view the slots and keys that wait."""
    if rows.count(WAITING) == len(rows) and len(wanted) == 1:
        return [(wanted[0].caching, range(len(rows)), wanted[0].keys)]
    groups: list[MissedOfView] = []
    first = 0
    for view in wanted:
        slots = [slot for slot in range(first, first + len(view.keys)) if rows[slot] is WAITING]
        if slots:
            groups.append((view.caching, slots, [view.keys[slot - first] for slot in slots]))
        first += len(view.keys)
    return groups
