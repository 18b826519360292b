"""Bugs to plant into lookups, so that the days of ``lookup_world`` can show that they would find them.

Each is one small change of the kind that a tired hand makes; beside it stands the complaint that must appear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from featurecache.lookups import lookup, lookup_reads
from featurecache.lookups.breaker import Breaker
from featurecache.lookups.lookup import Lookup, RowLookup
from featurecache.lookups.lookup_reads import SharedReads
from featurecache.lookups.lookup_settling import Settling
from featurecache.lookups.lookup_waiting import Deadlines, KeyRead
from featurecache.lookups.near_cache import Entry, NearCache

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, tuple[str, ...]]] = {}


def bug(*looks_like: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = (plant, looks_like)
        return plant

    return register


@bug("a caller got no fresh row though the store was well")
def who_goes_away_ends_the_wait_of_others(patch: pytest.MonkeyPatch) -> None:
    detach = RowLookup.detach

    def all_of_them(self: RowLookup, gone: Lookup) -> None:
        open_keys = gone.open_keys()
        detach(self, gone)
        done: list[Lookup] = []
        for key in open_keys:
            self._settling.fail(key, self._reads.pending[key], self._clock(), done)
        self._settling.tell(done)

    patch.setattr(RowLookup, "detach", all_of_them)


@bug("a caller that went away was told")
def who_goes_away_is_called_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowLookup, "detach", lambda self, gone: None)


@bug("a lookup was settled after its deadline", "the loop spins")
def deadlines_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "take", lambda self, until_s: [])


@bug("a lookup was settled after its deadline")
def the_timer_is_armed_only_once_at_a_time(patch: pytest.MonkeyPatch) -> None:
    arm = RowLookup._arm_timer

    def lazy(self: RowLookup, due_s: float) -> None:
        if self._timer is None:
            arm(self, due_s)

    patch.setattr(RowLookup, "_arm_timer", lazy)


@bug("though the store was well")
def deadlines_come_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookup, "TIMER_GRAIN_S", 4e-3)


@bug("a caller was told of a lookup that is not settled")
def who_gives_up_may_still_be_filled(patch: pytest.MonkeyPatch) -> None:
    give_up = Settling.give_up

    def open_still(self: Settling, late: Lookup, now_s: float) -> None:
        give_up(self, late, now_s)
        late.settled = False

    patch.setattr(Settling, "give_up", open_still)


@bug("a lookup was settled twice")
def who_was_told_is_told_again(patch: pytest.MonkeyPatch) -> None:
    def tell(done: list[Lookup]) -> None:
        for one in done:
            if one.on_done is not None:
                one.on_done()
                if len(one.rows) == 3:
                    one.on_done()

    patch.setattr(Settling, "tell", staticmethod(tell))


@bug("a row was served after its invalidation")
def invalidations_are_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearCache, "invalidate", lambda self, keys: 0)


@bug("a copy was served after forgetting")
def answers_in_flight_are_kept_after_forgetting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedReads, "keep_none_in_flight", lambda self: None)


@bug("a copy was served after forgetting")
def forgetting_forgets_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearCache, "expire_all", lambda self: 0)


@bug("a copy was served after its end")
def copies_live_for_good(patch: pytest.MonkeyPatch) -> None:
    put = NearCache.put

    def for_good(self: NearCache, key: bytes, row: bytes, ttl_s: float, now_s: float) -> None:
        put(self, key, row, 1e9, now_s)

    patch.setattr(NearCache, "put", for_good)


@bug("fetched twice at the same time")
def a_key_in_flight_is_asked_for_again(patch: pytest.MonkeyPatch) -> None:
    join = SharedReads.join

    def forgetful(self: SharedReads, one: Lookup, *rest: Sequence[Any]) -> None:
        join(self, one, *rest)
        for key in rest[1]:
            if key not in self._unsent[True] and key not in self._unsent[False]:
                self._unsent[False].append(key)

    patch.setattr(SharedReads, "join", forgetful)


@bug("the row of another key", "that is no row")
def rows_slip_past_those_that_are_missing(patch: pytest.MonkeyPatch) -> None:
    hand_out = SharedReads._hand_out

    def slipped(self: SharedReads, read: Any, rows: Sequence[bytes | None], *rest: Any) -> None:
        found = [row for row in rows if row is not None]
        hand_out(self, read, found + [None] * (len(rows) - len(found)), *rest)

    patch.setattr(SharedReads, "_hand_out", slipped)


@bug("was never settled", "lookups wait for nothing", "a caller got no fresh row")
def a_failed_read_tells_only_who_came_first(patch: pytest.MonkeyPatch) -> None:
    fail = Settling.fail

    def only_first(self: Settling, key: bytes, read: KeyRead, *rest: Any) -> None:
        read.more = None
        fail(self, key, read, *rest)

    patch.setattr(Settling, "fail", only_first)


@bug("the cache holds more than it may", "miscounts")
def removal_gives_back_more_than_was_taken(patch: pytest.MonkeyPatch) -> None:
    remove = NearCache._remove

    def careless(self: NearCache, entry: Entry) -> None:
        length = 0 if entry.negative else len(entry.key)
        remove(self, entry)
        self.used_bytes -= length

    patch.setattr(NearCache, "_remove", careless)


@bug("the cache holds more than it may")
def nothing_is_ever_evicted(patch: pytest.MonkeyPatch) -> None:
    init = NearCache.__init__

    def boundless(self: NearCache, limit_bytes: int, *rest: Any) -> None:
        init(self, limit_bytes * 100, *rest)

    patch.setattr(NearCache, "__init__", boundless)


@bug("a caller waits though the breaker must be open")
def the_breaker_never_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Breaker, "failed", lambda self, now_s: False)


@bug("the breaker never closed")
def the_breaker_never_tries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Breaker, "may_probe", lambda self, now_s: False)


@bug("the breaker opened though the store was well")
def hurried_callers_blame_the_store(patch: pytest.MonkeyPatch) -> None:
    init = SharedReads.__init__

    def unfair(self: SharedReads, *rest: Any, **more: Any) -> None:
        init(self, *rest, **more)
        blame = self.blame
        self.blame = lambda late, now_s, done: blame(late, now_s + 1.0, done)  # type: ignore[method-assign]

    patch.setattr(SharedReads, "__init__", unfair)


@bug("a slot holds no row", "row of another key", "a sound row is called corrupt")
def rows_are_measured_with_another_sum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookup_reads, "CRC_RESIDUE", 0xFFFFFFFF)


@bug("a copy of a view that is never kept", "was tracked")
def views_without_ttl_are_kept(patch: pytest.MonkeyPatch) -> None:
    init = SharedReads.__init__

    def keeps_all(self: SharedReads, *rest: Any, **more: Any) -> None:
        init(self, *rest, **more)
        self.uncached_ttl_s = -1.0

    patch.setattr(SharedReads, "__init__", keeps_all)


@bug("too many keys are pending", "too many slots wait")
def there_is_always_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedReads, "has_room", lambda self, keys: True)


@bug("left in the tables", "too many slots wait", "though the store was well")
def slots_that_joined_are_never_counted_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyRead, "slots", property(lambda self: 1))
