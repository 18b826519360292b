"""The second opinion: agrees with rows of the real codec and with training sets, and finds whatever was changed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurecache.columns import Values
from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Float64,
    Int64,
    ParquetSource,
    Project,
    String,
    Timestamp,
    Vector,
)
from featurecache.errors import DefinitionError, FeatureError, RowError
from featurecache.joining.view_use import ViewUse
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.offline.training_set import Options, Spine, build
from featurecache.offline.verify import OnlineRow, Sampling, VerifyReport, equal, shown, verify
from featurecache.offline.verify_offline import RawView
from featurecache.status import Status

START = datetime(2024, 3, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
ROUTE = Entity("route", keys={"origin": String, "number": Int64})


def _view(**policies: Any) -> FeatureView:
    return FeatureView(
        "load",
        entity=ROUTE,
        source=ParquetSource("load/*.parquet", event_time="at"),
        columns=[
            Column("share", Float32),
            Column("seats", Int64, default=-1),
            Column("note", String, default="none"),
            Column("is_full", Bool, default=False),
            Column("since", Timestamp, default=0),
            Column("hourly", Vector(Float64, 2), default=0.5),
        ],
        **policies,
    )


def _manifest(view: FeatureView) -> Manifest:
    return compile_manifest([Project("p"), FeatureService("s", view.all())])


Row = tuple[str | None, int, int, int | None]
"""Origin, number, second, value."""


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [row[3] for row in rows]
    known = [one is None for one in values]
    pq.write_table(
        pa.table(
            {
                "origin": pa.array([row[0] for row in rows], pa.string()),
                "number": pa.array([row[1] for row in rows], pa.int32()),
                "at": pa.array(
                    [START + timedelta(seconds=row[2]) for row in rows], pa.timestamp("ns")
                ),
                "share": pa.array(
                    [None if one is None else one / 7 for one in values], pa.float64()
                ),
                "seats": pa.array(values, pa.int16()),
                "note": pa.array(
                    [None if one is None else f"é{one}" for one in values], pa.string()
                ),
                "is_full": pa.array(
                    [None if skip else bool(one) for one, skip in zip(values, known, strict=True)],
                    pa.bool_(),
                ),
                "since": pa.array(values, pa.int64()).cast(pa.timestamp("ms", "UTC")),
                "hourly": pa.array(
                    [None if one is None else [one / 3, -one] for one in values],
                    pa.list_(pa.float64()),
                ),
            }
        ),
        path,
    )


def _store(
    manifest: Manifest, files: Sequence[Sequence[Row]], now_us: int
) -> tuple[
    Callable[[str, Sequence[tuple[Any, ...]]], list[OnlineRow]], dict[tuple[Any, ...], OnlineRow]
]:
    """An online side of the real codec and the real policies, over rows put in one by one."""
    spec = manifest.view("load")
    use = ViewUse(manifest, spec, {}, [one.name for one in spec.columns])
    packed: dict[tuple[Any, ...], tuple[int, bytes]] = {}
    for origin, number, second, value in [row for rows in files for row in rows]:
        event_us = START_US + second * 1_000_000
        held = packed.get((origin, number))
        if not origin or (held is not None and held[0] > event_us):
            continue
        empty = value is None
        one = 0 if value is None else value
        columns: dict[str, Values] = {
            "share": np.array([one / 7], "<f4"),
            "seats": np.array([one], "<i8"),
            "note": np.array([f"é{one}".encode()], np.object_),
            "is_full": np.array([bool(one)], "|u1"),
            "since": np.array([one * 1000], "<i8"),
            "hourly": np.array([[one / 3, -one]], "<f8"),
        }
        nulls = {name: np.array([empty]) for name in columns}
        codec = use._codec
        (row,) = codec.encode(columns, nulls, np.array([event_us]), np.array([event_us]))
        packed[origin, number] = (event_us, row)
    changed: dict[tuple[Any, ...], OnlineRow] = {}

    def ask(view: str, entities: Sequence[tuple[Any, ...]]) -> list[OnlineRow]:
        assert view == "load"
        rows = [packed[one][1] if one in packed else None for one in entities]
        read = use.read(rows, (), now_us)
        statuses = [0] * len(rows) if read.statuses is None else read.statuses.tolist()
        return [
            changed.get(
                entity,
                OnlineRow(
                    Status(statuses[i]),
                    {name: _python(read.table.column(name)[i]) for name in use.columns},
                    packed[entity][0] if entity in packed else None,
                ),
            )
            for i, entity in enumerate(entities)
        ]

    return ask, changed


def _python(value: Any) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["JFK", "a|b", "", None]),
        st.integers(0, 2),
        st.integers(0, 9),
        st.none() | st.integers(0, 99),
    ),
    max_size=15,
)
NO_SLACK = Sampling(slack_s=0.25)


def _verified(
    folder: Path, files: Sequence[Sequence[Row]], second: float, **policies: Any
) -> VerifyReport:
    for number, rows in enumerate(files):
        _write(folder / "load" / f"{number}.parquet", rows)
    manifest = _manifest(_view(**policies))
    now_us = START_US + int(second * 1e6)
    ask, _ = _store(manifest, files, now_us)
    return verify(manifest, folder, ask, moment_us=now_us, sampling=NO_SLACK)


@settings(max_examples=40)
@given(
    st.lists(ROWS, min_size=1, max_size=2),
    st.sampled_from(["default", "use"]),
    st.none() | st.integers(0, 8),
)
def test_the_real_codec_and_the_second_opinion_agree(
    files: list[list[Row]], on_stale: str, max_age: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = _verified(Path(folder), files, 9.5, on_stale=on_stale, max_age=max_age)
    assert report.differences == []
    (view,) = report.views
    entities = {row[:2] for rows in files for row in rows if row[0]}
    assert report.agreement == view.agreement == (1.0 if entities else None)
    assert view.entities == len(entities) + 10
    assert view.values == 7 * view.entities
    assert view.undecided == 0


@settings(max_examples=20)
@given(st.lists(ROWS, min_size=1, max_size=2), st.integers(0, 9))
def test_training_sets_and_the_second_opinion_agree(files: list[list[Row]], second: int) -> None:
    """Two implementations that share no code, at any moment of the past."""
    view = _view()
    manifest = _manifest(view)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, rows in enumerate(files):
            _write(folder / "load" / f"{number}.parquet", rows)
        raw = RawView(manifest, manifest.view("load"), folder)
        entities = [("JFK", 0), ("JFK", 1), ("a|b", 0), ("a|b", 2)]
        known = raw.latest(set(entities), START_US + second * 1_000_000)
        moment = START + timedelta(seconds=second)
        spine = {
            "origin": [one[0] for one in entities],
            "number": [one[1] for one in entities],
            "at": pa.array([moment] * 4, pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(spine), folder / "spine.parquet")
        build(
            manifest,
            "s",
            Spine(folder / "spine.parquet", "at", keep=[]),
            folder,
            folder / "out.parquet",
            options=Options(statuses=True, on_bad_row="skip"),
        )
        table = pq.read_table(folder / "out.parquet")
    for row, entity in enumerate(entities):
        status = Status.PRESENT if entity in known else Status.MISSING
        assert table.column("load__status")[row].as_py() == status
        if entity not in known:
            continue
        for column in manifest.view("load").columns:
            value: Any = table.column(f"load__{column.name}")[row]
            found = value.value if column.type == "timestamp" else value.as_py()
            offline = known[entity].values[column.name]
            if offline is not None:
                assert equal(column.parsed, found, offline), (column.name, found, offline)


FILES: list[list[Row]] = [[("JFK", 1, 1, 10), ("JFK", 1, 1, 11), ("LGA", 2, 2, 20)]]


@pytest.mark.parametrize(
    ("column", "online", "offline"),
    [
        ("share", 11 / 7, None),
        ("share", float(np.nextafter(np.float32(11 / 7), np.float32(9))), f"{np.float32(11 / 7)}"),
        ("share", float("nan"), f"{np.float32(11 / 7)}"),
        ("share", None, f"{np.float32(11 / 7)}"),
        ("seats", 10, "11"),
        ("seats", 11.0, "11"),
        ("note", "é11", None),
        ("note", b"\xc3\xa911", None),
        ("note", "e11", "é11"),
        ("is_full", False, "True"),
        ("since", 11_001, "11000"),
        ("hourly", [11 / 3, 11.0], "[3.6"),
        ("hourly", [11 / 3], "[3.6"),
        ("hourly", 11 / 3, "[3.6"),
    ],
)
def test_every_changed_value_is_listed(
    tmp_path: Path, column: str, online: object, offline: str | None
) -> None:
    _write(tmp_path / "load" / "0.parquet", FILES[0])
    manifest = _manifest(_view())
    ask, changed = _store(manifest, FILES, START_US + 5_000_000)
    (answer,) = ask("load", [("JFK", 1)])
    answer.values[column] = online
    changed["JFK", 1] = answer
    report = verify(manifest, tmp_path, ask, moment_us=START_US + 5_000_000)
    if offline is None:
        assert report.differences == []
        return
    (found,) = report.differences
    assert (found.view, found.entity, found.column) == ("load", ("JFK", 1), column)
    type_ = manifest.view("load").column(column).parsed
    assert found.online == shown(type_, online)
    assert offline[:4] in found.offline
    assert found.offline_event_us == START_US + 1_000_000
    assert report.views[0].differing == 1
    assert report.agreement == 1 - 1 / (12 * 7)


def test_another_status_or_event_time_and_an_untold_column_are_listed(tmp_path: Path) -> None:
    _write(tmp_path / "load" / "0.parquet", FILES[0])
    manifest = _manifest(_view())
    ask, changed = _store(manifest, FILES, START_US + 5_000_000)
    first, second = ask("load", [("JFK", 1), ("LGA", 2)])
    first.status = Status.MISSING
    assert second.event_us is not None
    second.event_us += 1
    del second.values["note"]
    changed["JFK", 1], changed["LGA", 2] = first, second
    report = verify(manifest, tmp_path, ask, moment_us=START_US + 5_000_000)
    listed = {(one.entity, one.column, one.online.split()[0]) for one in report.differences}
    assert listed == {
        (("JFK", 1), "", "MISSING"),
        (("LGA", 2), "", "event"),
        (("LGA", 2), "note", "(not"),
    }


def test_rows_about_to_grow_old_are_undecided(tmp_path: Path) -> None:
    _write(tmp_path / "load" / "0.parquet", FILES[0])
    manifest = _manifest(_view(max_age=100))
    moment_us = START_US + 103_000_000
    ask, _ = _store(manifest, FILES, START_US)  # a clock behind: for it, nothing is stale
    report = verify(manifest, tmp_path, ask, moment_us=moment_us, sampling=Sampling(slack_s=10))
    assert (report.views[0].undecided, report.differences) == (2, [])
    report = verify(manifest, tmp_path, ask, moment_us=moment_us, sampling=Sampling(slack_s=0.5))
    assert {one.online for one in report.differences if not one.column} == {"PRESENT"}


def test_samples_repeat_and_do_not_favour_entities_of_many_rows(tmp_path: Path) -> None:
    rows: list[Row] = [("many", 0, second % 9, 1) for second in range(500)]
    rows += [("few", number, 1, 1) for number in range(400)]
    _write(tmp_path / "load" / "0.parquet", rows)
    manifest = _manifest(_view())
    raw = RawView(manifest, manifest.view("load"), tmp_path)
    samples = [raw.sample(50, seed) for seed in range(40)]
    assert raw.sample(50, 3) == samples[3]
    assert all(len(set(one)) == 50 for one in samples)
    assert len({tuple(one) for one in samples}) == 40
    assert sum(("many", 0) in one for one in samples) < 20  # about 5 of 40
    assert set(raw.sample(1_000, 0)) == {row[:2] for row in rows}


def test_what_cannot_be_verified_is_told(tmp_path: Path) -> None:
    _write(tmp_path / "load" / "0.parquet", FILES[0])
    manifest = _manifest(_view())
    with pytest.raises(FeatureError, match="0 answers for 12 entities"):
        verify(manifest, tmp_path, lambda *_: [], moment_us=START_US)
    with pytest.raises(FeatureError, match="a sample of 0"):
        verify(manifest, tmp_path, lambda *_: [], moment_us=0, sampling=Sampling(entities=0))
    with pytest.raises(RowError, match="no such Parquet file"):
        verify(manifest, tmp_path / "load", lambda *_: [], moment_us=START_US)
    with pytest.raises(DefinitionError, match="no feature view 'other'"):
        verify(manifest, tmp_path, lambda *_: [], moment_us=START_US, views=["other"])


def test_shares_no_code_that_reads_joins_or_encodes() -> None:
    code = (
        "import sys, featurecache.offline.verify\n"
        "print(sorted(set(sys.modules) & {f'featurecache.{one}' for one in ('codec', 'loader', 'writing', "
        "'training_set', 'bad_places', "
        "'training_columns', 'arrow_columns', 'arrow_values', 'parquet_files', 'parquet_source', "
        "'point_in_time', 'keys')}), "
        "'duckdb' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() in ("[] False", "['featurecache.rows.keys'] False"), done.stderr
