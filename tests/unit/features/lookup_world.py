"""Days of lookups drawn from a seed: many callers, few keys, and everything that may go wrong, on invented time.

The world knows what every caller must be told, from the store's own book, and complains in words.
"""

from __future__ import annotations

import random
from math import inf

import msgspec

from featurecache.lookups.breaker import BreakerLimits, BreakerState
from featurecache.lookups.lookup import (
    CORRUPT,
    TIMER_GRAIN_S,
    UNREACHABLE,
    Caching,
    Lookup,
    RowLookup,
    ViewKeys,
)
from featurecache.lookups.lookup_limits import LookupLimits
from featurecache.lookups.near_cache import ENTRY_OVERHEAD_BYTES
from tests.sim.virtual_loop import VirtualLoop
from tests.support.scripted_rows import Mode, ScriptedRows, read_row

CACHINGS = (Caching(0.0), Caching(0.05, 0.02), Caching(0.5, 0.1))
FAILURES = 3
DAY_S = 1.0
QUIET_S = 3.0
"""After the day nothing goes wrong any longer, for long enough that the breaker must have closed."""


class WrongLookupError(AssertionError):
    """Something happened that must never happen."""


class Asked(msgspec.Struct, eq=False):
    """One caller's side of a lookup."""

    lookup: Lookup
    keys: list[tuple[bytes, Caching]]
    asked_s: float
    deadline_s: float
    floor: list[int]
    may_fall_back: bool
    at_once: bool
    detached: bool = False
    told: int = 0


class LookupDay:
    """``calm``: the store always answers within its time, so nobody may be told otherwise."""

    def __init__(self, seed: int, *, calm: bool) -> None:
        self.seed = seed
        self.calm = calm
        self.rng = rng = random.Random(seed)
        self.loop = VirtualLoop(callback_cost_s=0.0)
        self.source = ScriptedRows(self.loop, timeout_s=rng.choice((0.02, 0.1)))
        narrow = not calm and seed % 4 == 1
        self.limits = LookupLimits(
            near_cache_bytes=rng.choice((4_000, 12_000, 100_000)),
            negative_bytes=rng.choice((900, 4_000)),
            keys_per_read=rng.choice((5, 50, 500)),
            max_reads_in_flight=rng.choice((1, 2, 4)),
            max_pending_keys=40 if narrow else 5_000,
            max_waiting_slots=80 if narrow else 50_000,
        )
        self.rows = RowLookup(
            self.source,
            loop=self.loop,
            clock=self.loop.clock,
            limits=self.limits,
            random_unit=rng.random,
            breaker=BreakerLimits(failures=FAILURES, open_s=0.05, max_open_s=0.4),
        )
        self.keys = [
            (b"k%03d" % number, CACHINGS[number % 3]) for number in range(rng.choice((20, 100)))
        ]
        for key, _ in self.keys:
            if rng.random() < 0.85:
                self.source.versions[key] = 1
        self.asked: list[Asked] = []
        self.trouble = narrow
        self.problem = ""
        """The first complaint; those of callers that are called back would be lost, as their exceptions are."""
        self.ended_s = self.loop.now_s + DAY_S

    # -- the day ----------------------------------------------------------------------------------

    def play(self) -> None:
        """From morning to a quiet evening, looking at everything after every turn."""
        loop = self.loop
        for what, gap_s in (
            (self.ask, 0.4e-3),
            (self.ask_many, 30e-3),
            (self.write, 2e-3),
            (self.change_weather, 40e-3),
            (self.forget, 80e-3),
        ):
            self._often(what, gap_s)
        quiet_s = self.ended_s + QUIET_S
        loop.call_at(self.ended_s, self._clear_up)
        self._often(self.ask, 2e-3, from_s=self.ended_s, until_s=quiet_s)
        last_s, turns = loop.now_s, 0
        while loop.run_turn():
            turns = turns + 1 if loop.now_s == last_s else 0
            last_s = loop.now_s
            self._require(turns < 1000, "the loop spins")
            self._look()
        self._look_back()

    def _often(
        self, what: object, gap_s: float, from_s: float = 0.0, until_s: float | None = None
    ) -> None:
        assert callable(what)
        at_s = max(self.loop.now_s, from_s)
        while (at_s := at_s + self.rng.expovariate(1.0 / gap_s)) < (until_s or self.ended_s):
            self.loop.call_at(at_s, what)

    def ask(self) -> None:
        rng = self.rng
        wanted: list[tuple[bytes, Caching]] = []
        views = []
        for caching in rng.sample(CACHINGS, rng.choice((1, 1, 2, 3))):
            mine = [key for key, one in self.keys if one is caching]
            keys = rng.choices(mine, k=rng.choice((1, 1, 3, 10)))
            views.append(ViewKeys(caching, keys))
            wanted += [(key, caching) for key in keys]
        now_s = self.loop.now_s
        deadline_s = now_s + rng.choice((0.0002, 0.005, 0.005, 0.02, 0.02, inf))
        floor = [self.source.floor.get(key, -1) for key, _ in wanted]
        # Those that were in flight at the last success may have been counted as late before it.
        broken = self.source.errors_in_a_row >= FAILURES + self.limits.max_reads_in_flight
        lookup = self.rows.ask(views, deadline_s)
        asked = Asked(lookup, wanted, now_s, deadline_s, floor, self.trouble, lookup.settled)
        self.asked.append(asked)
        if lookup.settled:
            self._settled(asked)
            return
        self._require(not broken, "a caller waits though the breaker must be open")
        lookup.on_done = lambda: self._settled(asked)
        if rng.random() < 0.15:
            self.loop.call_at(now_s + rng.random() * 0.004, lambda: self.detach(asked))

    def ask_many(self) -> None:
        for _ in range(20):
            self.ask()

    def detach(self, asked: Asked) -> None:
        asked.detached = asked.detached or not asked.lookup.settled
        self.rows.detach(asked.lookup)

    def write(self) -> None:
        key, _ = self.rng.choice(self.keys)
        self.source.write(key, gone=self.rng.random() < 0.1)

    def change_weather(self) -> None:
        rng = self.rng
        self.source.latency_s = rng.choice((0.1e-3, 0.4e-3, 0.8e-3))
        if self.calm:
            return
        self.trouble = True
        for asked in self.asked:
            asked.may_fall_back = asked.may_fall_back or not asked.lookup.settled
        self.source.mode = rng.choice((Mode.WELL, Mode.WELL, *Mode))
        if rng.random() < 0.3:
            self.source.latency_s = rng.choice((0.004, 0.03))

    def forget(self) -> None:
        self.source.forget()

    def _clear_up(self) -> None:
        self.source.mode = Mode.WELL
        self.source.latency_s = 0.4e-3

    # -- what must be true ------------------------------------------------------------------------

    def _require(self, true: bool, words: str) -> None:
        if not true:
            if not self.problem:
                self.problem = f"seed {self.seed}, {self.loop.now_s:.6f} s: {words}"
            raise WrongLookupError(self.problem)

    def _settled(self, asked: Asked) -> None:
        """Somebody was told: by when, what, and whether it may be."""
        now_s = self.loop.now_s
        asked.told += 1
        self._require(asked.told == 1, "a lookup was settled twice")
        self._require(asked.lookup.settled, "a caller was told of a lookup that is not settled")
        self._require(not asked.detached, "a caller that went away was told")
        self._require(now_s <= asked.deadline_s, "a lookup was settled after its deadline")
        self._require(len(asked.lookup.rows) == len(asked.keys), "slots are missing")
        for slot in range(len(asked.keys)):
            self._judge_slot(asked, slot, now_s)

    def _judge_slot(self, asked: Asked, slot: int, now_s: float) -> None:
        key, caching = asked.keys[slot]
        row = asked.lookup.rows[slot]
        aged = slot in asked.lookup.aged
        if row == UNREACHABLE or aged:
            excused = now_s >= asked.deadline_s - TIMER_GRAIN_S or asked.may_fall_back
            self._require(excused, "a caller got no fresh row though the store was well")
        if row == UNREACHABLE:
            return
        if aged:
            self._require(caching.cache_ttl_s > 0.0, "an old copy of a view that is never kept")
        elif asked.at_once:
            self._judge_copy(asked, slot, now_s)
        if row is None:
            self._require(not aged, "that there was no row stands in for a row")
        elif row == CORRUPT:
            self._require(not self.calm, "a sound row is called corrupt")
        else:
            self._require(len(row) >= 32, "a slot holds no row")
            whose, version = read_row(row)
            self._require(whose == key, "a caller got the row of another key")
            fresh = aged or version >= asked.floor[slot]
            self._require(fresh, "a row was served after its invalidation")

    def _judge_copy(self, asked: Asked, slot: int, now_s: float) -> None:
        key, caching = asked.keys[slot]
        self._require(caching.cache_ttl_s > 0.0, "a copy of a view that is never kept")
        sent_s = self.source.answered_sent_s.get(key, -1.0)
        self._require(sent_s >= self.source.forgotten_s, "a copy was served after forgetting")
        is_row = asked.lookup.rows[slot] not in (None, CORRUPT)
        ttl_s = caching.cache_ttl_s if is_row else caching.negative_ttl_s
        self._require(now_s - sent_s <= 1.1 * ttl_s + 0.1, "a copy was served after its end")

    def _look(self) -> None:
        """After every turn."""
        self._require(not self.problem, self.problem)
        source, now = self.source, self.rows.snapshot()
        limits = self.limits
        self._require(not source.complaints, "; ".join(source.complaints))
        cache_bytes = limits.near_cache_bytes + limits.negative_bytes
        self._require(now.cache_bytes <= cache_bytes, "the cache holds more than it may")
        self._require(now.pending_keys <= limits.max_pending_keys, "too many keys are pending")
        self._require(now.waiting_slots <= limits.max_waiting_slots, "too many slots wait")
        most = limits.max_reads_in_flight + 1  # the one that tries the store
        self._require(source.reads_in_flight <= most, "too many reads are in flight")
        if self.loop.about_to_sleep and not source.in_flight:
            self._require(now.pending_keys == 0, "keys wait for no read")
            self._require(now.waiting_lookups == 0, "lookups wait for nothing")
        if self.calm:
            self._require(now.breaker_opened == 0, "the breaker opened though the store was well")

    def _look_back(self) -> None:
        """In the evening."""
        now = self.rows.snapshot()
        for asked in self.asked:
            self._require(asked.lookup.settled, "a lookup was never settled")
            self._require(asked.told == (not asked.detached), "a caller was never told")
        self._require(now.breaker is BreakerState.CLOSED, "the breaker never closed")
        left = (now.pending_keys, now.waiting_slots, now.waiting_lookups, now.reads_in_flight)
        self._require(left == (0, 0, 0, 0), f"{left} are left in the tables")
        tracked = {key for keys, track, _ in self.source.fetches if track for key in keys}
        plain = {key for keys, track, _ in self.source.fetches if not track for key in keys}
        kept = {key for key, caching in self.keys if caching.cache_ttl_s > 0.0}
        self._require(tracked <= kept, "a view that is never kept was tracked")
        self._require(not plain & kept, "a view that is kept was not tracked")
        cache = self.rows._cache
        counted = sum(
            len(entry.key) + ENTRY_OVERHEAD_BYTES + len(entry.row or b"") * (not entry.negative)
            for entry in cache.entries.values()
        )
        self._require(counted == now.cache_bytes, "the cache miscounts its bytes")
        last = [one for one in self.asked if one.asked_s > self.ended_s + QUIET_S - 0.5]
        fell_back = [
            one
            for one in last
            if one.deadline_s > one.asked_s + 0.002 and UNREACHABLE in one.lookup.rows
        ]
        self._require(not fell_back, "the store is back and callers still do without it")
