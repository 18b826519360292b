"""asyncio on invented time: timers are due at once, in their order, and what runs in threads runs in its turn.

For code that sleeps and polls by the loop's clock. It must never wait: with nothing left to happen a test fails.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

MAX_TURNS = 200_000
"""Of one test: a loop that spins without any time passing is found, too."""


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it moves the clock."""

    now_s = 1000.0
    turns = 0

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        assert self.turns < MAX_TURNS, f"still busy after {self.turns} turns, at {self.now_s} s"
        events = super().select(0)
        if not events:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self.now_s += max(0.0, timeout)
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it is the waiter's
            future.set_exception(error)
        return future


def run(test: Callable[[], Awaitable[None]]) -> None:
    """The test on a new loop, whose clock starts at 1000 s."""

    async def whole() -> None:
        await test()

    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(whole())


def now_s() -> float:
    """On the running loop's clock."""
    return asyncio.get_running_loop().time()


async def eventually(what: str, look: Callable[[], Any], within_s: float = 5.0) -> float:
    """How much time passed until ``look`` was true; fails with ``what`` when it was not in time."""
    began_s = now_s()
    while not look():
        assert now_s() - began_s < within_s, f"{what}: not within {within_s:g} s of invented time"
        await asyncio.sleep(0.005)
    return now_s() - began_s
