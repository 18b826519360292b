"""A process that is alone answers for the whole instance.

Decides nothing; it passes on what the admin port asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.ports import FeatureReader, RepositoryControl


class AloneInstance:
    """Fills the port ``Instance``."""

    def __init__(
        self,
        control: RepositoryControl,
        reader: FeatureReader,
        *,
        ready: Callable[[], tuple[bool, str]],
        metrics: Callable[[], Any],
        snapshot: Callable[[], dict[str, Any]],
    ) -> None:
        self.index, self.load, self.unload = control.index, control.load, control.unload
        self.statistics = control.statistics
        self.features, self.look_up = reader.features, reader.look_up
        self._ready, self._metrics, self._snapshot = ready, metrics, snapshot

    async def ready(self) -> tuple[bool, str]:
        return self._ready()

    async def metrics(self) -> Any:
        return self._metrics()

    async def snapshot(self) -> dict[str, Any]:
        return self._snapshot()
