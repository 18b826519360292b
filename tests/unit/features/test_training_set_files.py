"""Training sets and their files: faults are told, the same input gives the same bytes, memory is bounded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int8,
    Int64,
    ParquetSource,
    Project,
    String,
    Vector,
    on_demand,
)
from featurecache.errors import DefinitionError, FeatureError
from featurecache.manifests.compiling import compile_manifest
from featurecache.offline.data_card import DataCard
from featurecache.offline.point_in_time import JoinLimits
from featurecache.offline.training_set import Options, Spine, build

AIRPORT = Entity("airport", keys={"origin": String, "gate": Int64})
WEATHER = FeatureView(
    "weather",
    entity=AIRPORT,
    source=ParquetSource("weather/*.parquet", event_time="known_at"),
    columns=[
        Column("temp", Float32),
        Column("sky", String, default="clear"),
        Column("level", Int8, default=0),
        Column("hourly", Vector(Float32, 2)),
    ],
    max_age="1h",
)
DISTANCE = Input("distance", Float32)
MANIFEST = compile_manifest([Project("p"), FeatureService("flights", [DISTANCE, *WEATHER.all()])])


def _moments(count: int) -> Any:
    return pa.array(range(count), pa.timestamp("s")).cast(pa.timestamp("us"))


def _source(rows: int = 4) -> dict[str, Any]:
    return {
        "origin": pa.array([f"a{i % 3}" for i in range(rows)]),
        "gate": pa.array([i % 2 for i in range(rows)], pa.int64()),
        "known_at": _moments(rows),
        "temp": pa.array([float(i) for i in range(rows)]),
        "sky": pa.array(["blue"] * rows),
        "level": pa.array([1] * rows, pa.int64()),
        "hourly": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32(), 2)),
    }


def _spine(rows: int = 3) -> dict[str, Any]:
    return {
        "origin": pa.array([f"a{i % 3}" for i in range(rows)]),
        "gate": pa.array([i % 2 for i in range(rows)], pa.int64()),
        "at": _moments(rows),
        "distance": pa.array([1] * rows, pa.int64()),
        "label": pa.array([0.5] * rows),
    }


def _write(path: Path, columns: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)


def _build(folder: Path, name: str = "out.parquet", **spine: Any) -> DataCard:
    spine.setdefault("path", folder / "spine.parquet")
    return build(MANIFEST, "flights", Spine(event_time="at", **spine), folder, folder / name)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    _write(tmp_path / "weather" / "0.parquet", _source())
    _write(tmp_path / "weather" / "1.parquet", _source(2))
    _write(tmp_path / "spine.parquet", _spine())
    return tmp_path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("column", "array", "told"),
    [
        ("temp", pa.array(["x"]), "column 'temp' is string and cannot be float32 safely"),
        ("temp", None, r"1\.parquet: column 'temp' is missing \(there are origin, gate, known_at"),
        ("sky", pa.array([1]), "column 'sky' is int64, not a string"),
        ("level", pa.array([1.5]), "column 'level' is double and cannot be int8 safely"),
        ("hourly", pa.array([1.0]), r"'hourly' is double; float32\[2\] needs a list of 2 numbers"),
        (
            "hourly",
            pa.array([["a"]]),
            "'hourly', its elements is string and cannot be float32 safely",
        ),
        ("origin", pa.array([1]), "column 'origin' is int64, not a string"),
        ("gate", pa.array(["1"]), "column 'gate' is string and cannot be int64 safely"),
        ("gate", pa.array([1.0]), "column 'gate' is double and cannot be int64 safely"),
        ("gate", pa.array([1], pa.uint64()), r"'gate' is uint64, and int64 in weather/0\.parquet"),
        ("known_at", pa.array([1]), "'known_at' is int64; it must be a timestamp"),
        ("known_at", pa.array(["2024"]), "'known_at' is string; it must be a timestamp"),
        ("known_at", pa.array([1], pa.date32()), r"'known_at' is date32\[day\]; it must be a time"),
        (
            "known_at",
            pa.array([1], pa.timestamp("us", "UTC")),
            r"'known_at' is timestamp\[us, tz=UTC\], and timestamp\[us\] in weather/0\.parquet",
        ),
        (
            "known_at",
            pa.array([None], pa.timestamp("us")),
            r"1\.parquet, row group 0, row 0: event time 'known_at' is null",
        ),
        (
            "known_at",
            pa.array([2**63 - 1], pa.timestamp("us")),
            "row 0: event time 'known_at' is a time before 1684 or after 2255",
        ),
        ("level", pa.array([300]), r"1\.parquet, row group 0, row 0: 'level' is no int8"),
        ("hourly", pa.array([[1.0]]), "row 0: 'hourly' is not 2 sound elements"),
        ("file_row_number", pa.array([1]), "a column cannot be called 'file_row_number'"),
        ("Temp", pa.array([1]), "columns temp and Temp differ in case alone"),
    ],
)
def test_what_is_wrong_with_a_source_is_told(
    files: Path, column: str, array: Any, told: str
) -> None:
    columns = _source(1) | {column: array}
    if array is None:
        del columns[column]
    _write(files / "weather" / "1.parquet", columns)
    # Later than what the first file has of the same entity, and known to the first row of the spine.
    _write(files / "weather" / "0.parquet", _source(4))
    with pytest.raises(FeatureError, match=told):
        _build(files)
    assert not (files / "out.parquet").exists()


@pytest.mark.parametrize(
    ("column", "array", "told"),
    [
        ("origin", None, r"spine\.parquet: column 'origin' is missing \(there are gate, at"),
        ("origin", pa.array([1]), "'origin' is int64, not a string"),
        ("gate", pa.array(["1"]), "'gate' is string and cannot be int64 safely"),
        ("distance", None, "column 'distance' is missing"),
        ("distance", pa.array(["far"]), "'distance' is string and cannot be float32 safely"),
        ("distance", pa.array([2**24 + 1]), "'distance': a value is not exact as float32"),
        ("at", None, "column 'at' is missing"),
        ("at", pa.array([5]), "'at' is int64; it must be a timestamp"),
        ("at", pa.array([None], pa.timestamp("us")), "1 of 1 rows have no event time"),
        ("weather__temp", pa.array([1]), "'weather__temp' is called like a feature's column"),
    ],
)
def test_what_is_wrong_with_a_spine_is_told(
    files: Path, column: str, array: Any, told: str
) -> None:
    columns = _spine(1) | {column: array}
    if array is None:
        del columns[column]
    _write(files / "spine.parquet", columns)
    with pytest.raises(FeatureError, match=told):
        _build(files)


def test_absent_and_broken_files_are_told(files: Path) -> None:
    with pytest.raises(FeatureError, match=r"no\*\.parquet: no file matches"):
        _build(files, path=str(files / "no*.parquet"))
    with pytest.raises(FeatureError, match=r"a folder; write .*/\*\.parquet"):
        _build(files, path=files / "weather")
    with pytest.raises(FeatureError, match="column 'id' is missing"):
        _build(files, keep=["id"])
    (files / "weather" / "1.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(FeatureError, match=r"1\.parquet: not a Parquet file that can be read"):
        _build(files)
    for one in (files / "weather").iterdir():
        one.unlink()
    with pytest.raises(FeatureError, match=r"weather/\*\.parquet: no file matches"):
        _build(files)


def test_what_cannot_be_built_is_told(files: Path) -> None:
    pushed = FeatureView("pushed", entity=AIRPORT, columns=[Column("x", Float32)])

    @on_demand(inputs=[DISTANCE], output=Column("double", Float32))
    def double(distance: Any) -> Any:
        return distance * 2

    manifest = compile_manifest(
        [Project("p"), FeatureService("a", pushed.all()), FeatureService("b", [double])]
    )
    spine = Spine(files / "spine.parquet", "at")
    with pytest.raises(DefinitionError, match="'pushed' has no source: its rows come by push"):
        build(manifest, "a", spine, files, files / "out.parquet")
    with pytest.raises(DefinitionError, match="'double' needs its code"):
        build(manifest, "b", spine, files, files / "out.parquet")
    with pytest.raises(FeatureError, match="a memory limit of 5 bytes: joins need at least"):
        build(
            MANIFEST,
            "flights",
            spine,
            files,
            files / "out.parquet",
            options=Options(limits=JoinLimits(memory_bytes=5)),
        )


def test_a_spine_without_rows_and_sources_without_rows(files: Path) -> None:
    _write(files / "spine.parquet", {name: one.slice(0, 0) for name, one in _spine().items()})
    card = _build(files)
    table = pq.read_table(files / "out.parquet")
    assert (table.num_rows, card.rows, card.spine.first_event_time) == (0, 0, "")
    _write(files / "spine.parquet", _spine())
    for number in (0, 1):
        empty = {name: one.slice(0, 0) for name, one in _source().items()}
        _write(files / "weather" / f"{number}.parquet", empty)
    _build(files, "other.parquet")
    other = pq.read_table(files / "other.parquet")
    assert other.schema.equals(table.schema, check_metadata=True)
    assert other.column("weather__sky").to_pylist() == ["clear"] * 3


def test_files_of_other_but_fitting_types_are_one_source(files: Path) -> None:
    _write(
        files / "weather" / "1.parquet",
        _source(1)
        | {
            "known_at": pa.array([2], pa.timestamp("ns")),
            "temp": pa.array([7.5], pa.float32()),
            "level": pa.array([9], pa.int8()),
            "sky": pa.array(["grey"]).dictionary_encode(),
            "hourly": pa.array([[3.0, 4.0]], pa.large_list(pa.float32())),
        },
    )
    _build(files)
    table = pq.read_table(files / "out.parquet")
    assert table.column("weather__temp").to_pylist() == [7.5, 1.0, 2.0]
    assert table.column("weather__level").to_pylist() == [9, 1, 1]
    assert table.column("weather__sky").to_pylist() == ["grey", "blue", "blue"]
    assert table.column("weather__hourly").to_pylist()[0] == [3.0, 4.0]


def _many(folder: Path, rows: int, block: int = 50_000) -> None:
    """Files of many rows, written in pieces, with ties, so that no test process has held them whole."""
    random = np.random.default_rng(5)
    for path, columns, count in (
        (folder / "weather" / "0.parquet", _source(1), rows),
        (folder / "spine.parquet", _spine(1), rows),
    ):
        path.parent.mkdir(exist_ok=True)
        schema = pa.table(columns).schema
        with pq.ParquetWriter(path, schema) as writer:
            for _ in range(count // block):
                moments = random.integers(0, 3 * 10**9, block) // 1000 * 1000
                made = {
                    "origin": pa.array([f"airport {i}" for i in random.integers(0, 2_000, block)]),
                    "gate": pa.array(random.integers(0, 2, block)),
                    "known_at": pa.array(moments, pa.timestamp("us")),
                    "at": pa.array(moments, pa.timestamp("us")),
                    "temp": pa.array(random.random(block)),
                    "label": pa.array(random.random(block)),
                    "distance": pa.array(random.integers(0, 9, block)),
                    "sky": pa.array([f"a sky of some length {i}" for i in range(block)]),
                    "level": pa.array(random.integers(0, 99, block)),
                    "hourly": pa.FixedSizeListArray.from_arrays(
                        pa.array(random.random(2 * block), pa.float32()), 2
                    ),
                }
                writer.write_table(pa.table({name: made[name] for name in columns}, schema=schema))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the threads: every block is as it was, and the card says so."""
    _many(tmp_path, 200_000)
    cards = []
    for number, threads in enumerate((1, 2, 4)):
        out = tmp_path / str(number) / "out.parquet"
        limits = JoinLimits(memory_bytes=(256 + 512 * number) * 1024 * 1024, threads=threads)
        build(
            MANIFEST,
            "flights",
            Spine(tmp_path / "spine.parquet", "at"),
            tmp_path,
            out,
            options=Options(limits=limits),
        )
        files = sorted(out.parent.iterdir())
        assert [one.name for one in files] == [
            "out.parquet",
            "out.parquet.card.json",
            "out.parquet.card.md",
        ]
        cards.append([_digest(one) for one in files])
    assert cards[0] == cards[1] == cards[2]


def test_the_card_tells_what_it_was_made_of(files: Path) -> None:
    card = _build(files)
    told = json.loads((files / "out.parquet.card.json").read_text())
    assert told["manifest_digest"] == MANIFEST.digest
    assert told["output"]["sha256"] == _digest(files / "out.parquet")
    (source,) = told["sources"]
    assert [(one["name"], one["rows"]) for one in source["files"]] == [
        ("weather/0.parquet", 4),
        ("weather/1.parquet", 2),
    ]
    assert source["files"][0]["sha256"] == _digest(files / "weather" / "0.parquet")
    assert source["last_event_time"] == "1970-01-01T00:00:03+00:00"
    assert told["spine"]["files"][0]["name"] == "spine.parquet"
    assert {one.feature: one.defaulted for one in card.features}["weather.temp"] == 0
    assert card.kept == ["origin", "gate", "at", "label"]
    assert set(card.versions) == {"duckdb", "numpy", "pyarrow"}
    text = (files / "out.parquet.card.md").read_text()
    assert "| `weather__temp` | weather.temp | float32 | 0 | 0 | 0 | 0.00% |" in text
    assert str(files) not in text + json.dumps(told)


_MEASURE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_training_set_files as t
folder = Path(sys.argv[1])
limits = t.JoinLimits(memory_bytes=256 * 1024 * 1024, threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
t.build(t.MANIFEST, "flights", t.Spine(folder / "spine.parquet", "at"), folder, folder / "out.parquet",
        options=t.Options(limits=limits))
print("grew", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_is_bounded_by_the_limit_not_by_the_files(tmp_path: Path) -> None:
    """Two million rows a side: some 300 MB as columns, and far more while they are sorted."""
    _many(tmp_path, 2_000_000)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.split()
    assert told[0] == "grew", "nothing else may write to standard output"
    assert float(told[1]) < 600, "MiB"
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_rows == 2_000_000
