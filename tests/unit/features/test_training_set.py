"""Training sets of real files against a slow reference: who is known when, how old, and which of equals."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurecache.definitions import (
    Column,
    FeatureService,
    FeatureView,
    Float32,
    Int64,
    ParquetSource,
)
from featurecache.errors import FeatureError
from featurecache.offline.training_set import Options, Spine, build
from featurecache.status import Status
from tests.unit.features.training_files import (
    AIRPORT,
    Row,
    built,
    manifest_of,
    weather_view,
    write_times,
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
        table = built(Path(folder), files, spine, max_age=max_age, on_stale=on_stale)
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
        first = built(Path(one), [rows], spine, max_age=4)
        second = built(Path(other), [changed], spine, max_age=4)
    before = pa.array([at <= now for _, at in spine])
    assert repr(first.filter(before).to_pylist()) == repr(second.filter(before).to_pylist())  # NaN


def test_the_row_of_the_same_moment_is_known_and_a_later_one_is_not(
    tmp_path: Path,
) -> None:
    table = built(tmp_path, [[("JFK", 5, 1)]], [("JFK", 5), ("JFK", 4)])
    assert table.column("weather__status").to_pylist() == [Status.PRESENT, Status.MISSING]


def test_rows_beyond_retention_are_missing_even_where_stale_ones_are_used(tmp_path: Path) -> None:
    rows: list[Row] = [("JFK", 0, 1)]
    table = built(
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
    write_times(tmp_path, "v.parquet", source_type, [10, 20], origin=["A", "A"], x=[1, 2])
    write_times(tmp_path, "spine.parquet", spine_type, [9, 10, 19, 20], origin=["A"] * 4)
    build(
        manifest_of(FeatureService("s", view.all())),
        "s",
        Spine(tmp_path / "spine.parquet", "at"),
        tmp_path,
        tmp_path / "out.parquet",
    )
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("v__x").to_pylist() == [0, 1, 1, 2]
    assert table.schema.field("at").type == spine_type


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
        built(tmp_path, [rows], [("JFK", 1), row, ("JFK", 3)], **policies)
    assert not (tmp_path / "out.parquet").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "spine.parquet"]
    card = build(
        manifest_of(FeatureService("flights", weather_view(**policies).all())),
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
    write_times(tmp_path, "v.parquet", pa.timestamp("us"), [1], origin=["A"], x=[1], y=[2.0])
    write_times(tmp_path, "spine.parquet", pa.timestamp("us"), [1, 1], origin=["A", "B"])
    manifest = manifest_of(FeatureService("s", view.all()), FeatureService("only_y", [view["y"]]))

    def build_one(service: str) -> None:
        build(
            manifest,
            service,
            Spine(tmp_path / "spine.parquet", "at"),
            tmp_path,
            tmp_path / "o.parquet",
        )

    with pytest.raises(FeatureError, match="no row, and its column 'x' has no default: 1 rows"):
        build_one("s")
    build_one("only_y")
