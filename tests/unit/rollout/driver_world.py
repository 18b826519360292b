"""A store in memory, a real audit log and a clock by hand, for controllers that are turned one turn at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from foundation.audit import AuditRecord
from foundation.audit_record import Line
from foundation.audit_verifying import last_lines, verify
from rollout.change_log import ChangeLog, open_change_log
from rollout.driver import Driver
from rollout.evidence import ArmCounts, Stretch
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Plan, encode
from rollout.ports import Counters, ModelBeat, WorkerBeat
from rollout.settings import RolloutSettings
from tests.unit.rollout.plans import START_S, WARM

TURN_S = 0.5


class Turns:
    """A stop that is set after so many turns; between two it moves the clock and lets the test act."""

    def __init__(self, world: World, count: int, between: Callable[[], None]) -> None:
        self._world = world
        self._left = count
        self._between = between

    def is_set(self) -> bool:
        return self._left <= 0

    async def rest(self, seconds: float) -> None:
        self._left -= 1
        self._world.pass_time(seconds)
        self._between()


class World:
    """Everything but the driver."""

    def __init__(self, folder: Path) -> None:
        self.wall_s = START_S
        self.monotonic_s = 50.0
        self.store = MemoryRollouts(lambda: self.monotonic_s)
        self.audit_file = folder / "audit.jsonl"
        self.slept_s: list[float] = []

    def driver(self, owner: str = "one", log: ChangeLog | None = None, store: Any = None) -> Driver:
        return Driver(
            store or self.store,
            log or open_change_log(self.audit_file),
            RolloutSettings(),
            owner=owner,
            wall_s=lambda: self.wall_s,
            monotonic_s=lambda: self.monotonic_s,
            rest=self._rest,
            in_thread=_at_once,
        )

    async def turn(
        self, driver: Driver, count: int = 1, between: Callable[[], None] = lambda: None
    ) -> None:
        """So many turns without its end: the lease stays where it is."""
        for _ in range(count):
            seconds = await driver._turn()
            self.slept_s.append(seconds)
            self.pass_time(seconds)
            between()

    async def _rest(self, stop: Turns, seconds: float) -> None:
        self.slept_s.append(seconds)
        await stop.rest(seconds)

    def turns(self, count: int, between: Callable[[], None] = lambda: None) -> Turns:
        return Turns(self, count, between)

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    # -- what others write ------------------------------------------------------------------------

    def put(self, plan: Plan) -> Plan:
        self.store.put_document(plan.model, encode(plan))
        return plan

    async def stored(self, model: str = "delays") -> Plan:
        found = await self.store.plan(model)
        assert found is not None
        return found.plan

    async def beat(
        self, *plans: Plan, worker: str = "a", acting_s: float = 5000.0, **changed: Any
    ) -> None:
        said = tuple(
            msgspec.structs.replace(ModelBeat(plan.model, plan.revision, acting_s, WARM), **changed)
            for plan in plans
        )
        await self.store.beat(WorkerBeat(worker, self.wall_s, said))

    async def count(self, plan: Plan, errors: int = 0, worker: str = "a", **changed: Any) -> None:
        """Enough of everything for the current step."""
        stretch = Stretch(
            plan.revision, max(plan.step, 0), ArmCounts(20_000, errors), ArmCounts(100_000)
        )
        counters = msgspec.structs.replace(Counters(stretches=(stretch,)), **changed)
        await self.store.report(worker, plan.model, plan.began_revision, counters)

    # -- what is in the log -----------------------------------------------------------------------

    def records(self) -> list[AuditRecord]:
        """All of them, of a log that is sound."""
        if not self.audit_file.exists():
            return []
        assert verify(self.audit_file).is_sound
        lines = [one.content for one in last_lines(self.audit_file, 1000)]
        return [line.record for line in lines if isinstance(line, Line)]

    def recorded(self) -> list[tuple[str, str, int]]:
        return [(one.target, one.action, one.details["revision"]) for one in self.records()]


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
