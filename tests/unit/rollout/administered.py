"""A store that fails when it is told to, an audit log on disk, and who administers the rollouts between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from foundation.audit import AuditLog, AuditRecord
from foundation.audit_record import Line
from foundation.audit_verifying import last_lines, verify
from rollout.administration import Administration, Changed
from rollout.administration_denials import DeniedError
from rollout.checking import Facts
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, Proposal, encode
from rollout.ports import (
    Conflict,
    ModelBeat,
    StoreAwayError,
    Stored,
    WorkerBeat,
    Written,
)
from tests.support import loops
from tests.unit.rollout.plans import APPROVER, OPERATOR, START_S, WARM, proposal


class FailingStore(MemoryRollouts):
    """Can lose the connection before or after a write took place."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.fails: str = ""
        self.writes = 0
        self.before_write: Callable[[], Awaitable[Any]] | None = None

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        self.writes += 1
        if self.before_write is not None:
            first, self.before_write = self.before_write, None
            await first()
        if self.fails == "before":
            raise StoreAwayError("the connection was lost")
        outcome = await super().write(plan, expected_revision, fence)
        if self.fails == "after":
            raise StoreAwayError("the connection was lost")
        if self.fails == "after, and stays away":
            self.go_away()
            raise StoreAwayError("the connection was lost")
        return outcome


async def _nothing() -> None:
    return None


class World:
    """A store, an audit log, one gateway that has everything warm, and who administers it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "audit.jsonl"
        self.audit = AuditLog(self.file, lock_timeout_s=0.05)
        self.store = FailingStore()
        self.now_s = START_S
        self.facts = Facts(versions=frozenset({"3", "4", "5"}))
        self.facts_asked = 0
        self.tick_s = 0.0
        self.slept_s = 0.0
        self.on_sleep: Callable[[], Awaitable[None]] = _nothing
        self.admin = Administration(self.store, self.audit, self._facts, self._clock, self._sleep)

    def _clock(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    async def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        await self.on_sleep()

    async def _facts(self, model: str) -> Facts:
        self.facts_asked += 1
        return self.facts

    async def warm(self, versions: frozenset[str] = WARM, model: str = "delays") -> None:
        beat = ModelBeat(model=model, revision=1, acting_s=1.0, warm=versions)
        await self.store.beat(WorkerBeat(worker="a", at_s=self.now_s, models=(beat,)))

    async def submit(self, made_of: Proposal | None = None, **how: Any) -> Changed:
        made_of = made_of or proposal()
        usual: dict[str, Any] = {"author": OPERATOR, "reason": "a new version"}
        return await self.admin.propose(made_of.model, encode(made_of), **{**usual, **how})

    async def do(self, event: Event, **how: Any) -> Changed:
        usual: dict[str, Any] = {"author": APPROVER, "reason": "because"}
        return await self.admin.change("delays", event, **{**usual, **how})

    def records(self) -> list[AuditRecord]:
        if not self.file.exists():
            return []
        assert verify(self.file).is_sound
        lines = [one.content for one in last_lines(self.file, 1000)]
        return [line.record for line in lines if isinstance(line, Line)]

    async def plan(self) -> Stored:
        stored = await self.store.plan("delays")
        assert stored is not None
        return stored


def in_world(folder: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World(folder)
        await world.warm()
        await test(world)
        await world.admin.settle()

    loops.run(whole)


async def denied(what: Awaitable[Any]) -> DeniedError:
    with pytest.raises(DeniedError) as raised:
        await what
    return raised.value
