"""The store of a day: what is true of each row at every moment, who writes, and how the store fails.

Every process has a connection of its own, a real ``MemorySource``; writes and faults reach all of them. It keeps the
history of each row, by which what the gateway used can be judged. It must never look at the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from featurecache.sources.memory_source import MemorySource
from featurecache.sources.ports import Clock, FetchDone, Loop
from featurecache.sources.source_limits import SourceLimits
from tests.sim.feature_plans import RowChange, StoreFault, StorePlan
from tests.sim.feature_rows import EPOCH_US, damaged, key_of, make_row, of_unknown_schema
from tests.sim.virtual_loop import VirtualLoop

Note = Callable[..., None]


class Connection(MemorySource):
    """One process's way to the store; it can forget to tell of changes."""

    def __init__(self, plan: StorePlan, loop: Loop, clock: Clock) -> None:
        limits = SourceLimits(read_timeout_s=plan.read_timeout_s)
        super().__init__(limits, loop=loop, clock=clock, tracking=plan.tracking)
        self.is_silent = False
        self.on_fetch: Callable[[Sequence[bytes], FetchDone], FetchDone] = lambda keys, done: done
        """Sees every fetch, and what becomes of it."""
        self.on_told: Callable[[Sequence[bytes] | None], None] = lambda keys: None
        """Sees every change that is told, at the moment in which it is."""

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        super().fetch(keys, self.on_fetch(keys, done), track=track)

    def _tell(self, keys: Sequence[bytes] | None) -> None:
        self.on_told(keys)
        super()._tell(None if keys is None else list(keys))

    def _send_change(self, keys: Sequence[bytes] | None) -> None:
        if not self.is_silent:
            super()._send_change(None if keys is None else list(keys))


class Store:
    """Rows, their history, and the connections of the processes that live."""

    def __init__(self, plan: StorePlan, loop: VirtualLoop, note: Note) -> None:
        self.plan = plan
        self.serials: dict[bytes, tuple[str, int, int]] = {}
        """Row → (view, entity, write number)."""
        self._loop = loop
        self._note = note
        self._history: dict[bytes, list[tuple[float, bytes | None]]] = {}
        self._connections: list[tuple[Connection, Callable[[], bool]]] = []
        self._fault: StoreFault | None = None
        self._written = 0
        self._is_over = False
        for view in plan.views:
            for entity in range(plan.entities):
                if (entity + len(view.name)) % 7:
                    self._put(RowChange(0.0, "write", view.name, entity))

    def begin(self) -> None:
        """Writers and faults have their dates from now on."""
        began_s = self._loop.now_s
        for change in self.plan.changes:
            self._loop.call_at(began_s + change.at_s, partial(self._put, change))
        for fault in self.plan.faults:
            self._loop.call_at(began_s + fault.from_s, partial(self._fail, fault))
            self._loop.call_at(began_s + fault.to_s, partial(self._end, fault))

    def connect(self, loop: Loop, is_alive: Callable[[], bool]) -> Connection:
        """A connection for a process, with all that is true now."""
        connection = Connection(self.plan, loop, self._loop.clock)
        for key, versions in self._history.items():
            row = versions[-1][1]
            if row is not None:
                connection.set(key, row)
        connection.begin()
        connection.delay_s = self.plan.delay_s
        self._connections.append((connection, is_alive))
        if self._fault is not None:
            self._apply(connection, self._fault)
        return connection

    def _living(self) -> list[Connection]:
        return [one for one, is_alive in self._connections if is_alive()]

    # -- writers ----------------------------------------------------------------------------------

    def _put(self, change: RowChange) -> None:
        if self._is_over:
            return
        now_s = self._loop.now_s
        self._note("store", change.kind, change.view, change.entity)
        if change.kind == "flush":
            for key in self._history:
                self._history[key].append((now_s, None))
            for connection in self._living():
                connection.flush()
            return
        key = key_of(change.entity, change.view)
        row = None if change.kind == "delete" else self._row(change)
        self._history.setdefault(key, []).append((now_s, row))
        for connection in self._living():
            if row is None:
                connection.delete(key)
            else:
                connection.set(key, row)

    def _row(self, change: RowChange) -> bytes:
        self._written += 1
        now_us = now_us_at(self._loop.now_s)
        event_us = now_us - int(change.age_s * 1e6)
        view = self.plan.view(change.view)
        row = make_row(view, change.entity, self._written, event_us, now_us)
        if change.kind == "corrupt":
            return damaged(row)
        if change.kind == "alien":
            return of_unknown_schema(row)
        self.serials[row] = (view.name, change.entity, self._written)
        return row

    def had(self, key: bytes, row: bytes | None, from_s: float, to_s: float) -> bool:
        """Whether this was the row (None: there was none) at some moment of this stretch."""
        versions = self._history.get(key, [])
        if row is None and (not versions or versions[0][0] > from_s):
            return True
        for at, (since_s, one) in enumerate(versions):
            until_s = versions[at + 1][0] if at + 1 < len(versions) else float("inf")
            if one == row and since_s <= to_s and until_s >= from_s:
                return True
        return False

    # -- faults -----------------------------------------------------------------------------------

    def _fail(self, fault: StoreFault) -> None:
        if self._is_over:
            return
        self._note("store", "begins to be", fault.kind)
        self._fault = fault
        for connection in self._living():
            self._mend(connection)
            self._apply(connection, fault)
        if fault.kind == "flap":
            self._loop.call_at(self._loop.now_s + fault.delay_s, partial(self._flap, fault, True))

    def _apply(self, connection: Connection, fault: StoreFault) -> None:
        if fault.kind == "slow":
            connection.delay_s = fault.delay_s
        elif fault.kind == "hang":
            connection.hang()
        elif fault.kind == "silent":
            connection.is_silent = True
        else:
            connection.fail("planned")

    def _flap(self, fault: StoreFault, up: bool) -> None:
        if self._fault is not fault:
            return
        for connection in self._living():
            if up:
                connection.heal()
            else:
                connection.fail("planned")
        self._loop.call_at(self._loop.now_s + fault.delay_s, partial(self._flap, fault, not up))

    def _mend(self, connection: Connection) -> None:
        connection.heal()
        connection.delay_s = self.plan.delay_s
        connection.is_silent = False

    def _end(self, fault: StoreFault) -> None:
        if self._fault is fault:
            self._note("store", "is no longer", fault.kind)
            self._fault = None
            for connection in self._living():
                self._mend(connection)

    def calm_down(self) -> None:
        """The day is over: nobody writes any more, and the store is well."""
        self._is_over = True
        if self._fault is not None:
            self._end(self._fault)

    @property
    def is_well(self) -> bool:
        """No fault is on."""
        return self._fault is None


def now_us_at(now_s: float) -> int:
    """The calendar's time at a moment of the loop, in µs since 1970."""
    return EPOCH_US + int(now_s * 1e6)
