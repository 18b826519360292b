"""Where each value goes in the tensors of a model.

Decides which types may become which, and plans the moves once, so that a request costs one assignment per block of
neighbouring columns. It must never look at a row's status: what it is given is usable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.columns import ColumnType, Values
from featurecache.errors import DefinitionError
from featurecache.manifests.manifest import FeatureRef
from featurecache.rows.codec import RowTable
from featurecache.rows.schema import RowSchema

Tensor = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""Open Inference datatypes that features can fill, and the arrays that carry them."""


class ModelInput(msgspec.Struct, frozen=True):
    """One input tensor of a model, as its file declares it. -1 in ``shape``: any extent."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class PlacedFeature(msgspec.Struct, frozen=True):
    """One feature and the columns of the tensor that it fills: ``start`` up to ``stop``."""

    ref: FeatureRef
    type: ColumnType
    use: int
    """Which view use it comes from; -1 for inputs, keys and on-demand features."""
    start: int
    stop: int


ALL_ROWS = slice(None)
Columns: TypeAlias = tuple[slice, slice]
"""All rows, some columns."""


class _Block(msgspec.Struct):
    """Neighbouring columns of a view that become neighbouring columns of a tensor."""

    use: int
    code: str
    source: Columns
    target: Columns


class TensorPlan:
    """How one input tensor of the model is put together."""

    __slots__ = (
        "_blocks",
        "_dtype",
        "_is_flat",
        "_may_overflow",
        "_named",
        "_strings",
        "_width",
        "name",
    )

    def __init__(
        self, target: ModelInput, features: Sequence[PlacedFeature], schemas: Sequence[RowSchema]
    ) -> None:
        """``schemas``: of the view uses, by number. Raises ``DefinitionError`` when the features do not fit."""
        self.name = target.name
        self._width = features[-1].stop
        _check_shape(target, self._width)
        self._is_flat = len(target.shape) == 1
        for one in features:
            _check_cast(one, target)
        self._dtype = DTYPES[target.datatype]
        self._blocks = _blocks(features, schemas)
        self._may_overflow = any(_may_overflow(one.type, self._dtype) for one in features)
        self._strings = [one for one in features if one.use >= 0 and one.type.is_string]
        self._named = [(_name(one.ref), one.start, one.stop) for one in features if one.use < 0]

    def build(
        self, rows: int, tables: Sequence[RowTable], named: Mapping[tuple[str, str], Values]
    ) -> Tensor:
        """The tensor: ``(rows, width)``, or ``(rows,)`` for a model that wants it flat; C-contiguous.

        ``named``: inputs, keys and on-demand features by (kind, name).
        """
        out = np.empty((rows, self._width), self._dtype)
        if self._may_overflow:  # to an infinity, as the model would see it anyway
            with np.errstate(over="ignore"):
                self._fill(out, rows, tables, named)
        else:
            self._fill(out, rows, tables, named)
        return out.reshape(rows) if self._is_flat else out

    def _fill(
        self,
        out: Tensor,
        rows: int,
        tables: Sequence[RowTable],
        named: Mapping[tuple[str, str], Values],
    ) -> None:
        for block in self._blocks:
            out[block.target] = tables[block.use].matrix(block.code)[block.source]
        for name, start, stop in self._named:
            out[:, start:stop] = named[name].reshape(rows, stop - start)
        for one in self._strings:
            out[:, one.start] = tables[one.use].column(one.ref.column)


def _blocks(features: Sequence[PlacedFeature], schemas: Sequence[RowSchema]) -> list[_Block]:
    blocks: list[_Block] = []
    for one in features:
        if one.use < 0 or one.type.is_string:
            continue
        slot = schemas[one.use].slots[one.ref.column]
        code, first = slot.type.dtype.str, slot.offset // slot.type.width
        source = slice(first, first + slot.type.elements)
        target = slice(one.start, one.stop)
        before = blocks[-1] if blocks else None
        if (
            before is not None
            and (before.use, before.code) == (one.use, code)
            and (before.source[1].stop, before.target[1].stop) == (source.start, target.start)
        ):
            before.source = ALL_ROWS, slice(before.source[1].start, source.stop)
            before.target = ALL_ROWS, slice(before.target[1].start, target.stop)
        else:
            blocks.append(_Block(one.use, code, (ALL_ROWS, source), (ALL_ROWS, target)))
    return blocks


def _may_overflow(type_: ColumnType, target: np.dtype[Any]) -> bool:
    """Whether a value may be beyond what the target's floats hold."""
    if target == np.float16:
        return type_.kind not in ("bool", "int8", "int16")
    return target == np.float32 and type_.kind == "float64"


def _name(ref: FeatureRef) -> tuple[str, str]:
    return ref.kind, ref.name


def _check_shape(target: ModelInput, width: int) -> None:
    shape = target.shape
    if len(shape) == 1 and width == 1:
        return
    if len(shape) == 2 and shape[1] in (-1, width):
        return
    raise DefinitionError(
        f"the features of input '{target.name}' make {width} values a row; "
        f"the model takes the shape {list(shape)}"
    )


def _check_cast(one: PlacedFeature, target: ModelInput) -> None:
    dtype = DTYPES.get(target.datatype)
    if dtype is None:
        raise DefinitionError(f"features cannot fill {target.datatype} (input '{target.name}')")
    if one.type.is_string or target.datatype == "BYTES":
        fits = one.type.is_string and target.datatype == "BYTES"
    elif one.type.is_float:
        fits = dtype.kind == "f"
    elif one.type.kind == "bool":
        fits = True
    else:  # an integer: exact, or a float that is the model's own choice
        fits = dtype.kind == "f" or np.can_cast(one.type.dtype, dtype, "safe")
    if not fits:
        raise DefinitionError(
            f"feature {one.ref} is {one.type}, and input '{target.name}' of the model is "
            f"{target.datatype}: make them fit with an on-demand feature"
        )
