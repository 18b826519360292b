"""Loads and training sets read the same files: what one takes the other takes, and the values are equal bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurecache.columns import ColumnType
from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    ParquetSource,
    Project,
    String,
    Timestamp,
    Vector,
)
from featurecache.errors import FeatureError, RowError
from featurecache.joining.view_use import ViewUse
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.offline.point_in_time import JoinLimits
from featurecache.offline.training_set import Options, Spine, build
from featurecache.offline.verify import OnlineRow, Sampling, verify
from featurecache.rows.codec import RowCodec
from featurecache.status import Status
from featurecache.writing.bad_places import OnBadRow
from featurecache.writing.parquet_source import ParquetView

NOW_US = 1_795_000_000_000_000
LIMITS = JoinLimits(memory_bytes=256 * 1024 * 1024, threads=1)
KEYS = {"name": String, "n": Int32}

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
WHOLE = [INTEGERS, [pa.uint64()]]
NUMBERS = [FLOATS, [pa.int64(), pa.float64()], *WHOLE, [pa.dictionary(pa.int8(), pa.float64())]]
TEXTS = [
    [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())],
    [pa.binary(), pa.large_binary()],
]
UNITS = ("s", "ms", "us", "ns")
TIMES = [[pa.timestamp(unit, zone) for unit in UNITS] for zone in (None, "Europe/Berlin")]


def _lists(groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    kinds = (pa.list_, pa.large_list, lambda one: pa.list_(one, 2))
    return [[kind(one) for one in group for kind in kinds] for group in groups]


COLUMNS: dict[str, tuple[ColumnType, Any, list[list[Any]]]] = {
    # name → declared type, default, groups of Arrow types of which the files of one source may have several
    "f4": (Float32, None, NUMBERS),
    "f8": (Float64, 0.1, NUMBERS),
    "i1": (Int8, -1, WHOLE),
    "i2": (Int16, -1, WHOLE),
    "i4": (Int32, -1, WHOLE),
    "i8": (Int64, -1, WHOLE),
    "b": (Bool, True, [[pa.bool_()]]),
    "s": (String, "ä", TEXTS),
    "t": (Timestamp, 7, [*TIMES, [pa.int64()]]),
    "v4": (Vector(Float32, 2), None, _lists([FLOATS, [pa.int64()]])),
    "v8": (Vector(Int64, 2), 5, _lists(WHOLE)),
}
EXACT = {"float32": 2**24, "float64": 2**53}


def _manifest(columns: Sequence[Column]) -> Manifest:
    view = FeatureView(
        "v",
        entity=Entity("e", keys=KEYS),
        source=ParquetSource("v/*.parquet", event_time="at"),
        columns=columns,
    )
    return compile_manifest([Project("p"), FeatureService("s", view.all())])


EVERYTHING = _manifest([Column(name, type_, default=default)
                        for name, (type_, default, _) in COLUMNS.items()])  # fmt: skip


def _sound(type_: ColumnType, arrow: Any) -> st.SearchStrategy[Any]:
    """Values of an Arrow type that can be the declared type."""
    if type_.length:
        element = _sound(ColumnType(type_.kind), arrow.value_type)
        if type_.is_float:
            element |= st.none()
        return st.lists(element, min_size=2, max_size=2)
    if pa.types.is_dictionary(arrow):
        return _sound(type_, arrow.value_type)
    if pa.types.is_integer(arrow) and type_.kind != "timestamp":
        source = np.iinfo(str(arrow))
        target = np.iinfo(type_.dtype) if not type_.is_float else None
        most = EXACT[type_.kind] if target is None else int(target.max)
        least = -most if target is None else int(target.min)
        return st.integers(max(int(source.min), least), min(int(source.max), most))
    if pa.types.is_floating(arrow):
        width: Any = 8 * np.dtype(arrow.to_pandas_dtype()).itemsize
        limit = float(np.finfo(np.float32).max)
        finite = st.floats(-limit, limit) if (type_.kind, width) == ("float32", 64) else st.floats(
            width=width)  # fmt: skip
        return (finite | st.sampled_from([float("nan"), float("inf"), -0.0])).map(
            arrow.to_pandas_dtype()
        )
    if type_.is_string:
        text = st.text(max_size=4)
        binary = pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow)
        return text.map(str.encode) if binary else text
    if type_.kind == "timestamp":
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
        scale = per_second[arrow.unit] if pa.types.is_timestamp(arrow) else 10**6
        most = min(2**53 * scale // 10**6, 2**63 - 1)
        return st.integers(-most, most)
    return st.booleans()


@st.composite
def _files(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two files of one view, without their keys and times."""
    counts = [draw(st.integers(0, 4)), draw(st.integers(1, 4))]
    files: list[dict[str, Any]] = [{}, {}]
    for name, (type_, _, groups) in COLUMNS.items():
        group = draw(st.sampled_from(groups))
        for file, count in zip(files, counts, strict=True):
            arrow = draw(st.sampled_from(group))
            one = st.none() | _sound(type_, arrow)
            file[name] = pa.array(draw(st.lists(one, min_size=count, max_size=count)), arrow)
    return files


def _write(folder: Path, files: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Returns the entities, all different."""
    entities: list[tuple[str, int]] = []
    (folder / "v").mkdir(exist_ok=True)
    for number, columns in enumerate(files):
        rows = len(next(iter(columns.values())))
        own = [(f"é|{number}", row) for row in range(rows)]
        keys = {"name": pa.array([one[0].encode() for one in own], pa.binary()),
                "n": pa.array([one[1] for one in own], pa.uint64())}  # fmt: skip
        at = pa.array([NOW_US * 1000 - 1_500] * rows, pa.timestamp("ns"))
        pq.write_table(pa.table(keys | {"at": at} | columns), folder / "v" / f"{number}.parquet")
        entities += own
    return entities


def _loaded(manifest: Manifest, folder: Path) -> tuple[ViewUse, list[bytes | None]]:
    """The rows that the loader would write, in order."""
    spec = manifest.view("v")
    view, codec = ParquetView(manifest, spec, folder), RowCodec(spec.schema)
    rows: list[bytes | None] = []
    for file in view.files:
        for group in range(len(file.group_rows)):
            for chunk in view.read(file, group, NOW_US):
                assert [str(one) for one in chunk.bad] == []
                rows += codec.encode(chunk.columns, chunk.nulls, chunk.event_us, NOW_US)
    return ViewUse(manifest, spec, {}, [one.name for one in spec.columns]), rows


def _trained(
    manifest: Manifest,
    folder: Path,
    entities: Sequence[tuple[str, int]],
    on_bad_row: OnBadRow = "refuse",
) -> Any:
    spine = {
        "name": pa.array([one[0] for one in entities]).dictionary_encode(),
        "n": pa.array([one[1] for one in entities], pa.int64()),
        "now": pa.array([NOW_US] * len(entities), pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(spine), folder / "spine.parquet")
    build(
        manifest,
        "s",
        Spine(folder / "spine.parquet", "now", keep=[]),
        folder,
        folder / "out.parquet",
        options=Options(statuses=True, on_bad_row=on_bad_row, limits=LIMITS),
    )
    return pq.read_table(folder / "out.parquet").combine_chunks()


def _bits(type_: ColumnType, column: Any) -> Any:
    """Of an Arrow column."""
    if type_.is_string:
        return [one.encode() for one in column.to_pylist()]
    column = column.combine_chunks()
    if type_.length:
        column = column.flatten()
    if type_.kind == "timestamp":
        column = column.cast(pa.int64())
    return column.to_numpy(zero_copy_only=False).astype(type_.dtype).tobytes()


@settings(max_examples=40)
@given(_files())
def test_loaded_rows_and_training_sets_agree_bit_for_bit(files: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entities = _write(folder, files)
        use, rows = _loaded(EVERYTHING, folder)
        table = _trained(EVERYTHING, folder, entities)
        read = use.read(rows, (), NOW_US)
        answers = [
            OnlineRow(Status.PRESENT, {one: _value(read, one, i) for one in use.columns},
                      int(read.table.event_us[i]))
            for i in range(len(rows))
        ]  # fmt: skip
        by_entity = dict(zip(entities, answers, strict=True))
        report = verify(
            EVERYTHING,
            folder,
            lambda _, asked: [by_entity[one] for one in asked],  # type: ignore[index]
            moment_us=NOW_US,
            sampling=Sampling(strangers=0),
        )
    assert len(rows) == len(entities) == table.num_rows
    assert table.column("v__status").to_pylist() == [0] * len(rows)
    for column, (type_, _, _) in COLUMNS.items():
        online: Any = read.table.column(column)
        expected = online.tolist() if type_.is_string else online.astype(type_.dtype).tobytes()
        assert _bits(type_, table.column(f"v__{column}")) == expected, column
    assert report.differences == []


def _value(read: Any, column: str, row: int) -> object:
    value = read.table.column(column)[row]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize(
    ("type_", "arrow", "value", "told"),
    [
        (Float32, pa.float64(), 1e39, "too large for float32"),
        (Float32, pa.int64(), 2**24 + 1, "not exact as float32"),
        (Float64, pa.uint64(), 2**53 + 1, "not exact as float64"),
        (Int8, pa.int64(), 128, "no int8"),
        (Int64, pa.uint64(), 2**63, "no int64"),
        (String, pa.binary(), b"\xff", "not UTF-8"),
        (String, pa.string(), "x" * 65_537, "longer than 65536 bytes"),
        (Vector(Float32, 2), pa.list_(pa.float32()), [1.0], "not 2 sound elements"),
        (Vector(Int64, 2), pa.list_(pa.int64()), [1, None], "not 2 sound elements"),
        (Timestamp, pa.timestamp("us"), 2**53 + 1, "a time before 1684 or after 2255"),
    ],
)
def test_what_a_load_refuses_no_training_set_has(
    tmp_path: Path, type_: ColumnType, arrow: Any, value: Any, told: str
) -> None:
    manifest = _manifest([Column("x", type_, default=None)])
    entities = _write(tmp_path, [{"x": pa.array([value], arrow)}])
    spec = manifest.view("v")
    view = ParquetView(manifest, spec, tmp_path)
    (chunk,) = view.check(view.files[0], 0, NOW_US)
    assert told in str(chunk.bad[0])
    with pytest.raises(FeatureError, match=told):
        _trained(manifest, tmp_path, entities)


def test_of_equal_times_both_take_the_row_written_last(tmp_path: Path) -> None:
    """The later file by its path, not by its age, and there the later row."""
    manifest = _manifest([Column("x", Int64, default=0)])
    (tmp_path / "v" / "b").mkdir(parents=True)
    at = pa.array([NOW_US] * 3, pa.timestamp("us"))
    for number, name in enumerate(("b/0.parquet", "b.parquet", "a.parquet", "B.parquet")):
        x = pa.array([10 * number, 10 * number + 1, 10 * number + 2])
        table = pa.table({"name": ["e"] * 3, "n": [1, 1, 1], "at": at, "x": x})
        pq.write_table(table, tmp_path / "v" / name, row_group_size=2)
    view = ParquetView(manifest, manifest.view("v"), tmp_path)
    assert [one.name for one in view.files] == ["v/B.parquet", "v/a.parquet", "v/b.parquet"]
    last = [chunk for file in view.files for group in range(2)
            for chunk in view.read(file, group, NOW_US)][-1].columns["x"][-1]  # fmt: skip
    assert last == 12
    assert _trained(manifest, tmp_path, [("e", 1)]).column("v__x").to_pylist() == [12]


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_moments_are_rounded_down_to_microseconds_as_the_store_has_them(
    tmp_path: Path, zone: str | None
) -> None:
    """999 ns after a microsecond a row is known in that microsecond, not only in the next."""
    manifest = _manifest([Column("x", Int64, default=0)])
    moments = [NOW_US * 1000 - 1, NOW_US * 1000 + 999, -1]
    table = pa.table(
        {
            "name": ["late", "now", "old"],
            "n": [1, 1, 1],
            "at": pa.array(moments, pa.timestamp("ns", zone)),
            "x": [1, 2, 3],
        }
    )
    (tmp_path / "v").mkdir()
    pq.write_table(table, tmp_path / "v" / "a.parquet")
    view = ParquetView(manifest, manifest.view("v"), tmp_path)
    (chunk,) = view.read(view.files[0], 0, NOW_US)
    assert chunk.event_us.tolist() == [NOW_US - 1, NOW_US, -1]
    entities = [("late", 1), ("now", 1), ("old", 1)]
    assert _trained(manifest, tmp_path, entities).column("v__x").to_pylist() == [1, 2, 3]


def test_whom_nobody_can_ask_for_is_nobody(tmp_path: Path) -> None:
    manifest = _manifest([Column("x", Int64, default=0)])
    (tmp_path / "v").mkdir()
    names = [b"a", b"", b"\xff", b"x" * 257, None, b"a"]
    table = pa.table(
        {
            "name": pa.array(names, pa.binary()),
            "n": pa.array([1, 1, 1, 1, 1, 2**31], pa.uint64()),
            "at": pa.array([NOW_US] * 6, pa.timestamp("us")),
            "x": [1, 2, 3, 4, 5, 6],
        }
    )
    pq.write_table(table, tmp_path / "v" / "a.parquet")
    view = ParquetView(manifest, manifest.view("v"), tmp_path)
    (chunk,) = view.read(view.files[0], 0, NOW_US)
    assert (chunk.keys, chunk.bad_rows) == ([b"hr:p:{e:a|1}:v"], 5)
    spine = tmp_path / "spine.parquet"
    found = _trained(manifest, tmp_path, [("a", 1), ("", 1), ("x" * 257, 1), ("a", 2**31)], "skip")
    assert found.column("v__x").to_pylist() == [1, 0, 0, 0]
    with pytest.raises(RowError, match=r"v/a\.parquet, row group 0, row 4: key 'name' is null"):
        build(manifest, "s", Spine(spine, "now"), tmp_path, tmp_path / "out.parquet")
    card = build(
        manifest,
        "s",
        Spine(spine, "now"),
        tmp_path,
        tmp_path / "out.parquet",
        options=Options(on_bad_row="skip"),
    )
    assert card.sources[0].skipped_rows == 5
    assert (card.spine.rows_without_key, card.sources[0].rows_without_key) == (3, 5)
