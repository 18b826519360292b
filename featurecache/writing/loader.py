"""Parquet files into the store: checked as a whole first, then written piece by piece, and gone on with after a stop.

Decides what is loaded when, and when a piece counts as done: after the store has answered for every row of it. It
must never load half of what is wrong, nor note as done what is not in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from featurecache.errors import RowError, SourceError
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.offline.parquet_files import SourceFile, footer_digest
from featurecache.rows.codec import RowCodec
from featurecache.writing.bad_places import OnBadRow
from featurecache.writing.checkpoint import Checkpoint, Progress, fingerprint_of
from featurecache.writing.parquet_source import BadRow, Chunk, ParquetView
from featurecache.writing.store_client import StoreClients
from featurecache.writing.store_keys import StoreKeys
from featurecache.writing.writing import PATIENCE_S, RowWriter, WriteCounts

MAX_TOLD_BAD_ROWS = 10
NOTE_EVERY_S = 0.2
"""Small row groups are noted together: noting one costs a sync of the disk."""
MAX_REDONE = 10
"""Times in a row that the same row groups are written again because the connection broke meanwhile."""

Told = Callable[[int, int], None]
"""Rows done, and of how many."""


class LoadSummary(msgspec.Struct):
    """What a load has done; ``rows`` are ``counts.total + skipped``."""

    view: str
    files: int
    rows: int
    """Read, those of an interrupted run before included."""
    skipped: int
    counts: WriteCounts
    resumed_rows: int
    """Of them, those of the run before."""
    seconds: float
    bad: list[BadRow]
    """Some of those that were skipped."""
    repeats: int
    """How often the store had to be asked again."""


class ViewLoader:
    """Loads the files of one view: ``check``, then ``load``."""

    def __init__(
        self,
        manifest: Manifest,
        view: ViewSpec,
        data: Path,
        clients: StoreClients,
        state_dir: Path,
        *,
        on_bad_row: OnBadRow = "refuse",
        from_scratch: bool = False,
    ) -> None:
        """Reads the footers. Raises ``RowError`` when a file cannot be a source of the view."""
        self.view = view
        self._source = ParquetView(manifest, view, data)
        self._clients = clients
        self._skips = on_bad_row == "skip"
        self._from_scratch = from_scratch
        self._groups = [
            (file, group) for file in self._source.files for group in range(len(file.group_rows))
        ]
        keep_s = view.retention_s
        self._keep_us = None if keep_s is None else int(max(keep_s, view.max_age_s or 0.0) * 1e6)
        fingerprint = fingerprint_of(
            (manifest.project, manifest.entity(view.entity), view.name, view.schema.id),
            (view.source, view.retention_s, view.max_age_s, on_bad_row),
            [
                (one.name, one.size, one.mtime_ns, footer_digest(one.path))
                for one in self._source.files
            ],
            clients.name,
        )
        self._checkpoint = Checkpoint(
            state_dir / "loads",
            StoreKeys(clients, patience_s=PATIENCE_S),
            project=manifest.project,
            view=view.name,
            fingerprint=fingerprint,
        )
        self._progress: Progress | None = None
        self._bad: list[BadRow] = []
        self._last_write_us = 0

    @property
    def rows(self) -> int:
        """In all files."""
        return self._source.rows

    @property
    def resumes(self) -> int:
        """Rows that an interrupted run has loaded; known after ``check``."""
        return 0 if self._progress is None else self._progress.rows

    def check(self, told: Told = lambda done, total: None) -> None:
        """Look at every key, time and doubtful value; nothing is written. Raises ``RowError`` with the bad rows.

        Not done again when an interrupted run of the same load has done it.
        """
        self._progress = self._checkpoint.open(from_scratch=self._from_scratch)
        if self._progress.groups:
            return
        now_us, done, bad_rows = _now_us(), 0, 0
        bad: list[BadRow] = []
        for file, group in self._groups:
            for chunk in self._source.check(file, group, now_us):
                done += chunk.rows
                bad_rows += chunk.bad_rows
                bad += chunk.bad[: MAX_TOLD_BAD_ROWS - len(bad)]
                told(done, self.rows)
        if bad_rows and not self._skips:
            self._checkpoint.finish()
            listed = "\n".join(f"  - {one}" for one in bad)
            more = "" if bad_rows <= len(bad) else "\n  - …"
            raise RowError(
                f"view '{self.view.name}': {bad_rows} of {self.rows} rows cannot be loaded, nothing was written; "
                f"mend them, or leave them out with --on-bad-row skip:\n{listed}{more}"
            )

    def load(self, told: Told = lambda done, total: None) -> LoadSummary:
        """Write the rows that are not yet there. Raises ``RowError`` and ``SourceError``; run again to go on."""
        progress = self._progress
        assert progress is not None, "check first"
        began_s = time.monotonic()
        resumed_rows = progress.rows
        writer = RowWriter(self._clients)
        try:
            self._write_groups(writer, progress, told)
        finally:
            writer.close()
            self._checkpoint.close()
        return LoadSummary(
            view=self.view.name,
            files=len(self._source.files),
            rows=progress.rows,
            skipped=progress.skipped,
            counts=progress.counts,
            resumed_rows=resumed_rows,
            seconds=time.monotonic() - began_s,
            bad=self._bad,
            repeats=writer.repeats,
        )

    def _write_groups(self, writer: RowWriter, progress: Progress, told: Told) -> None:
        """Row group by row group; ``progress`` is what was noted last.

        When the connection broke meanwhile, another server may have taken over that lacks what the first one had
        answered. Its mark says how much: what came after is written again.
        """
        codec = RowCodec(self.view.schema)
        now_us, noted_s = _now_us(), time.monotonic()
        current, repeats, redone = _copy(progress), 0, 0
        writer.counts = current.counts
        while progress.groups < len(self._groups):
            file, group = self._groups[current.groups]
            for chunk in self._source.read(file, group, now_us):
                self._judge(file, chunk)
                self._write(writer, codec, chunk, now_us)
                current.rows += chunk.rows
                current.skipped += chunk.bad_rows
                told(current.rows, self.rows)
            current.groups += 1
            is_last = current.groups == len(self._groups)
            if not is_last and time.monotonic() - noted_s < NOTE_EVERY_S:
                continue
            writer.flush()
            noted_s = time.monotonic()
            if writer.repeats > repeats:
                repeats, redone = writer.repeats, redone + 1
                if redone > MAX_REDONE:
                    raise SourceError(
                        f"{self._clients.name}: the connection breaks again and again; run the same command to go on"
                    )
                self._checkpoint.go_back(progress)
                current = _copy(progress)
                writer.counts = current.counts
                continue
            redone = 0
            self._checkpoint.save(current)
            for field in progress.__struct_fields__:
                setattr(progress, field, getattr(_copy(current), field))
        self._checkpoint.finish()

    def _judge(self, file: SourceFile, chunk: Chunk) -> None:
        if chunk.bad_rows and not self._skips:
            raise RowError(f"{file.name} changed while it was loaded: {chunk.bad[0]}")
        self._bad += chunk.bad[: MAX_TOLD_BAD_ROWS - len(self._bad)]

    def _write(self, writer: RowWriter, codec: RowCodec, chunk: Chunk, now_us: int) -> None:
        # Later chunks must win over earlier ones of the same event time, also when a call is sent twice.
        self._last_write_us = max(_now_us(), self._last_write_us + 1)
        writer.write_columns(
            codec,
            chunk.key_column,
            chunk.columns,
            chunk.nulls,
            chunk.event_us,
            write_us=self._last_write_us,
            now_us=now_us,
            keep_us=self._keep_us,
        )


def _copy(progress: Progress) -> Progress:
    return msgspec.structs.replace(progress, counts=msgspec.structs.replace(progress.counts))


def _now_us() -> int:
    return time.time_ns() // 1000
