"""Arrow columns as NumPy columns of declared types, and back.

Decides how a value of a Parquet file becomes a value of the declared type: floats are rounded to it, integers must
fit, strings become UTF-8 bytes, times become microseconds. What it cannot turn it refuses, never guesses.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurecache.columns import ColumnType, Values
from featurecache.errors import RowError

Mask = npt.NDArray[np.bool_]
Array: TypeAlias = Any
"""A ``pyarrow.Array``, whose element type only its data knows."""

_ARROW: dict[str, Any] = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
    "string": pa.string(),
}


def arrow_type(type_: ColumnType) -> pa.DataType:
    """What a training set's column of this type is."""
    element = _ARROW[type_.kind]
    return pa.list_(element, type_.length) if type_.length else element


def to_values(type_: ColumnType, array: Array) -> tuple[Values, Mask]:
    """The values, ``(rows,)`` or ``(rows, n)``, and which are null (NaN, 0 or b"" stands there).

    Raises ``RowError`` for an integer that does not fit and for a vector of another length.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    nulls = np.asarray(array.is_null().to_numpy(zero_copy_only=False), np.bool_)
    if type_.length:
        return _vectors(type_, array, nulls), nulls
    return _singles(type_, array), nulls


def _singles(type_: ColumnType, array: Array) -> Values:
    gap: Any
    if type_.is_string:
        array, gap = array.cast(pa.string()).cast(pa.binary()), b""
    elif type_.kind == "bool":
        array, gap = array.cast(pa.uint8()), 0
    elif type_.kind == "timestamp":
        unit = pa.timestamp("us", array.type.tz)
        array, gap = array.cast(unit, safe=False).cast(pa.int64()), 0
    elif type_.is_float:
        array, gap = array.cast(_ARROW[type_.kind], safe=False), float("nan")
    else:
        try:
            array, gap = array.cast(_ARROW[type_.kind]), 0
        except pa.ArrowInvalid as error:
            raise RowError(f"a value is no {type_}: {error}") from None
    if array.null_count:
        array = array.fill_null(gap)
    values: Values = array.to_numpy(zero_copy_only=False)
    return values


def _vectors(type_: ColumnType, array: Array, nulls: Mask) -> Values:
    lengths = pc.list_value_length(array).drop_null().unique().to_pylist()
    wrong = [one for one in lengths if one != type_.length]
    if wrong:
        raise RowError(f"a vector has {wrong[0]} elements, and {type_} has {type_.length}")
    flat = array.drop_null().flatten()
    element = ColumnType(type_.kind)
    if flat.null_count and not element.is_float:
        raise RowError(f"an element of a vector is null, which {type_} does not hold")
    found = _singles(element, flat).reshape(-1, type_.length)
    if not nulls.any():
        return found
    values = np.full(type_.shape(len(array)), np.nan if element.is_float else 0, dtype=type_.dtype)
    values[~nulls] = found
    return values


def to_arrow(type_: ColumnType, values: Values) -> Array:
    """A column of a training set; ``RowError`` for a string that is not UTF-8."""
    if type_.is_string:
        texts = pa.array(values.tolist(), pa.binary())
        try:
            return texts.cast(pa.string())
        except pa.ArrowInvalid:
            raise RowError("a string is not UTF-8") from None
    if type_.kind == "bool":
        return pa.array(np.ascontiguousarray(values).view(np.bool_))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if type_.kind == "timestamp":
        return flat.cast(_ARROW["timestamp"])
    if type_.length:
        return pa.FixedSizeListArray.from_arrays(flat, type_.length)
    return flat
