"""The port in this process alone: for tests, and for simulations that must not wait.

Decides the same as the store's scripts do, on bytes as well, so that nothing passes here which a real store could not
hold. Its time is what it is given, and it can be away, empty or damaged at a word. It must never be what several
processes rely on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import msgspec

from rollout.plan import Plan
from rollout.ports import (
    BEAT_KEPT_MS,
    LEASE_MS,
    MAX_WORKERS,
    Conflict,
    Counters,
    StoreAwayError,
    Stored,
    WorkerBeat,
    Written,
    fence_floor,
)
from rollout.shared_documents import (
    beat_document,
    plan_document,
    read_beats,
    read_report,
    report_document,
    stored_plan,
    too_many_workers,
)


class _Held(msgspec.Struct):
    """A lease."""

    owner: str
    until_s: float


class _Listener:
    """What one reader of changes has not read: each name once, so there are never more than models."""

    def __init__(self, models: list[str]) -> None:
        self.pending = dict.fromkeys(models)
        self.is_lost = False
        self.woken = asyncio.Event()


class MemoryRollouts:
    """``rollout.ports.Rollouts``; one object is the store and everybody's connection to it.

    ``clock_s``: the store's own clock, in seconds from anywhere.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._listeners: list[_Listener] = []
        self._is_away = False
        self.lose_data()

    # -- what may happen to a store ---------------------------------------------------------------

    def go_away(self) -> None:
        """From now on every call fails, and whoever listens to changes is cut off."""
        self._is_away = True
        for listener in self._listeners:
            listener.is_lost = True
            listener.woken.set()

    def come_back(self) -> None:
        """With the data it had."""
        self._is_away = False

    def lose_data(self) -> None:
        """As if it had been started empty."""
        self._documents: dict[str, bytes] = {}
        self._fences: dict[str, int] = {}
        self._reports: dict[tuple[str, int], dict[str, bytes]] = {}
        self._beats: dict[str, tuple[float, bytes]] = {}
        self._lease: _Held | None = None
        self._lease_fence = 0
        self._models: set[str] = set()

    def put_document(self, model: str, document: bytes) -> None:
        """As somebody else would who can write to the store."""
        self._models.add(model)
        self._documents[model] = document

    def put_report(self, worker: str, model: str, began_revision: int, document: bytes) -> None:
        """Likewise."""
        self._reports.setdefault((model, began_revision), {})[worker] = document

    # -- the port ---------------------------------------------------------------------------------

    async def models(self) -> list[str]:
        await self._called()
        return sorted(self._models)

    async def plan(self, model: str) -> Stored | None:
        await self._called()
        document = self._documents.get(model)
        return stored_plan(model, document) if document else None

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        document = plan_document(plan, expected_revision, fence)
        await self._called()
        self._models.add(plan.model)
        found = self._documents.get(plan.model)
        if found == document:
            return Written()
        stored = stored_plan(plan.model, found) if found else None
        newest = self._fences.get(plan.model, 0)
        if 0 < fence < newest:
            return Conflict(stored, newest)
        if (stored.plan.revision if stored else 0) != expected_revision:
            return Conflict(stored)
        self._documents[plan.model] = document
        if fence:
            self._fences[plan.model] = fence
        for listener in self._listeners:
            listener.pending[plan.model] = None
            listener.woken.set()
        return Written()

    async def report(
        self, worker: str, model: str, began_revision: int, counters: Counters
    ) -> None:
        document = report_document(counters)
        await self._called()
        reports = self._reports.setdefault((model, began_revision), {})
        _refuse_crowd(worker, reports)
        reports[worker] = document

    async def reports(self, model: str, began_revision: int) -> dict[str, Counters]:
        await self._called()
        found = self._reports.get((model, began_revision), {})
        return {worker: read_report(document) for worker, document in found.items()}

    async def beat(self, beat: WorkerBeat) -> None:
        document = beat_document(beat)
        await self._called()
        _refuse_crowd(beat.worker, self._beats)
        self._beats[beat.worker] = (self._clock_s(), document)

    async def beats(self) -> list[WorkerBeat]:
        await self._called()
        oldest_s = self._clock_s() - BEAT_KEPT_MS / 1000
        self._beats = {
            worker: (came_s, document)
            for worker, (came_s, document) in self._beats.items()
            if came_s >= oldest_s
        }
        return read_beats(document for _, document in self._beats.values())

    async def take_lease(self, owner: str, now_s: float) -> int | None:
        await self._called()
        held = self._held()
        if held is not None and held.owner != owner:
            return None
        self._lease_fence = max(self._lease_fence + 1, fence_floor(now_s))
        self._lease = _Held(owner, self._clock_s() + LEASE_MS / 1000)
        return self._lease_fence

    async def keep_lease(self, owner: str) -> bool:
        await self._called()
        held = self._held()
        if held is None or held.owner != owner:
            return False
        held.until_s = self._clock_s() + LEASE_MS / 1000
        return True

    async def drop_lease(self, owner: str) -> None:
        await self._called()
        if self._lease is not None and self._lease.owner == owner:
            self._lease = None

    async def changes(self) -> AsyncGenerator[str, None]:
        await self._called()
        listener = _Listener(sorted(self._models))
        self._listeners.append(listener)
        try:
            while not listener.is_lost:
                while listener.pending:
                    model = next(iter(listener.pending))
                    del listener.pending[model]
                    yield model
                listener.woken.clear()
                if not listener.is_lost:
                    await listener.woken.wait()
        finally:
            self._listeners.remove(listener)

    async def close(self) -> None:
        """Nothing to let go of: another may still use it."""

    # -- inside -----------------------------------------------------------------------------------

    async def _called(self) -> None:
        await asyncio.sleep(0)  # whatever may happen while a real one is asked, may happen here
        if self._is_away:
            raise StoreAwayError("the store in memory is away: let it come back")

    def _held(self) -> _Held | None:
        if self._lease is not None and self._lease.until_s <= self._clock_s():
            self._lease = None
        return self._lease


def _refuse_crowd(worker: str, known: dict[str, bytes] | dict[str, tuple[float, bytes]]) -> None:
    if worker not in known and len(known) >= MAX_WORKERS:
        raise StoreAwayError(too_many_workers("the store in memory"))
