"""Functions of on-demand features, tried before they are applied: as a gateway loads them, on values that are made up.

Decides whether they can be loaded where only the applied copy is (another working folder, the definitions' neighbours
out of reach), and whether many rows at once get the values that each gets alone: requests have one row or a thousand,
training sets millions. It must never judge what a function computes, nor let one run for ever.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.columns import ColumnType, Values, parse_type
from featurecache.errors import DefinitionError, FeatureError
from featurecache.joining.on_demand import Functions, load_functions, type_of
from featurecache.manifests.manifest import FeatureRef, Manifest, OnDemandSpec, decode_manifest

TRIED_ROWS = 8
GAP_ROW = 5
"""Whose floats are NaN the second time, as those of a row that is missing are."""
TOLERANCE = 1e-6
"""Of the largest value of a column: sums over vectors may be added in another order."""
WITHIN_S = 60.0
"""For importing what the file imports, and for all functions."""
MAX_TOLD_CHARS = 2000
_SEED = 7
_FIRST_US = 1_700_000_000_000_000


class Tried(msgspec.Struct):
    """What trying has shown."""

    problem: str = ""
    """Why the functions may not be applied; "": they may."""
    notes: list[str] = []
    """Which features could not be checked, and why."""


def try_functions(file: Path, code: bytes, manifest: Manifest) -> list[str]:
    """Try the functions of ``manifest``, whose text is ``code``, in a process of their own.

    ``file`` has the definitions: its name stands in what is told, its folder is out of the functions' reach.
    Returns notes about features that could not be checked. Raises ``DefinitionError`` when they cannot be loaded, do
    not end within ``WITHIN_S``, or give a row other values among others than alone.
    """
    if not manifest.on_demand:
        return []
    with TemporaryDirectory(prefix="headrace-apply-") as made:
        place = Path(made)
        (place / manifest.code).write_bytes(code)
        (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        here = str(file.resolve().parent)
        command = [sys.executable, "-P", "-m", "featurecache.manifests.trying", str(place), here]
        try:
            ended = subprocess.run(  # noqa: S603  definitions are code that its user wrote
                command, cwd=place, capture_output=True, timeout=WITHIN_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise DefinitionError(
                f"{file}: its on-demand functions, tried on {TRIED_ROWS} rows, did not end within {WITHIN_S:g} s"
            ) from None
        try:
            tried = msgspec.json.decode((place / "tried.json").read_bytes(), type=Tried)
        except (OSError, msgspec.DecodeError):
            said = ended.stderr.decode(errors="replace").strip()[-MAX_TOLD_CHARS:]
            raise DefinitionError(
                f"{file}: trying its on-demand functions ended with exit code {ended.returncode}: {said}"
            ) from None
        copy = str(place / manifest.code)
    if tried.problem:
        raise DefinitionError(tried.problem.replace(copy, str(file)))
    return [one.replace(copy, str(file)) for one in tried.notes]


def check_functions(manifest: Manifest, functions: Functions) -> Tried:
    """Rows at once against rows alone, function by function."""
    tried = Tried()
    for spec in manifest.on_demand:
        try:
            for with_gap in (False, True):
                if not _agrees(manifest, spec, functions, with_gap=with_gap):
                    tried.problem = (
                        f"on-demand feature '{spec.name}' gives a row other values among {TRIED_ROWS} rows than alone: "
                        "requests have one row, training sets many; compute each row from its own values only, and "
                        "what it takes over all rows (a mean, a rank) in the pipeline that makes a view"
                    )
                    return tried
        except FeatureError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):  # whatever the values are
                tried.problem = (
                    f"{error}: it is not installed here; code of on-demand features is one file, and imports "
                    "installed packages only"
                )
                return tried
            tried.notes.append(f"could not be checked on made-up values: {error}")
    return tried


def _agrees(
    manifest: Manifest, spec: OnDemandSpec, functions: Functions, *, with_gap: bool
) -> bool:
    rng = np.random.default_rng(_SEED)
    columns = [_made_up(_type(manifest, ref), rng, with_gap=with_gap) for ref in spec.inputs]
    together = functions.compute(spec.name, columns)
    alone = [
        functions.compute(spec.name, [column[row : row + 1].copy() for column in columns])
        for row in range(TRIED_ROWS)
    ]
    return _is_same(together, np.concatenate(alone))


def _type(manifest: Manifest, ref: FeatureRef) -> ColumnType:
    known = type_of(manifest, ref)
    if known is not None:
        return known
    # A join key; entities that know it as two types belong to services that say which: either will do.
    return parse_type(next(one.keys[ref.name] for one in manifest.entities if ref.name in one.keys))


def _made_up(type_: ColumnType, rng: np.random.Generator, *, with_gap: bool) -> Values:
    """Values that differ from row to row, in no order."""
    if type_.is_string:
        texts = np.empty(TRIED_ROWS, np.object_)
        texts[:] = [f"value{number}".encode() for number in rng.permutation(TRIED_ROWS)]
        return texts
    shape = type_.shape(TRIED_ROWS)
    if type_.is_float:
        values: npt.NDArray[Any] = rng.uniform(0.5, 40.0, shape).astype(type_.dtype)
        if with_gap:
            values[GAP_ROW] = np.nan
        return values
    if type_.kind == "bool":
        return rng.integers(0, 2, shape).astype(type_.dtype)
    if type_.kind == "timestamp":
        return (_FIRST_US + rng.integers(0, 30 * 86_400_000_000, shape)).astype(type_.dtype)
    return rng.integers(1, 100, shape).astype(type_.dtype)


def _is_same(together: Values, alone: Values) -> bool:
    if together.dtype.kind != "f":
        return bool(np.array_equal(together, alone))
    finite = np.abs(together[np.isfinite(together)])
    bound = TOLERANCE * float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(together, alone, rtol=TOLERANCE, atol=bound, equal_nan=True))


def _main(place: Path, definitions: str) -> None:
    sys.path[:] = [
        one
        for one in sys.path
        # A checkout may have definitions beside the package itself.
        if str(Path(one).resolve()) != definitions or (Path(one) / "featurecache").is_dir()
    ]
    manifest = decode_manifest((place / "manifest.json").read_bytes(), "manifest.json")
    try:
        tried = check_functions(manifest, load_functions(manifest, place))
    except FeatureError as error:
        tried = Tried(str(error))
    (place / "tried.json").write_bytes(msgspec.json.encode(tried))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
