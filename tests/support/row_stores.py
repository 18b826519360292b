"""Stores that a row source is tried on, with somebody else who writes to them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop

from featurecache.sources.memory_source import MemorySource
from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from tests.support import loops
from tests.support.row_sources import PATIENT, opened


class Store:
    """A store with somebody else who writes to it."""

    tracks = True

    @contextlib.asynccontextmanager
    async def source(self, limits: SourceLimits = PATIENT) -> AsyncIterator[RowSource]:
        """A started source on this store."""
        raise NotImplementedError
        yield

    def set(self, key: bytes, row: bytes, ttl_ms: int | None = None) -> None:
        raise NotImplementedError

    def get(self, key: bytes) -> bytes | None:
        raise NotImplementedError

    def delete(self, key: bytes) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    async def write_meanwhile(self, writes: Callable[[], None]) -> None:
        """Run ``writes`` beside the loop where the store is another process."""
        thread = threading.Thread(target=writes)
        thread.start()
        await loops.until(lambda: not thread.is_alive())
        thread.join()

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        loops.run(test)


class MemoryStore(Store):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._source: MemorySource | None = None

    @contextlib.asynccontextmanager
    async def source(self, limits: SourceLimits = PATIENT) -> AsyncIterator[RowSource]:
        source = self._source = MemorySource(limits)
        source.delay_s = self._delay_s
        await source.start()
        try:
            yield source
        finally:
            await source.close()

    @property
    def _opened(self) -> MemorySource:
        assert self._source is not None
        return self._source

    def set(self, key: bytes, row: bytes, ttl_ms: int | None = None) -> None:
        self._opened.set(key, row, None if ttl_ms is None else ttl_ms / 1e3)

    def get(self, key: bytes) -> bytes | None:
        return self._opened.get(key)

    def delete(self, key: bytes) -> None:
        self._opened.delete(key)

    def flush(self) -> None:
        self._opened.flush()

    async def write_meanwhile(self, writes: Callable[[], None]) -> None:
        await asyncio.sleep(0)
        writes()


class ServerStore(Store):
    """``client``: another client, of a server or a cluster."""

    def __init__(self, url: str, client: Any, tracks: bool = True, on_uvloop: bool = False) -> None:
        self._url = url
        self._client = client
        self.tracks = tracks
        self._on_uvloop = on_uvloop
        self.flush()

    @contextlib.asynccontextmanager
    async def source(self, limits: SourceLimits = PATIENT) -> AsyncIterator[RowSource]:
        async with opened(self._url, limits) as source:
            yield source

    def set(self, key: bytes, row: bytes, ttl_ms: int | None = None) -> None:
        self._client.set(key, row, px=ttl_ms)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._client.get(key)
        return found

    def delete(self, key: bytes) -> None:
        self._client.delete(key)

    def flush(self) -> None:
        self._client.flushall()

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        if not self._on_uvloop:
            loops.run(test)
            return

        async def bounded() -> None:
            await asyncio.wait_for(test(), loops.TIMEOUT_S)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())
