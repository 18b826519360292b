"""Weather of airports as Parquet files, and training sets of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Int64,
    ParquetSource,
    Project,
    String,
    Vector,
)
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.offline.point_in_time import JoinLimits
from featurecache.offline.training_set import Options, Spine, build

START = datetime(2024, 3, 1, tzinfo=UTC)
AIRPORT = Entity("airport", keys={"origin": String})
ROUTE = Entity("route", keys={"origin": String, "number": Int64})
OPTIONS = Options(
    statuses=True,
    on_bad_row="skip",  # keys may be null or empty
    limits=JoinLimits(memory_bytes=256 * 1024 * 1024, threads=1),
)


def moment(second: int) -> datetime:
    """So many seconds after the start."""
    return START + timedelta(seconds=second)


def weather_view(**policies: Any) -> FeatureView:
    """A view with a column of each shape."""
    return FeatureView(
        "weather",
        entity=AIRPORT,
        source=ParquetSource("weather/*.parquet", event_time="known_at"),
        columns=[
            Column("temp", Float32),
            Column("gusts", Int64, default=-1),
            Column("sky", String, default="clear"),
            Column("hourly", Vector(Float32, 2)),
        ],
        **policies,
    )


def manifest_of(*definitions: object) -> Manifest:
    """Of a project with these."""
    return compile_manifest([Project("p"), *definitions])


Row = tuple[str | None, int, int | None]
"""Key, second of the event time, value (everything in the row follows from it)."""


def write_source(path: Path, rows: list[Row]) -> None:
    """A file of ``weather``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "origin": pa.array([row[0] for row in rows], pa.string()),
                "known_at": pa.array([moment(row[1]) for row in rows], pa.timestamp("us", "UTC")),
                "temp": pa.array([row[2] for row in rows], pa.float64()),
                "gusts": pa.array([row[2] for row in rows], pa.int32()),
                "sky": pa.array(
                    [None if row[2] is None else f"s{row[2]}" for row in rows], pa.string()
                ),
                "hourly": pa.array(
                    [None if row[2] is None else [row[2], -row[2]] for row in rows],
                    pa.list_(pa.float32()),
                ),
            }
        ),
        path,
        row_group_size=3,
    )


def write_spine(path: Path, rows: list[tuple[str | None, int]]) -> None:
    """Airports and seconds, numbered by ``label``."""
    pq.write_table(
        pa.table(
            {
                "label": pa.array(range(len(rows)), pa.int16()),
                "origin": pa.array([row[0] for row in rows], pa.string()),
                "at": pa.array([moment(row[1]) for row in rows], pa.timestamp("us", "UTC")),
            }
        ),
        path,
        row_group_size=4,
    )


def built(
    folder: Path,
    files: list[list[Row]],
    spine: list[tuple[str | None, int]],
    **policies: Any,
) -> Any:
    """The table of a training set with every column of ``weather``."""
    for number, rows in enumerate(files):
        write_source(folder / "data" / "weather" / f"{number}.parquet", rows)
    write_spine(folder / "spine.parquet", spine)
    weather = weather_view(**policies)
    build(
        manifest_of(FeatureService("flights", weather.all())),
        "flights",
        Spine(folder / "spine.parquet", "at"),
        folder / "data",
        folder / "out.parquet",
        options=OPTIONS,
    )
    return pq.read_table(folder / "out.parquet")


def write_times(
    folder: Path, name: str, type_: pa.DataType, seconds: list[int], **columns: Any
) -> None:
    """A file of some columns and the times ``at``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    moments = [int(moment(one).timestamp()) for one in seconds]
    array = pa.array(moments, pa.int64()).cast(pa.timestamp("s")).cast(type_)
    pq.write_table(pa.table({"at": array, **columns}), path)


def rename(path: Path, names: Mapping[str, str]) -> None:
    """Columns of a file."""
    table = pq.read_table(path)
    pq.write_table(table.rename_columns([names.get(one, one) for one in table.column_names]), path)
