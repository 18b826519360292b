"""Workers that cannot start, all of them for the same reason and nearly at once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.settings import GatewaySettings
from gateway.supervisor.seat import Seat
from gateway.supervisor.supervisor import WRONG_START, StartError, Supervisor
from tests.support.loops import run


class Process:
    """It ends when it is told to."""

    pid = 1

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def terminate(self) -> None:
        self._ended.set()

    kill = terminate

    async def wait(self) -> int:
        await self._ended.wait()
        return WRONG_START


class WrongSeat(Seat):
    """A worker that refuses its models after some turns of the loop."""

    turns = 0

    async def start(self) -> asyncio.Task[None]:
        self.complaint = ""
        self.process = cast("Any", Process())
        return asyncio.create_task(asyncio.sleep(0))

    async def load(self, boot: dict[str, Any]) -> Any:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        raise HeadraceError(ErrorCode.INVALID_ARGUMENT, f"worker {self.index} has no folder")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()


@pytest.mark.parametrize("turns", range(6))
def test_the_first_complaint_is_told_and_no_other_is_left_over(turns: int) -> None:
    left_over: list[Any] = []

    async def start() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: left_over.append(what))
        supervisor = Supervisor(GatewaySettings(), "1", [{}, {}], lambda line: None)
        seats = [WrongSeat(index, {}, supervisor._handler(index)) for index in range(2)]
        seats[1].turns = turns
        supervisor.seats[:] = seats
        with pytest.raises(StartError, match="worker 0 has no folder"):
            await supervisor.start()
        await supervisor.abandon()

    run(start)
    gc.collect()
    assert not left_over
