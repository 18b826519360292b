"""Rows of a store that Feast writes, for ``headrace features get``: what a gateway would read, read once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from featurecache.errors import SourceError
from featurecache.feast.feast_source import FeastSource
from featurecache.manifests.manifest import Manifest
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH
from foundation.store import StoreError, StoreSettings, open_store
from gateway.feast_serving import feast_source
from gateway.feature_serving import source_limits
from gateway.settings import FeatureSettings
from headrace.command_line import fail


def feast_rows(
    settings: FeatureSettings, store: StoreSettings, manifest: Manifest, keys: Iterable[bytes]
) -> dict[bytes, bytes | None]:
    """Our names of rows → packed rows, None for one that is not there. A store that cannot be had ends the command.

    Raises ``DefinitionError`` for an address or names that cannot be used, ``SourceError`` when there is no answer.
    """
    wanted = list(dict.fromkeys(keys))
    # What the connection logs is told once, by the command's last line.
    logging.getLogger("headrace").addHandler(logging.NullHandler())
    try:
        with open_store(store) as opened:
            source = feast_source(settings, opened, manifest, source_limits(settings))
            found = asyncio.run(_read(source, wanted))
    except StoreError as error:
        fail(str(error))
    return dict(zip(wanted, found, strict=True))


async def _read(source: FeastSource, keys: Sequence[bytes]) -> list[bytes | None]:
    """Each fetch ends within the source's own read timeout."""
    found: list[bytes | None] = []
    await source.start()
    try:
        for begin in range(0, len(keys), MAX_KEYS_OF_A_FETCH):
            answer: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()

            def done(
                rows: Sequence[bytes | None] | None,
                error: SourceError | None,
                answer: asyncio.Future[list[bytes | None]] = answer,
            ) -> None:
                if rows is None:
                    answer.set_exception(error or SourceError(f"{source.name}: no answer"))
                else:
                    answer.set_result(list(rows))

            source.fetch(keys[begin : begin + MAX_KEYS_OF_A_FETCH], done, track=False)
            found += await answer
    finally:
        await source.close()
    return found
