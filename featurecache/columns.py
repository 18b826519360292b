"""The types of values: how each is written, how wide it lies in a row, and what NumPy and the wire call it.

Decides which types exist. It must never know views, rows or where values come from.
"""

from __future__ import annotations

import re
from math import isfinite, isnan
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.errors import DefinitionError

MAX_VECTOR_LENGTH = 4096
"""Elements; a longer one would be a row that no longer travels in a millisecond."""

_TEXT = re.compile(r"([a-z0-9]+)(?:\[([1-9][0-9]{0,5})\])?")

_KINDS: dict[str, tuple[str, str]] = {
    # name → NumPy's little-endian dtype in a row ("" = in the variable part), Open Inference datatype
    "float32": ("<f4", "FP32"),
    "float64": ("<f8", "FP64"),
    "int8": ("<i1", "INT8"),
    "int16": ("<i2", "INT16"),
    "int32": ("<i4", "INT32"),
    "int64": ("<i8", "INT64"),
    "bool": ("|u1", "BOOL"),
    "timestamp": ("<i8", "INT64"),
    "string": ("", "BYTES"),
}

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_VECTOR_KINDS = ("float32", "float64", "int32", "int64")

Values = npt.NDArray[Any]
"""One value per row (``(rows,)``), or one vector per row (``(rows, length)``)."""


class ColumnType(msgspec.Struct, frozen=True):
    """What one value is: ``float32``, ``string``, ``float32[24]`` …"""

    kind: str
    length: int = 0
    """Elements of a vector; 0 for a single value."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DefinitionError(f"unknown type '{self.kind}'; there are {', '.join(_KINDS)}")
        if self.length and self.kind not in _VECTOR_KINDS:
            raise DefinitionError(f"no vectors of {self.kind}: only of {', '.join(_VECTOR_KINDS)}")
        if not 0 <= self.length <= MAX_VECTOR_LENGTH:
            raise DefinitionError(
                f"a vector of {self.length} elements: 1 to {MAX_VECTOR_LENGTH} are possible"
            )

    def __str__(self) -> str:
        return f"{self.kind}[{self.length}]" if self.length else self.kind

    @property
    def is_string(self) -> bool:
        """Of any length, in the variable part of a row."""
        return self.kind == "string"

    @property
    def is_float(self) -> bool:
        """Has a NaN of its own."""
        return self.kind in ("float32", "float64")

    @property
    def dtype(self) -> np.dtype[Any]:
        """In a row, little-endian; ``object`` for strings (``bytes``)."""
        code = _KINDS[self.kind][0]
        return np.dtype(code) if code else np.dtype(np.object_)

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol's name."""
        return _KINDS[self.kind][1]

    @property
    def width(self) -> int:
        """Bytes of one element in the fixed part of a row; 0 for strings."""
        return 0 if self.is_string else self.dtype.itemsize

    @property
    def elements(self) -> int:
        """Values per row: 1, or the vector's length."""
        return self.length or 1

    def shape(self, rows: int) -> tuple[int, ...]:
        """Of a column of this type."""
        return (rows, self.length) if self.length else (rows,)


def parse_type(text: str) -> ColumnType:
    """``float32[24]`` and its kind; ``DefinitionError`` for anything else."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise DefinitionError(f"'{text}' is no type; write for example float32 or float32[24]")
    return ColumnType(found[1], int(found[2] or 0))


def Vector(element: ColumnType, length: int) -> ColumnType:  # noqa: N802  # reads as a type, beside Float32
    """``length`` elements in each row."""
    if element.length or length < 1:
        raise DefinitionError(
            f"Vector({element}, {length}): one plain type, and at least 1 element"
        )
    return ColumnType(element.kind, length)


Float32 = ColumnType("float32")
Float64 = ColumnType("float64")
Int8 = ColumnType("int8")
Int16 = ColumnType("int16")
Int32 = ColumnType("int32")
Int64 = ColumnType("int64")
Bool = ColumnType("bool")
Timestamp = ColumnType("timestamp")
"""Microseconds since 1970 in UTC."""
String = ColumnType("string")

Default = bool | int | float | str | list[int | float] | None
"""What stands in for a missing value, as JSON holds it."""

MAX_STRING_BYTES = 64 * 1024
"""Of one value, in UTF-8."""


def checked_default(type_: ColumnType, default: Default) -> Default:
    """The default, as JSON can hold it; ``DefinitionError`` when no value of this type looks like it.

    NaN is what floats have without a default, and therefore None.
    """
    if default is None or (type_.is_float and isinstance(default, float) and isnan(default)):
        return None
    if not isinstance(default, list):
        _check_value(type_, default)
        return float(default) if isinstance(default, float) else default
    if not type_.length:
        raise DefinitionError(f"default of {type_} is a list")
    if len(default) != type_.length:
        raise DefinitionError(f"default has {len(default)} elements, {type_} has {type_.length}")
    for value in default:
        _check_value(type_, value)
    return [float(value) if isinstance(value, float) else value for value in default]


def _check_value(type_: ColumnType, value: object) -> None:
    if not _fits(type_, value):
        raise DefinitionError(f"default {_short(value)} is no {type_.kind}")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float) and not isfinite(value):
        raise DefinitionError(f"default {value!r} cannot stand in a manifest; take a finite number")
    elif isinstance(value, float) and type_.kind == "float32" and abs(value) > _FLOAT32_MAX:
        raise DefinitionError(f"default {_short(value)} is too large for a float32")


def _check_text(text: str) -> None:
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise DefinitionError(f"default {_short(text)} is no UTF-8") from None
    if length_bytes > MAX_STRING_BYTES:
        raise DefinitionError(
            f"default of {length_bytes} bytes: at most {MAX_STRING_BYTES} are possible"
        )


def _fits(type_: ColumnType, value: object) -> bool:
    if type_.is_string:
        return isinstance(value, str)
    if type_.kind == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if type_.is_float and isinstance(value, float):
        return True
    if not isinstance(value, int):
        return False
    # An integer beyond 64 bits is a number that JSON's readers disagree about.
    info = np.iinfo(np.int64 if type_.is_float else type_.dtype)
    return bool(info.min <= value <= info.max)


def _short(value: object) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # an integer of thousands of digits
        return "of thousands of digits"
