from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from featurecache.applying import apply_definitions, read_manifest
from featurecache.errors import DefinitionError

DEFINITIONS = """
from featurecache.definitions import *
project = Project("demo")
airport = Entity("airport", keys={"origin": String})
weather = FeatureView("weather", entity=airport, columns=[Column("temp", Float32)], max_age="3h")
service = FeatureService("flights", inputs=[weather["temp"]])
"""
ON_DEMAND = """
@on_demand(inputs=[weather["temp"]], output=Column("warm", Float32))
def warm(temp):
    return temp * 2
other = FeatureService("other", inputs=[warm])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "definitions.py"
    path.write_text(DEFINITIONS)
    return path


def test_the_manifest_is_written_and_read_back(file: Path, tmp_path: Path) -> None:
    applied = apply_definitions(file, tmp_path / "features")
    assert applied.changes == ["first revision"]
    assert read_manifest(tmp_path / "features") == applied.manifest
    assert applied.manifest.code == ""
    assert [one.name for one in (tmp_path / "features").iterdir()] == ["manifest.json"]


def test_the_same_again_changes_nothing(file: Path, tmp_path: Path) -> None:
    apply_definitions(file, tmp_path / "features")
    before = (tmp_path / "features" / "manifest.json").stat().st_mtime_ns
    assert apply_definitions(file, tmp_path / "features").changes == []
    assert (tmp_path / "features" / "manifest.json").stat().st_mtime_ns == before


def test_code_lies_beside_the_manifest_under_its_digest(file: Path, tmp_path: Path) -> None:
    file.write_text(DEFINITIONS + ON_DEMAND)
    manifest = apply_definitions(file, tmp_path / "features").manifest
    code = (tmp_path / "features" / manifest.code).read_bytes()
    assert code == file.read_bytes()
    assert manifest.code_digest == hashlib.sha256(code).hexdigest()
    assert manifest.code == f"definitions-{manifest.code_digest[:12]}.py"


def test_a_dry_run_tells_and_writes_nothing(file: Path, tmp_path: Path) -> None:
    assert apply_definitions(file, tmp_path / "features", dry_run=True).changes
    assert not (tmp_path / "features").exists()


def test_what_does_not_follow_is_refused_and_forced(file: Path, tmp_path: Path) -> None:
    apply_definitions(file, tmp_path / "features")
    file.write_text(DEFINITIONS.replace("Float32", "Int64, default=0"))
    with pytest.raises(DefinitionError, match=r"weather\.temp.*float32.*int64"):
        apply_definitions(file, tmp_path / "features")
    assert read_manifest(tmp_path / "features").view("weather").columns[0].type == "float32"
    applied = apply_definitions(file, tmp_path / "features", force=True)
    assert applied.manifest.revision == 2
    assert read_manifest(tmp_path / "features").view("weather").columns[0].type == "int64"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = (", r"definitions\.py:1: .*never closed"),
        ("\nraise ValueError('no')", r"definitions\.py:2: .*no"),
        ("import nothing_like_it", r"definitions\.py:1: ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\n\nf()", r"definitions\.py:2: ZeroDivisionError"),
        ("import sys\nsys.exit(3)", r"definitions\.py:2: SystemExit: 3"),
        ("from featurecache.definitions import *\nProject('a b')", r"definitions\.py:2: project"),
        ("x = 1", "0 projects are defined"),
    ],
)
def test_mistakes_are_told_with_file_and_line(
    file: Path, tmp_path: Path, code: str, told: str
) -> None:
    file.write_text(code)
    path = list(sys.path)
    with pytest.raises(DefinitionError, match=told):
        apply_definitions(file, tmp_path / "features")
    assert sys.path == path
    assert "headrace_definitions" not in sys.modules


def test_a_file_may_import_its_neighbours(file: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_definitions.py").write_text("AGE = '4h'\n")
    file.write_text(
        "from neighbour_of_definitions import AGE\n" + DEFINITIONS.replace('"3h"', "AGE")
    )
    try:
        manifest = apply_definitions(file, tmp_path / "features").manifest
    finally:
        sys.modules.pop("neighbour_of_definitions", None)
    assert manifest.view("weather").max_age_s == 14_400


def test_a_folder_that_cannot_be_written_is_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file")
    with pytest.raises(DefinitionError, match="features"):
        apply_definitions(file, tmp_path / "features")


def test_no_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="headrace features apply"):
        read_manifest(tmp_path)
