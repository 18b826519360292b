from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.columns import ColumnType
from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureView,
    Float32,
    Float64,
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
from featurecache.writing import bad_places, parquet_source
from featurecache.writing.parquet_source import Chunk, ParquetView

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
AT = pa.array([NOW_US - 1_000_000, NOW_US - 2_000_000, NOW_US], pa.timestamp("us", "UTC"))


def view_of(data: Path, *columns: Column, keys: dict[str, ColumnType] | None = None) -> ParquetView:
    entity = Entity("user", keys=keys or {"uid": String})
    view = FeatureView(
        "v", entity=entity, columns=columns, source=ParquetSource("*.parquet", event_time="at")
    )
    manifest = compile_manifest([Project("p"), view])
    return ParquetView(manifest, manifest.view("v"), data)


def write(data: Path, name: str = "a.parquet", **columns: Any) -> None:
    table = {"uid": ["a", "b", "c"], "at": AT} | columns
    pq.write_table(pa.table(table), data / name, row_group_size=2)


def chunks(view: ParquetView, *, check: bool = False) -> list[Chunk]:
    read = view.check if check else view.read
    return [
        chunk
        for file in view.files
        for group in range(len(file.group_rows))
        for chunk in read(file, group, NOW_US)
    ]


def values(view: ParquetView, name: str) -> Any:
    return np.concatenate([one.columns[name] for one in chunks(view)])


def refusals(view: ParquetView, *, check: bool = False) -> list[str]:
    return [str(bad) for chunk in chunks(view, check=check) for bad in chunk.bad]


# -- files -----------------------------------------------------------------------------------------------------


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b.parquet", x=pa.array([4.0, 5.0, 6.0], pa.float32()))
    write(tmp_path, "a.parquet", x=pa.array([1.0, 2.0, 3.0], pa.float32()))
    view = view_of(tmp_path, Column("x", Float32))
    assert values(view, "x").tolist() == [1, 2, 3, 4, 5, 6]
    assert (view.rows, [one.group_rows for one in view.files]) == (6, [[2, 1], [2, 1]])
    assert chunks(view)[0].keys == [b"hr:p:{user:a}:v", b"hr:p:{user:b}:v"]


def test_no_file_a_folder_and_no_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="no file matches"):
        view_of(tmp_path, Column("x", Float32))
    with pytest.raises(RowError, match="is no folder"):
        view_of(tmp_path / "none", Column("x", Float32))
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(RowError, match="no file matches"):
        view_of(tmp_path, Column("x", Float32))


def test_files_that_no_join_could_read_as_one_are_not_loaded_either(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", x=pa.array([1.0, 2.0, 3.0], pa.float32()))
    for column in ({"x": pa.array([1, 2, 3])}, {"x": [1.0] * 3, "at": AT.cast(pa.timestamp("us"))}):
        write(tmp_path, "b.parquet", **column)
        with pytest.raises(RowError, match=r"b\.parquet: column '.*write all files of a source"):
            view_of(tmp_path, Column("x", Float32))
    write(tmp_path, "a.parquet", x=["a", "b", "c"])
    write(tmp_path, "b.parquet", x=pa.array([b"a", b"b", b"c"], pa.binary()))
    with pytest.raises(RowError, match=r"'x' is binary, and string in a\.parquet"):
        view_of(tmp_path, Column("x", String))
    write(tmp_path, "a.parquet", x=[1.0, 2.0, 3.0])
    for name in ("X", "file_index"):
        write(tmp_path, "b.parquet", **{"x": [1.0] * 3, name: [1, 2, 3]})
        with pytest.raises(RowError, match=r"b\.parquet: .*rename (it|one)"):
            view_of(tmp_path, Column("x", Float32))


def test_all_that_is_wrong_with_all_files_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", x=["text"] * 3)
    write(tmp_path, "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(RowError) as refused:
        view_of(tmp_path, Column("x", Float32), Column("y", Float32))
    told = str(refused.value)
    assert "a.parquet: column 'x' is string and cannot be float32 safely" in told
    assert "column 'y' is missing (there are uid, at, x)" in told
    assert "b.parquet: column 'x' is missing" in told
    assert "c.parquet: not a Parquet file" in told
    assert told.startswith("view 'v': ")


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, x=pa.array([1.0, 2.0, 3.0]))
    view = view_of(tmp_path, Column("x", Float32))
    write(tmp_path, x=pa.array([1.0, 2.0, 30.0]), more=[1, 2, 3])
    with pytest.raises(RowError, match="changed while"):
        chunks(view)


def test_a_file_cut_off_behind_its_footer_says_where(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write(tmp_path, x=rng.random(3))
    view = view_of(tmp_path, Column("x", Float64))
    path = tmp_path / "a.parquet"
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(RowError, match=r"a\.parquet, row group 0, after row 0: cannot be read"):
        chunks(view)


# -- types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "arrow", "given"),
    [
        (Float32, pa.float16(), [1.5, 2.0, None]),
        (Float32, pa.float64(), [1.5, 0.1, None]),
        (Float64, pa.float32(), [1.5, 2.5, float("inf")]),
        (Float32, pa.int64(), [2**24, -(2**24), None]),
        (Float64, pa.int64(), [2**53, 0, 7]),
        (Int64, pa.int32(), [1, -(2**31), None]),
        (Int32, pa.int64(), [2**31 - 1, -(2**31), None]),
        (Int64, pa.uint64(), [2**63 - 1, 0, 1]),
        (Bool, pa.bool_(), [True, False, None]),
        (String, pa.string(), ["ä", "", None]),
        (String, pa.large_string(), ["x", "y", "z"]),
        (String, pa.binary(), [b"x", None, b"z"]),
        (String, pa.dictionary(pa.int8(), pa.string()), ["x", None, "x"]),
        (Vector(Float32, 2), pa.list_(pa.float64()), [[1, 2], None, [3, 4]]),
        (Vector(Int32, 2), pa.list_(pa.int32(), 2), [[1, 2], [5, 6], None]),
        (Timestamp, pa.int64(), [5, 6, None]),
    ],
)
def test_what_survives_is_taken(tmp_path: Path, type_: Any, arrow: Any, given: list[Any]) -> None:
    write(tmp_path, x=pa.array(given, arrow))
    view = view_of(tmp_path, Column("x", type_))
    assert refusals(view) == refusals(view, check=True) == []
    found = values(view, "x")
    assert found.dtype == type_.dtype
    assert found.shape == type_.shape(3)
    nulls = [bool(one) for chunk in chunks(view)
             for one in chunk.nulls.get("x", np.zeros(chunk.rows, np.bool_))]  # fmt: skip
    assert nulls == [one is None for one in given]
    for value, expected in zip(found.tolist(), given, strict=True):
        if expected is not None:
            expected = expected.encode() if isinstance(expected, str) else expected
            assert value == (pytest.approx(expected) if type_.is_float else expected)


@pytest.mark.parametrize(
    ("type_", "arrow", "given", "reason"),
    [
        (Float32, pa.float64(), [1.0, 1e39, 2.0], "too large for float32"),
        (Float32, pa.int64(), [1, 2**24 + 1, 2], "not exact as float32"),
        (Float64, pa.int64(), [1, 2**53 + 1, 2], "not exact as float64"),
        (Int32, pa.int64(), [1, 2**31, 2], "no int32"),
        (Int64, pa.uint64(), [1, 2**63, 2], "no int64"),
        (String, pa.binary(), [b"a", b"\xff", b"b"], "not UTF-8"),
        (String, pa.string(), ["a", "x" * 65_537, "b"], "longer than 65536 bytes"),
        (Vector(Float32, 2), pa.list_(pa.float32()), [[1, 2], [1], [3, 4]], "not 2 sound elements"),
        (
            Vector(Int32, 2),
            pa.list_(pa.int32()),
            [[1, 2], [1, None], [3, 4]],
            "not 2 sound elements",
        ),
        (Vector(Int32, 2), pa.list_(pa.int64()), [[1, 2], [1, 2**31], [3, 4]], "not 2 sound"),
        (Timestamp, pa.timestamp("ms"), [0, 2**60, 1], "a time before 1684 or after 2255"),
    ],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_what_does_not_survive_is_refused_by_row(
    tmp_path: Path, type_: Any, arrow: Any, given: list[Any], reason: str, statistics: bool
) -> None:
    table = pa.table({"uid": ["a", "b", "c"], "at": AT, "x": pa.array(given, arrow)})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=statistics)
    view = view_of(tmp_path, Column("x", type_))
    (told,) = refusals(view, check=True)
    assert told.startswith("a.parquet, row group 0, row 1: 'x' is ")
    assert reason in told
    assert [one.keys for one in chunks(view)] == [[b"hr:p:{user:a}:v", b"hr:p:{user:c}:v"]]
    assert len(values(view, "x")) == 2


@pytest.mark.parametrize(
    ("type_", "arrow", "told"),
    [
        (Int64, pa.float64(), "dtype 'Int64'"),
        (Float32, pa.bool_(), "convert it to float32"),
        (Float32, pa.decimal128(9, 2), "convert it to float32"),
        (String, pa.int64(), "not a string"),
        (Bool, pa.int8(), "not a boolean"),
        (Timestamp, pa.float64(), "a timestamp, or int64"),
        (Timestamp, pa.date32(), "a timestamp, or int64"),
        (Vector(Float32, 2), pa.float32(), "needs a list of 2"),
        (Vector(Float32, 2), pa.list_(pa.string()), "its elements"),
    ],
)
def test_types_that_cannot_be_safe_are_refused(
    tmp_path: Path, type_: Any, arrow: Any, told: str
) -> None:
    write(tmp_path, x=pa.nulls(3, arrow))
    with pytest.raises(RowError, match=told):
        view_of(tmp_path, Column("x", type_))


def test_a_hole_in_a_vector_of_floats_is_nan(tmp_path: Path) -> None:
    write(tmp_path, x=pa.array([[1, None], None, [3, 4]], pa.list_(pa.float32())))
    found = values(view_of(tmp_path, Column("x", Vector(Float32, 2))), "x")
    assert np.isnan(found[0, 1])
    assert found[2].tolist() == [3, 4]


# -- keys and times --------------------------------------------------------------------------------------------


def test_bad_keys_are_named_with_their_row(tmp_path: Path) -> None:
    keys = [b"a", None, b"", b"x" * 257, b"\xff", b"ok / \xc3\xa4"]
    table = pa.table({"uid": pa.array(keys, pa.binary()), "at": [NOW] * 6, "x": [1.0] * 6})
    pq.write_table(table, tmp_path / "a.parquet")
    view = view_of(tmp_path, Column("x", Float32))
    told = refusals(view, check=True)
    assert [one.partition(": ")[2] for one in told] == [
        "key 'uid' is null",
        "key 'uid' is not UTF-8, or longer than 65536 bytes",
        "key 'uid' is empty",
        "key 'uid' is longer than 256 bytes",
    ]
    assert [one.split("row ")[2][0] for one in told] == ["1", "4", "2", "3"]
    (chunk,) = chunks(view)
    assert chunk.keys == [b"hr:p:{user:a}:v", b"hr:p:{user:ok%20%2F%20%C3%A4}:v"]
    assert (chunk.rows, chunk.bad_rows) == (6, 4)


def test_ids_of_several_parts(tmp_path: Path) -> None:
    write(tmp_path, uid=["a", "b|c", "d"], n=pa.array([1, -2, 3], pa.int16()), x=[1.0, 2.0, 3.0])
    view = view_of(tmp_path, Column("x", Float32), keys={"uid": String, "n": Int64})
    assert [key for one in chunks(view) for key in one.keys] == [
        b"hr:p:{user:a|1}:v", b"hr:p:{user:b%7Cc|-2}:v", b"hr:p:{user:d|3}:v"
    ]  # fmt: skip


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_times_of_every_unit_and_zone_are_microseconds_of_utc(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    per_second = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    at = pa.array([NOW_US // 1_000_000 * per_second] * 3, pa.timestamp(unit, zone))
    write(tmp_path, at=at, x=[1.0, 2.0, 3.0])
    view = view_of(tmp_path, Column("x", Float32))
    assert {time for one in chunks(view) for time in one.event_us.tolist()} == {NOW_US}


def test_bad_times_are_named_with_their_row(tmp_path: Path) -> None:
    limit = NOW_US + 300_000_000
    at = pa.array([limit, limit + 1, None, -(2**60)], pa.timestamp("us"))
    table = pa.table({"uid": ["a", "b", "c", "d"], "at": at, "x": [1.0] * 4})
    pq.write_table(table, tmp_path / "a.parquet")
    view = view_of(tmp_path, Column("x", Float32))
    told = [one.partition("row ")[2].partition("row ")[2] for one in refusals(view)]
    assert told == [
        "2: event time 'at' is null",
        "3: event time 'at' is a time before 1684 or after 2255",
        "1: event time 'at' is in the future (by more than 300 s)",
    ]
    assert [one.keys for one in chunks(view)] == [[b"hr:p:{user:a}:v"]]


@pytest.mark.parametrize("arrow", [pa.int64(), pa.date32(), pa.string()])
def test_an_event_time_that_is_no_moment_is_refused(tmp_path: Path, arrow: Any) -> None:
    write(tmp_path, at=pa.nulls(3, arrow), x=[1.0] * 3)
    with pytest.raises(RowError, match="must be a timestamp"):
        view_of(tmp_path, Column("x", Float32))


def test_pieces_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 3_000
    table = pa.table(
        {
            "uid": [str(i) for i in range(rows)],
            "at": pa.array([NOW_US] * rows, pa.timestamp("us")),
            "x": pa.FixedSizeListArray.from_arrays(np.zeros(rows * 512, np.float32), 512),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    monkeypatch.setattr("featurecache.writing.parquet_source.CHUNK_BYTES", 2 * 1024 * 1024)
    view = view_of(tmp_path, Column("x", Vector(Float32, 512)))
    sizes = [one.rows for one in chunks(view)]
    assert sum(sizes) == rows
    assert max(sizes) * view.view.schema.row_bytes <= 2 * 1024 * 1024


@pytest.mark.parametrize("is_dictionary", [False, True])
def test_chunks_of_long_strings_are_bounded_in_bytes(tmp_path: Path, is_dictionary: bool) -> None:
    """Whether each is written out, or one is written once and meant thousands of times."""
    view_columns = (Column("text", String, default=""), Column("x", Float32))
    rows = 3_000
    texts = pa.array(["t" * 40_000] * rows)
    table = pa.table(
        {
            "uid": [f"u{i}" for i in range(rows)],
            "at": pa.array([NOW_US] * rows, pa.timestamp("us")),
            "text": texts.dictionary_encode() if is_dictionary else texts,
            "x": np.arange(rows, dtype=np.float32),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    view = view_of(tmp_path, *view_columns)
    found = chunks(view)
    sizes = [sum(map(len, one.columns["text"])) for one in found]
    assert sum(sizes) == rows * 40_000
    assert max(sizes) <= parquet_source.MAX_CHUNK_VALUE_BYTES
    assert np.concatenate([one.columns["x"] for one in found]).tolist() == list(range(rows))
    assert [key for one in found for key in one.keys][-1] == b"hr:p:{user:u2999}:v"


def test_chunks_of_short_strings_are_as_large_as_others(tmp_path: Path) -> None:
    rows = 20_000
    table = {"uid": [f"u{i}" for i in range(rows)], "at": [NOW] * rows, "text": ["a", "b"] * 10_000}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = chunks(view_of(tmp_path, Column("text", String, default="")))
    assert [one.rows for one in found] == [8_192, 8_192, 3_616]


def test_the_places_of_all_bad_rows_are_told(tmp_path: Path) -> None:
    rows = 5_000
    uids = [None if i % 7 == 3 else f"u{i}" for i in range(rows)]
    table = {"uid": uids, "at": [NOW] * rows, "x": [1.0] * rows}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=1_999)
    write(tmp_path, "b.parquet", uid=["a", "", "c"], x=[1.0, 2.0, 3.0])
    view = view_of(tmp_path, Column("x", Float32))
    bad = bad_places.bad_places(view, NOW_US)
    assert bad.rows == len(bad.places)
    assert [one.row for one in bad.told] == [3, 6, 2, 1], "the first of each chunk"
    assert {
        name[-9:]: rows.tolist() for name, rows in bad_places.by_file(view, bad.places).items()
    } == {
        "a.parquet": list(range(3, rows, 7)),
        "b.parquet": [1],
    }
