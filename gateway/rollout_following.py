"""Follows the plans of rollouts: brings them from the store, has their versions loaded, and reports what came of them.

Part of the composition root, one in each process that serves. It decides when the store is asked and told, and what
happens while it is away: the last known plans, which lie on the disk, stay in force. It must never stand in the way of
a request: routes change in one turn of the loop (``rollout_routing.py``), and everything that waits does so in tasks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

from gateway.core.arms import versions_of
from gateway.errors import HeadraceError
from gateway.ports import Clock
from gateway.rollout_routing import RolloutPlans
from gateway.telemetry.metrics import Metrics
from rollout.checking import document_faults_of
from rollout.last_known import LastKnown, LastKnownError, succeeds
from rollout.ports import CorruptPlanError, Counters, Rollouts, StoreAwayError, Stored, WorkerBeat
from rollout.settings import RolloutSettings

logger = logging.getLogger("headrace.rollouts")

FIRST_READ_S = 2.0
"""How long a start waits for the store's plans; then those on the disk have to do."""
REPORT_ANEW_S = 10.0
"""After so long, what was reported is reported again: a store may have lost it and not tell."""
LAST_WORDS_S = 2.0
"""How long the last reports may take when the process ends."""
RELOAD_AFTER_S = 5.0
"""From a failed try to load a plan's versions to the next …"""
MAX_RELOAD_AFTER_S = 60.0
"""… doubled up to this."""
RECONNECT_S = 0.2
"""From a lost watch to the next."""


class VersionLoader(Protocol):
    """Who loads the versions that a plan names."""

    async def follow_plan(self, model: str, versions: Collection[str]) -> None: ...


class PlanStore:
    """The store and the disk, as one: every answer of the store is told apart from its being away."""

    def __init__(self, rollouts: Rollouts, last_known: LastKnown) -> None:
        self.rollouts = rollouts
        self.is_up = False
        self._last_known = last_known
        self._told_away = False

    async def first(self) -> tuple[dict[str, Stored], dict[str, str]]:
        """(plans, troubles) by model: those of the disk, and the store's where they can be had soon."""
        plans: dict[str, Stored] = {}
        troubles: dict[str, str] = {}
        try:
            plans = await asyncio.to_thread(self._last_known.read)
        except LastKnownError as error:
            logger.error("%s", error)
        try:
            async with asyncio.timeout(FIRST_READ_S):
                for model in await self.rollouts.models():
                    try:
                        stored = await self.rollouts.plan(model)
                    except CorruptPlanError as error:
                        troubles[model] = f"{error}"
                        continue
                    if stored is None:
                        continue
                    if faults := document_faults_of(stored.plan):
                        revision = stored.plan.revision
                        troubles[model] = (
                            f"its plan of revision {revision} is wrong: {'; '.join(faults)}"
                        )
                        continue
                    known = plans.get(model)
                    if known is None or not succeeds(known.plan, stored.plan):
                        plans[model] = stored
            self.is_up = True
        except (StoreAwayError, TimeoutError) as error:
            self.away(error)
        return plans, troubles

    async def keep(self, stored: Stored) -> None:
        """Write a plan to the disk."""
        try:
            await asyncio.to_thread(self._last_known.keep, stored)
        except LastKnownError as error:
            logger.error("%s", error)

    async def close(self) -> None:
        """Let go of the store."""
        with suppress(StoreAwayError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self.rollouts.close()

    def away(self, error: BaseException) -> None:
        """The store did not do what it was asked: told once until it is back."""
        if self.is_up or not self._told_away:
            self._told_away = True
            why = str(error) or "no answer"
            logger.warning("plans of rollouts: %s; the last known stay in force", why)
        self.is_up = False

    def back(self) -> None:
        """The store has answered."""
        if not self.is_up:
            self.is_up = True
            if self._told_away:
                self._told_away = False
                logger.info("plans of rollouts: the store is back")


class RolloutFollowing:
    """The tasks of one process, from ``start`` to ``close``."""

    def __init__(
        self,
        settings: RolloutSettings,
        store: PlanStore,
        plans: RolloutPlans,
        loader: VersionLoader,
        *,
        worker: str,
        wall_clock: Clock = time.time,
    ) -> None:
        """``worker``: a name that no other process ever has, not even the one that takes this one's place."""
        self._settings = settings
        self._store = store
        self._rollouts = store.rollouts
        self._plans = plans
        self._loader = loader
        self._worker = worker
        self._wall_clock = wall_clock
        self._tasks: list[asyncio.Task[None]] = []
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._disk: set[asyncio.Task[None]] = set()
        self._reported: dict[str, tuple[int, Counters]] = {}
        self._reported_s: dict[str, float] = {}
        self._beat_now = asyncio.Event()
        self.changes_seen = 0
        """Plans that came into force since the start."""

    async def start(self) -> None:
        """Begin to watch, beat and report. The plans that are known have been adopted before."""
        for model in self._plans.followed:
            self._see_to_versions(model)
        self._in_background(self._keep_all([one.stored for one in self._plans.followed.values()]))
        self._tasks = [
            asyncio.create_task(one)
            for one in (self._watching(), self._polling(), self._beating(), self._reporting())
        ]

    async def close(self) -> None:
        """Say what was counted last, and that this process leaves."""
        for task in (*self._tasks, *self._loads.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loads.values(), return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._report(is_final=True)
                await self._rollouts.beat(self._beat(has_left=True))
        except (StoreAwayError, TimeoutError) as error:
            why = str(error) or "no answer"
            logger.warning("the last counts of the rollouts could not be reported: %s", why)
        except Exception:  # the disk's turn and the connection's end come all the same
            logger.exception("reporting the last counts of the rollouts failed")
        if self._disk:
            await asyncio.wait(self._disk, timeout=LAST_WORDS_S)
        await self._store.close()

    # -- plans come -------------------------------------------------------------------------------

    async def _watching(self) -> None:
        while True:
            try:
                async with aclosing(self._rollouts.changes()) as changes:
                    async for model in changes:
                        await self._read(model)
            except StoreAwayError as error:
                self._store.away(error)
            except Exception:  # without the watch, polling still brings every change
                logger.exception("watching the plans of rollouts failed")
            await asyncio.sleep(RECONNECT_S)

    async def _polling(self) -> None:
        await self._every(self._settings.poll_interval_s, self._poll)

    async def _poll(self) -> None:
        for model in await self._rollouts.models():
            await self._read(model)
        for model in self._plans.followed:
            self._see_to_versions(model)

    async def _read(self, model: str) -> None:
        try:
            stored = await self._rollouts.plan(model)
        except CorruptPlanError as error:
            self._plans.distrust(model, f"{error}")
            return
        self._store.back()
        if stored is None or not self._plans.adopt(stored):
            return
        self.changes_seen += 1
        plan = stored.plan
        logger.info(
            "plan in force",
            extra={
                "model": model,
                "revision": plan.revision,
                "state": plan.state.value,
                "weights": {one.version: one.weight_percent for one in plan.arms},
            },
        )
        self._beat_now.set()
        self._see_to_versions(model)
        self._in_background(self._store.keep(stored))

    async def _keep_all(self, plans: Sequence[Stored]) -> None:
        """Those that a start found in the store may not be on this disk yet."""
        for stored in plans:
            await self._store.keep(stored)

    def _in_background(self, writing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(writing)
        self._disk.add(task)
        task.add_done_callback(self._disk.discard)

    # -- versions ---------------------------------------------------------------------------------

    def _see_to_versions(self, model: str) -> None:
        """Have the plan's versions loaded, unless that is under way."""
        if model in self._loads:
            return
        if not self._plans.missing(model) and not self._plans.superfluous(model):
            self._plans.loaded(model)
            return
        task = self._loads[model] = asyncio.create_task(self._load(model))
        task.add_done_callback(lambda _: self._loads.pop(model, None))

    async def _load(self, model: str) -> None:
        """Try, and then wait before the next try may begin, so that a broken version costs little."""
        wait_s = RELOAD_AFTER_S
        clock = asyncio.get_running_loop().time
        while True:
            wanted = versions_of(self._plans.followed[model].plan)
            try:
                await self._loader.follow_plan(model, wanted)
            except HeadraceError as error:
                logger.error("versions of model %s for its rollout: %s", model, error.message)
            except Exception:
                logger.exception("loading versions of model %s for its rollout failed", model)
            if wanted != versions_of(self._plans.followed[model].plan):
                continue  # the plan has changed meanwhile
            self._plans.loaded(model)
            self._beat_now.set()
            if not self._plans.missing(model):
                return
            give_up_s = clock() + wait_s
            while clock() < give_up_s:
                await asyncio.sleep(self._settings.poll_interval_s)
                if wanted != versions_of(self._plans.followed[model].plan):
                    break
                self._plans.loaded(model)  # also of a newer revision that wants the same
            else:
                wait_s = min(2 * wait_s, MAX_RELOAD_AFTER_S)

    # -- what is told -----------------------------------------------------------------------------

    async def _beating(self) -> None:
        interval_s = self._settings.beat_interval_ms * 1e-3
        while True:
            await self._try(self._say_alive)
            try:
                async with asyncio.timeout(interval_s):
                    await self._beat_now.wait()
            except TimeoutError:
                pass
            self._beat_now.clear()

    async def _say_alive(self) -> None:
        await self._rollouts.beat(self._beat(has_left=False))

    def _beat(self, *, has_left: bool) -> WorkerBeat:
        return WorkerBeat(
            worker=self._worker,
            at_s=self._wall_clock(),
            models=self._plans.beats(),
            has_left=has_left,
        )

    async def _reporting(self) -> None:
        await self._every(self._settings.report_interval_ms * 1e-3, self._report_news)

    async def _report_news(self) -> None:
        await self._report(is_final=False)

    async def _report(self, *, is_final: bool) -> None:
        now = asyncio.get_running_loop().time()
        for model, followed in list(self._plans.followed.items()):
            began = followed.plan.began_revision
            counters = self._plans.counters(model, is_final=is_final)
            if not (counters.stretches or counters.comparisons or is_final):
                continue
            is_news = self._reported.get(model) != (began, counters)
            if not is_news and now - self._reported_s[model] < REPORT_ANEW_S:
                continue
            await self._rollouts.report(self._worker, model, began, counters)
            self._reported[model] = (began, counters)
            self._reported_s[model] = now

    # -- again and again --------------------------------------------------------------------------

    async def _every(
        self, interval_s: float, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._try(work)

    async def _try(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except StoreAwayError as error:
            self._store.away(error)
        except Exception:  # the next time may go better; without it there would be none
            logger.exception("following the plans of rollouts failed")
        else:
            self._store.back()

    def export(self, metrics: Metrics) -> None:
        """Declare what is told to Prometheus."""
        metrics.gauge(
            "headrace_rollout_store_up",
            "1 while the store of plans answers.",
            (),
            lambda: [((), float(self._store.is_up))],
        )
        metrics.counter(
            "headrace_rollout_plan_changes",
            "Plans that came into force since the start.",
            (),
            lambda: [((), float(self.changes_seen))],
        )
