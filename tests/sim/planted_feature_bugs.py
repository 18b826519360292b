"""Bugs to plant where rows of features come from: shared reads, copies, the breaker, defaults.

As in ``planted_bugs.py``: each is one small change, with the words of a complaint that must appear.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from typing import Any

import pytest

from featurecache.joining import resolve
from featurecache.joining.glance import Glance
from featurecache.joining.resolve import Completed
from featurecache.joining.view_use import Usable, ViewUse
from featurecache.lookups import lookup_reads
from featurecache.lookups.breaker import Breaker
from featurecache.lookups.lookup import RowLookup
from featurecache.lookups.lookup_reads import SharedReads
from featurecache.lookups.lookup_waiting import Deadlines, Lookup, Read
from featurecache.lookups.near_cache import NearCache
from featurecache.status import Status
from gateway.errors import ErrorCode, HeadraceError
from gateway.pipeline import enrich
from gateway.pipeline.admit import Admit
from gateway.pipeline.enrich import Enrich
from tests.sim import planted_bugs
from tests.sim.planted_bugs import BUGS, Plant

__all__ = ["BUGS", "FEATURE_BUGS"]

FEATURE_BUGS: set[str] = set()
"""Those that only days with a store can find."""


def bug(*looks_like: str) -> Callable[[Plant], Plant]:
    """Register a bug of features."""

    def register(plant: Plant) -> Plant:
        FEATURE_BUGS.add(plant.__name__)
        return planted_bugs.bug(*looks_like)(plant)

    return register


# -- shared reads ---------------------------------------------------------------------------------


@bug("which nobody reads", "still waits", "reached the loop", "came or failed")
def who_leaves_takes_the_read_along(patch: pytest.MonkeyPatch) -> None:
    detach = RowLookup.detach

    def cancels(self: RowLookup, lookup: Lookup) -> None:
        detach(self, lookup)
        reads = self._reads
        for unsent in reads._unsent:
            unsent[:] = [key for key in unsent if reads.pending[key].lookup is not lookup]

    patch.setattr(RowLookup, "detach", cancels)


@bug("is still called back")
def who_leaves_is_not_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RowLookup, "detach", lambda self, lookup: None)


@bug("got the row of", "never was", "too old, invalidated")
def rows_change_places(patch: pytest.MonkeyPatch) -> None:
    hand_out = SharedReads._hand_out

    def backwards(
        self: SharedReads, read: Read, rows: Sequence[bytes | None], now_s: float, done: Any
    ) -> None:
        hand_out(self, read, rows[::-1], now_s, done)

    patch.setattr(SharedReads, "_hand_out", backwards)


@bug("too old, invalidated, or never was")
def damaged_rows_are_handed_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookup_reads, "crc32", lambda row: lookup_reads.CRC_RESIDUE)


@bug("are read twice at a time", "reached the loop", "fetch raised", "the gateway logged")
def every_caller_reads_for_itself(patch: pytest.MonkeyPatch) -> None:
    join = SharedReads.join

    def alone(self: SharedReads, lookup: Lookup, slots: Any, keys: Any, caching: Any) -> None:
        kept = caching.cache_ttl_s > self.uncached_ttl_s
        self._unsent[kept].extend([key for key in keys if key in self.pending])
        join(self, lookup, slots, keys, caching)

    patch.setattr(SharedReads, "join", alone)


# -- time -----------------------------------------------------------------------------------------


@bug("still waits")
def lookups_have_no_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "add", lambda self, deadline_s, lookup, waiting: None)


@bug("beyond its budget and deadline")
def only_the_budget_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(enrich, "min", lambda deadline_s, budget_s: budget_s, raising=False)


@bug("beyond its budget and deadline")
def only_the_deadline_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(enrich, "min", lambda deadline_s, budget_s: deadline_s, raising=False)


@bug("took a substitute although the store was well")
def one_deadline_ends_all_lookups(patch: pytest.MonkeyPatch) -> None:
    take = Deadlines.take
    patch.setattr(
        Deadlines, "take", lambda self, until_s: take(self, inf) if take_due(self, until_s) else []
    )


def take_due(deadlines: Deadlines, until_s: float) -> bool:
    due_s = deadlines.next_s()
    return due_s is not None and due_s <= until_s


# -- copies ---------------------------------------------------------------------------------------


@bug("too old, invalidated, or never was", "had been invalidated")
def a_change_is_not_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearCache, "invalidate", lambda self, keys: 0)


@bug("too old, invalidated, or never was")
def copies_outlive_a_broken_connection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NearCache, "expire_all", lambda self: 0)


@bug("too old, invalidated, or never was")
def copies_live_too_long(patch: pytest.MonkeyPatch) -> None:
    put = NearCache.put

    def longer(self: NearCache, key: bytes, row: bytes, ttl_s: float, now_s: float) -> None:
        put(self, key, row, 2.0 * ttl_s, now_s)

    patch.setattr(NearCache, "put", longer)


@bug("too old, invalidated, or never was", "gives its model wrong")
def what_was_good_once_is_good_for_ever(patch: pytest.MonkeyPatch) -> None:
    note = RowLookup.note_good

    def for_ever(self: RowLookup, key: bytes, row: bytes, fit: int, good_for_s: float) -> None:
        note(self, key, row, fit, good_for_s)
        entry = self._cache.entries.get(key)
        if entry is not None and entry.fit == fit:
            entry.fit_until_s = inf

    patch.setattr(RowLookup, "note_good", for_ever)


@bug("gives its model wrong", "was told", "although it may not be completed", "must be refused")
def any_row_that_came_is_called_good(patch: pytest.MonkeyPatch) -> None:
    def credulous(
        self: Glance, lookup: RowLookup, wanted: Sequence[Any], views: Sequence[Usable], now_us: int
    ) -> None:
        for fit, view in zip(self.fits, wanted, strict=True):
            entry = lookup._cache.entries.get(view.keys[0])
            if entry is not None and entry.row is not None:
                lookup.note_good(entry.key, entry.row, fit, inf)

    patch.setattr(Glance, "note", credulous)


@bug("bytes of copies")
def the_cache_is_larger_than_it_may_be(patch: pytest.MonkeyPatch) -> None:
    make = NearCache.__init__

    def larger(self: NearCache, limit_bytes: int, negative: int, random_unit: Any) -> None:
        make(self, 2 * limit_bytes, negative, random_unit)

    patch.setattr(NearCache, "__init__", larger)


# -- the breaker ----------------------------------------------------------------------------------


@bug("and the store is still asked")
def the_breaker_never_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Breaker, "failed", lambda self, now_s: False)


@bug("and is not asked")
def the_breaker_never_closes(patch: pytest.MonkeyPatch) -> None:
    ended = Breaker.probe_ended

    def pessimist(self: Breaker, now_s: float, *, ok: bool) -> None:
        ended(self, now_s, ok=False)

    patch.setattr(Breaker, "probe_ended", pessimist)


@bug("not to be asked")
def callers_wait_while_it_is_open(patch: pytest.MonkeyPatch) -> None:
    missed = RowLookup._missed

    def patient(self: RowLookup, *args: Any) -> Lookup:
        closed, self._breaker.closed = self._breaker.closed, True
        try:
            return missed(self, *args)
        finally:
            self._breaker.closed = closed

    patch.setattr(RowLookup, "_missed", patient)


# -- what rows become -----------------------------------------------------------------------------


@bug("was told", "metrics count")
def defaults_are_called_present(patch: pytest.MonkeyPatch) -> None:
    judged = ViewUse._judged

    def proud(
        self: ViewUse, rows: list[bytes | None], aged: Collection[int], now_us: int
    ) -> Usable:
        found = judged(self, rows, aged, now_us)
        assert found.statuses is not None
        found.statuses[:] = Status.PRESENT
        return found

    patch.setattr(ViewUse, "_judged", proud)


@bug("gives its model wrong")
def a_row_may_be_as_old_as_it_likes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ViewUse, "_is_allowed", lambda self, row, is_aged, now_us: True)


@bug("gives its model wrong", "run although", "must be refused")
def rows_in_good_order_are_of_any_age(patch: pytest.MonkeyPatch) -> None:
    whole = ViewUse._are_good
    patch.setattr(ViewUse, "_are_good", lambda self, rows, now_us: whole(self, rows, 0))


@bug("gives its model wrong", "was told", "run although", "must be refused")
def rows_without_an_entity_move_up(patch: pytest.MonkeyPatch) -> None:
    def at_the_end(
        rows: list[bytes | None], aged: Iterable[int], missing: Sequence[int], count: int
    ) -> tuple[list[bytes | None], set[int]]:
        return rows + [None] * (count - len(rows)), set(aged)

    patch.setattr(resolve, "_with_gaps", at_the_end)


@bug("is run although it may not be completed")
def any_share_of_defaults_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Completed, "defaulted_fraction", 0.0)


# -- ways out -------------------------------------------------------------------------------------


@bug("admission counts")
def who_cannot_be_completed_keeps_its_permit(patch: pytest.MonkeyPatch) -> None:
    refusal = Enrich._refusal
    leaks: list[bool] = []
    call = Admit.__call__

    def leaking(self: Enrich, *args: Any) -> Any:
        leaks.append(True)
        return refusal(self, *args)

    async def forgets(self: Admit, request: Any) -> Any:
        leaks.clear()
        try:
            return await call(self, request)
        finally:
            if leaks:
                leaks.clear()
                self._admission.admit(request.size_bytes)

    patch.setattr(Enrich, "_refusal", leaking)
    patch.setattr(Admit, "__call__", forgets)


@bug("is still held")
def who_is_refused_keeps_its_version(patch: pytest.MonkeyPatch) -> None:
    call: Callable[..., Any] = Enrich.__call__

    async def forgets(self: Enrich, routed: Any) -> Any:
        try:
            return await call(self, routed)
        except HeadraceError as error:
            if error.code is ErrorCode.FEATURES_MISSING:
                routed.servable.handles += 1
            raise

    patch.setattr(Enrich, "__call__", forgets)


@bug("gone with", "KeyError", "failed with", "still held", "reached the loop")
def a_version_goes_while_rows_are_awaited(patch: pytest.MonkeyPatch) -> None:
    complete: Callable[..., Any] = Enrich.__call__

    class Unheld:
        """The version, as one who does not hold it sees it."""

        def __init__(self, servable: Any) -> None:
            self._servable = servable

        def __getattr__(self, name: str) -> Any:
            return getattr(self._servable, name)

        def acquire(self) -> None:
            return None

        def release(self) -> bool:
            return False

    async def lightly(self: Enrich, routed: Any) -> Any:
        if routed.servable.enrichment is None:
            return await complete(self, routed)
        servable, routed.servable = routed.servable, Unheld(routed.servable)
        next_service = self._next

        async def held_again(again: Any) -> Any:
            again.servable = servable
            return await next_service(again)

        hop = Enrich(self._lookup, self._meters, self._clock, self._now_us, held_again)
        return await complete(hop, routed)

    patch.setattr(Enrich, "__call__", lightly)
