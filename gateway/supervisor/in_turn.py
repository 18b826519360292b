"""Changes of what is served, one after the other.

A change runs to its end even when the one who asked for it has hung up, or has died: half of a change is worse than
all of it. It must never let more of them wait than an operator could mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import ErrorCode, HeadraceError

logger = logging.getLogger("headrace.supervisor")

MAX_CHANGES = 64
"""The one that runs, and those that wait for their turn."""


class InTurn:
    """The changes of one process or one instance; ``lock`` is held while one of them runs."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    async def run(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make the change when its turn comes; its error is raised. OVERLOADED when too many wait already."""
        if len(self._changes) >= MAX_CHANGES:
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                f"{MAX_CHANGES} loads and unloads wait already; try again later",
                retry_after_s=1.0,
            )
        task = asyncio.create_task(self._make(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_the_log)
            raise

    async def _make(self, change: Callable[[], Awaitable[None]]) -> None:
        async with self.lock:
            await change()


def _tell_the_log(task: asyncio.Task[None]) -> None:
    """How a change failed whose caller has gone."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a load or unload whose caller has gone failed: %s", error)
