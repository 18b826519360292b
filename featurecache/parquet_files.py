"""Parquet files that views and training sets are made from: which they are, and whether they are what was declared.

Decides the order of files (by their path, so that every reader agrees which row was written last) and which column
types may stand for which declared type. It reads footers only, never rows.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.columns import ColumnType
from featurecache.errors import RowError

MAX_FILES = 100_000
"""Of one source."""
MAX_FILE_ROWS = 1 << 40
ROW_COLUMNS = ("file_index", "file_row_number")
"""What the reader calls a row's place; no column of a file can be called so."""

Expectation: TypeAlias = tuple[str, Callable[[pa.DataType], bool]]
"""What a column must be, in words, and the test of it."""


class ParquetFiles(msgspec.Struct, frozen=True):
    """Files of one source, in order, with equal columns."""

    label: str
    """For messages and cards: the path or pattern as it was written."""
    paths: list[Path]
    names: list[str]
    """Of the paths, as messages and cards have them."""
    rows: list[int]
    """Of each file."""
    types: dict[str, pa.DataType]
    """Of the columns that were asked for, in the first file."""

    @property
    def total_rows(self) -> int:
        """Of all files."""
        return sum(self.rows)


def source_files(data: Path, pattern: str) -> list[Path]:
    """The files of a view's source below ``data``, sorted by path; ``RowError`` when there are none."""
    return _some(sorted(one for one in data.glob(pattern) if one.is_file()), str(data / pattern))


def pattern_files(pattern: Path | str) -> list[Path]:
    """A file, or the files that a pattern names, sorted by path; ``RowError`` when there are none."""
    path = Path(pattern)
    if path.is_dir():
        raise RowError(f"{path}: a folder; write {path}/*.parquet")
    if path.is_file():
        return [path]
    found = (Path(one) for one in glob.glob(str(pattern), recursive=True))
    return _some(sorted(one for one in found if one.is_file()), str(pattern))


def _some(paths: list[Path], label: str) -> list[Path]:
    if not paths:
        raise RowError(f"{label}: no such Parquet file")
    if len(paths) > MAX_FILES:
        raise RowError(f"{label}: {len(paths)} files; at most {MAX_FILES} are possible")
    return paths


def checked_files(
    label: str,
    paths: Sequence[Path],
    base: Path,
    wanted: Mapping[str, Expectation],
    *,
    is_strict: bool = False,
) -> ParquetFiles:
    """The files, once each of them has the wanted columns; ``base``: what names are relative to. ``is_strict``: a
    column has one type in all files; otherwise types may differ where no value is lost.

    Raises ``RowError`` naming file, column, expected and found type.
    """
    types: dict[str, pa.DataType] = {}
    rows = []
    for path in paths:
        schema, count = _footer(path)
        _check_names(path, schema, wanted)
        for name, (words, fits) in wanted.items():
            found = schema.field(name).type
            if not fits(found):
                raise RowError(f"{path}: column '{name}' is {found}, and must be {words}")
            before = types.setdefault(name, found)
            if not (found == before or (not is_strict and _may_mix(found, before))):
                raise RowError(
                    f"{path}: column '{name}' is {found}, and {before} in {paths[0].name}; "
                    "write all files of a source with the same types"
                )
        rows.append(count)
    names = [path.relative_to(base).as_posix() for path in paths]
    return ParquetFiles(label, list(paths), names, rows, types)


def column_names_of(path: Path) -> list[str]:
    """Of one file; ``RowError`` when it is no Parquet file."""
    names: list[str] = _footer(path)[0].names
    return names


def _footer(path: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            count: int = file.metadata.num_rows
            schema: pa.Schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise RowError(f"{path}: cannot be read as Parquet ({error})") from None
    if count > MAX_FILE_ROWS:
        raise RowError(f"{path}: {count} rows; at most {MAX_FILE_ROWS} are possible")
    return schema, count


def _check_names(path: Path, schema: pa.Schema, wanted: Mapping[str, Expectation]) -> None:
    folded: dict[str, list[str]] = {}
    for name in schema.names:
        folded.setdefault(name.lower(), []).append(name)
    for reserved in ROW_COLUMNS:
        if reserved in folded:
            raise RowError(f"{path}: a column cannot be called '{folded[reserved][0]}'; rename it")
    for name, (words, _) in wanted.items():
        alike = folded.get(name.lower(), [])
        if name not in alike:
            have = ", ".join(schema.names[:40])
            raise RowError(f"{path}: no column '{name}' ({words}); it has {have}")
        if len(alike) > 1:
            raise RowError(
                f"{path}: columns {' and '.join(alike)} differ in case alone; rename one"
            )


def _may_mix(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two files' columns can be read as one without loss (the wider of two integers, and the like)."""
    if pa.types.is_timestamp(one):
        return pa.types.is_timestamp(other) and (one.tz is None) == (other.tz is None)
    if _is_text(one):
        return _is_text(other)
    if _is_list(one) and _is_list(other):
        return bool(one.value_type == other.value_type) or _may_mix(
            one.value_type, other.value_type
        )
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return pa.uint64() not in (one, other)
    # An integer beside a single-precision float would be rounded to it, whatever was declared.
    numbers = all(pa.types.is_integer(each) or pa.types.is_floating(each) for each in (one, other))
    floats = pa.types.is_floating(one) and pa.types.is_floating(other)
    return numbers and (floats or pa.float64() in (one, other))


def _is_text(found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return bool(
        pa.types.is_string(found)
        or pa.types.is_large_string(found)
        or pa.types.is_string_view(found)
    )


def _is_list(found: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(found)
        or pa.types.is_large_list(found)
        or pa.types.is_fixed_size_list(found)
    )


def may_become(type_: ColumnType, found: pa.DataType) -> bool:
    """Whether values of a Parquet column can be this type: floats of any number, integers of any integer."""
    if type_.length:
        return _is_list(found) and may_become(ColumnType(type_.kind), found.value_type)
    if type_.is_string:
        return _is_text(found)
    if type_.kind == "bool":
        return bool(pa.types.is_boolean(found))
    if type_.kind == "timestamp":
        return bool(pa.types.is_timestamp(found))
    is_integer = bool(pa.types.is_integer(found))
    return is_integer or (type_.is_float and bool(pa.types.is_floating(found)))


def expected(type_: ColumnType) -> Expectation:
    """A column of a declared type."""
    return str(type_), lambda found: may_become(type_, found)


def expected_key(type_: ColumnType) -> Expectation:
    """A join key: strings are strings and numbers are numbers, never one for the other."""
    if type_.is_string:
        return "a string, as the join key is declared", _is_text
    words = f"an integer of at most 64 bits, as the join key is declared ({type_})"
    return words, lambda found: bool(pa.types.is_integer(found)) and found != pa.uint64()


EVENT_TIME: Expectation = (
    "a timestamp (with a time zone, or without one in UTC; turn numbers and dates into timestamps first)",
    lambda found: bool(pa.types.is_timestamp(found)),
)
ANYTHING: Expectation = ("of any type", lambda _: True)
