"""Row sources as the tests use them: what each fetch was told, and stores that somebody else writes to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from featurecache.errors import SourceError
from featurecache.sources.opening import open_source
from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from tests.support.loops import until

PATIENT = SourceLimits(connect_timeout_s=5.0, read_timeout_s=10.0)
"""For tests that are not about time: a machine that stalls is no failure."""


class Asked:
    """One fetch and all that it was told; more than one answer fails whoever looks."""

    def __init__(self, source: RowSource, keys: Sequence[bytes], track: bool = False) -> None:
        self.told: list[tuple[Sequence[bytes | None] | None, SourceError | None]] = []
        self.inside = True
        source.fetch(keys, self._done, track=track)
        self.inside = False

    def _done(self, rows: Sequence[bytes | None] | None, error: SourceError | None) -> None:
        assert not self.inside, "done was called from inside fetch"
        self.told.append((rows, error))

    async def _settled(self) -> None:
        await until(lambda: bool(self.told))
        await asyncio.sleep(0)
        assert len(self.told) == 1, self.told

    async def succeeds(self) -> bool:
        """Whether there is an answer, once there is an end."""
        await self._settled()
        return self.told[0][0] is not None

    async def rows(self) -> list[bytes | None]:
        """The answer, which must be one."""
        await self._settled()
        rows, error = self.told[0]
        assert error is None, error
        assert rows is not None
        return list(rows)

    async def error(self) -> str:
        """The error, which must be one."""
        await self._settled()
        rows, error = self.told[0]
        assert rows is None, rows
        assert isinstance(error, SourceError)
        return str(error)


class Changes:
    """What a source said about changed keys."""

    def __init__(self, source: RowSource) -> None:
        self.heard: list[Sequence[bytes] | None] = []
        source.on_invalidated = self.heard.append

    @property
    def keys(self) -> set[bytes]:
        """Those named so far."""
        return {key for keys in self.heard for key in keys or ()}

    async def of(self, *keys: bytes) -> None:
        """Wait until these were named, or all were."""
        await until(lambda: None in self.heard or self.keys >= set(keys))

    async def of_all(self) -> None:
        """Wait until any key may have changed."""
        await until(lambda: None in self.heard)


@contextlib.asynccontextmanager
async def opened(url: str, limits: SourceLimits = PATIENT) -> AsyncIterator[RowSource]:
    """A started source, closed at the end."""
    source = open_source(url, limits)
    try:
        await source.start()
        yield source
    finally:
        await source.close()
