"""Features that are computed when they are needed: their functions, loaded and run over whole columns.

Decides which file of code may run (the one whose digest the manifest has) and what a function may give back. The
gateway and the training set run the same functions through this module, so that both have the same values. It must
never know where columns come from, and imports nothing beyond NumPy.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from featurecache.columns import ColumnType, Values
from featurecache.definitions import OnDemand
from featurecache.errors import FeatureError
from featurecache.manifests.manifest import FeatureRef, Manifest, OnDemandSpec

MAX_CODE_BYTES = 4 * 1024 * 1024


class Functions:
    """The functions of a manifest's on-demand features, ready to run."""

    __slots__ = ("_computed",)

    def __init__(self, computed: dict[str, Computed]) -> None:
        self._computed = computed

    def __contains__(self, name: object) -> bool:
        return name in self._computed

    def __len__(self) -> int:
        return len(self._computed)

    def compute(self, name: str, columns: Sequence[Values]) -> Values:
        """The feature's values for as many rows as ``columns`` have, as its declared type.

        One array per input, of ``(rows,)`` or ``(rows, n)``; strings as objects of ``bytes``. The function sees them
        read-only and booleans as ``bool``. The answer has the type's dtype and shape (strings: ``bytes`` objects).
        Raises ``FeatureError`` naming the feature when the function raises or gives something else.
        """
        found = self._computed.get(name)
        if found is None:
            raise FeatureError(f"no function for the on-demand feature '{name}' is loaded")
        return found.run(columns)


NO_FUNCTIONS = Functions({})
"""Of a manifest without on-demand features."""


def load_functions(manifest: Manifest, folder: Path) -> Functions:
    """The functions in the file that ``manifest.code`` names, in ``folder``, where the manifest lies.

    Runs that file as a module of its own. Without on-demand features it reads nothing. Raises ``FeatureError`` when the
    file is absent, is not the one that was applied, raises, or lacks a feature.
    """
    if not manifest.on_demand:
        return NO_FUNCTIONS
    if not manifest.code:
        raise FeatureError(
            f"on-demand feature '{manifest.on_demand[0].name}' has no code beside the manifest; "
            "apply the definitions again"
        )
    path = folder / manifest.code
    module = _run_module(path, _checked_code(path, manifest.code_digest), manifest.code_digest)
    found = {one.name: one for one in vars(module).values() if isinstance(one, OnDemand)}
    return Functions(
        {spec.name: _computed(manifest, spec, found, path) for spec in manifest.on_demand}
    )


def _checked_code(path: Path, digest: str) -> bytes:
    try:
        with path.open("rb") as file:
            code = file.read(MAX_CODE_BYTES + 1)
    except OSError as error:
        raise FeatureError(f"{path}: {error.strerror}; apply the definitions again") from None
    if len(code) > MAX_CODE_BYTES:
        raise FeatureError(f"{path}: larger than {MAX_CODE_BYTES} bytes")
    if hashlib.sha256(code).hexdigest() != digest:
        raise FeatureError(
            f"{path}: changed since it was applied (its SHA-256 is not the manifest's); "
            "apply the definitions again"
        )
    return code


def _run_module(path: Path, code: bytes, digest: str) -> ModuleType:
    """The bytes that were checked are the ones that run: the file is not read a second time."""
    module = ModuleType(f"headrace_features_{digest[:16]}")
    module.__file__ = str(path)
    # Dataclasses and the like look their module up by name while it runs.
    sys.modules[module.__name__] = module
    try:
        exec(compile(code, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102  # the applied definitions
    except ModuleNotFoundError as error:
        del sys.modules[module.__name__]
        raise FeatureError(
            f"{path}: needs the module '{error.name}', which is not installed here; code of on-demand features "
            "is one file, and imports installed packages only"
        ) from error
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise FeatureError(f"{path}: fails when it is loaded ({_told(error)})") from error
    return module


def _computed(
    manifest: Manifest, spec: OnDemandSpec, found: dict[str, OnDemand], path: Path
) -> Computed:
    one = found.get(spec.name)
    if one is None:
        raise FeatureError(f"{path}: has no on-demand feature '{spec.name}'")
    if [feature.ref for feature in one.inputs] != spec.inputs or str(one.output.type) != spec.type:
        raise FeatureError(
            f"{path}: on-demand feature '{spec.name}' has other inputs or another type than the manifest; "
            "apply the definitions again"
        )
    if not spec.inputs:
        raise FeatureError(f"on-demand feature '{spec.name}' has no inputs, so no number of rows")
    types = [type_of(manifest, ref) for ref in spec.inputs]
    return Computed(
        spec, one.function, [type_ is not None and type_.kind == "bool" for type_ in types]
    )


def type_of(manifest: Manifest, ref: FeatureRef) -> ColumnType | None:
    """The type of one value; None for a join key, whose type is the service's to say."""
    if ref.kind == "view":
        return manifest.view(ref.name).column(ref.column).parsed
    if ref.kind == "input":
        return manifest.input(ref.name).parsed
    if ref.kind == "on_demand":
        return manifest.on_demand_feature(ref.name).parsed
    return None


class Computed:
    """One on-demand feature: its function, between checked inputs and a checked answer."""

    __slots__ = ("_are_bools", "_function", "_spec", "_type")

    def __init__(
        self, spec: OnDemandSpec, function: Callable[..., Any], are_bools: list[bool]
    ) -> None:
        self._spec, self._function, self._are_bools = spec, function, are_bools
        self._type = spec.parsed

    def run(self, columns: Sequence[Values]) -> Values:
        """See ``Functions.compute``."""
        if len(columns) != len(self._are_bools):
            raise self._fault(f"is given {len(columns)} columns, not {len(self._are_bools)}")
        rows = len(columns[0])
        if any(len(column) != rows for column in columns):
            raise self._fault(f"is given columns of {sorted({len(one) for one in columns})} rows")
        given = []
        for column, is_bool in zip(columns, self._are_bools, strict=True):
            # A view of it: what the function writes to would be other features' input as well.
            shown = column.view(np.bool_) if is_bool and column.dtype != np.bool_ else column.view()
            shown.flags.writeable = False
            given.append(shown)
        try:
            # NaN is what missing values are: computing with them is no event.
            with np.errstate(all="ignore"):
                result = self._function(*given)
        except Exception as error:
            raise self._fault(f"fails: {_told(error)}") from error
        return self._checked(result, rows)

    def _checked(self, result: Any, rows: int) -> Values:
        default = self._spec.default
        if isinstance(result, np.ma.MaskedArray):
            if default is None and not self._type.is_float and result.mask.any():
                raise self._fault("gives masked values, and has no default")
            gap: Any = np.nan if default is None else default
            result = result.filled(gap)
        try:
            found = np.asarray(result)
        except (TypeError, ValueError) as error:
            raise self._fault(f"gives {type(result).__name__}, no array ({error})") from None
        wanted = self._type.shape(rows)
        if found.shape != wanted:
            raise self._fault(
                f"gives shape {list(found.shape)} for {rows} rows, not {list(wanted)}"
            )
        return self._strings(found) if self._type.is_string else self._numbers(found)

    def _strings(self, found: Values) -> Values:
        if found.dtype.kind not in "OUS":
            raise self._fault(f"gives {found.dtype}, not strings")
        values = found.tolist()
        default = self._spec.default
        texts = np.empty(len(values), np.object_)
        for row, value in enumerate(values):
            if value is None:
                value = default
            if isinstance(value, str):
                texts[row] = value.encode()
            elif isinstance(value, bytes):
                texts[row] = value
            else:
                raise self._fault(f"gives {value!r} in row {row}, no string")
        return texts

    def _numbers(self, found: Values) -> Values:
        kind, wanted = self._type.kind, self._type.dtype
        given = found.dtype.kind
        if kind == "bool" and given == "b":
            return found.view(np.uint8)
        if kind == "timestamp" and given == "M":
            return found.astype("M8[us]").view(np.int64)
        allowed = {"bool": "", "float32": "fiub", "float64": "fiub"}.get(kind, "iub")
        if given not in allowed:
            raise self._fault(f"gives {found.dtype}, which does not become {self._type} by itself")
        if given in "iu" and wanted.kind == "i" and found.size:
            limits = np.iinfo(wanted)
            if int(found.min()) < limits.min or int(found.max()) > limits.max:
                raise self._fault(f"gives values that {self._type} does not hold")
        with np.errstate(over="ignore"):
            return found.astype(wanted, copy=False)

    def _fault(self, what: str) -> FeatureError:
        return FeatureError(f"on-demand feature '{self._spec.name}' {what}")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
