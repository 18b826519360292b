"""The thread's side of a push: from what a caller sent to rows in the store.

Decides in which order a push is checked, and that it is checked whole before anything is sent. What a value may be is
``featurecache.rows.json_rows``'s to say, which row wins the store's. It must never run on the loop: it reads files,
waits for the store, and imports redis-py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from featurecache.errors import RowError, UnknownViewError
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.rows.codec import RowCodec
from featurecache.rows.json_rows import JsonRows, RowBatch
from gateway.live_manifest import LiveManifest
from gateway.messages import PushOutcome
from gateway.ports import ReadRows

if TYPE_CHECKING:
    from featurecache.writing.store_client import StoreClients
    from featurecache.writing.writing import RowWriter, WriteCounts


class Written(msgspec.Struct):
    """A push that is in the store."""

    view: str
    outcome: PushOutcome
    keys: list[bytes]
    """Whose rows may have changed."""


class ViewRows:
    """How rows of one view are read and packed."""

    def __init__(self, manifest: Manifest, spec: ViewSpec) -> None:
        self._reader = JsonRows(manifest, spec)
        self.codec = RowCodec(spec.schema)
        self.keep_us = None if spec.retention_s is None else int(spec.retention_s * 1e6)

    def batch(self, rows: Sequence[Mapping[str, Any]], now_us: int) -> RowBatch:
        """The rows as columns; ``RowError`` with the number of the first bad one, counted from 1."""
        return self._reader.batch(rows, now_us)


class PushedRowsWriter:
    """Writes one push after the other; not for several threads at once."""

    def __init__(
        self,
        url: str,
        manifest: LiveManifest,
        timeout_s: float,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``timeout_s``: about how long the store may stay silent before a push has failed."""
        self._url = url
        self._manifest = manifest
        self._timeout_s = timeout_s
        self._now_us = now_us
        self._seen: Manifest | None = None
        self._views: dict[str, ViewRows] = {}
        self._writer: RowWriter | None = None
        self._let_go: Callable[[], None] = _nothing

    def write(self, read: ReadRows, max_rows: int) -> Written:
        """Everything at once. Raises ``RowError``, ``UnknownViewError``, ``SourceError`` and ``HeadraceError``."""
        name, rows = read(max_rows)
        view = self._view(name)
        now_us = self._now_us()
        batch = view.batch(rows, now_us)
        writer = self._open_writer()
        try:
            writer.write_columns(
                view.codec,
                batch.keys,
                batch.columns,
                batch.nulls,
                batch.event_us,
                write_us=now_us,
                now_us=now_us,
                keep_us=view.keep_us,
            )
            writer.flush()
        except RowError:
            raise  # a time that no row may have: nothing was sent
        except BaseException:
            self.close()  # it may hold calls that were not answered, and are not to go with the next push
            raise
        return Written(name, _outcome(writer.counts), batch.keys)

    def close(self) -> None:
        """Let go of the store; the next push connects anew."""
        self._writer = None
        let_go, self._let_go = self._let_go, _nothing
        let_go()

    def _view(self, name: str) -> ViewRows:
        manifest = self._manifest.get()
        if manifest is not self._seen:
            self._seen, self._views = manifest, {}
        found = self._views.get(name)
        if found is None:
            spec = next((one for one in manifest.views if one.name == name), None)
            if spec is None:
                raise UnknownViewError(
                    f"no feature view '{name[:80]}' is defined here; define it and run `headrace features apply`"
                )
            found = self._views[name] = ViewRows(manifest, spec)
        return found

    def _open_writer(self) -> RowWriter:
        """The connection of the push before, or a new one. redis-py is imported here, with the first push."""
        from featurecache.writing.writing import RowWriter, WriteCounts

        if self._writer is None:
            clients = _clients(self._url, self._timeout_s)
            writer = self._writer = RowWriter(clients, patience_s=self._timeout_s / 2)

            def let_go() -> None:
                writer.close()
                clients.close()

            self._let_go = let_go
        self._writer.counts = WriteCounts()
        return self._writer


def _clients(url: str, timeout_s: float) -> StoreClients:
    """Clients that give up in time for whoever waits: a lost connection is tried once more within ``timeout_s``."""
    from featurecache.writing.store_client import StoreClients

    return StoreClients(
        url,
        connect_timeout_s=timeout_s / 4,
        reply_timeout_s=timeout_s / 2,
        client_name="headrace-push",
    )


def _outcome(counts: WriteCounts) -> PushOutcome:
    return msgspec.convert(msgspec.structs.asdict(counts), PushOutcome)


def _nothing() -> None:
    return None
