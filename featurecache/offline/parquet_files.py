"""Parquet files that rows are loaded from and training sets are made of: which they are, in which order, and whether
they are what was declared.

Decides the order of files (by their path), so that every reader agrees which row was written last: of equal event
times the one in the later file, and there the later row. What the loader takes a training set takes, because both ask
here. It reads footers only, never rows.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.columns import ColumnType, Timestamp
from featurecache.errors import RowError
from featurecache.offline.arrow_columns import ColumnReader, may_mix, mixed, reader_of

MAX_FILES = 100_000
"""Of one source."""
MAX_FILE_ROWS = 1 << 40
FILE_STRIDE = MAX_FILE_ROWS
"""A row's place among all files of a source: its file's number times this, plus its number in the file."""
MAX_FOOTER_BYTES = 256 * 1024 * 1024
MAX_TOLD_FILES = 20
"""With something wrong."""
MAX_TOLD_COLUMNS = 40
ROW_COLUMNS = ("file_index", "file_row_number")
"""What joins call a row's place; no column of a file can be called so."""


class Wanted(msgspec.Struct, frozen=True):
    """What files must have."""

    types: Mapping[str, ColumnType]
    """Column → the declared type."""
    event_time: str
    """A column with moments: an Arrow timestamp, for a bare number would not tell its unit."""
    kept: Sequence[str] = ()
    """Columns of any type."""


class SourceFile(msgspec.Struct):
    """One file, as its footer describes it."""

    path: Path
    name: str
    """For people: relative to the data folder."""
    size: int
    mtime_ns: int
    group_rows: list[int]
    readers: dict[str, ColumnReader]
    """Of the typed columns and the event time."""
    vouched: list[set[str]]
    """By row group: columns that hold sound values only, as types or statistics tell."""
    arrow: dict[str, Any]
    """The Arrow types of all columns that were wanted."""

    @property
    def rows(self) -> int:
        """Of the whole file."""
        return sum(self.group_rows)


class ParquetFiles(msgspec.Struct, frozen=True):
    """Files of one source, in order, whose columns can be read as one."""

    label: str
    """For messages and cards: the path or pattern as it was written."""
    files: list[SourceFile]
    types: dict[str, Any]
    """Of the columns that were asked for: the Arrow type that tells how all files are read as one."""
    skipped: npt.NDArray[np.int64] | None = None
    """Places of rows to be read as if they were not there (see ``FILE_STRIDE``)."""

    @property
    def paths(self) -> list[Path]:
        """In order."""
        return [one.path for one in self.files]

    @property
    def total_rows(self) -> int:
        """Of all files."""
        return sum(one.rows for one in self.files)


def source_files(data: Path, pattern: str) -> list[Path]:
    """The files of a view's source below ``data``, in order; ``RowError`` when there are none."""
    if not data.is_dir():
        raise RowError(f"{data} is no folder; --data names the one below which the sources lie")
    hint = f"; it is a folder: write {pattern}/*.parquet" if (data / pattern).is_dir() else ""
    return _in_order(list(data.glob(pattern)), str(data / pattern), hint)


def pattern_files(pattern: Path | str) -> list[Path]:
    """A file, or the files that a pattern names, in order; ``RowError`` when there are none."""
    path = Path(pattern)
    if path.is_dir():
        raise RowError(f"{path}: a folder; write {path}/*.parquet")
    if path.is_file():
        return [path]
    return _in_order([Path(one) for one in glob.glob(str(pattern), recursive=True)], str(pattern))


def _in_order(found: list[Path], label: str, hint: str = "") -> list[Path]:
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        raise RowError(f"{label}: no file matches{hint}")
    if len(paths) > MAX_FILES:
        raise RowError(f"{label}: {len(paths)} files match; at most {MAX_FILES} are possible")
    return paths


def checked_files(
    label: str, paths: Sequence[Path], base: Path, wanted: Wanted, *, is_strict: bool = False
) -> ParquetFiles:
    """The files, once each of them has the wanted columns; ``base``: what names are relative to. ``is_strict``: a
    column has one type in all files; otherwise types may differ where no value is lost.

    Raises ``RowError`` naming everything that is wrong.
    """
    files: list[SourceFile] = []
    problems: list[str] = []
    types: dict[str, Any] = {}
    for path in paths:
        name = path.relative_to(base).as_posix()
        try:
            file = _opened(path, name, wanted)
            _join_types(types, file, files[0].name if files else name, is_strict)
            files.append(file)
        except RowError as error:
            problems.append(str(error))
    if problems:
        listed = "".join(f"\n  - {one}" for one in problems[:MAX_TOLD_FILES])
        more = "\n  - …" if len(problems) > MAX_TOLD_FILES else ""
        raise RowError(f"{label}: files that cannot be used:{listed}{more}")
    return ParquetFiles(label, files, types)


def _join_types(types: dict[str, Any], file: SourceFile, first: str, is_strict: bool) -> None:
    for column, found in file.arrow.items():
        before = types.setdefault(column, found)
        if found == before:
            continue
        if is_strict or not may_mix(found, before):
            raise RowError(
                f"{file.name}: column '{column}' is {found}, and {before} in {first}; "
                "write all files of a source with the same types"
            )
        types[column] = mixed(before, found)


def column_names_of(path: Path) -> list[str]:
    """Of one file; ``RowError`` when it is no Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            return names
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(str(path), error) from None


def _opened(path: Path, name: str, wanted: Wanted) -> SourceFile:
    try:
        before = path.stat()
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            readers = _readers(schema, name, wanted)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            vouched = [_vouched(group, readers) for group in groups]
            group_rows = [group.num_rows for group in groups]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(name, error) from None
    if sum(group_rows) > MAX_FILE_ROWS:
        raise RowError(f"{name}: {sum(group_rows)} rows; at most {MAX_FILE_ROWS} are possible")
    arrow = {column: schema.field(column).type for column in (*readers, *wanted.kept)}
    return SourceFile(
        path, name, before.st_size, before.st_mtime_ns, group_rows, readers, vouched, arrow
    )


def _unreadable(name: str, error: Exception) -> RowError:
    return RowError(f"{name}: not a Parquet file that can be read ({error})")


def _readers(schema: Any, name: str, wanted: Wanted) -> dict[str, ColumnReader]:
    folded: dict[str, list[str]] = {}
    for column in schema.names:
        folded.setdefault(column.lower(), []).append(column)
    problems = [
        f"a column cannot be called '{folded[one][0]}'; rename it"
        for one in ROW_COLUMNS
        if one in folded
    ]
    readers: dict[str, ColumnReader] = {}
    typed = {**wanted.types, wanted.event_time: Timestamp}
    for column in dict.fromkeys((*typed, *wanted.kept)):
        alike = folded.get(column.lower(), [])
        problem = _absence(column, alike, schema)
        if not problem and column in typed:
            arrow = schema.field(column).type
            if column == wanted.event_time and pa.types.is_null(arrow):
                problem = (
                    f"event time '{column}' has only nulls and no type; it must be a timestamp"
                )
            elif column == wanted.event_time and not pa.types.is_timestamp(arrow):
                problem = f"event time '{column}' is {arrow}; it must be a timestamp"
            else:
                try:
                    readers[column] = reader_of(typed[column], arrow, f"column '{column}'")
                except RowError as error:
                    problem = str(error)
        if problem:
            problems.append(problem)
    if problems:
        raise RowError(f"{name}: " + "; ".join(problems))
    return readers


def _absence(column: str, alike: Sequence[str], schema: Any) -> str:
    """Why a column cannot be told from its name, or ""; joins do not know capitals from small letters."""
    if column not in alike:
        have = ", ".join(schema.names[:MAX_TOLD_COLUMNS])
        return f"column '{column}' is missing (there are {have})"
    if alike.count(column) > 1:
        return f"column '{column}' is there twice"
    if len(alike) > 1:
        return f"columns {' and '.join(alike)} differ in case alone; rename one"
    return ""


def _vouched(group: Any, readers: dict[str, ColumnReader]) -> set[str]:
    sound = {name for name, reader in readers.items() if reader.is_safe}
    for i in range(group.num_columns):
        column = group.column(i)
        reader = readers.get(column.path_in_schema)
        told = column.statistics
        if reader is None or reader.limits is None or told is None or not told.has_min_max:
            continue
        least, most = reader.limits
        if told.min is not None and told.max is not None and least <= told.min <= told.max <= most:
            sound.add(column.path_in_schema)
    return sound


def footer_digest(path: Path) -> str:
    """SHA-256 of the footer, which holds every column's sizes and statistics; ``RowError`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            footer_bytes = int.from_bytes(file.read(4), "little")
            if footer_bytes > MAX_FOOTER_BYTES:
                raise RowError(f"{path.name}: a footer of {footer_bytes} bytes; is it Parquet?")
            file.seek(-8 - footer_bytes, os.SEEK_END)
            return hashlib.sha256(file.read(footer_bytes)).hexdigest()
    except OSError as error:
        raise _unreadable(path.name, error) from None
