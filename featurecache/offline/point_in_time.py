"""For each row of a spine, the row of a view that was known then: a join over Parquet files of any size.

Decides which row is the one: the newest whose event time is not later than the spine row's; among equal event times
the one written last (later file, later row), as the loader has it. Times are compared in whole microseconds, rounded
down, as the store keeps them; keys that no request can carry are nobody's. It must never look at a value, and never at
what a view makes of a row that is old or absent.
"""

# ruff: noqa: S608  # all names are quoted, all texts escaped: DuckDB binds neither columns nor file lists
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from featurecache.columns import ColumnType
from featurecache.errors import FeatureError, RowError
from featurecache.offline.arrow_columns import is_binary
from featurecache.offline.parquet_files import FILE_STRIDE, ParquetFiles
from featurecache.rows.keys import MAX_ID_BYTES

MIN_MEMORY_BYTES = 256 * 1024 * 1024
"""Below it, joins of a few million rows fail instead of spilling (measured)."""
_TIME_STRIDE = 1 << 60
"""A row's event time and place in one number, so that no two rows are equal: time * stride + place."""

_INTEGERS = {"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT"}


class JoinLimits(msgspec.Struct, frozen=True):
    """What the join may use; what does not fit goes to files in the work folder."""

    memory_bytes: int = 2 * 1024 * 1024 * 1024
    threads: int = 0
    """0: one per core."""


class TimeRange(msgspec.Struct, frozen=True):
    """Event times of some files, in µs since 1970; None for files without rows."""

    first_us: int | None
    last_us: int | None
    rows_without_key: int
    """Whom nobody can ask for: a key is null, empty, too long, or beyond its declared type."""


class JoinKey(msgspec.Struct, frozen=True):
    """One join key: what it is called in the spine and in the view, and its declared type."""

    spine: str
    view: str
    type: ColumnType


class PointInTime:
    """The join, over one spine, for one view after the other."""

    def __init__(
        self, spine: ParquetFiles, event_time: str, folder: Path, limits: JoinLimits
    ) -> None:
        """``folder``: an empty one, for whatever does not fit in memory."""
        self._spine, self._event_time, self._folder = spine, event_time, folder
        if limits.memory_bytes < MIN_MEMORY_BYTES:
            raise FeatureError(
                f"a memory limit of {limits.memory_bytes} bytes: joins need at least {MIN_MEMORY_BYTES}"
            )
        config: dict[str, Any] = {
            "memory_limit": f"{limits.memory_bytes}B",
            "temp_directory": str(folder / "spill"),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        if limits.threads:
            config["threads"] = limits.threads
        self._database = duckdb.connect(str(folder / "work.duckdb"), config=config)
        self._database.execute(
            "SET enable_progress_bar = false"
        )  # it would write to standard output
        self._joins = 0

    def __enter__(self) -> PointInTime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def times(
        self, files: ParquetFiles, event_time: str, keys: Mapping[str, ColumnType]
    ) -> TimeRange:
        """Of some files; ``RowError`` when a row has none, or one that no clock shows."""
        time = _quoted(event_time)
        finite = f"isfinite({_time(files, event_time)})"
        kept = _is_kept(files)
        micros = f"CASE WHEN {finite} AND {kept} THEN {_micros(files, event_time)} END"
        absent = (
            " OR ".join(f"{_key(files, key, type_)} IS NULL" for key, type_ in keys.items())
            or "false"
        )
        self._set_skipped(files)
        ((without, endless, keyless, first, last),) = self._run(
            f"SELECT count(*) FILTER ({time} IS NULL AND {kept}), count(*) FILTER (NOT {finite} AND {kept}), "
            f"count(*) FILTER ({absent}), min({micros}), "
            f"max({micros}) FROM {_read(files)}",
            files.label,
        )
        if without:
            raise RowError(
                f"{files.label}: {without} of {files.total_rows} rows have no event time ('{event_time}' is null); "
                "take them out, or fill it"
            )
        if endless:
            raise RowError(f"{files.label}: {endless} rows have an infinite '{event_time}'")
        return TimeRange(first, last, keyless)

    def join(
        self,
        source: ParquetFiles,
        event_time: str,
        keys: Sequence[JoinKey],
        columns: Sequence[str],
        until_us: int | None,
        row_group_rows: int,
    ) -> Path:
        """A Parquet file with one row per row of the spine, in its order.

        Its columns: ``age`` (µs from the view's event time to the spine's; null where no row was known), then the
        view's ``columns`` as ``c0``, ``c1`` …. ``until_us``: the spine's last event time.
        """
        out = self._folder / f"view{self._joins}.parquet"
        self._joins += 1
        self._set_skipped(source)
        # First only keys and times are matched and sorted, and only then the values of matched rows are fetched: a
        # view may be wide, and most of its rows are nobody's latest.
        self._run(
            f"CREATE OR REPLACE TEMP TABLE matched AS SELECT s.place, s.us - r.us AS age, r.place AS found "
            f"FROM ({self._spine_rows(keys)}) s ASOF LEFT JOIN ({_view_rows(source, event_time, keys, until_us)}) r "
            f"ON {' AND '.join(f's.k{i} = r.k{i}' for i in range(len(keys)))} AND s.moment >= r.moment",
            source.label,
        )
        values = ", ".join(f"{_quoted(name)} AS c{i}" for i, name in enumerate(columns))
        named = "".join(f", r.c{i}" for i in range(len(columns)))
        self._run(
            f"COPY (SELECT m.age{named} FROM matched m LEFT JOIN (SELECT {_place()} AS place, {values} "
            f"FROM {_read(source)}) r ON m.found = r.place ORDER BY m.place) "
            f"TO {_text(str(out))} (FORMAT parquet, COMPRESSION lz4_raw, ROW_GROUP_SIZE {row_group_rows})",
            source.label,
        )
        self._run("DROP TABLE matched", source.label)
        return out

    def _spine_rows(self, keys: Sequence[JoinKey]) -> str:
        listed = "".join(
            f", {_key(self._spine, key.spine, key.type)} AS k{i}" for i, key in enumerate(keys)
        )
        micros = _micros(self._spine, self._event_time)
        return (
            f"SELECT {_place()} AS place, {micros} AS us, "
            f"{micros}::HUGEINT * {_TIME_STRIDE} + {_TIME_STRIDE - 1} AS moment{listed} FROM {_read(self._spine)}"
        )

    def _set_skipped(self, files: ParquetFiles) -> None:
        if files.skipped is not None:
            self._database.register("skipped", pa.table({"place": files.skipped}))

    def _run(self, sql: str, label: str) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(sql).fetchall()
        except duckdb.OutOfMemoryException as error:
            raise FeatureError(
                f"{label}: the join needs more memory than it may use; raise the memory limit ({error})"
            ) from None
        except duckdb.Error as error:
            raise FeatureError(f"{label}: the join fails ({error})") from error


def _view_rows(
    source: ParquetFiles, event_time: str, keys: Sequence[JoinKey], until_us: int | None
) -> str:
    listed = "".join(f", {_key(source, key.view, key.type)} AS k{i}" for i, key in enumerate(keys))
    micros = _micros(source, event_time)
    past = "false" if until_us is None else f"{micros} <= {until_us}"
    return (
        f"SELECT {_place()} AS place, {micros} AS us, "
        f"{micros}::HUGEINT * {_TIME_STRIDE} + {_place()} AS moment{listed} FROM {_read(source)} "
        f"WHERE {past} AND {_is_kept(source)}"
    )


def _read(files: ParquetFiles) -> str:
    listed = ", ".join(_text(str(path)) for path in files.paths)
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"


def _is_kept(files: ParquetFiles) -> str:
    """Whether a row is to be read; the table ``skipped`` holds those that are not."""
    return "true" if files.skipped is None else f"{_place()} NOT IN (SELECT place FROM skipped)"


def _place() -> str:
    """Where a row lies: its file's number and its own, in one number that grows in reading order."""
    return f"(file_index::BIGINT * {FILE_STRIDE} + file_row_number::BIGINT)"


def _time(files: ParquetFiles, column: str) -> str:
    type_ = files.types[column]
    zoned = pa.types.is_timestamp(type_) and type_.tz is not None
    return f"{_quoted(column)}::{'TIMESTAMPTZ' if zoned else 'TIMESTAMP'}"


def _micros(files: ParquetFiles, column: str) -> str:
    type_ = files.types[column]
    if type_.unit != "ns":
        return f"epoch_us({_time(files, column)})"
    # Casts of nanoseconds round to the nearest microsecond, and divisions towards 0; the loader rounds down.
    nanos = f"epoch_ns({_quoted(column)})"
    return f"({nanos} // 1000 - ({nanos} % 1000 < 0)::BIGINT)"


def _key(files: ParquetFiles, column: str, type_: ColumnType) -> str:
    """Null for what no request can carry, and so names no entity."""
    if not type_.is_string:
        return f"TRY_CAST({_quoted(column)} AS {_INTEGERS[type_.kind]})::BIGINT"
    plain = is_binary(files.types[column])
    text = f"TRY(decode({_quoted(column)}))" if plain else _quoted(column)
    return f"CASE WHEN strlen({text}) BETWEEN 1 AND {MAX_ID_BYTES} THEN {text} END"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
