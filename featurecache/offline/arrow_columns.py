"""Columns of Arrow data to columns of features: which types may become which, and which values may not.

Widening is always possible; narrowing only as long as every value survives: an integer must fit, a double may lose
digits in a float32 but not become infinite. Anything else is refused, with what to do. Loads and training sets both
read here, so that their values are equal bit for bit. It must never change a value silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurecache.columns import MAX_STRING_BYTES, ColumnType, Values
from featurecache.errors import RowError

Mask: TypeAlias = npt.NDArray[np.bool_]

_INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_FLOATS = {"halffloat": 16, "float": 32, "double": 64}
_EXACT = {"float32": 2**24, "float64": 2**53}
"""Up to here every integer has its own float."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MICROSECONDS = 1_000_000
LATEST_US = 2**53


class Read(msgspec.Struct):
    """A column as rows are made of. What is bad or null holds some value of the type."""

    values: Values
    nulls: Mask | None = None
    bad: Mask | None = None
    reason: str = ""
    """What is wrong where ``bad`` is."""


class ColumnReader(msgspec.Struct, frozen=True):
    """How Arrow data of one type become one column."""

    read: Callable[[Any], Read]
    limits: tuple[float, float] | None = None
    """Values between these are sound, so that the file's own statistics can vouch for them."""
    is_safe: bool = False
    """No value can be bad."""


def reader_of(type_: ColumnType, arrow: Any, what: str) -> ColumnReader:
    """How a column ``what`` of Arrow type ``arrow`` is read; ``RowError`` when it cannot be ``type_``."""
    if pa.types.is_null(arrow):
        raise RowError(f"{what} has only nulls and no type; write it as {type_}")
    if type_.length:
        return _vector_reader(type_, arrow, what)
    if pa.types.is_dictionary(arrow):
        plain = reader_of(type_, arrow.value_type, what)
        return ColumnReader(
            lambda array: plain.read(array.dictionary_decode()), is_safe=plain.is_safe
        )
    if type_.is_string:
        if not _is_text(arrow):
            raise RowError(f"{what} is {arrow}, not a string; convert it")
        return ColumnReader(_read_strings)
    if type_.kind == "bool":
        if not pa.types.is_boolean(arrow):
            raise RowError(f"{what} is {arrow}, not a boolean; convert it")
        return ColumnReader(_read_booleans, is_safe=True)
    if type_.kind == "timestamp":
        if pa.types.is_timestamp(arrow):
            return ColumnReader(_moment_reader(arrow.unit))
        if arrow == pa.int64():
            return ColumnReader(_plain, is_safe=True)
        raise RowError(f"{what} is {arrow}; a timestamp, or int64 with microseconds since 1970")
    return _number_reader(type_, arrow, what)


def read_column(type_: ColumnType, array: Any) -> tuple[Values, Mask]:
    """The values, ``(rows,)`` or ``(rows, n)``, and which are null (NaN, 0 or b"" stands there).

    Raises ``RowError`` for a column, or any value of it, that cannot be ``type_``.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    found = reader_of(type_, array.type, "the column").read(array)
    if found.bad is not None and found.bad.any():
        raise RowError(f"a value is {found.reason}")
    if found.nulls is None:
        return found.values, np.zeros(len(array), np.bool_)
    values = found.values
    if type_.is_float:
        values = values.copy()
        values[found.nulls] = np.nan
    return values, found.nulls


def is_binary(arrow: Any) -> bool:
    """Whether strings are written as plain bytes."""
    kinds, arrow = pa.types, _undictionaried(arrow)
    return bool(kinds.is_binary(arrow) or kinds.is_large_binary(arrow))


def may_mix(one: Any, other: Any) -> bool:
    """Whether columns of two Arrow types can be read as one of the wider type, and no sound value is lost."""
    kinds = pa.types
    one, other = _undictionaried(one), _undictionaried(other)
    if one == other:
        return True
    if kinds.is_timestamp(one):
        # Beside times with a zone, times without one are UTC perhaps, or a mistake perhaps.
        return kinds.is_timestamp(other) and (one.tz is None) == (other.tz is None)
    if _is_text(one):
        # Joins read bytes beside text as escapes.
        return _is_text(other) and is_binary(one) == is_binary(other)
    if _is_list(one):
        return _is_list(other) and may_mix(one.value_type, other.value_type)
    if kinds.is_integer(one) and kinds.is_integer(other):
        return pa.uint64() not in (one, other)
    numbers = all(kinds.is_integer(each) or kinds.is_floating(each) for each in (one, other))
    floats = kinds.is_floating(one) and kinds.is_floating(other)
    # An integer beside a single-precision float would be rounded to it, whatever was declared.
    return numbers and (floats or pa.float64() in (one, other))


def mixed(one: Any, other: Any) -> Any:
    """Of two types that may mix the one that the other becomes."""
    one, other = _undictionaried(one), _undictionaried(other)
    if pa.types.is_timestamp(one):
        return other if _PER_SECOND[other.unit] > _PER_SECOND[one.unit] else one
    if _is_list(one):
        return pa.list_(mixed(one.value_type, other.value_type))
    if _is_text(one):
        return one
    if pa.types.is_floating(one) != pa.types.is_floating(other):
        return other if pa.types.is_floating(other) else one
    return other if other.bit_width > one.bit_width else one


def _number_reader(type_: ColumnType, arrow: Any, what: str) -> ColumnReader:
    source = str(arrow)
    target = type_.dtype
    if type_.is_float:
        bits = _FLOATS.get(source)
        if bits is not None and bits <= 8 * target.itemsize:
            return ColumnReader(_converting(target), is_safe=True)
        if bits is not None:
            most = float(np.finfo(target).max)
            return ColumnReader(
                _limited(target, -most, most, f"too large for {type_}"), limits=(-most, most)
            )
        if source in _INTEGERS:
            most = _EXACT[type_.kind]
            return _integer_reader(source, type_, -most, most, f"not exact as {type_}")
    elif source in _INTEGERS:
        info = np.iinfo(target)
        return _integer_reader(source, type_, int(info.min), int(info.max), f"no {type_}")
    hint = f"convert it to {type_}"
    if source in _FLOATS:
        hint += " (pandas makes integers with missing values double: use its dtype 'Int64')"
    raise RowError(f"{what} is {arrow} and cannot be {type_} safely; {hint}")


def _integer_reader(
    source: str, type_: ColumnType, least: int, most: int, reason: str
) -> ColumnReader:
    info = np.iinfo(source)
    if least <= int(info.min) and int(info.max) <= most:
        return ColumnReader(_converting(type_.dtype), is_safe=True)
    # Limits beyond what the source holds say nothing, and NumPy would not compare with them.
    least, most = max(least, int(info.min)), min(most, int(info.max))
    return ColumnReader(_limited(type_.dtype, least, most, reason), limits=(least, most))


def _plain(array: Any) -> Read:
    nulls = _nulls(array)
    filled = array.fill_null(0) if nulls is not None else array
    return Read(filled.to_numpy(zero_copy_only=False), nulls)


def _converting(target: np.dtype[Any]) -> Callable[[Any], Read]:
    def read(array: Any) -> Read:
        found = _plain(array)
        found.values = found.values.astype(target, copy=False)
        return found

    return read


def _limited(
    target: np.dtype[Any], least: float, most: float, reason: str
) -> Callable[[Any], Read]:
    def read(array: Any) -> Read:
        found = _plain(array)
        values = found.values
        bad = (values < least) | (values > most)
        if values.dtype.kind == "f":
            bad &= np.isfinite(values)  # infinity stays what it is, and so does NaN
        if bad.any():
            values = np.where(bad, 0, values)
            found.bad, found.reason = bad, reason
        found.values = values.astype(target)
        return found

    return read


def _read_booleans(array: Any) -> Read:
    nulls = _nulls(array)
    filled = array.fill_null(False) if nulls is not None else array
    return Read(filled.to_numpy(zero_copy_only=False).astype(np.uint8), nulls)


def _moment_reader(unit: str) -> Callable[[Any], Read]:
    per_second = _PER_SECOND[unit]

    def read(array: Any) -> Read:
        found = _plain(array.view(pa.int64()))
        most = LATEST_US * per_second // _MICROSECONDS
        # Of nanoseconds the most is beyond what 64 bits hold: all are sound.
        if most < 2**63:
            bad = (found.values > most) | (found.values < -most)
            if bad.any():
                found.values = np.where(bad, 0, found.values)
                found.bad, found.reason = bad, "a time before 1684 or after 2255"
        found.values = (
            found.values // (per_second // _MICROSECONDS)
            if per_second > _MICROSECONDS
            else found.values * (_MICROSECONDS // per_second)
        )
        return found

    return read


def _is_text(arrow: Any) -> bool:
    kinds = pa.types
    return bool(
        kinds.is_string(arrow)
        or kinds.is_large_string(arrow)
        or kinds.is_string_view(arrow)
        or kinds.is_binary(arrow)
        or kinds.is_large_binary(arrow)
    )


def _is_list(arrow: Any) -> bool:
    kinds = pa.types
    return bool(
        kinds.is_list(arrow) or kinds.is_large_list(arrow) or kinds.is_fixed_size_list(arrow)
    )


def _undictionaried(arrow: Any) -> Any:
    return arrow.value_type if pa.types.is_dictionary(arrow) else arrow


def _read_strings(array: Any) -> Read:
    nulls = _nulls(array)
    raw = array.cast(pa.large_binary())
    longest = pc.max(pc.binary_length(raw)).as_py() or 0
    values = raw.to_numpy(zero_copy_only=False)
    if nulls is not None:
        values[nulls] = b""
    found = Read(values, nulls)
    try:
        raw.cast(pa.large_string())  # looks at every byte
        if longest <= MAX_STRING_BYTES:
            return found
    except pa.ArrowInvalid:
        pass
    found.bad = np.fromiter(map(_is_bad_text, values), np.bool_, len(values))
    found.reason = f"not UTF-8, or longer than {MAX_STRING_BYTES} bytes"
    return found


def _is_bad_text(value: bytes) -> bool:
    if len(value) > MAX_STRING_BYTES:
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return True
    return False


def _vector_reader(type_: ColumnType, arrow: Any, what: str) -> ColumnReader:
    kinds = pa.types
    if not _is_list(arrow):
        raise RowError(f"{what} is {arrow}; {type_} needs a list of {type_.length} numbers")
    element = reader_of(ColumnType(type_.kind), arrow.value_type, f"{what}, its elements")

    def read(array: Any) -> Read:
        rows, length = len(array), type_.length
        nulls = _nulls(array)
        lengths = pc.fill_null(pc.list_value_length(array), length).to_numpy(zero_copy_only=False)
        bad = lengths != length
        skipped = bad if nulls is None else bad | nulls
        kept = array.filter(pa.array(~skipped)) if skipped.any() else array
        inner = element.read(kept.flatten())
        values = np.zeros((rows, length), type_.dtype)
        values[~skipped] = inner.values.reshape(-1, length)
        for flaw in (inner.bad, None if type_.is_float else inner.nulls):
            if flaw is not None:
                bad[~skipped] |= flaw.reshape(-1, length).any(axis=1)
        if type_.is_float and inner.nulls is not None:
            holes = np.zeros((rows, length), np.bool_)
            holes[~skipped] = inner.nulls.reshape(-1, length)
            values[holes] = np.nan
        reason = f"not {length} sound elements"
        return Read(values, nulls, bad if bad.any() else None, reason)

    is_safe = kinds.is_fixed_size_list(arrow) and arrow.list_size == type_.length
    return ColumnReader(read, is_safe=is_safe and element.is_safe and type_.is_float)


def _nulls(array: Any) -> Mask | None:
    if not array.null_count:
        return None
    found: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return found
