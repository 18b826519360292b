"""One process that follows plans, on invented time, in a world whose store, disk and loader fail as a test wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from backends.signature import Signature
from gateway.core.prediction_ids import PredictionIds
from gateway.core.servables import ServableTable, ServableVersion
from gateway.pipeline.route import RolloutRouting
from gateway.rollout_following import (
    PlanStore,
    RolloutFollowing,
)
from gateway.rollout_routing import RolloutPlans
from rollout.last_known import LastKnown
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, encode
from rollout.ports import Counters, WorkerBeat, Written
from rollout.settings import RolloutSettings
from tests.support.virtual_time import eventually, now_s, run
from tests.unit.pipeline.requests import X, Y, doubled, request, rows_of
from tests.unit.rollout.plans import after, stepping

MODEL = "delays"
WORKER = "w"
PLAN = stepping()
PAUSED = after(PLAN, Event.PAUSE)
SETTINGS = RolloutSettings(enabled=True)
BEAT_S = SETTINGS.beat_interval_ms * 1e-3
REPORT_S = SETTINGS.report_interval_ms * 1e-3
POLL_S = SETTINGS.poll_interval_s


class Store(MemoryRollouts):
    """Notes when it was asked, and may hang or damage what it is asked."""

    def __init__(self) -> None:
        super().__init__(clock_s=now_s)
        self.hangs = False
        self.pushes = True
        self.reported: list[tuple[float, str, Counters]] = []
        self.beaten: list[tuple[float, WorkerBeat]] = []
        self.closed = False

    async def _called(self) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        await super()._called()

    async def changes(self) -> Any:
        if not self.pushes:
            await asyncio.sleep(3600)
        async for model in super().changes():
            yield model

    async def report(
        self, worker: str, model: str, began_revision: int, counters: Counters
    ) -> None:
        await super().report(worker, model, began_revision, counters)
        self.reported.append((now_s(), model, counters))

    async def beat(self, beat: WorkerBeat) -> None:
        await super().beat(beat)
        self.beaten.append((now_s(), beat))

    async def close(self) -> None:
        self.closed = True

    async def put(self, plan: Plan) -> None:
        assert isinstance(await self.write(plan, plan.revision - 1, 0), Written)


class Process:
    """A gateway of versions 3 and, after ``load_s``, whatever its plans name and is in ``folder``."""

    def __init__(self, store: Store, disk: Path, *loaded: str) -> None:
        self.store = store
        self.folder = {"3", "4", "5"}
        self.load_s = 0.3
        self.tries: list[tuple[float, frozenset[str]]] = []
        self.fails: BaseException | None = None
        self.table = ServableTable([self._version(one) for one in loaded or ("3",)], [])
        self.routing = RolloutRouting(now_s, PredictionIds(lambda: 0, lambda k: 0))
        self.last_known = LastKnown(disk)
        self.plan_store = PlanStore(store, self.last_known)
        self.plans = RolloutPlans(self.table, self.routing, clock=now_s)
        self.following = RolloutFollowing(
            SETTINGS, self.plan_store, self.plans, self, worker=WORKER, wall_clock=now_s
        )

    @staticmethod
    def _version(number: str) -> ServableVersion:
        return ServableVersion(MODEL, number, Signature((X,), (Y,)), doubled, max_batch_size=64)

    async def follow_plan(self, model: str, versions: Collection[str]) -> None:
        """Fills the port ``VersionLoader``."""
        self.tries.append((now_s(), frozenset(versions)))
        await asyncio.sleep(self.load_s)
        if self.fails is not None:
            raise self.fails
        have = {one.version for one in self.table.of(model)}
        for number in sorted(set(versions) & self.folder - have):
            self.table.put(self._version(number))
        for number in have - set(versions):
            self.table.remove(self.table.find(model, number))

    async def start(self) -> Process:
        """As the composition root does."""
        plans, troubles = await self.plan_store.first()
        for stored in plans.values():
            self.plans.adopt(stored)
        for model, why in troubles.items():
            self.plans.distrust(model, why)
        await self.following.start()
        return self

    @property
    def revision(self) -> int:
        followed = self.plans.followed.get(MODEL)
        return 0 if followed is None else followed.plan.revision

    @property
    def loaded(self) -> set[str]:
        return {one.version for one in self.table.of(MODEL)}

    def serve(self, count: int = 1) -> None:
        """Requests, answered at once."""
        for number in range(count):
            arms = self.routing.arms[MODEL]
            context = tuple({"x-user": f"u{number}"}.get(one) for one in arms.names.headers)
            arm, _, _ = arms.choose(request(rows_of(1), model=MODEL, context=context))
            arm.tally.answered(False, True, False)

    def kill(self) -> None:
        """It is gone in the middle of whatever it did."""
        for task in (*self.following._tasks, *self.following._loads.values()):
            task.cancel()

    async def stop(self) -> None:
        await self.following.close()


class World:
    def __init__(self, disk: Path) -> None:
        self.store = Store()
        self.disk = disk

    def process(self, *loaded: str) -> Process:
        return Process(self.store, self.disk, *loaded)

    async def running(self, *loaded: str, plan: Plan = PLAN) -> Process:
        """A process with ``plan`` in force and its versions loaded."""
        self.store.put_document(plan.model, encode(plan))
        process = await self.process(*loaded).start()
        await eventually("the versions are loaded", lambda: not process.plans.missing(MODEL))
        return process


def in_world(disk: Path, test: Callable[[World], Any]) -> None:
    async def whole() -> None:
        await test(World(disk))

    run(whole)


def on_disk(disk: Path) -> dict[str, int]:
    return {model: one.plan.revision for model, one in LastKnown(disk).read().items()}
