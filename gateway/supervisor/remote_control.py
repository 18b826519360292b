"""What a worker's data ports offer as repository control: the supervisor's, for all workers.

It must never act on its own worker alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.statistics import VersionStatistics
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from gateway.supervisor.channel import Channel, ChannelClosedError

ASK_TIMEOUT_S = 15.0
CHANGE_TIMEOUT_S = 3600.0


class RemoteControl:
    """Fills the port ``RepositoryControl`` over the control socket."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def index(self) -> list[ModelStatus]:
        return msgspec.convert(await self._ask("repository_index"), list[ModelStatus])

    async def load(self, model: str) -> None:
        await self._ask("repository_load", model, timeout_s=CHANGE_TIMEOUT_S)

    async def unload(self, model: str) -> None:
        await self._ask("repository_unload", model, timeout_s=CHANGE_TIMEOUT_S)

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        found = await self._ask("statistics", [model, version])
        return msgspec.convert(found, list[VersionStatistics], strict=False)

    async def _ask(
        self, method: str, value: Any = None, *, timeout_s: float = ASK_TIMEOUT_S
    ) -> Any:
        try:
            return await self._channel.call(method, value, timeout_s=timeout_s)
        except ChannelClosedError:
            raise HeadraceError(
                ErrorCode.NOT_READY, "the server is shutting down", retry_after_s=1.0
            ) from None
        except TimeoutError:
            raise HeadraceError(
                ErrorCode.NOT_READY, f"the supervisor did not answer within {timeout_s:g} s"
            ) from None
