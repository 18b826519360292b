"""Parquet files of a view, read in pieces of bounded size.

Decides which of their rows cannot become rows of the store and why; ``parquet_files`` finds and judges the files. It
must never hold a whole file or row group in memory, nor write anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurecache.columns import Values, parse_type
from featurecache.errors import RowError
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.offline.arrow_columns import Mask, Read
from featurecache.offline.parquet_files import SourceFile, Wanted, checked_files, source_files
from featurecache.rows.keys import MAX_ID_BYTES, ids_of, key_frame
from featurecache.writing.key_column import KeyColumn, plain_ids
from featurecache.writing.writing import EARLIEST_US, FUTURE_LIMIT_S

CHUNK_BYTES = 16 * 1024 * 1024
"""Of packed rows that are made at once."""
MAX_CHUNK_VALUE_BYTES = 32 * 1024 * 1024
"""Of values, as Arrow holds them, that are turned into rows at once."""
MIN_CHUNK_ROWS = 256
"""Also what is read at once of strings and lists: nothing tells their sizes before they are read."""
MAX_CHUNK_ROWS = 8_192
READ_BUFFER_BYTES = 1024 * 1024


class BadRow(msgspec.Struct, frozen=True):
    """A row that cannot be loaded."""

    file: str
    row_group: int
    row: int
    """Counted from 0 in the row group."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row group {self.row_group}, row {self.row}: {self.reason}"


class Chunk(msgspec.Struct):
    """Some rows of a row group, the bad ones left out."""

    rows: int
    """That were read, bad ones included."""
    key_column: KeyColumn | list[bytes]
    """A list when some need escaping; empty when they were not asked for."""
    columns: dict[str, Values]
    nulls: dict[str, Mask]
    event_us: npt.NDArray[np.int64]
    bad_rows: int
    bad: list[BadRow]
    """The first of them for each reason."""
    bad_places: npt.NDArray[np.int64]
    """All of them, counted from the chunk's first row."""

    @property
    def keys(self) -> list[bytes]:
        """One object each."""
        found = self.key_column
        return found.listed() if isinstance(found, KeyColumn) else found


class ParquetView:
    """The files of one view below a data folder."""

    def __init__(self, manifest: Manifest, view: ViewSpec, data: Path) -> None:
        """Finds the files and reads their footers. Raises ``RowError`` naming everything that is wrong."""
        if view.source is None:
            raise RowError(
                f"view '{view.name}' has no source: its rows come by `headrace features push`"
            )
        entity = manifest.entity(view.entity)
        self.view = view
        self._time = view.source.event_time
        self._key_types = {name: parse_type(text) for name, text in entity.keys.items()}
        self._prefix, self._suffix = key_frame(manifest.project, entity.name, view.name)
        fit = CHUNK_BYTES // view.schema.row_bytes
        # In whole pieces of strings, so that numbers beside them need no cutting.
        fit -= fit % MIN_CHUNK_ROWS
        self._chunk_rows = max(MIN_CHUNK_ROWS, min(MAX_CHUNK_ROWS, fit))
        types = self._key_types | {one.name: one.parsed for one in view.columns}
        paths = source_files(data, view.source.path)
        checked = checked_files(f"view '{view.name}'", paths, data, Wanted(types, self._time))
        self.checked = checked
        """All files, which can be read as one."""
        self.files = checked.files
        self.rows = checked.total_rows
        """Of all files."""

    # -- rows -------------------------------------------------------------------------------------

    def check(self, file: SourceFile, group: int, now_us: int) -> Iterator[Chunk]:
        """Only what can be bad: keys, times, and columns for which neither type nor statistics vouch."""
        doubtful = [one.name for one in self.view.columns if one.name not in file.vouched[group]]
        return self._chunks(file, group, now_us, doubtful, with_keys=False)

    def read(self, file: SourceFile, group: int, now_us: int) -> Iterator[Chunk]:
        """Everything; with the same judgement of what is bad."""
        wanted = [one.name for one in self.view.columns]
        return self._chunks(file, group, now_us, wanted, with_keys=True)

    def _chunks(
        self,
        file: SourceFile,
        group: int,
        now_us: int,
        wanted: Sequence[str],
        *,
        with_keys: bool,
    ) -> Iterator[Chunk]:
        stat = file.path.stat() if file.path.exists() else None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (file.size, file.mtime_ns):
            raise RowError(f"{file.name} changed while it was loaded; run the same command again")
        names = [*self._key_types, self._time, *wanted]
        start = 0
        try:
            for batch in self._batches(file, group, names):
                chunk = self._chunk(file, group, start, batch, wanted, now_us, with_keys=with_keys)
                yield chunk
                start += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise RowError(
                f"{file.name}, row group {group}, after row {start}: cannot be read ({error})"
            ) from None

    def _batches(self, file: SourceFile, group: int, names: Sequence[str]) -> Iterator[Any]:
        """Of at most ``_chunk_rows`` rows and, beyond ``MIN_CHUNK_ROWS``, ``MAX_CHUNK_VALUE_BYTES``."""
        texts = [name for name in names if _may_be_long(file.arrow[name])]
        others = [name for name in names if name not in texts]
        with pa.OSFile(str(file.path)) as source, _opened(source) as opened:
            numbers = _pieces(opened, group, others, self._chunk_rows)
            if not texts:
                yield from numbers
                return
            # What is of a known size is read in large pieces, beside strings and lists in small ones.
            with _opened(source, opened.metadata) as beside:
                rest = _Rows(numbers)
                for batch in self._text_batches(beside, group, texts):
                    yield _side_by_side(batch, rest.take(batch.num_rows))

    def _text_batches(self, opened: Any, group: int, names: list[str]) -> Iterator[Any]:
        waiting: list[Any] = []
        rows = held_bytes = 0
        for batch in _pieces(opened, group, names, MIN_CHUNK_ROWS):
            batch_bytes = _value_bytes(batch)
            is_full = rows + batch.num_rows > self._chunk_rows
            if waiting and (is_full or held_bytes + batch_bytes > MAX_CHUNK_VALUE_BYTES):
                yield _joined(waiting)
                waiting, rows, held_bytes = [], 0, 0
            waiting.append(batch)
            rows, held_bytes = rows + batch.num_rows, held_bytes + batch_bytes
        if waiting:
            yield _joined(waiting)

    def _chunk(
        self,
        file: SourceFile,
        group: int,
        start: int,
        batch: Any,
        wanted: Sequence[str],
        now_us: int,
        *,
        with_keys: bool,
    ) -> Chunk:
        """The good rows."""
        readers, names = file.readers, batch.schema.names
        parts = [batch.column(name) for name in self._key_types]
        ids = plain_ids(parts, [readers[name] for name in self._key_types])
        read = [self._time, *wanted] if ids is not None else names
        found = {name: readers[name].read(batch.column(name)) for name in read}
        flaws = list(self._time_flaws(found[self._time], now_us))
        if ids is None:
            flaws = [*self._key_flaws(found), *flaws]
        flaws += [
            (found[name].bad, f"'{name}' is {found[name].reason}")
            for name in wanted
            if found[name].bad is not None
        ]
        rows = batch.num_rows
        good, told = np.ones(rows, np.bool_), []
        for mask, reason in flaws:
            if mask is not None and mask.any():
                first = int(np.flatnonzero(mask & good)[0]) if (mask & good).any() else -1
                if first >= 0:
                    told.append(BadRow(file.name, group, start + first, reason))
                good &= ~mask
        bad_rows = rows - int(good.sum())
        if bad_rows:
            found = {name: _only(one, good) for name, one in found.items()}
            ids = ids.filter(pa.array(good)) if ids is not None else None
        return Chunk(
            rows=rows,
            key_column=self._keys(ids, found) if with_keys else [],
            columns={name: found[name].values for name in wanted},
            nulls={name: nulls for name in wanted if (nulls := found[name].nulls) is not None},
            event_us=found[self._time].values,
            bad_rows=bad_rows,
            bad=told,
            bad_places=np.flatnonzero(~good),
        )

    def _keys(self, ids: Any, found: dict[str, Read]) -> KeyColumn | list[bytes]:
        prefix, suffix = self._prefix, self._suffix
        if ids is not None:
            return KeyColumn(prefix, suffix, ids)
        parts: list[Any] = [found[name].values.tolist() for name in self._key_types]
        return [prefix + one + suffix for one in ids_of(parts)]

    def _key_flaws(self, found: dict[str, Read]) -> Iterator[tuple[Mask | None, str]]:
        for name, type_ in self._key_types.items():
            column = found[name]
            yield column.nulls, f"key '{name}' is null"
            yield column.bad, f"key '{name}' is {column.reason}"
            if type_.is_string:
                lengths = np.fromiter(map(len, column.values), np.int64, len(column.values))
                yield lengths == 0, f"key '{name}' is empty"
                yield lengths > MAX_ID_BYTES, f"key '{name}' is longer than {MAX_ID_BYTES} bytes"

    def _time_flaws(self, time: Read, now_us: int) -> Iterator[tuple[Mask | None, str]]:
        name = self._time
        yield time.nulls, f"event time '{name}' is null"
        yield time.bad, f"event time '{name}' is {time.reason}"
        yield time.values < EARLIEST_US, f"event time '{name}' is before 1684"
        limit_us = now_us + int(FUTURE_LIMIT_S * 1e6)
        yield (
            time.values > limit_us,
            f"event time '{name}' is in the future (by more than {FUTURE_LIMIT_S:g} s)",
        )


class _Rows:
    """Batches, to be taken in any number of rows at once."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._rest: Any = None

    def take(self, rows: int) -> Any:
        """The next ones, which must be there."""
        taken: list[Any] = []
        while rows:
            rest = self._rest if self._rest is not None else next(self._batches, None)
            if rest is None:
                raise pa.ArrowInvalid(f"{rows} rows fewer in some columns than in others")
            taken.append(rest.slice(0, rows))
            self._rest = rest.slice(rows) if rest.num_rows > rows else None
            rows -= taken[-1].num_rows
        return _joined(taken)


def _opened(source: Any, metadata: Any = None) -> Any:
    return pq.ParquetFile(
        source, metadata=metadata, pre_buffer=False, buffer_size=READ_BUFFER_BYTES
    )


def _pieces(opened: Any, group: int, names: Sequence[str], rows: int) -> Iterator[Any]:
    # Threads of Arrow's own cost more than they bring to pieces of this size.
    yield from opened.iter_batches(rows, [group], names, use_threads=False)


def _side_by_side(one: Any, other: Any) -> Any:
    return pa.RecordBatch.from_arrays(
        [*one.columns, *other.columns], [*one.schema.names, *other.schema.names]
    )


def _may_be_long(arrow: Any) -> bool:
    """Whether values have any size, so that only who reads them knows it."""
    kinds = pa.types
    arrow = arrow.value_type if kinds.is_dictionary(arrow) else arrow
    if kinds.is_fixed_size_list(arrow):
        return _may_be_long(arrow.value_type)
    return not kinds.is_primitive(arrow)


def _value_bytes(batch: Any) -> int:
    """Of a batch; what dictionaries stand for counts as often as it stands there."""
    total = 0
    for column in batch.columns:
        total += column.nbytes
        if pa.types.is_dictionary(column.type) and len(column):
            try:
                lengths = pc.binary_length(column.dictionary)
            except pa.ArrowNotImplementedError:
                continue  # of numbers, whose type bounds them
            total += pc.sum(pc.take(lengths, column.indices)).as_py() or 0
    return total


def _joined(batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return joined


def _only(column: Read, good: Mask) -> Read:
    nulls = None if column.nulls is None else column.nulls[good]
    return Read(column.values[good], nulls)
