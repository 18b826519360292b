from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from featurecache.errors import DefinitionError
from featurecache.manifests import trying
from featurecache.manifests.applying import apply_definitions, read_manifest

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
        ("x = 1\0", r"definitions\.py is no Python text"),
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


@pytest.mark.parametrize("named", ["features", "features/manifest.json"])
def test_no_manifest_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = (
        "no manifest in features/; make it with `headrace features apply definitions.py --to features`, "
        "or name another with --manifest"
    )
    for make in (lambda: None, lambda: Path("features").mkdir()):
        make()
        with pytest.raises(DefinitionError) as refused:
            read_manifest(Path(named))
        assert str(refused.value) == told


# ---- functions are tried -------------------------------------------------------------------------


def test_functions_that_import_a_neighbour_are_refused_at_once(file: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_functions.py").write_text("FACTOR = 2\n")
    inside = ON_DEMAND.replace(
        "    return temp * 2",
        "    from neighbour_of_functions import FACTOR\n    return temp * FACTOR",
    )
    try:
        for text, told in (
            ("import neighbour_of_functions\n" + DEFINITIONS + ON_DEMAND, "one file, and imports"),
            (DEFINITIONS + inside, "neighbour_of_functions.*one file, and imports"),
        ):
            file.write_text(text)
            folder = tmp_path / "features"
            with pytest.raises(DefinitionError, match=told) as refused:
                apply_definitions(file, folder)
            assert "headrace-apply" not in str(refused.value)
            assert not folder.exists()
    finally:
        sys.modules.pop("neighbour_of_functions", None)


def test_files_beside_the_definitions_are_out_of_reach(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factor.txt").write_text("2")
    file.write_text(
        f"from pathlib import Path\nFACTOR = int(Path('factor.txt').read_text())\n{DEFINITIONS}{ON_DEMAND}"
    )
    with pytest.raises(DefinitionError, match=r"fails when it is loaded .*factor\.txt"):
        apply_definitions(file, tmp_path / "features", dry_run=True)


@pytest.mark.parametrize(
    "expression",
    [
        "temp - temp.mean()",
        "temp - temp[0]",
        "np.argsort(np.argsort(temp)) * 1.0",
        "np.nan_to_num(temp, nan=np.nanmean(temp))",
        "np.cumsum(temp)",
    ],
)
def test_a_row_must_not_depend_on_the_others(file: Path, tmp_path: Path, expression: str) -> None:
    own = ON_DEMAND.replace("temp * 2", expression)
    file.write_text("import numpy as np\n" + DEFINITIONS + own)
    with pytest.raises(DefinitionError, match="'warm' gives a row other values among 8 rows"):
        apply_definitions(file, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_every_type_is_tried_and_what_fails_is_noted(file: Path, tmp_path: Path) -> None:
    columns = """Column("temp", Float32), Column("sky", String, default=""),
        Column("open", Bool, default=True), Column("at", Timestamp, default=0),
        Column("n", Int8, default=0), Column("hours", Vector(Float32, 24))"""
    every = """
@on_demand(inputs=[airport["origin"], *weather.all()], output=Column("text", String))
def text(origin, temp, sky, is_open, at, n, hours):
    assert is_open.dtype == bool and hours.shape == (len(origin), 24)
    return [f"{one}" for one in zip(origin, temp, sky, is_open, at, n)]
@on_demand(inputs=[text, weather["hours"]], output=Column("mean", Float32))
def mean(text, hours):
    print("said by a function")
    return hours @ np.full(24, 1 / 24, "f4")
@on_demand(inputs=[weather["sky"]], output=Column("code", Int64))
def code(sky):
    return np.array([int(one) for one in sky])
both = FeatureService("other", inputs=[mean, code])
"""
    text = DEFINITIONS.replace('Column("temp", Float32)', columns)
    file.write_text("import numpy as np\n" + text + every)
    applied = apply_definitions(file, tmp_path / "features")
    (note,) = applied.notes
    assert note.startswith("could not be checked on made-up values: on-demand feature 'code' fails")
    assert apply_definitions(file, tmp_path / "features").notes == []


def test_a_process_that_ends_while_functions_are_tried(file: Path, tmp_path: Path) -> None:
    own = ON_DEMAND.replace("return temp * 2", "import os; os._exit(3)")
    file.write_text(DEFINITIONS + own)
    with pytest.raises(DefinitionError, match="ended with exit code 3"):
        apply_definitions(file, tmp_path / "features")


def test_functions_that_do_not_end(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "WITHIN_S", 1.0)
    file.write_text(DEFINITIONS + ON_DEMAND.replace("return temp * 2", "while True: pass"))
    with pytest.raises(DefinitionError, match="did not end within 1 s"):
        apply_definitions(file, tmp_path / "features")
