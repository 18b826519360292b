"""One process of the gateway: ``Serving`` and its control on invented time, without ports.

Decides nothing: it builds what ``gateway/app.py`` builds, and answers the control calls that ``gateway/worker.py``
answers. When it dies, everything in it stops at that moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import Any

import msgspec

from backends.manager import RepositoryState
from gateway.core.admission import AdmissionLimits
from gateway.errors import ErrorCode, HeadraceError
from gateway.feature_serving import FeatureServing
from gateway.pipeline.lane import Worker
from gateway.serving import Serving
from gateway.settings import FeatureSettings, GatewaySettings, RepositorySettings
from gateway.supervisor.local_control import LocalControl, statuses_of
from gateway.supervisor.merge import families_of
from tests.sim.asyncio_view import AsyncioView
from tests.sim.client import SimCall
from tests.sim.day_book import DayBook
from tests.sim.feature_world import FeatureWorld
from tests.sim.lane_book import LaneBook
from tests.sim.plans import Day, ModelPlan
from tests.sim.records import CallRecord, History
from tests.sim.roster import Roster
from tests.sim.scripted_model import ScriptedModel
from tests.sim.virtual_loop import ProcessLoop, VirtualLoop
from tests.sim.virtual_repository import ROOT, Folder, ScriptedLoader
from tests.sim.virtual_worker import RunTime, VirtualWorker

SWEEP_EVERY_S = 1.0
LOOK_EVERY_S = 5e-3
"""How often a process that drains looks whether it is empty."""


class World:
    """What all processes of a day share."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.loop = VirtualLoop(
            start_s=day.starts_s,
            callback_cost_s=day.callback_cost_s,
            timer_resolution_s=day.timer_resolution_s,
            clock_read_s=day.clock_read_s,
        )
        self.history = History(day.starts_s)
        self.calls: dict[int, CallRecord] = {}
        self.folder = Folder(day)
        self.run_time = RunTime(self.loop)
        self.features = None if day.store is None else FeatureWorld(day.store, self)
        self.settings = GatewaySettings(
            admission=AdmissionLimits(day.max_requests, day.max_bytes),
            features=FeatureSettings() if self.features is None else self.features.settings,
            repository=RepositorySettings(models=str(ROOT), control="explicit", startup_models="*"),
        )
        self.loads = 0
        self.processes: list[Process] = []
        self.over = False
        """Nothing is left to do but to end."""

    def wrong(self, problem: str) -> None:
        self.history.complain(self.loop.now_s, problem)

    def day_s(self) -> float:
        return self.loop.now_s - self.day.starts_s


class Process:
    """A process from its start to its death or its end."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.loop = ProcessLoop(world.loop)
        self.view = AsyncioView(self.loop, world.wrong)  # type: ignore[abstract]
        self.book = DayBook(world.day, world.loop, world.history, world.calls)
        self.calls: dict[int, SimCall] = {}
        """Those inside."""
        self.workers: list[VirtualWorker] = []
        self.features: FeatureServing | None = None
        self.is_loaded = False
        self.ended = False
        self.on_end: Callable[[int], None] = lambda code: None
        world.processes.append(self)

    @property
    def alive(self) -> bool:
        return self.loop.alive

    # -- start ------------------------------------------------------------------------------------

    def load(self, names: Collection[str] | None) -> None:
        """Models first, as on a loading thread; then lanes and stack."""
        world = self.world
        loader = ScriptedLoader(
            world.folder, self._make_model, self.view.spend_on_thread, self._complete
        )
        desired = world.folder.scan_repository(ROOT)
        state = RepositoryState(desired, (), desired.problems)
        for model in desired.models:
            for version in model.versions if names is None or model.name in names else ():
                state = state.with_outcome(
                    loader.attempt(model, version, lambda stage, reason: None)
                )
        if world.features is not None:
            self.features, self.book.features = world.features.open(self, world.day.seed)
        self.serving = self.book.serving = Serving(
            state.loaded,
            statuses_of(state),
            world.settings,
            loop=self.loop,
            clock=world.loop.clock,
            make_worker=self._make_worker,
            thread_clock=world.run_time.thread_clock if world.day.has_thread_clock else None,
            features=self.features,
        )
        self.book.roster = self.roster = Roster(
            self.serving, self.workers, self._make_book, world.wrong
        )
        self.roster.open(state.loaded)
        self.control = LocalControl(
            world.settings.repository,
            state,
            loader,
            self.roster,
            drain_timeout_s=world.settings.drain.timeout_s,
        )
        self.is_loaded = True
        if world.day.operations or world.day.workers:
            self._sweep()

    def _sweep(self) -> None:
        if not self.ended and not self.world.over:
            self.loop.call_later(SWEEP_EVERY_S, self._sweep)
        self.serving.reap()

    def _make_model(self, plan: ModelPlan) -> ScriptedModel:
        world = self.world
        dice = Random(f"{world.day.seed} model {world.loads}")
        world.loads += 1
        features = world.features
        signature = None if features is None else features.signature(plan)
        return ScriptedModel(plan, dice, world.run_time, world.day_s, signature)

    def _complete(self, backend: ScriptedModel) -> object:
        features = self.world.features
        return None if features is None else features.fit(backend)

    def _make_worker(self, name: str, threads: int) -> Worker:
        world = self.world
        worker = VirtualWorker(self.loop, world.run_time, threads, world.day.hand_over_s)
        self.workers.append(worker)
        return worker

    def _make_book(self, backend: ScriptedModel, worker: VirtualWorker) -> LaneBook:
        world = self.world
        return LaneBook(
            backend.plan, world.calls, world.loop, worker, world.history, f"{self.name}:"
        )

    # -- control ----------------------------------------------------------------------------------

    async def answer(self, method: str, value: Any) -> Any:
        """A call over the control socket, which makes plain values of structs."""
        if method == "load":
            names = None if value["serve"] is None else set(value["serve"])
            return await self.view.run_in_executor(None, self.load, names)
        if not self.is_loaded:
            raise HeadraceError(ErrorCode.NOT_READY, "the worker is loading")
        control = self.control
        if method == "index":
            return msgspec.to_builtins(await control.index())
        if method == "metrics":
            return msgspec.to_builtins(families_of(self.serving.metrics))
        if method == "prepare_load":
            return await control.prepare_load(value)
        if method == "commit":
            return control.commit()
        if method == "abort":
            return control.abort()
        if method == "unload":
            return await self.unload(value, control.drop)
        assert method == "catch_up", method
        self.roster.is_served = False
        return await control.catch_up(value)

    async def unload(self, model: str, drop: Callable[[str], Awaitable[None]]) -> None:
        """Watched: until it returns, the model may be without a version."""
        self.roster.unloading.append(model)
        try:
            await drop(model)
            if self.roster.find(model, "") is not None:
                self.world.wrong(f"{model} is served when its unload is over")
        finally:
            self.roster.unloading.remove(model)

    # -- end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Everything new is refused from now on."""
        self.world.history.note(self.loop.now_s, "close", self.name)
        self.book.closed = True
        self.serving.close()

    def drain(self) -> None:
        """Refuse what is new, answer what is inside, then go."""
        if not self.is_loaded:
            self.loop.alive = False
            self.on_end(0)
            return
        self.close()
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if self.calls or not self.serving.idle:
            self.loop.call_later(LOOK_EVERY_S, self._leave_when_idle)
            return
        self.check_end()
        self.serving.close_workers()
        self.ended = True
        self.loop.alive = False
        self.on_end(0)

    def check_end(self, *, is_dry: bool = False) -> None:
        """Before it goes: nothing is inside. ``is_dry``: and nothing will ever happen again."""
        self.serving.reap()
        if self.book.features is not None:
            self.book.features.check_end(is_dry=is_dry)
        self.book.check_turn()
        self.book.check_end()
        self.roster.check_end()

    def die(self) -> None:
        """All is lost that is inside."""
        if not self.alive:
            return
        self.world.history.note(self.loop.now_s, "dies", self.name)
        self.view.abandon()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.be_lost()
        self.on_end(-9)
