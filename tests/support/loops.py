"""Coroutines of a test on an event loop of their own, with an end; what they wait for there is never the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

TIMEOUT_S = 20.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    """The test on a new loop; fails when it has not ended in time."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), TIMEOUT_S)

    asyncio.run(bounded())


async def until(look: Callable[[], bool]) -> None:
    """Let the loop turn until ``look`` is true; the end is the test's own."""
    while not look():  # noqa: ASYNC110  sockets and threads tell no event
        await asyncio.sleep(0)
