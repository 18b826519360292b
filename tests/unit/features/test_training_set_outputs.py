"""Where training sets may be written, and what they do with rows that the loader would not load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Int8,
    ParquetSource,
    Project,
    String,
)
from featurecache.errors import RowError
from featurecache.manifests.compiling import compile_manifest
from featurecache.offline.data_card import DataCard
from featurecache.offline.training_set import Options, Spine, build

USER = Entity("user", keys={"uid": String})
VIEW = FeatureView(
    "v",
    entity=USER,
    source=ParquetSource("v/**/*.parquet", event_time="at"),
    columns=[Column("x", Int8, default=0)],
)
MANIFEST = compile_manifest([Project("p"), FeatureService("s", VIEW.all())])


def _write(path: Path, uids: list[str | None], seconds: list[int | None], x: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    at = pa.array(seconds, pa.timestamp("s"))
    pq.write_table(pa.table({"uid": uids, "at": at, "x": pa.array(x)}), path, row_group_size=2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    _write(tmp_path / "v" / "a.parquet", ["u", "w"], [1, 1], [1, 2])
    spine = {"uid": ["u", "w"], "now": pa.array([9, 9], pa.timestamp("s"))}
    pq.write_table(pa.table(spine), tmp_path / "spine.parquet")
    return tmp_path


def _build(files: Path, out: Path, spine: str = "spine.parquet", **options: str) -> DataCard:
    return build(
        MANIFEST,
        "s",
        Spine(str(files / spine), "now"),
        files,
        out,
        options=Options(**options),  # type: ignore[arg-type]
    )


def _all_of(folder: Path) -> dict[str, bytes | None]:
    return {
        str(one): one.read_bytes() if one.is_file() else None for one in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("out", "spine", "told"),
    [
        ("spine.parquet", "spine.parquet", "--out is the spine itself; choose another file"),
        ("v/../spine.parquet", "spine.parquet", "--out is the spine itself"),
        ("link.parquet", "spine.parquet", "--out is the spine itself"),
        ("spine_2.parquet", "sp*.parquet", r"lies among the files of the spine .*sp\*\.parquet"),
        ("v", "spine.parquet", r"v is a folder; write .*v/NAME\.parquet"),
        ("v/out.parquet", "spine.parquet", r"among the files of the source v/\*\*/\*\.parquet"),
        ("v/a.parquet", "spine.parquet", "and the next run would read it"),
        ("v/b/c/out.parquet", "spine.parquet", "choose another folder"),
        ("other/out.parquet", "spine.parquet", "among the files of the source"),
    ],
)
def test_an_output_over_or_among_the_inputs_is_refused(
    files: Path, out: str, spine: str, told: str
) -> None:
    (files / "link.parquet").symlink_to(files / "spine.parquet")
    (files / "other").symlink_to(files / "v")
    before = _all_of(files)
    with pytest.raises(RowError, match=told):
        _build(files, files / out, spine)
    assert _all_of(files) == before


def test_a_relative_output_is_the_same_file(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files / "v")
    for out in ("out.parquet", "../spine.parquet"):
        with pytest.raises(RowError, match="choose another"):
            _build(files, Path(out))
    _build(files, Path("../out.parquet"))
    _build(files, Path("out.other"))
    assert pq.read_table(files / "out.parquet").column("v__x").to_pylist() == [1, 2]


def test_a_folder_that_cannot_be_written_is_told(files: Path) -> None:
    for out in (files / "spine.parquet" / "out.parquet", Path("/proc/none/out.parquet")):
        with pytest.raises(RowError, match=r"out\.parquet cannot be written \(.*choose another"):
            _build(files, out)
    if os.geteuid():  # root may write everywhere
        (files / "closed").mkdir(mode=0o500)
        with pytest.raises(RowError, match="Permission denied"):
            _build(files, files / "closed" / "out.parquet")


def test_bad_rows_stop_it_or_are_as_if_they_were_not_there(files: Path) -> None:
    # Newer than the sound ones: nobody's latest. Behind a row group, in the second file.
    uids = ["u", None, "w", "u", "", "w"]
    _write(files / "v" / "b.parquet", uids, [2, 3, 4, 5, 6, None], [3, 4, 300, -129, 5, 6])
    with pytest.raises(RowError, match=r"5 of 8 rows cannot be rows .* --on-bad-row skip") as told:
        _build(files, files / "out.parquet")
    for place in (
        "v/b.parquet, row group 0, row 1: key 'uid' is null",
        "v/b.parquet, row group 1, row 0: 'x' is no int8",
        "v/b.parquet, row group 2, row 0: key 'uid' is empty",
        "v/b.parquet, row group 2, row 1: event time 'at' is null",
    ):
        assert place in str(told.value)
    assert not (files / "out.parquet").exists()
    card = _build(files, files / "out.parquet", on_bad_row="skip")
    assert pq.read_table(files / "out.parquet").column("v__x").to_pylist() == [3, 2]
    (source,) = card.sources
    assert (source.rows, source.rows_without_key, source.skipped_rows) == (8, 2, 5)
    assert source.last_event_time == "1970-01-01T00:00:02+00:00"
    told_json = json.loads((files / "out.parquet.card.json").read_text())["sources"][0]
    assert (told_json["rows_without_key"], told_json["skipped_rows"]) == (2, 5)
    page = (files / "out.parquet.card.md").read_text()
    assert "| What | Path | Files | Rows | Without key | Skipped | From | To |" in page
    assert "| v | `v/**/*.parquet` | 2 | 8 | 2 | 5 |" in page


def test_refused_rows_name_the_option(files: Path) -> None:
    strict = FeatureView(
        "v",
        entity=USER,
        source=ParquetSource("v/*.parquet", event_time="at"),
        columns=[Column("x", Int8)],
        max_age="1s",
    )
    manifest = compile_manifest([Project("p"), FeatureService("s", strict.all())])
    with pytest.raises(Exception, match="Leave them out with --leave-out, or give the views"):
        build(manifest, "s", Spine(files / "spine.parquet", "now"), files, files / "out.parquet")


def test_a_column_of_nulls_without_a_type_is_told(files: Path) -> None:
    table = pa.table({"uid": ["u"], "at": pa.array([1], pa.timestamp("s")), "x": pa.nulls(1)})
    pq.write_table(table, files / "v" / "b.parquet")
    with pytest.raises(RowError, match="column 'x' has only nulls and no type; write it as int8"):
        _build(files, files / "out.parquet")
