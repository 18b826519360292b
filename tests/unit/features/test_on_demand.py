"""On-demand features: which code runs, what functions are given, and what they may give back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from featurecache.errors import FeatureError
from featurecache.joining.on_demand import NO_FUNCTIONS, Functions, load_functions
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest

HEAD = """
import numpy as np
from featurecache.definitions import *
project = Project("p")
airport = Entity("airport", keys={"origin": String})
weather = FeatureView("weather", entity=airport, columns=[
    Column("temp", Float32), Column("sky", String, default="clear"),
    Column("open", Bool, default=True), Column("hourly", Vector(Float32, 3))])
distance = Input("distance", Float32)
"""


def _applied(folder: Path, body: str) -> Manifest:
    """The definitions as ``apply`` leaves them: the file, and a manifest with its name and digest."""
    code = (HEAD + body).encode()
    (folder / "features.py").write_bytes(code)
    namespace: dict[str, object] = {"__name__": "definitions_under_test"}
    exec(compile(code, "features.py", "exec"), namespace)
    return msgspec.structs.replace(
        compile_manifest(namespace.values()),
        code="features.py",
        code_digest=hashlib.sha256(code).hexdigest(),
    )


def _loaded(folder: Path, body: str) -> Functions:
    return load_functions(_applied(folder, body), folder)


def _giving(folder: Path, expression: str, output: str) -> Functions:
    return _loaded(
        folder,
        f"""
@on_demand(inputs=[weather["temp"], weather["open"], weather["sky"], weather["hourly"]], output=Column("out", {output}))
def out(temp, is_open, sky, hourly):
    return {expression}
""",
    )


def _columns(rows: int = 2) -> list[np.ndarray]:
    sky = np.empty(rows, np.object_)
    sky[:] = [b"blue"] * rows
    return [
        np.arange(rows, dtype="<f4"),
        np.arange(rows, dtype="|u1") % 2,
        sky,
        np.ones((rows, 3), "<f4"),
    ]


def test_computes_over_whole_columns_in_the_declared_type(tmp_path: Path) -> None:
    functions = _giving(tmp_path, "temp.astype(float) * 2 + hourly.sum(axis=1)", "Float32")
    found = functions.compute("out", _columns(3))
    assert found.dtype == np.dtype("<f4")
    assert found.tolist() == [3.0, 5.0, 7.0]
    assert len(functions) == 1
    assert "out" in functions


def test_needs_earlier_on_demand_features_and_keys_by_position(tmp_path: Path) -> None:
    functions = _loaded(
        tmp_path,
        """
@on_demand(inputs=[weather["temp"], distance], output=Column("chill", Float32))
def chill(temp, distance):
    return temp - distance
@on_demand(inputs=[chill, airport["origin"]], output=Column("label", String))
def label(chill, origin):
    return [f"{one.decode()}:{value:.0f}" for value, one in zip(chill, origin)]
""",
    )
    chill = functions.compute("chill", [np.array([5, 7], "<f4"), np.array([1, 2], "<f4")])
    origin = np.array([b"JFK", b"LGA"], np.object_)
    assert functions.compute("label", [chill, origin]).tolist() == [b"JFK:4", b"LGA:5"]


@pytest.mark.parametrize(
    ("expression", "output", "expected"),
    [
        ("~is_open", "Bool", np.array([1, 0], "|u1")),
        ("temp > 0.5", "Bool", np.array([0, 1], "|u1")),
        ("temp.astype('i2') + np.int16(3)", "Int64", np.array([3, 4], "<i8")),
        ("is_open", "Int8", np.array([0, 1], "<i1")),
        ("np.array([1, 2]) * 127 // 2", "Int8", np.array([63, 127], "<i1")),
        ("np.log(temp)", "Float64", np.array([-np.inf, 0.0])),
        ("temp / 0", "Float32", np.array([np.nan, np.inf], "<f4")),
        ("temp.astype(float) * 1e300", "Float32", np.array([0, np.inf], "<f4")),
        ("hourly * 2", "Vector(Float32, 3)", np.full((2, 3), 2, "<f4")),
        ("np.ma.masked_less(temp, 0.5)", "Float32", np.array([np.nan, 1], "<f4")),
        (
            "np.ma.masked_less(temp, 0.5)",
            "Float32, default=-1.0",
            np.array([-1, 1], "<f4"),
        ),
        ("temp.astype('M8[s]')", "Timestamp", np.array([0, 1_000_000])),
    ],
)
def test_results_become_the_declared_type(
    tmp_path: Path, expression: str, output: str, expected: np.ndarray
) -> None:
    if "default" in output:
        type_, default = output.split(", default=")
        output = f"{type_}, default={default}"
    found = _giving(tmp_path, expression, output).compute("out", _columns())
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("expression", ["sky", "np.array(['blue', 'blue'])", "['blue', b'blue']"])
def test_strings_become_bytes(tmp_path: Path, expression: str) -> None:
    found = _giving(tmp_path, expression, "String").compute("out", _columns())
    assert found.dtype == np.object_
    assert found.tolist() == [b"blue", b"blue"]


def test_no_string_is_the_default(tmp_path: Path) -> None:
    functions = _giving(tmp_path, "[None, 'x']", "String, default='none'")
    assert functions.compute("out", _columns()).tolist() == [b"none", b"x"]


@pytest.mark.parametrize(
    ("expression", "output", "told"),
    [
        ("1 / 0", "Float32", "'out' fails: ZeroDivisionError: division by zero"),
        ("temp[:1]", "Float32", r"'out' gives shape \[1\] for 2 rows, not \[2\]"),
        ("3.0", "Float32", r"'out' gives shape \[\] for 2 rows"),
        ("hourly", "Vector(Float32, 4)", r"gives shape \[2, 3\] for 2 rows, not \[2, 4\]"),
        ("[[1], [1, 2]]", "Float32", "'out' gives list, no array"),
        ("temp", "Int32", "'out' gives float32, which does not become int32 by itself"),
        ("temp > 0", "Timestamp", None),
        ("temp", "Bool", "'out' gives float32, which does not become bool"),
        ("['a', 'b']", "Float32", "gives <U1, which does not become float32"),
        ("temp", "String", "'out' gives float32, not strings"),
        ("[None, 'x']", "String", "'out' gives None in row 0, no string"),
        ("[3, 'x']", "String", None),
        ("np.array([1, 128])", "Int8", "'out' gives values that int8 does not hold"),
        ("np.array([1, 2**63], 'u8')", "Int64", "'out' gives values that int64 does not hold"),
        ("np.ma.masked_less(np.array([1, 2]), 2)", "Int32", "masked values, and has no default"),
        ("temp.__setitem__(0, 9)", "Float32", "'out' fails: ValueError: assignment destination"),
        ("temp.__iadd__(1)", "Float32", "'out' fails: ValueError"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, expression: str, output: str, told: str | None
) -> None:
    functions = _giving(tmp_path, expression, output)
    columns = _columns()
    if told is None:
        functions.compute("out", columns)
        return
    with pytest.raises(FeatureError, match=told):
        functions.compute("out", columns)
    assert columns[0].tolist() == [0.0, 1.0]


def test_columns_of_different_rows_or_another_number_are_refused(tmp_path: Path) -> None:
    functions = _giving(tmp_path, "temp", "Float32")
    with pytest.raises(FeatureError, match="'out' is given 3 columns, not 4"):
        functions.compute("out", _columns()[:3])
    with pytest.raises(FeatureError, match=r"'out' is given columns of \[2, 3\] rows"):
        functions.compute("out", [*_columns()[:3], np.ones((3, 3))])
    with pytest.raises(FeatureError, match="no function for the on-demand feature 'other'"):
        functions.compute("other", [])


def test_no_rows_are_possible(tmp_path: Path) -> None:
    assert len(_giving(tmp_path, "temp * 2", "Float32").compute("out", _columns(0))) == 0
    assert len(_giving(tmp_path, "temp.astype(int)", "Int8").compute("out", _columns(0))) == 0


BODY = """
@on_demand(inputs=[weather["temp"]], output=Column("out", Float32))
def out(temp):
    return temp
"""


def test_without_on_demand_features_nothing_is_read(tmp_path: Path) -> None:
    manifest = _applied(tmp_path, "")
    assert load_functions(manifest, tmp_path / "absent") is NO_FUNCTIONS


def test_code_that_changed_does_not_run(tmp_path: Path) -> None:
    manifest = _applied(tmp_path, BODY)
    ran = tmp_path / "ran"
    with (tmp_path / "features.py").open("a") as file:
        file.write(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(FeatureError, match=r"features\.py: changed since it was applied"):
        load_functions(manifest, tmp_path)
    assert not ran.exists()


def test_absent_code_and_absent_name(tmp_path: Path) -> None:
    manifest = _applied(tmp_path, BODY)
    with pytest.raises(FeatureError, match=r"features\.py: No such file"):
        load_functions(manifest, tmp_path / "elsewhere")
    with pytest.raises(FeatureError, match="'out' has no code beside the manifest"):
        load_functions(msgspec.structs.replace(manifest, code=""), tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("import module_that_is_nowhere", "needs the module 'module_that_is_nowhere'"),
        ("raise RuntimeError('no')", r"fails when it is loaded \(RuntimeError: no\)"),
        ("import sys; sys.exit(3)", r"fails when it is loaded \(SystemExit: 3\)"),
        ("def broken(:", r"fails when it is loaded \(SyntaxError"),
        ("del out", "has no on-demand feature 'out'"),
        ("out.inputs.append(out.inputs[0])", "'out' has other inputs or another type"),
    ],
)
def test_code_that_cannot_be_used(tmp_path: Path, line: str, told: str) -> None:
    manifest = _applied(tmp_path, BODY)
    code = (HEAD + BODY + line + "\n").encode()
    (tmp_path / "features.py").write_bytes(code)
    manifest = msgspec.structs.replace(manifest, code_digest=hashlib.sha256(code).hexdigest())
    before = set(sys.modules)
    with pytest.raises(FeatureError, match=told):
        load_functions(manifest, tmp_path)
    if "loaded" in told or "needs" in told:
        assert not [name for name in set(sys.modules) - before if "headrace_features" in name]


def test_code_may_use_dataclasses(tmp_path: Path) -> None:
    body = (
        """
from __future__ import annotations
"""
        + HEAD
        + """
from dataclasses import dataclass
@dataclass
class Factor:
    by: float
@on_demand(inputs=[weather["temp"]], output=Column("out", Float32))
def out(temp):
    return temp * Factor(2.0).by
"""
    )
    code = body.encode()
    (tmp_path / "features.py").write_bytes(code)
    manifest = msgspec.structs.replace(
        _applied(tmp_path, BODY), code_digest=hashlib.sha256(code).hexdigest()
    )
    (tmp_path / "features.py").write_bytes(code)
    found = load_functions(manifest, tmp_path).compute("out", [np.array([1.5], "<f4")])
    assert found.tolist() == [3.0]


def test_imports_neither_duckdb_nor_pyarrow() -> None:
    code = (
        "import sys, featurecache.joining.on_demand\n"
        "print([name for name in ('duckdb', 'pyarrow', 'redis', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
