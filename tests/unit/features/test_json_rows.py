from __future__ import annotations

import math
from typing import Any

import pytest

from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureView,
    Float32,
    Int32,
    Int64,
    ParquetSource,
    Project,
    String,
    Timestamp,
    Vector,
)
from featurecache.errors import RowError
from featurecache.manifests.compiling import compile_manifest
from featurecache.rows.json_rows import JsonRows

NOW_US = 1_795_000_000_000_000

VIEW = FeatureView(
    "v",
    entity=Entity("user", keys={"uid": String, "n": Int64}),
    source=ParquetSource("*.parquet", event_time="known_at"),
    columns=[
        Column("x", Float32),
        Column("i", Int32, default=0),
        Column("s", String, default=""),
        Column("b", Bool, default=False),
        Column("t", Timestamp, default=0),
        Column("v", Vector(Float32, 2)),
    ],
)
GOOD: dict[str, Any] = {
    "uid": "a|b", "n": 7, "x": 1.5, "i": -3, "s": "ä", "b": True, "t": "2026-01-01T00:00:00Z",
    "v": [1, None],
}  # fmt: skip


@pytest.fixture
def rows() -> JsonRows:
    manifest = compile_manifest([Project("p"), VIEW])
    return JsonRows(manifest, manifest.view("v"))


def test_rows_become_columns(rows: JsonRows) -> None:
    nulls = dict.fromkeys(["x", "i", "s", "b", "t", "v"])
    batch = rows.batch([GOOD, GOOD | nulls | {"event_time": "2026-11-23T01:00:00+01:00"}], NOW_US)
    assert batch.keys == [b"hr:p:{user:a%7Cb|7}:v"] * 2
    assert batch.event_us.tolist() == [NOW_US, 1_795_392_000_000_000]
    assert batch.columns["x"].tolist() == [1.5, 0]
    assert batch.columns["i"].tolist() == [-3, 0]
    assert batch.columns["s"].tolist() == ["ä".encode(), b""]
    assert batch.columns["b"].tolist() == [1, 0]
    assert batch.columns["t"].tolist() == [1_767_225_600_000_000, 0]
    assert batch.columns["v"].shape == (2, 2)
    assert math.isnan(batch.columns["v"][0, 1])
    assert {name: mask.tolist() for name, mask in batch.nulls.items()} == {
        name: [False, True] for name in nulls
    }


def test_the_source_s_name_of_the_time_will_do(rows: JsonRows) -> None:
    batch = rows.batch([GOOD | {"known_at": "1970-01-01T00:00:01"}], NOW_US)
    assert batch.event_us.tolist() == [1_000_000]


def test_numbers_are_microseconds_and_a_null_is_no_time(rows: JsonRows) -> None:
    times: list[dict[str, Any]] = [
        {"event_time": 1_795_450_874_233_680},
        {"known_at": -(10**15), "event_time": None},
        {"known_at": 10**14},
        {"event_time": None, "known_at": None},
    ]
    batch = rows.batch([GOOD | one for one in times], NOW_US)
    assert batch.event_us.tolist() == [1_795_450_874_233_680, -(10**15), 10**14, NOW_US]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": "1.5"}, "'x' is '1.5', not a number"),
        ({"x": True}, "not a number"),
        ({"x": 1e39}, "too large for float32"),
        ({"x": -(10**400)}, "too large for float32"),
        ({"i": 2**31}, "no int32"),
        ({"i": 1.0}, "no int32"),
        ({"s": 3}, "not a string"),
        ({"s": "x" * 65_537}, "65537 bytes"),
        ({"b": 1}, "not true or false"),
        ({"t": "yesterday"}, "no moment"),
        ({"v": [1]}, "a list of 2"),
        ({"v": [1, "2"]}, "not a number"),
        ({"uid": ""}, "names no entity"),
        ({"uid": None}, "key 'uid' is null"),
        ({"n": "7"}, "not a number"),
        ({"event_time": "5"}, "'event_time' is '5', no moment"),
        ({"event_time": 1.5}, "'event_time' is 1.5, no moment"),
        ({"event_time": True}, "'event_time' is True, no moment"),
        (
            {"event_time": 1_795_450_874},
            "'event_time' is 1795450874, which looks like seconds; give µs since 1970 or an ISO time",
        ),
        ({"event_time": 1_795_450_874_000}, "looks like milliseconds"),
        ({"known_at": -5}, "'known_at' is -5, which looks like seconds"),
        ({"event_time": 10**18}, "no moment of a calendar"),
        ({"event_time": -(10**40)}, "no moment of a calendar"),
        (
            {"event_time": "2026-01-01", "known_at": 1_795_450_874_000_000},
            "'event_time' and 'known_at' are both given; leave one out",
        ),
        ({"y": 1}, "'y' is no column of view 'v'; known: uid, n, x"),
        ({"evnt_time": 1}, "did you mean 'event_time'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_row(
    rows: JsonRows, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(RowError, match="row 12: ") as refused:
        rows.batch([GOOD, GOOD | change], NOW_US, first=11)
    assert told in str(refused.value)


def test_a_missing_column_is_told(rows: JsonRows) -> None:
    with pytest.raises(RowError, match=r"'x' is missing .write null"):
        rows.batch([{name: value for name, value in GOOD.items() if name != "x"}], NOW_US)
    with pytest.raises(RowError, match="not a JSON object"):
        rows.batch([[1, 2]], NOW_US)  # type: ignore[list-item]


def test_the_key_of_one_entity(rows: JsonRows) -> None:
    assert rows.key({"n": "7", "uid": "x"}) == b"hr:p:{user:x|7}:v"
    for parts, told in (
        ({"uid": "x"}, "'n' is missing"),
        ({"uid": "x", "n": "7", "m": "1"}, "'m' is none of its keys"),
        ({"uid": "x", "n": "seven"}, "'seven' is no int64"),
    ):
        with pytest.raises(RowError, match=told):
            rows.key(parts)
