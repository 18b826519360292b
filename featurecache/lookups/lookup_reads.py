"""Reads that many lookups share: each key once, as many keys as there are in one read, a few reads at a time.

Decides which keys go together and when, whose row is whose, and which of them become copies. It must never ask for a
key that is being asked for, never let more wait than its limits say, and never leave a key behind when its read ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from math import inf
from zlib import crc32

from featurecache.errors import SourceError
from featurecache.lookups.breaker import Breaker
from featurecache.lookups.lookup_limits import LookupCounters, LookupLimits
from featurecache.lookups.lookup_settling import Settling
from featurecache.lookups.lookup_waiting import (
    CORRUPT,
    Caching,
    KeyRead,
    Lookup,
    MissedOfView,
    Read,
)
from featurecache.lookups.near_cache import NearCache
from featurecache.sources.ports import Clock, Loop, RowSource

logger = logging.getLogger("headrace.features")

CRC_RESIDUE = 0x2144DF1C
"""CRC-32 of anything that ends with its own CRC-32."""
SMALLEST_ROW_BYTES = 32


class SharedReads:
    """Keys on their way: ``join`` and ``begin`` put them in, the end of their read takes them out."""

    def __init__(
        self,
        source: RowSource,
        *,
        loop: Loop,
        clock: Clock,
        limits: LookupLimits,
        breaker: Breaker,
        cache: NearCache,
        settling: Settling,
        counters: LookupCounters,
    ) -> None:
        self.pending: dict[bytes, KeyRead] = {}
        self.in_flight: list[Read] = []
        self.waiting_slots = 0
        self.uncached_ttl_s = 0.0 if limits.near_cache_bytes else inf
        """Views whose copies live no longer than this have none."""
        self.someone_left = False
        """Somebody stopped waiting: unsent keys may have nobody left."""
        self._source = source
        self._loop = loop
        self._clock = clock
        self._limits = limits
        self._breaker = breaker
        self._cache = cache
        self._settling = settling
        self._counters = counters
        self._unsent: tuple[list[bytes], list[bytes]] = ([], [])  # [whether copies are kept]
        self._kept_next = True
        self._flush_is_due = False

    # -- keys come in -----------------------------------------------------------------------------

    def has_room(self, keys: Sequence[bytes]) -> bool:
        """Whether these may wait, too."""
        limits = self._limits
        if self.waiting_slots + len(keys) > limits.max_waiting_slots:
            return False
        room = limits.max_pending_keys - len(self.pending)
        return len(keys) <= room or len(set(keys).difference(self.pending)) <= room

    def join(
        self,
        lookup: Lookup,
        slots: Sequence[int],
        keys: Sequence[bytes],
        caching: Caching,
    ) -> None:
        """These slots of a lookup wait for these keys of a view, whether they are being asked for or not."""
        pending = self.pending
        unsent = self._unsent[caching.cache_ttl_s > self.uncached_ttl_s]
        for slot, key in zip(slots, keys, strict=True):
            read = pending.get(key)
            if read is None:
                pending[key] = KeyRead(caching, lookup, slot)
                unsent.append(key)
            else:
                self._counters.joined_slots += 1
                if read.more is None:
                    read.more = []
                read.more.append((lookup, slot))
        self.waiting_slots += len(keys)
        self._flush_soon()

    def renew(self, key: bytes, caching: Caching) -> None:
        """Read one again that has a copy; nobody waits."""
        if key not in self.pending and self.has_room((key,)):
            self._counters.renewals += 1
            self.pending[key] = KeyRead(caching, None, 0)
            self.waiting_slots += 1
            self._unsent[True].append(key)
            self._flush_soon()

    def probe(self, groups: Sequence[MissedOfView], now_s: float, due_s: float) -> None:
        """See with one read of these keys whether the store is back; nobody waits. A store that is slow is not back."""
        room = min(self._limits.keys_per_read, self._limits.max_pending_keys - len(self.pending))
        chosen: dict[bytes, Caching] = {}
        kept = False
        for caching, _, keys in groups:
            has_copies = caching.cache_ttl_s > self.uncached_ttl_s
            if not chosen:
                kept = has_copies
            if has_copies == kept:
                free = [key for key in keys if key not in self.pending]
                chosen |= dict.fromkeys(free[: room - len(chosen)], caching)
        if chosen:
            self._breaker.probe_sent(now_s)
            for key, caching in chosen.items():
                self.pending[key] = KeyRead(caching, None, 0)
            self.waiting_slots += len(chosen)
            due_s = max(due_s, now_s + self._limits.fair_wait_s)
            self._send(Read(list(chosen), kept, now_s, due_s))

    # -- reads go out -----------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """At the end of a turn: all that was asked for in it, and before it while every read was in flight."""
        self._flush_is_due = False
        now_s = self._clock()
        plain, kept = self._unsent
        while (plain or kept) and len(self.in_flight) < self._limits.max_reads_in_flight:
            if plain and kept:
                self._kept_next = not self._kept_next  # in turns, so that neither starves
            else:
                self._kept_next = bool(kept)
            keys = self._take_unsent(self._kept_next)
            if keys:
                self._send(Read(keys, self._kept_next, now_s))
        if not plain and not kept:
            self.someone_left = False

    def _take_unsent(self, kept: bool) -> list[bytes]:
        """The next keys to read; those that nobody waits for any longer are dropped."""
        unsent = self._unsent[kept]
        limit = self._limits.keys_per_read
        keys: list[bytes] = []
        while unsent and not keys:
            keys = unsent[:limit]
            del unsent[:limit]
            if self.someone_left:
                keys = [key for key in keys if self._is_wanted(key)]
        return keys

    def _is_wanted(self, key: bytes) -> bool:
        read = self.pending[key]
        if read.wanted:
            return True
        self._counters.abandoned_keys += 1
        self.waiting_slots -= read.slots
        del self.pending[key]
        return False

    def _send(self, read: Read) -> None:
        self.in_flight.append(read)
        self._counters.reads += 1
        self._counters.read_keys += len(read.keys)
        try:
            self._source.fetch(read.keys, partial(self._answered, read), track=read.kept)
        except Exception as error:
            logger.exception("%s raised out of fetch", self._source.name)
            self._answered(read, None, SourceError(f"fetch raised {error!r}"))

    # -- answers come back ------------------------------------------------------------------------

    def _answered(
        self, read: Read, rows: Sequence[bytes | None] | None, error: SourceError | None
    ) -> None:
        """A read ended: hand out what it has, tell the breaker, and only then those who waited."""
        if read.ended:
            return  # it was given up before
        read.ended = True
        self.in_flight.remove(read)
        now_s = self._clock()
        done: list[Lookup] = []
        ok = rows is not None and error is None and len(rows) == len(read.keys)
        if ok:
            assert rows is not None
            self._hand_out(read, rows, now_s, done)
        else:
            self._counters.failed_reads += 1
            self._fail(read.keys, now_s, done)
        if read.probe_due_s is not None:
            self._breaker.probe_ended(now_s, ok=ok and now_s <= read.probe_due_s)
        elif ok and not read.late:
            self._breaker.succeeded()
        elif not read.late:  # else the breaker was told already
            self._failed(now_s, done)
        if self._unsent[True] or self._unsent[False]:
            self._flush_soon()
        self._settling.tell(done)

    def _hand_out(
        self, read: Read, rows: Sequence[bytes | None], now_s: float, done: list[Lookup]
    ) -> None:
        """Every row to those who wait for it, and into the cache. Written out: it runs once for each key read."""
        pop = self.pending.pop
        put = self._cache.put
        kept = read.kept
        more_slots = 0
        settled_before = len(done)
        for key, row in zip(read.keys, rows, strict=True):
            waiting = pop(key)
            if row is None or len(row) < SMALLEST_ROW_BYTES or crc32(row) != CRC_RESIDUE:
                row = self._no_row(key, row, waiting.caching.negative_ttl_s if kept else 0.0, now_s)
            elif kept:
                put(key, row, waiting.caching.cache_ttl_s, now_s)
            lookup = waiting.lookup
            if lookup is not None and not lookup.settled:
                lookup.rows[waiting.slot] = row
                lookup.open_slots = still_open = lookup.open_slots - 1
                if not still_open:
                    lookup.settled = True
                    done.append(lookup)
            if waiting.more is not None:
                more_slots += len(waiting.more)
                for lookup, slot in waiting.more:
                    if not lookup.settled:
                        lookup.rows[slot] = row
                        lookup.open_slots = still_open = lookup.open_slots - 1
                        if not still_open:
                            lookup.settled = True
                            done.append(lookup)
        self.waiting_slots -= len(read.keys) + more_slots
        self._settling.waiting_lookups -= len(done) - settled_before

    def _no_row(self, key: bytes, row: bytes | None, ttl_s: float, now_s: float) -> bytes | None:
        """What the slot holds where no sound row came."""
        if row is None:
            self._counters.absent_rows += 1
        else:
            self._counters.corrupt_rows += 1
            row = CORRUPT
        if ttl_s > 0.0:
            self._cache.put_negative(key, row, ttl_s, now_s)
        return row

    # -- without the store ------------------------------------------------------------------------

    def _fail(self, keys: Iterable[bytes], now_s: float, done: list[Lookup]) -> None:
        for key in keys:
            read = self.pending.pop(key)
            self.waiting_slots -= read.slots
            self._settling.fail(key, read, now_s, done)

    def _failed(self, now_s: float, done: list[Lookup]) -> None:
        """Tell the breaker; when that opens it, nobody waits for unsent keys any longer."""
        if self._breaker.failed(now_s):
            for unsent in self._unsent:
                self._fail(unsent, now_s, done)
                unsent.clear()

    def blame(self, late_keys: set[bytes], now_s: float, done: list[Lookup]) -> None:
        """A deadline passed before these keys came: their reads are late, each once. Who settles joins ``done``."""
        fair_s = now_s - self._limits.fair_wait_s
        for read in self.in_flight:
            if read.late or read.probe_due_s is not None or read.sent_s > fair_s:
                continue
            if not late_keys.isdisjoint(read.keys):
                read.late = True
                self._counters.late_reads += 1
                self._failed(now_s, done)

    def give_up_dead(self, now_s: float) -> None:
        """End reads that the source should have ended long ago, so that their keys can be asked for again."""
        dead_s = now_s - self._limits.max_read_s
        for read in tuple(self.in_flight):
            if read.sent_s < dead_s:
                logger.error("%s did not end a read within its time", self._source.name)
                self._answered(read, None, SourceError("the source never answered"))

    def keep_none_in_flight(self) -> None:
        """What is being read may be older than a change that nobody will hear of: no copies of it."""
        for read in self.in_flight:
            read.kept = False
