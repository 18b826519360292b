"""A day of rollouts on invented time: two controllers, some gateways, people, and everything that may go wrong.

Decides what happens when, by a seed. A controller's coroutine is driven by hand, one wait at a time: it can be killed,
or stand still, at each of them.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np

from rollout.change_log import ChangeLog
from rollout.controller import apply, submit, warm_everywhere
from rollout.driver import Driver
from rollout.evidence import Stretch
from rollout.evidence_gathering import heard
from rollout.plan import Event, Plan, PlannedGuardrail, Proposal, Shadow, State, Step, Sticky
from rollout.ports import CorruptPlanError, StoreAwayError
from rollout.settings import RolloutSettings
from rollout.transitions import Author, Change, Refused
from tests.sim.rollout_book import BookedStore, MemoryAudit, WrongStepError
from tests.sim.rollout_workers import SimWorker, finish
from tests.sim.virtual_loop import VirtualLoop

PERSON = Author("grace", "approver")
START_WALL_S = 1_800_000_000.0
DAY_S = 240.0
RECOVERY_S = 100.0
TICK_MS = 1000.0
MODELS = ("delays", "fares")


@types.coroutine
def a_turn(seconds: float | None = None) -> Generator[float | None, None, None]:
    """Let others act; for so long, or for a moment."""
    yield seconds


class NoStop:
    """A driver that nobody stops."""

    def is_set(self) -> bool:
        return False


class Link:
    """The store as one controller reaches it: each call can stop before it and after it, and its answer be lost."""

    def __init__(self, process: SimDriver) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        store = self._process.world.store
        method = getattr(store, name)
        if name == "write":

            def method(*arguments: Any) -> Any:
                return store.write_by(self._process.name, *arguments)

        async def call(*arguments: Any) -> Any:
            await a_turn()
            self._process.may_reach()
            answer = await method(*arguments)
            await a_turn()
            self._process.may_reach()
            return answer

        return call


class SimDriver:
    """One controller's process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.is_cut_off = False
        self.steps = 0
        self.wall_offset_s = 0.0
        self.before_step: Callable[[SimDriver], float] = lambda _: 0.0
        """Seconds that it stands still before its next step; may kill it."""
        audit = world.audit
        self.driver = Driver(
            Link(self),  # type: ignore[arg-type]
            ChangeLog(audit, audit.tail, audit.probe),
            RolloutSettings(tick_interval_ms=TICK_MS),
            owner=name,
            wall_s=lambda: world.wall_s + self.wall_offset_s,
            monotonic_s=lambda: world.now_s,
            rest=lambda _, seconds: a_turn(seconds),
            in_thread=self._in_thread,
        )
        self._life = self.driver.run(NoStop())
        world.loop.call_soon(self._step)

    def kill(self) -> None:
        self.is_alive = False

    def may_reach(self) -> None:
        if self.is_cut_off:
            raise StoreAwayError("the network is cut: mend it")

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await a_turn()
        answer = function(*arguments)
        await a_turn()
        return answer

    def _step(self) -> None:
        stands_still_s = self.before_step(self)
        if not self.is_alive:
            self._life.close()
            return
        if stands_still_s:
            self.world.disturb()
            self.world.loop.call_later(stands_still_s, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self.steps += 1
        try:
            pause_s = self._life.send(None)
        except WrongStepError:
            raise
        except Exception as error:
            raise WrongStepError(f"{self.name} died of {error!r}") from error
        if pause_s is None:
            pause_s = self.world.rng.uniform(0.0002, 0.003)
        self.world.loop.call_later(pause_s, self._step)


class World:
    """What is there."""

    def __init__(self, seed: int, *, models: tuple[str, ...] = MODELS) -> None:
        self.rng = Random(seed)
        self.dice = np.random.default_rng(seed)
        self.loop = VirtualLoop()
        self._start_s = self.loop.now_s
        self.models = models
        self.store = BookedStore(self)
        self.audit = MemoryAudit(lambda: datetime.fromtimestamp(self.wall_s, UTC))
        self.workers: list[SimWorker] = []
        self.drivers: list[SimDriver] = []
        self.error_rates = {(model, version): 0.002 for model in models for version in "345"}
        self.changed_s = dict.fromkeys(models, self.now_s)
        self.was_set_back = False
        self.log_broken_since_s = float("inf")
        self.disturbed_at_s = self.now_s
        self._reported: dict[tuple[str, int], dict[tuple[str, int], Stretch]] = {}
        self._had_lease_s: dict[str, float] = {}
        self._revisions: dict[str, bytes] = {}
        self._count = 0
        self._second()

    @property
    def now_s(self) -> float:
        return self.loop.now_s

    @property
    def wall_s(self) -> float:
        """What a clock that is right says."""
        return START_WALL_S + self.loop.now_s - self._start_s

    def disturb(self) -> None:
        """Something happened that may keep the controllers from acting for a while."""
        self.disturbed_at_s = self.now_s

    def add_worker(self) -> None:
        self._count += 1
        self.workers.append(SimWorker(self, f"worker-{self._count}").born())

    def add_driver(self) -> SimDriver:
        self._count += 1
        self.drivers.append(SimDriver(self, f"driver-{self._count}"))
        return self.drivers[-1]

    def run_for(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        self.loop.call_at(until_s, lambda: None)
        while self.now_s < until_s:
            self.loop.run_turn()
            self.store.book.must_be_well()

    # -- what the book asks --------------------------------------------------------------------------

    def leaseless_s(self, driver: str) -> float:
        if self.store.lease_owner == driver:
            return 0.0
        return self.now_s - self._had_lease_s.get(driver, float("-inf"))

    def note_reported(self, model: str, began: int, worker: str, stretch: Stretch) -> None:
        self._reported.setdefault((model, began), {})[worker, stretch.revision] = stretch

    def reported_errors(self, plan: Plan) -> int:
        """Of the candidate; as far as they are beyond what is usual."""
        rate = self.error_rates[plan.model, plan.candidate]
        found = self._reported.get((plan.model, plan.began_revision), {}).values()
        return sum(one.candidate.errors for one in found) if rate > 0.05 else 0

    def _second(self) -> None:
        self.loop.call_later(0.5, self._second)
        owner = self.store.lease_owner
        if owner:
            self._had_lease_s[owner] = self.now_s
        for model, document in self.store.documents().items():
            if self._revisions.get(model) != document:
                self._revisions[model] = document
                self.changed_s[model] = self.now_s
        self.store.book.look_for_harm(self.disturbed_at_s)

    # -- what people do --------------------------------------------------------------------------------

    def proposal(self, model: str, champion: str = "3", *, shadowed: bool = False) -> Proposal:
        candidate = self.rng.choice([one for one in "345" if one != champion])
        return Proposal(
            model=model,
            champion=champion,
            candidate=candidate,
            sticky=Sticky(salt=f"{model} {candidate}"),
            shadows=(Shadow(version=candidate, percent=10, salt="copies"),) if shadowed else (),
            shadow_min_time_s=5.0,
            shadow_min_samples=100,
            steps=tuple(Step(percent=p, min_time_s=8.0, min_samples=200) for p in (5, 20, 50)),
            guardrails=(
                PlannedGuardrail(kind="errors", tolerated=0.02),
                PlannedGuardrail(kind="slow"),
            ),
        )

    def begin(self, model: str, *, shadowed: bool = False) -> None:
        plan = submit(self.proposal(model, shadowed=shadowed), self.wall_s, PERSON, "a new version")
        assert isinstance(plan, Plan)
        finish(self.store.write_by("person", plan, 0, 0))
        self.run_for(2.5)  # the gateways read it, and say what they have for it
        self.act(model, Event.START)

    def is_over(self, model: str) -> bool:
        """Whether nothing is being tried."""
        try:
            state = finish(self.store.plan(model)).plan.state
        except (StoreAwayError, CorruptPlanError):
            return False
        return state in {State.DRAFT, State.PROMOTED, State.ROLLED_BACK, State.ABORTED}

    def act(self, model: str, event: Event) -> None:
        """What a person asks for, refused or not."""
        try:
            stored = finish(self.store.plan(model))
            assert stored is not None
            beats = heard(finish(self.store.beats()), model, self.wall_s)
            plan = stored.plan
            step = self.rng.randrange(len(plan.steps)) if event is Event.STEP else None
            proposal = None
            if event is Event.REPLACE:
                proposal = self.proposal(model, plan.answering, shadowed=self.rng.random() < 0.3)
            change = Change(event=event, revision=plan.revision, step=step, proposal=proposal)
            warm = warm_everywhere(beats, self.wall_s)
            after = apply(plan, change, self.wall_s, PERSON, "as I say", warm)
            if not isinstance(after, Refused):
                finish(self.store.write_by("person", after, plan.revision, 0))
        except (StoreAwayError, CorruptPlanError):
            return
