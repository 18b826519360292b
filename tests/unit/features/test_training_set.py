"""Training sets of real files against a slow reference: who is known when, how old, and which of equals."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurecache.compiling import compile_manifest
from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int64,
    ParquetSource,
    Project,
    String,
    Vector,
    on_demand,
)
from featurecache.errors import FeatureError
from featurecache.manifest import Manifest
from featurecache.on_demand import Computed, Functions
from featurecache.point_in_time import JoinLimits
from featurecache.status import Status
from featurecache.training_set import Options, Spine, build

START = datetime(2024, 3, 1, tzinfo=UTC)
AIRPORT = Entity("airport", keys={"origin": String})
ROUTE = Entity("route", keys={"origin": String, "number": Int64})
OPTIONS = Options(statuses=True, limits=JoinLimits(memory_bytes=256 * 1024 * 1024, threads=1))


def _moment(second: int) -> datetime:
    return START + timedelta(seconds=second)


def _weather(**policies: Any) -> FeatureView:
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


def _manifest(*definitions: object) -> Manifest:
    return compile_manifest([Project("p"), *definitions])


Row = tuple[str | None, int, int | None]
"""Key, second of the event time, value (everything in the row follows from it)."""


def _write_source(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "origin": pa.array([row[0] for row in rows], pa.string()),
                "known_at": pa.array([_moment(row[1]) for row in rows], pa.timestamp("us", "UTC")),
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


def _write_spine(path: Path, rows: list[tuple[str | None, int]]) -> None:
    pq.write_table(
        pa.table(
            {
                "label": pa.array(range(len(rows)), pa.int16()),
                "origin": pa.array([row[0] for row in rows], pa.string()),
                "at": pa.array([_moment(row[1]) for row in rows], pa.timestamp("us", "UTC")),
            }
        ),
        path,
        row_group_size=4,
    )


def _reference(
    files: list[list[Row]],
    spine: list[tuple[str | None, int]],
    *,
    max_age: int | None,
    on_stale: str,
) -> list[tuple[Status, int | None]]:
    """Status of the row, and its value; None for null or default. Row by row, as slow as can be."""
    answers: list[tuple[Status, int | None]] = []
    for key, at in spine:
        best: Row | None = None
        for rows in files:
            for row in rows:
                if key and row[0] == key and row[1] <= at and (best is None or row[1] >= best[1]):
                    best = row
        if best is None:
            answers.append((Status.MISSING, None))
        elif max_age is not None and at - best[1] > max_age:
            answers.append((Status.STALE, best[2] if on_stale == "use" else None))
        else:
            answers.append((Status.PRESENT, best[2]))
    return answers


def _check(table: Any, answers: list[tuple[Status, int | None]]) -> None:
    assert table.column("weather__status").to_pylist() == [status for status, _ in answers]
    values = [value for _, value in answers]
    temps = np.array([np.nan if one is None else one for one in values], "f4")
    np.testing.assert_array_equal(table.column("weather__temp").to_numpy(), temps)
    assert table.column("weather__gusts").to_pylist() == [
        -1 if one is None else one for one in values
    ]
    assert table.column("weather__sky").to_pylist() == [
        "clear" if one is None else f"s{one}" for one in values
    ]
    hourly = [[np.nan, np.nan] if one is None else [one, -one] for one in values]
    np.testing.assert_array_equal(table.column("weather__hourly").to_pylist(), hourly)


KEYS = st.sampled_from(["JFK", "LGA", "", "jfk", "a|b", "é", None])
SECONDS = st.integers(0, 12)
SOURCE_ROWS = st.lists(st.tuples(KEYS, SECONDS, st.none() | st.integers(0, 99)), max_size=12)
SPINE_ROWS = st.lists(st.tuples(KEYS, SECONDS), max_size=10)


def _built(
    folder: Path,
    files: list[list[Row]],
    spine: list[tuple[str | None, int]],
    **policies: Any,
) -> Any:
    for number, rows in enumerate(files):
        _write_source(folder / "data" / "weather" / f"{number}.parquet", rows)
    _write_spine(folder / "spine.parquet", spine)
    weather = _weather(**policies)
    build(
        _manifest(FeatureService("flights", weather.all())),
        "flights",
        Spine(folder / "spine.parquet", "at"),
        folder / "data",
        folder / "out.parquet",
        options=OPTIONS,
    )
    return pq.read_table(folder / "out.parquet")


@settings(max_examples=40)
@given(
    st.lists(SOURCE_ROWS, min_size=1, max_size=3),
    SPINE_ROWS,
    st.none() | st.integers(0, 6),
    st.sampled_from(["default", "use"]),
)
@example([[("JFK", 5, 1), ("JFK", 5, 2)], [("JFK", 5, 3)]], [("JFK", 5), ("JFK", 4)], None, "use")
@example([[("JFK", 5, 1)]], [("JFK", 8), ("JFK", 9)], 3, "default")
def test_every_row_is_what_the_reference_says(
    files: list[list[Row]],
    spine: list[tuple[str | None, int]],
    max_age: int | None,
    on_stale: Literal["default", "use"],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = _built(Path(folder), files, spine, max_age=max_age, on_stale=on_stale)
    assert table.column("label").to_pylist() == list(range(len(spine)))
    assert table.column("origin").to_pylist() == [key for key, _ in spine]
    _check(table, _reference(files, spine, max_age=max_age, on_stale=on_stale))


@settings(max_examples=15)
@given(
    SOURCE_ROWS, st.lists(st.tuples(KEYS, SECONDS), min_size=1, max_size=8), SECONDS, st.randoms()
)
def test_what_comes_later_changes_nothing_before(
    rows: list[Row], spine: list[tuple[str | None, int]], now: int, random: Any
) -> None:
    """Rows later than ``now`` are moved, removed and added: rows of the spine up to ``now`` do not see it."""
    later = [row for row in rows if row[1] > now]
    changed = [row for row in rows if row[1] <= now]
    changed += [(key, second + random.randint(0, 5), value) for key, second, value in later[::2]]
    changed += [(key, now + random.randint(1, 9), 77) for key, _, _ in rows]
    # Order in the file may change among rows of different times, never among equal ones.
    past = [row for row in changed if row[1] <= now]
    random.shuffle(changed)
    changed = [row for row in changed if row[1] > now] + past
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = _built(Path(one), [rows], spine, max_age=4)
        second = _built(Path(other), [changed], spine, max_age=4)
    before = pa.array([at <= now for _, at in spine])
    assert repr(first.filter(before).to_pylist()) == repr(second.filter(before).to_pylist())  # NaN


def test_the_row_of_the_same_moment_is_known_and_a_later_one_is_not(
    tmp_path: Path,
) -> None:
    table = _built(tmp_path, [[("JFK", 5, 1)]], [("JFK", 5), ("JFK", 4)])
    assert table.column("weather__status").to_pylist() == [Status.PRESENT, Status.MISSING]


def test_rows_beyond_retention_are_missing_even_where_stale_ones_are_used(tmp_path: Path) -> None:
    rows: list[Row] = [("JFK", 0, 1)]
    table = _built(
        tmp_path,
        [rows],
        [("JFK", 3), ("JFK", 8), ("JFK", 9)],
        max_age=3,
        retention=8,
        on_stale="use",
    )
    assert table.column("weather__status").to_pylist() == [
        Status.PRESENT,
        Status.STALE,
        Status.MISSING,
    ]
    assert table.column("weather__gusts").to_pylist() == [1, 1, -1]


def _times(folder: Path, name: str, type_: pa.DataType, seconds: list[int], **columns: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    moments = [int(_moment(one).timestamp()) for one in seconds]
    array = pa.array(moments, pa.int64()).cast(pa.timestamp("s")).cast(type_)
    pq.write_table(pa.table({"at": array, **columns}), path)


@pytest.mark.parametrize(
    "spine_type", [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "Europe/Berlin")]
)
@pytest.mark.parametrize(
    "source_type", [pa.timestamp("ns", "America/New_York"), pa.timestamp("ns"), pa.timestamp("ms")]
)
def test_times_without_a_zone_are_utc_whatever_their_unit(
    tmp_path: Path, spine_type: pa.DataType, source_type: pa.DataType
) -> None:
    view = FeatureView(
        "v",
        entity=AIRPORT,
        source=ParquetSource("v.parquet", event_time="at"),
        columns=[Column("x", Int64, default=0)],
    )
    _times(tmp_path, "v.parquet", source_type, [10, 20], origin=["A", "A"], x=[1, 2])
    _times(tmp_path, "spine.parquet", spine_type, [9, 10, 19, 20], origin=["A"] * 4)
    build(
        _manifest(FeatureService("s", view.all())),
        "s",
        Spine(tmp_path / "spine.parquet", "at"),
        tmp_path,
        tmp_path / "out.parquet",
    )
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("v__x").to_pylist() == [0, 1, 1, 2]
    assert table.schema.field("at").type == spine_type


def _functions(**functions: Any) -> Functions:
    return Functions(functions)


def test_several_views_keys_inputs_and_on_demand_features(tmp_path: Path) -> None:
    weather = _weather()
    load = FeatureView(
        "load",
        entity=ROUTE,
        source=ParquetSource("load.parquet", event_time="t"),
        columns=[Column("seats", Int64, default=0)],
    )
    distance = Input("distance", Float32)

    @on_demand(inputs=[weather["temp"], distance], output=Column("chill", Float32))
    def chill(temp: Any, distance: Any) -> Any:
        return temp - distance

    _write_source(tmp_path / "weather" / "a.parquet", [("JFK", 1, 10), ("LGA", 1, 20)])
    _times(
        tmp_path,
        "load.parquet",
        pa.timestamp("us"),
        [1, 2],
        origin=["JFK", "JFK"],
        number=pa.array([7, 8], pa.int32()),
        seats=pa.array([70, 80], pa.uint8()),
    )
    _rename(tmp_path / "load.parquet", {"at": "t"})
    _times(
        tmp_path,
        "spine.parquet",
        pa.timestamp("us"),
        [5, 5, 5],
        origin=pa.array(["JFK", "LGA", "JFK"]).dictionary_encode(),
        dest=["LGA", "JFK", None],
        number=[8, 7, 7],
        distance=[1.5, 2.5, None],
        id=["a", "b", "c"],
    )
    service = FeatureService(
        "flights",
        {
            "x": [distance, weather["temp"], weather.by(origin="dest")["temp"], chill],
            "y": [load["seats"], AIRPORT["origin"], weather["temp"]],
        },
    )
    manifest = _manifest(service)
    steps: list[tuple[str, int, int]] = []
    card = build(
        manifest,
        "flights",
        Spine(str(tmp_path / "sp*.parquet"), "at", keep=["id"]),
        tmp_path,
        tmp_path / "out.parquet",
        functions=_functions(
            chill=Computed(manifest.on_demand_feature("chill"), chill.function, [False, False])
        ),
        options=OPTIONS,
        progress=lambda *step: steps.append(step),
    )
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == [
        "id",
        "distance",
        "weather__temp",
        "weather_origin_dest__temp",
        "chill",
        "load__seats",
        "origin",
        "weather__status",
        "weather_origin_dest__status",
        "load__status",
    ]
    expected: Mapping[str, list[Any]] = {
        "id": ["a", "b", "c"],
        "distance": [1.5, 2.5, np.nan],
        "weather__temp": [10, 20, 10],
        "weather_origin_dest__temp": [20, 10, np.nan],
        "chill": [8.5, 17.5, np.nan],
        "load__seats": [80, 0, 70],
        "origin": ["JFK", "LGA", "JFK"],
        "weather_origin_dest__status": [0, 0, Status.MISSING],
        "load__status": [0, Status.MISSING, 0],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(table.column(name).to_pylist(), values, err_msg=name)
    assert table.schema.field("chill").type == pa.float32()
    assert card.tensors == {
        "x": ["distance", "weather__temp", "weather_origin_dest__temp", "chill"],
        "y": ["load__seats", "origin", "weather__temp"],
    }
    assert b'"service":"flights"' in table.schema.metadata[b"headrace"]
    assert steps[0] == ("join weather", 0, 3)
    assert ("write", 3, 3) in steps


def _rename(path: Path, names: Mapping[str, str]) -> None:
    table = pq.read_table(path)
    pq.write_table(table.rename_columns([names.get(one, one) for one in table.column_names]), path)


@pytest.mark.parametrize(
    ("policies", "row", "told"),
    [
        ({"on_missing": "fail"}, ("LGA", 5), "view 'weather' has no row: 1 rows"),
        ({"on_stale": "fail", "max_age": 2}, ("JFK", 5), "older than its max_age: 1 rows"),
        ({"on_null": "fail"}, ("EWR", 5), "feature 'weather.temp' is null: 1 rows"),
    ],
)
def test_rows_that_would_fail_are_refused_or_left_out(
    tmp_path: Path, policies: dict[str, Any], row: tuple[str, int], told: str
) -> None:
    rows: list[Row] = [("JFK", 1, 3), ("EWR", 1, None)]
    with pytest.raises(FeatureError, match=told):
        _built(tmp_path, [rows], [("JFK", 1), row, ("JFK", 3)], **policies)
    assert not (tmp_path / "out.parquet").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "spine.parquet"]
    card = build(
        _manifest(FeatureService("flights", _weather(**policies).all())),
        "flights",
        Spine(tmp_path / "spine.parquet", "at"),
        tmp_path / "data",
        tmp_path / "out.parquet",
        options=Options(when_refused="leave_out"),
    )
    assert pq.read_table(tmp_path / "out.parquet").column("label").to_pylist() == [0, 2]
    assert set(card.left_out.values()) == {1}
    assert card.rows == 2


def test_a_column_without_default_needs_a_row(tmp_path: Path) -> None:
    view = FeatureView(
        "v",
        entity=AIRPORT,
        source=ParquetSource("v.parquet", event_time="at"),
        columns=[Column("x", Int64), Column("y", Float32)],
    )
    _times(tmp_path, "v.parquet", pa.timestamp("us"), [1], origin=["A"], x=[1], y=[2.0])
    _times(tmp_path, "spine.parquet", pa.timestamp("us"), [1, 1], origin=["A", "B"])
    manifest = _manifest(FeatureService("s", view.all()), FeatureService("only_y", [view["y"]]))

    def built(service: str) -> None:
        build(
            manifest,
            service,
            Spine(tmp_path / "spine.parquet", "at"),
            tmp_path,
            tmp_path / "o.parquet",
        )

    with pytest.raises(FeatureError, match="no row, and its column 'x' has no default: 1 rows"):
        built("s")
    built("only_y")
