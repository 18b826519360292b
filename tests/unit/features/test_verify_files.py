"""Comparisons of files that are not as they should be, of rows about to change, and of nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
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
    ParquetSource,
    Project,
    String,
)
from featurecache.errors import RowError
from featurecache.manifests.compiling import compile_manifest
from featurecache.offline.verify import OnlineRow, Sampling, VerifyReport, shown, verify
from featurecache.status import Status

NOW_US = 1_700_000_000_000_000
NAN = float("nan")


def _manifest(max_age: str | None = None) -> Any:
    view = FeatureView(
        "v",
        entity=Entity("user", keys={"uid": String}),
        source=ParquetSource("*.parquet", event_time="at"),
        columns=[Column("x", Float32)],
        max_age=max_age,
    )
    return compile_manifest([Project("p"), FeatureService("s", view.all())])


def _write(folder: Path, **columns: Any) -> Path:
    made = {
        "uid": pa.array(["a", "b"]),
        "at": pa.array([NOW_US - 20_000_000] * 2, pa.timestamp("us")),
        "x": pa.array([9.8, 2.0]),
    } | columns
    table = pa.table({name: one for name, one in made.items() if one is not None})
    path = folder / "f.parquet"
    pq.write_table(table, path)
    return path


def _answers(rows: dict[str, OnlineRow]) -> Any:
    def ask(view: str, entities: Sequence[tuple[Any, ...]]) -> list[OnlineRow]:
        return [rows.get(one[0], OnlineRow(Status.MISSING, {"x": NAN})) for one in entities]

    return ask


def _present(x: float, moment_us: int | None = None) -> OnlineRow:
    return OnlineRow(Status.PRESENT, {"x": x}, NOW_US - 20_000_000, moment_us)


def _verified(
    folder: Path, rows: dict[str, OnlineRow], max_age: str | None = None, **more: Any
) -> VerifyReport:
    return verify(_manifest(max_age), folder, _answers(rows), moment_us=NOW_US, **more)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": None}, r"f\.parquet: column 'x' is missing"),
        ({"uid": None}, "column 'uid' is missing"),
        ({"at": pa.array(["2024", "2025"])}, "event time 'at' is string; it must be a timestamp"),
        ({"at": pa.array([1, 2])}, "event time 'at' is int64; it must be a timestamp"),
        ({"x": pa.array(["1", "2"])}, "column 'x' is string, which is no float32"),
        ({"x": pa.array([[1.0], [2.0]])}, "'x' is list<.*>, which is no float32"),
        ({"uid": pa.array([1, 2])}, "'uid' is int64, which is no string"),
        ({"uid": pa.array([b"\xff", b"a"])}, "a key is not UTF-8"),
    ],
)
def test_files_that_cannot_be_compared_are_told(
    tmp_path: Path, columns: dict[str, Any], told: str
) -> None:
    _write(tmp_path, **columns)
    with pytest.raises(RowError, match=told):
        _verified(tmp_path, {})


def test_broken_files_are_told(tmp_path: Path) -> None:
    path = _write(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(RowError, match=r"f\.parquet: not a Parquet file"):
        _verified(tmp_path, {})
    path.write_bytes(sound[:4] + b"\xff" * 60 + sound[64:])  # the first pages
    with pytest.raises(RowError, match=r"f\.parquet, after row 0: cannot be read"):
        _verified(tmp_path, {})


def test_rows_that_were_skipped_are_not_there(tmp_path: Path) -> None:
    path = _write(tmp_path)
    rows = {"a": _present(np.float32(9.8).item())}
    assert _verified(tmp_path, rows).views[0].differing == 2
    skipped = {"v": {str(path): np.array([1])}}
    report = _verified(tmp_path, rows, skipped=skipped)
    assert (report.differences, report.agreement, report.views[0].known) == ([], 1.0, 1)


def test_keys_that_no_request_can_carry_are_nobodys(tmp_path: Path) -> None:
    _write(tmp_path, uid=pa.array(["a", "b" * 257]))
    report = _verified(tmp_path, {"a": _present(9.8)})
    assert (report.views[0].entities, report.agreement) == (11, 1.0)


def test_nothing_compared_is_no_agreement(tmp_path: Path) -> None:
    _write(tmp_path)
    rows = {"a": _present(9.8), "b": _present(2.0)}
    sampling = Sampling(slack_s=60)
    report = _verified(tmp_path, rows, "20s", sampling=sampling)
    assert (report.agreement, report.views[0].agreement) == (None, None)
    assert report.views[0].undecided == 2
    # A slack beyond the age itself would leave nothing to compare, ever.
    report = _verified(tmp_path, rows, "50s", sampling=sampling)
    assert (report.agreement, report.views[0].undecided) == (1.0, 0)
    report = _verified(tmp_path, {"nobody 0:3%|": _present(1.0)}, "20s", sampling=sampling)
    assert report.agreement is not None
    assert report.agreement < 1.0, "whoever should not exist is a difference"


def test_rows_of_the_near_future_are_undecided(tmp_path: Path) -> None:
    at = pa.array([NOW_US + 299_000_000, NOW_US - 20_000_000], pa.timestamp("us"))
    _write(tmp_path, at=at)
    for a in (_present(9.8), OnlineRow(Status.MISSING, {"x": NAN})):
        report = _verified(tmp_path, {"a": a, "b": _present(2.0)})
        assert (report.views[0].undecided, report.differences) == (1, [])


def test_each_answer_is_judged_by_its_own_moment(tmp_path: Path) -> None:
    _write(tmp_path)
    later = NOW_US + 600_000_000
    stale = OnlineRow(Status.STALE, {"x": NAN}, NOW_US - 20_000_000, later)
    report = _verified(tmp_path, {"a": stale, "b": _present(2.0)}, "5m")
    assert (report.differences, report.agreement) == ([], 1.0)


def test_differences_are_told_in_words(tmp_path: Path) -> None:
    _write(tmp_path)
    changed = OnlineRow(Status.PRESENT, {"x": 9.75}, NOW_US)
    refused = OnlineRow(Status.MISSING, {}, refused="no row")
    report = _verified(tmp_path, {"a": changed, "b": refused})
    told = {(one.entity[0], one.column): (one.online, one.offline) for one in report.differences}
    assert told == {
        ("a", ""): (
            "event time 2023-11-14T22:13:20.000000Z",
            "event time 2023-11-14T22:13:00.000000Z",
        ),
        ("a", "x"): ("9.75", "9.8"),
        ("b", ""): ("refused: no row", "PRESENT"),
    }
    assert shown(Float32, float(np.float32(0.1))) == "0.1"
    assert shown(Float32, 1e300) == "inf"
