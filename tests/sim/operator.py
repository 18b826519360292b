"""The operator: files come and go, models are loaded and unloaded, at moments that the day has planned.

Decides whether the answer to a control call was the truth: after a load what lies there is served, by every worker;
after one that failed, what was served before; after an unload nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from gateway.errors import ErrorCode, HeadraceError
from tests.sim.asyncio_view import AsyncioView
from tests.sim.plans import Operation
from tests.sim.process import Process, World
from tests.sim.virtual_repository import BROKEN_MODEL


class Control:
    """What the operator speaks to, and whom it speaks for."""

    def __init__(
        self,
        view: AsyncioView,
        act: Callable[[str, str], Coroutine[Any, Any, None]],
        processes: Callable[[], list[Process]],
        may_be_away: Callable[[], bool],
    ) -> None:
        self.view = view
        self.act = act
        """(load or unload, model)."""
        self.processes = processes
        """Those that serve."""
        self.may_be_away = may_be_away
        """Nobody needs to answer now."""


class Operator:
    """Carries out the operations of a day."""

    def __init__(self, world: World, operations: Sequence[Operation], control: Control) -> None:
        self.in_flight = 0
        self._disturbed = False
        self._unsettled: set[str] = set()
        """Models of which more lies there than is served: who starts anew finds that, and nothing else."""
        self._left = len(operations)
        self._world = world
        self._control = control
        for operation in operations:
            due_s = world.loop.now_s + operation.at_s
            world.loop.call_at(due_s, partial(self._begin, operation))

    @property
    def is_done(self) -> bool:
        return not self._left and not self.in_flight

    def _begin(self, operation: Operation) -> None:
        self._left -= 1
        if self._world.over:
            return
        self._world.history.note(
            self._world.loop.now_s,
            operation.call,
            operation.model,
            [f"+{one.version}{'' if one.loads else ' (broken)'}" for one in operation.arriving],
            [f"-{one}" for one in operation.leaving],
        )
        self._world.folder.change(operation)
        self.in_flight += 1
        self._control.view.start(self._perform(operation))

    async def _perform(self, operation: Operation) -> None:
        world, name = self._world, operation.model
        was_alone, changes = self.in_flight == 1, world.folder.changes
        self._disturbed = not was_alone
        error: HeadraceError | None = None
        try:
            await self._control.act(operation.call, name)
        except HeadraceError as raised:
            error = raised
        finally:
            self.in_flight -= 1
        world.history.note(
            world.loop.now_s, f"{operation.call}ed", name, str(error or ""), self._what_is_served()
        )
        if error is None:
            self._unsettled.discard(name)
        else:
            self._unsettled.add(name)
        undisturbed = was_alone and changes == world.folder.changes and not self._disturbed
        problem = self._judge(operation, error, undisturbed=undisturbed)
        if problem:
            world.wrong(f"{operation.call} of {name} {problem}")
        self.check_agreement()

    def _judge(
        self, operation: Operation, error: HeadraceError | None, *, undisturbed: bool
    ) -> str:
        world, name = self._world, operation.model
        wanted = world.folder.wanted(name)
        if error is not None:
            if error.code is ErrorCode.NOT_READY and self._control.may_be_away():
                return ""
            if error.code is ErrorCode.NOT_FOUND and (not wanted or not undisturbed):
                return ""
            if error.code is ErrorCode.DEADLINE_EXCEEDED and operation.call == "unload":
                return ""
            plans = [world.folder.plan(name, version) for version in wanted]
            fails = name == BROKEN_MODEL or not undisturbed or not all(one.loads for one in plans)
            if operation.call == "load" and error.code is ErrorCode.INVALID_ARGUMENT and fails:
                return ""
            return f"failed with {error!r}"
        if not undisturbed:
            return ""
        expected = wanted if operation.call == "load" else {}
        for process in self._control.processes():
            states = process.roster.states
            served = {version: state for (model, version), state in states.items() if model == name}
            if served != expected:
                return f"answered, but {process.name} serves {served}, not {expected}"
        return ""

    def check_agreement(self) -> None:
        """All workers serve the same, as long as nothing is being changed."""
        processes = self._control.processes()
        if self.in_flight or not processes:
            return
        served = [
            {
                key: state
                for key, state in one.roster.states.items()
                if key[0] not in self._unsettled
            }
            for one in processes
        ]
        for one in served:
            if one != served[0]:
                self._world.wrong(f"the workers serve {self._what_is_served()}")

    def _what_is_served(self) -> list[dict[tuple[str, str], str]]:
        return [dict(sorted(one.roster.states.items())) for one in self._control.processes()]
