"""The books of one process's lookups, kept from outside: what was asked, read, told and handed out.

Decides whether every row that was used is one that may have been used, whether anybody waited too long or for nothing,
and whether the store was asked when it should have been. It sees what passes between hop, lookup and store; of the
lookup's own state it reads the breaker's and the bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush

from featurecache.errors import SourceError
from featurecache.lookups.lookup import TIMER_GRAIN_S, RowLookup
from featurecache.lookups.lookup_waiting import (
    CORRUPT,
    UNREACHABLE,
    WAITING,
    Caching,
    Lookup,
    ViewKeys,
)
from featurecache.sources.ports import FetchDone
from featurecache.status import Status
from gateway.feature_serving import FeatureServing
from tests.sim.feature_copies import TINY_S, CopyBook
from tests.sim.feature_judge import Verdict, judge
from tests.sim.feature_looking import Looking, bytes_of
from tests.sim.feature_plans import StorePlan
from tests.sim.feature_rows import EMPTY, key_of
from tests.sim.feature_store import Connection, Store, now_us_at
from tests.sim.records import CallRecord, History
from tests.sim.virtual_loop import VirtualLoop

RECOVERY_S = 30.0
"""A store that is well must be asked again after this, whatever it did before."""


class FeatureBook:
    """Stands between the hop and the lookup, and between the lookup and the store."""

    def __init__(
        self,
        plan: StorePlan,
        store: Store,
        connection: Connection,
        features: FeatureServing,
        loop: VirtualLoop,
        history: History,
    ) -> None:
        self.expects: CallRecord | None = None
        """The call that is about to be handed to the gateway."""
        self.now_us = 0
        """What the gateway last read of the calendar."""
        self.rows: Counter[tuple[str, str]] = Counter()
        self.waiting: dict[Looking, None] = {}
        self.plan = plan
        self._store = store
        self._lookup: RowLookup = features.lookup
        self._meters = features.meters
        self._loop = loop
        self._history = history
        self._ask = features.lookup.ask
        features.lookup.ask = self._asked  # type: ignore[method-assign]
        self._known_good = features.lookup.known_good
        features.lookup.known_good = self._looked_at  # type: ignore[method-assign]
        connection.on_fetch, connection.on_told = self._sent, self._told
        self._seq = 0
        self._copies = CopyBook()
        self._failed: dict[bytes, int] = {}
        self._in_flight: set[bytes] = set()
        self._reads, self._ended_turn = 0, -1
        self._deadlines: list[tuple[float, int, Looking]] = []
        self._unsent: dict[Looking, None] = {}
        self._by_key: dict[bytes, set[Looking]] = {}
        self._ok_seq = self._failures = self._opened_at_ok = self._resets = 0

    def _wrong(self, problem: str) -> None:
        self._history.complain(self._loop.now_s, f"lookup: {problem}")

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def calendar_us(self) -> int:
        """The clock by which rows have their age."""
        self.now_us = now_us_at(self._loop.now_s)
        return self.now_us

    # -- between hop and lookup -------------------------------------------------------------------

    def _asked(self, wanted: Sequence[ViewKeys], deadline_s: float) -> Lookup:
        record, self.expects = self.expects, None
        breaker, is_up = self._lookup._breaker, self._lookup._source.is_up
        was_open = not is_up or (not breaker.closed and not self._lookup._was_down)
        asked_s = self._loop.now_s
        asked_seq = self._next_seq()
        found = self._ask(wanted, deadline_s)
        keys = [key for view in wanted for key in view.keys]
        looking = self._looking(record, keys, found, asked_s, asked_seq)
        if looking is None:
            return found
        looking.deadline_s = deadline_s
        looking.was_open, looking.opened = was_open, breaker.opened
        self._check_question(looking)
        if found.settled:
            self.settles(looking)
        else:
            self._begins_to_wait(looking)
        return found

    def _looked_at(self, keys: Sequence[bytes], fits: Sequence[int]) -> list[bytes] | None:
        """Rows that are taken at a glance, without asking; judged by the time that it is now."""
        rows = self._known_good(keys, fits)
        if rows is None:
            return None  # then it asks
        record, self.expects = self.expects, None
        found = Lookup([*rows], settled=True)
        now_s = self._loop.now_s
        self.calendar_us()
        looking = self._looking(record, list(keys), found, now_s, self._next_seq())
        if looking is not None:
            service = looking.record.service
            assert service is not None
            looking.deadline_s = min(looking.record.deadline_s, now_s + service.budget_ms * 1e-3)
            self._check_question(looking)
            self.settles(looking)
        return rows

    def _looking(
        self,
        record: CallRecord | None,
        keys: list[bytes],
        found: Lookup,
        asked_s: float,
        asked_seq: int,
    ) -> Looking | None:
        """What a call looks up, begun; None where nobody should have."""
        if record is None or record.service is None:
            self._wrong("somebody asked for rows without need")
            return None
        entities = sum(entity != EMPTY for entity in record.entities)
        views = [self.plan.view(name) for name in record.service.views]
        ttls = [view.cache_ttl_s for view in views for _ in range(entities)]
        record.looking = looking = Looking(record, keys, ttls)
        looking.found = found
        looking.asked_s, looking.asked_seq = asked_s, asked_seq
        looking.asked_turn = self._loop.turn
        looking.at_once = found.settled
        self._copies.begins(looking)
        return looking

    def _check_question(self, looking: Looking) -> None:
        record, service = looking.record, looking.record.service
        assert service is not None
        views = [self.plan.view(name) for name in service.views]
        keys = [
            key_of(entity, view.name)
            for view in views
            for entity in record.entities
            if entity != EMPTY
        ]
        if looking.keys != keys:
            self._wrong(f"call {record.number} asked for {looking.keys}, not for {keys}")
        due_s = min(record.deadline_s, looking.asked_s + service.budget_ms * 1e-3)
        if abs(looking.deadline_s - due_s) > TINY_S:
            self._wrong(
                f"call {record.number} would wait {looking.deadline_s - due_s} s beyond its budget and deadline"
            )
        if looking.was_open and not looking.at_once:
            self._wrong(f"call {record.number} waits for a store that is not to be asked")

    def _begins_to_wait(self, looking: Looking) -> None:
        self.waiting[looking] = None
        heappush(self._deadlines, (looking.deadline_s, looking.asked_seq, looking))
        rows = looking.found.rows
        open_keys = {key for key, row in zip(looking.keys, rows, strict=True) if row is WAITING}
        for key in open_keys:
            self._by_key.setdefault(key, set()).add(looking)
        looking.unsent = open_keys - self._in_flight
        if looking.unsent:
            self._unsent[looking] = None

    def _ends_to_wait(self, looking: Looking) -> None:
        self.waiting.pop(looking, None)
        self._unsent.pop(looking, None)
        for key in looking.keys:
            mine = self._by_key.get(key)
            if mine is not None:
                mine.discard(looking)
                if not mine:
                    del self._by_key[key]

    def settles(self, looking: Looking) -> None:
        """Its caller goes on with these rows."""
        self._ends_to_wait(looking)
        if looking.settled:
            self._wrong(f"call {looking.record.number} went on twice")
        looking.settled = True
        for slot, row in enumerate(looking.found.rows):
            problem = self._row_problem(looking, slot, row)
            if problem:
                self._wrong(
                    f"call {looking.record.number}, {looking.keys[slot].decode()}: {problem}"
                )

    def leaves(self, looking: Looking) -> None:
        """Its caller went away while it waited."""
        self._ends_to_wait(looking)
        if looking.found.on_done is not None:
            self._wrong(f"call {looking.record.number} went away, and is still called back")

    def judge(self, record: CallRecord) -> Verdict:
        """What must become of the call, with the rows that it has and the time that was read last."""
        looking, service = record.looking, record.service
        assert isinstance(looking, Looking)
        assert service is not None
        if looking.verdict is None:
            found = looking.found
            looking.verdict = verdict = judge(
                self.plan,
                service,
                record.entities,
                found.rows,
                found.aged,
                self.now_us,
                self._store.serials,
            )
            if verdict.problem:
                self._wrong(f"call {record.number}: {verdict.problem}")
            if not verdict.unfillable:
                self.rows += verdict.counts()
        return looking.verdict

    # -- rows -------------------------------------------------------------------------------------

    def _row_problem(self, looking: Looking, slot: int, row: bytes | None) -> str:
        key = looking.keys[slot]
        if row is WAITING:
            return "went on without this row"
        if row == UNREACHABLE or slot in looking.found.aged:
            if not self._may_substitute(looking, key):
                return "took a substitute although the store was well"
            if row == UNREACHABLE:
                return ""
            if self._copies.may_stand_in(key, row):
                return ""
            return "took an old copy that had been invalidated, or never was"
        if self._copies.may_be_used(looking, slot, row):
            return ""
        return f"has a row that is too old, invalidated, or never was: {self._what(row)}"

    def _may_substitute(self, looking: Looking, key: bytes) -> bool:
        breaker = self._lookup._breaker
        return (
            self._loop.now_s >= looking.deadline_s - TIMER_GRAIN_S - TINY_S
            or looking.was_open
            or not breaker.closed
            or breaker.opened != looking.opened
            or self._failed.get(key, 0) > looking.asked_seq
            or (looking.at_once and self.plan.max_pending_keys < 1000)
        )

    def _what(self, row: bytes | None) -> object:
        return row if row is None else self._store.serials.get(row, row[:8])

    # -- between lookup and store -----------------------------------------------------------------

    def _sent(self, keys: Sequence[bytes], done: FetchDone) -> FetchDone:
        sent_s, sent_seq = self._loop.now_s, self._next_seq()
        keys = list(keys)
        twice = self._in_flight.intersection(keys)
        if twice or len(set(keys)) != len(keys):
            self._wrong(f"{sorted(twice)[:3]} are read twice at a time")
        self._in_flight.update(keys)
        self._reads += 1
        # The one more tries a store that failed.
        if self._reads > self.plan.max_reads_in_flight + 1:
            self._wrong(f"{self._reads} reads are in flight")
        for key in keys:
            for looking in self._by_key.get(key, ()):
                looking.unsent.discard(key)
                if not looking.unsent:
                    self._unsent.pop(looking, None)

        def came(rows: Sequence[bytes | None] | None, error: SourceError | None) -> None:
            self._came(keys, rows, sent_s, sent_seq)
            done(rows, error)
            self._after_read(keys, sent_seq, ok=error is None)

        return came

    def _came(
        self, keys: list[bytes], rows: Sequence[bytes | None] | None, sent_s: float, sent_seq: int
    ) -> None:
        seq, now_s = self._next_seq(), self._loop.now_s
        self._reads -= 1
        self._in_flight.difference_update(keys)
        self._ended_turn = self._loop.turn
        if rows is None:
            for key in keys:
                self._failed[key] = seq
            return
        for key, row in zip(keys, rows, strict=True):
            if not self._store.had(key, row, sent_s, now_s):
                self._wrong(f"{key.decode()} was read as {self._what(row)}, and never was that")
            mark = row if row is None or self._is_sound(row) else CORRUPT
            self._copies.came(key, mark, sent_seq, seq, now_s)

    def _is_sound(self, row: bytes) -> bool:
        """Everything that is written is known, but what was damaged."""
        return row in self._store.serials or row[4:8] == b"\1\2\3\4"

    def _after_read(self, keys: list[bytes], sent_seq: int, *, ok: bool) -> None:
        breaker = self._lookup._breaker
        if ok:
            self._ok_seq, self._failures, self._opened_at_ok = self._seq, 0, breaker.opened
        elif sent_seq > self._ok_seq:
            self._failures = self._failures + 1 if breaker.resets == self._resets else 1
            if breaker.resets != self._resets:  # the store was reached anew
                self._resets, self._opened_at_ok = breaker.resets, breaker.opened
            limit = self.plan.breaker_failures
            if self._failures >= limit and breaker.closed and breaker.opened == self._opened_at_ok:
                self._wrong(f"{self._failures} reads failed, and the store is still asked")
        for key in keys:
            if key in self._in_flight:
                continue  # it was asked for again, by somebody who was called back
            for looking in self._by_key.get(key, ()):
                if looking.asked_seq > sent_seq and not self._is_in(looking, key):
                    continue
                if self._is_in(looking, key) and looking.asked_turn < self._loop.turn:
                    self._wrong(
                        f"call {looking.record.number} still waits for {key.decode()}, which came or failed"
                    )

    @staticmethod
    def _is_in(looking: Looking, key: bytes) -> bool:
        """Whether it still waits for this row and somebody read it."""
        return key not in looking.unsent and any(
            row is WAITING and one == key
            for one, row in zip(looking.keys, looking.found.rows, strict=True)
        )

    def _told(self, keys: Sequence[bytes] | None) -> None:
        self._copies.told(keys, self._next_seq())

    # -- moments ----------------------------------------------------------------------------------

    def check_turn(self) -> None:
        """At the end of each turn of the loop."""
        loop = self._loop
        due_s = loop.turn_started_s - loop.timer_resolution_s - TINY_S
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] < due_s:
            deadline_s, _, looking = heappop(deadlines)
            if looking in self.waiting:
                late_s = loop.now_s - deadline_s
                self._wrong(f"call {looking.record.number} still waits {late_s} s after its time")
        if self._unsent and self._ended_turn < loop.turn:
            looking = next(iter(self._unsent))
            if looking.asked_turn < loop.turn and self._reads < self.plan.max_reads_in_flight:
                self._wrong(
                    f"call {looking.record.number} waits for {sorted(looking.unsent)[:3]}, which nobody reads"
                )
        self._check_bounds()

    def _check_bounds(self) -> None:
        cache, plan = self._lookup._cache, self.plan
        if cache.used_bytes > plan.near_cache_bytes:
            self._wrong(f"{cache.used_bytes} bytes of copies")
        if cache.negative_bytes > plan.negative_cache_bytes:
            self._wrong(f"{cache.negative_bytes} bytes of rows that are not there")

    def check_end(self, *, is_dry: bool) -> None:
        """Nobody is inside any more. ``is_dry``: and nothing will ever happen again."""
        found = self._lookup.snapshot()
        lookups, calls = found.waiting_lookups, len(self.waiting)
        if calls or lookups:
            self._wrong(f"{lookups} lookups wait at the end, {calls} calls")
        pending = (found.pending_keys, found.waiting_slots, found.reads_in_flight)
        if is_dry and any(pending):
            self._wrong(f"(keys, slots, reads) {pending} are pending at the end")
        counted_bytes, used_bytes = self._lookup._cache.used_bytes, bytes_of(self._lookup._cache)
        if used_bytes != counted_bytes:
            self._wrong(f"copies count {counted_bytes} bytes and have {used_bytes}")
        counted = {(view, Status(one).name): n for (view, one), n in self._meters.rows.items() if n}
        if counted != dict(self.rows):
            self._wrong(f"metrics count {counted}, were {dict(self.rows)}")

    def recover(self, now_s: float, began_s: float) -> bool:
        """Ask on a day that is over; True once the store is trusted again."""
        if self._lookup._breaker.closed:
            return True
        if now_s - began_s <= RECOVERY_S:
            self._ask([ViewKeys(Caching(0.0), [b"recovery"])], now_s + 1.0)
            return False
        self._wrong(f"the store has been well for {RECOVERY_S} s, and is not asked")
        return True
