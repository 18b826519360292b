"""Gateways as a controller sees them: they follow plans, beat, count seeded traffic, and die in and out of order.

Decides what is true of a worker; what it says of itself is a second behind.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from rollout.evidence import ArmCounts, RecentOutcomes, Stretch
from rollout.plan import Plan, State
from rollout.ports import CorruptPlanError, Counters, ModelBeat, StoreAwayError, Stored, WorkerBeat

if TYPE_CHECKING:
    from tests.sim.rollout_world import World

ALL = frozenset({"3", "4", "5"})
EVERY_S = 1.0
FORGOTTEN_S = 59.0
REQUESTS_PER_S = 2000


def finish(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a call that waits for nothing but its turn."""
    try:
        while True:
            call.send(None)
    except StopIteration as done:
        return done.value


class SimWorker:
    """One process that serves."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.is_alive = True
        self.is_stuck = False
        """It serves, and neither follows plans nor beats nor reports."""
        self.lost_at_s: float | None = None
        """When it died without a last word."""
        self.lost_revisions: dict[str, int] = {}
        self.wall_offset_s = 0.0
        self._plans: dict[str, Plan] = {}
        self._adopted_s: dict[str, float] = {}
        self._cold_since_s: dict[tuple[str, str], float] = {}
        self._stretches: dict[tuple[str, int], dict[tuple[int, int], Stretch]] = {}
        self._recent: dict[tuple[str, int], RecentOutcomes] = {}

    # -- what is true ------------------------------------------------------------------------------

    def cold_for_s(self, model: str, versions: set[str]) -> float:
        """For how long it has lacked one of the versions."""
        since = [self._cold_since_s.get((model, one)) for one in versions]
        return max((self._world.now_s - one for one in since if one is not None), default=0.0)

    def stale_for_s(self, plan: Plan) -> float:
        """For how long it has acted on another revision than that, which was stored for as long."""
        if (acting := self._plans.get(plan.model)) and acting.revision == plan.revision:
            return 0.0
        return min(self._world.now_s - self._world.changed_s[plan.model], self._age_s)

    @property
    def _age_s(self) -> float:
        return self._world.now_s - self._born_s

    @property
    def is_forgotten(self) -> bool:
        """The store has not heard of it for a minute, so nobody waits for it any more."""
        return self._world.now_s - max(self._heard_s, self._born_s) > FORGOTTEN_S

    _born_s = 0.0
    _heard_s = 0.0

    def born(self) -> SimWorker:
        self._born_s = self._world.now_s
        self._world.loop.call_later(self._world.rng.uniform(0, EVERY_S), self._second)
        return self

    # -- what happens to it --------------------------------------------------------------------------

    def unload(self, model: str, version: str) -> None:
        self._cold_since_s.setdefault((model, version), self._world.now_s)

    def load_everything(self) -> None:
        self._cold_since_s.clear()

    def die(self) -> None:
        """At once: what it has counted since its last report is lost."""
        self.is_alive = False
        self.lost_at_s = self._world.now_s
        self.lost_revisions = {model: plan.revision for model, plan in self._plans.items()}

    def leave(self) -> None:
        """In order."""
        self.is_alive = False
        try:
            self._report(is_final=True)
            self._beat(has_left=True)
        except StoreAwayError:
            self.lost_at_s = self._world.now_s
            self.lost_revisions = {model: plan.revision for model, plan in self._plans.items()}

    # -- what it does --------------------------------------------------------------------------------

    def _second(self) -> None:
        if not self.is_alive:
            return
        self._world.loop.call_later(EVERY_S, self._second)
        self._count()
        if self.is_stuck:
            return
        try:
            self._follow()
            self._report()
            self._beat()
        except StoreAwayError:
            return

    def _follow(self) -> None:
        for model in self._world.models:
            try:
                stored: Stored | None = finish(self._world.store.plan(model))
            except CorruptPlanError:
                continue  # it goes on with the last one
            if stored is None:
                continue
            known = self._plans.get(model)
            if known is None or known.revision != stored.plan.revision:
                self._plans[model] = stored.plan
                self._adopted_s[model] = self._world.now_s
                self._add(stored.plan, ArmCounts(), ArmCounts())

    def _count(self) -> None:
        dice = self._world.dice
        for model, plan in self._plans.items():
            if plan.state is State.SHADOWING:
                weight = 0.1
            else:
                weight = (
                    sum(a.weight_percent for a in plan.arms if a.version == plan.candidate) / 100
                )
            if not weight or weight == 1:
                continue
            requests = int(dice.binomial(REQUESTS_PER_S, weight))
            rate = self._world.error_rates[model, plan.candidate]
            errors = int(dice.binomial(requests, rate))
            usual = REQUESTS_PER_S - requests
            self._add(
                plan,
                ArmCounts(requests, errors),
                ArmCounts(usual, int(dice.binomial(usual, 0.002))),
            )

    def _add(self, plan: Plan, candidate: ArmCounts, champion: ArmCounts) -> None:
        all_of_plan = self._stretches.setdefault((plan.model, plan.began_revision), {})
        key = (plan.revision, max(plan.step, 0))
        before = all_of_plan.get(key) or Stretch(*key, ArmCounts(), ArmCounts())
        all_of_plan[key] = Stretch(
            *key, before.candidate.plus(candidate), before.champion.plus(champion)
        )

    def _report(self, *, is_final: bool = False) -> None:
        for (model, began), stretches in self._stretches.items():
            counters = Counters(stretches=tuple(stretches.values()), is_final=is_final)
            finish(self._world.store.report(self.name, model, began, counters))
            for one in stretches.values():
                self._world.note_reported(model, began, self.name, one)

    def _beat(self, *, has_left: bool = False) -> None:
        said = tuple(
            ModelBeat(
                model,
                plan.revision,
                self._world.now_s - self._adopted_s[model],
                warm=frozenset(v for v in ALL if (model, v) not in self._cold_since_s),
                gone=frozenset(v for v in ALL if (model, v) in self._cold_since_s),
            )
            for model, plan in self._plans.items()
        )
        at_s = self._world.wall_s + self.wall_offset_s
        finish(self._world.store.beat(WorkerBeat(self.name, at_s, said, has_left)))
        self._heard_s = self._world.now_s
