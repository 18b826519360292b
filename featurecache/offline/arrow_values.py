"""Columns of declared types as the Arrow columns of a training set.

Decides what stands in its file. The other direction is ``arrow_columns``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from featurecache.columns import ColumnType, Values
from featurecache.errors import RowError

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
