"""Values as feast's online stores hold them, many at once, into arrays.

Each value is one serialised protobuf ``Value`` with exactly one field set: a tag, then the value. Decides which tags
fill which of our types: those that lose nothing. A number needs no protobuf: values of one tag and one width are
joined and reinterpreted, whole numbers are read as varints side by side. An empty or absent value is a null.
It must never guess: a value of another kind makes its row unreadable, it becomes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.columns import MAX_STRING_BYTES, ColumnType, Values
from featurecache.errors import DefinitionError, RowError

Flags = npt.NDArray[np.bool_]
Raw = bytes | None

NULL_VALUE = b"\x98\x01\x00"
"""Field 19, which says null aloud; feast itself writes nothing at all."""
_STRING = 0x12
_FLOAT, _DOUBLE = 0x35, 0x29
_INT32, _INT64, _BOOL, _UNIX_TIMESTAMP = 0x18, 0x20, 0x38, 0x40
_FIXED: dict[
    str, dict[int, np.dtype[Any]]
] = {  # kind → the tags it may be filled from, with what lies behind each
    "float32": {_FLOAT: np.dtype("<f4")},
    "float64": {_DOUBLE: np.dtype("<f8"), _FLOAT: np.dtype("<f4")},
}
_WHOLE = {  # whole numbers are checked against the range of the column
    "int8": (_INT32, _INT64),
    "int16": (_INT32, _INT64),
    "int32": (_INT32, _INT64),
    "int64": (_INT64, _INT32),
    "bool": (_BOOL,),
    "timestamp": (_UNIX_TIMESTAMP,),
}
_LISTS = {  # kind of the element → tag of the list
    "float32": b"\x82\x01",
    "float64": b"\x7a",
    "int32": b"\x6a",
    "int64": b"\x72",
}
_PACKED = b"\x0a"
MAX_VARINT_BYTES = 10
_US = 1_000_000
_MAX_TIMESTAMP_S = (1 << 63) // _US - 1
_REMEMBERED_EVENT_TIMES = 4096


class Decoded(msgspec.Struct):
    """A run of columns of one type, value after value."""

    values: Values
    """``(n,)`` or, of vectors, ``(n, length)``; zero (``b""``) where there is none."""
    nulls: Flags
    """``(n,)``"""
    unreadable: Flags
    """``(n,)``: another type than the column's, or no ``Value`` at all."""


def check_type(type_: ColumnType) -> None:
    """``DefinitionError`` when feast has nothing that could fill such a column."""
    if type_.length and type_.kind not in _LISTS:
        raise DefinitionError(f"{type_} cannot be read from a feast store")


def decode(type_: ColumnType, raw: Sequence[Raw]) -> Decoded:
    """Values of one type, in the order given."""
    if type_.length:
        return _vectors(type_, raw)
    if type_.is_string:
        return _each(type_, raw, _string)
    whole = _all_of_one_tag(type_, raw)
    if whole is not None:
        return whole
    cut = _Cut(raw)
    return _fixed(type_, cut) if type_.kind in _FIXED else _whole_numbers(type_, cut)


def _all_of_one_tag(type_: ColumnType, raw: Sequence[Raw]) -> Decoded | None:
    """Every value is there and of the column's own float type, as it nearly always is; else None.

    A message that begins with a float's tag is as long as that tag says. So when the tag stands at the first byte
    and at every stride after, each message was one stride long.
    """
    if type_.kind not in _FIXED:
        return None
    tag, dtype = next(iter(_FIXED[type_.kind].items()))
    stride = 1 + dtype.itemsize
    try:
        joined = b"".join(raw)  # type: ignore[arg-type]  # a None among them is what the except is for
    except TypeError:
        return None
    if len(joined) != stride * len(raw):
        return None
    table = np.frombuffer(joined, np.uint8).reshape(-1, stride)
    if not (table[:, 0] == tag).all():
        return None
    values = np.ascontiguousarray(table[:, 1:]).view(dtype)[:, 0]
    no = np.zeros(len(raw), np.bool_)
    return Decoded(values, no, no)


class _Cut:
    """Values of any length, joined, with where each begins."""

    __slots__ = ("bytes", "nulls", "sizes", "starts", "tags")

    def __init__(self, raw: Sequence[Raw]) -> None:
        there = [b"" if one is None or one == NULL_VALUE else one for one in raw]
        joined = b"".join(there) + bytes(
            1 + MAX_VARINT_BYTES
        )  # so that looking ahead never leaves it
        self.bytes = np.frombuffer(joined, np.uint8)
        self.sizes = np.fromiter(map(len, there), np.int64, len(there))
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.nulls: Flags = self.sizes == 0
        self.tags = np.where(self.nulls, 0, self.bytes[self.starts])

    def after_tag(self, which: Flags, width: int) -> npt.NDArray[np.uint8]:
        """``(n, width)``: the bytes behind the tags of some values."""
        taken: npt.NDArray[np.uint8] = self.bytes[
            self.starts[which, None] + np.arange(1, 1 + width)
        ]
        return taken


def _fixed(type_: ColumnType, cut: _Cut) -> Decoded:
    values = np.zeros(len(cut.sizes), type_.dtype)
    readable = cut.nulls.copy()
    for tag, dtype in _FIXED[type_.kind].items():
        these = (cut.tags == tag) & (cut.sizes == 1 + dtype.itemsize)
        values[these] = cut.after_tag(these, dtype.itemsize).view(dtype)[:, 0]
        readable |= these
    return Decoded(values, cut.nulls, ~readable)


def _whole_numbers(type_: ColumnType, cut: _Cut) -> Decoded:
    values = np.zeros(len(cut.sizes), type_.dtype)
    these = np.isin(cut.tags, _WHOLE[type_.kind])
    these &= (cut.sizes >= 2) & (cut.sizes <= 1 + MAX_VARINT_BYTES)
    numbers, lengths = _varints(cut.after_tag(these, MAX_VARINT_BYTES))
    sound = (lengths == cut.sizes[these] - 1) & _in_range(type_, numbers)
    these[these] = sound
    numbers = numbers[sound]
    values[these] = numbers * _US if type_.kind == "timestamp" else numbers
    return Decoded(values, cut.nulls, ~(these | cut.nulls))


def _in_range(type_: ColumnType, numbers: npt.NDArray[np.int64]) -> Flags:
    if type_.kind == "bool":
        low, high = 0, 1
    elif type_.kind == "timestamp":
        low, high = -_MAX_TIMESTAMP_S, _MAX_TIMESTAMP_S
    else:
        low, high = int(np.iinfo(type_.dtype).min), int(np.iinfo(type_.dtype).max)
    fits: Flags = (numbers >= low) & (numbers <= high)
    return fits


def _varints(table: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The number at the start of each line of ``(n, 10)`` and how many bytes it takes; 0 for one without an end."""
    goes_on = table >= 0x80
    before_end = np.logical_and.accumulate(goes_on, axis=1)
    lengths = before_end.sum(axis=1) + 1
    lengths[lengths > MAX_VARINT_BYTES] = 0
    counts = np.ones_like(before_end)
    counts[:, 1:] = before_end[:, :-1]
    shifts = np.arange(0, 7 * MAX_VARINT_BYTES, 7, dtype=np.uint64)
    parts = np.where(counts, table & 0x7F, 0).astype(np.uint64) << shifts
    return np.bitwise_or.reduce(parts, axis=1).view(np.int64), lengths


def _each(type_: ColumnType, raw: Sequence[Raw], read: Callable[[bytes], Any]) -> Decoded:
    """One by one: strings, and vectors of whole numbers."""
    n = len(raw)
    values: Values = np.zeros(type_.shape(n), type_.dtype)
    if type_.is_string:
        values.fill(b"")
    nulls, unreadable = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for i, one in enumerate(raw):
        if not one or one == NULL_VALUE:
            nulls[i] = True
            continue
        try:
            values[i] = read(one)
        except (ValueError, IndexError, OverflowError, RowError):
            unreadable[i] = True
    return Decoded(values, nulls, unreadable)


def _string(raw: bytes) -> bytes:
    """``bytes`` in UTF-8, as rows hold strings."""
    if raw[0] != _STRING:
        raise RowError("no string")
    size, at = varint(raw, 1)
    if size != len(raw) - at or size > MAX_STRING_BYTES:
        raise RowError("a string that was cut, or is too long for a row")
    return raw[at:]


def _vectors(type_: ColumnType, raw: Sequence[Raw]) -> Decoded:
    if type_.is_float:
        head = _list_head(type_)
        whole = len(head) + type_.width * type_.length
        dtype = type_.dtype

        def read_floats(one: bytes) -> Values:
            if len(one) != whole or not one.startswith(head):
                raise RowError("another list")
            return np.frombuffer(one, dtype, offset=len(head))

        return _each(type_, raw, read_floats)
    return _each(type_, raw, lambda one: _whole_number_list(type_, one))


def _list_head(type_: ColumnType) -> bytes:
    """What stands before the numbers of every list of so many floats."""
    content = type_.width * type_.length
    inner = _PACKED + to_varint(content)
    return _LISTS[type_.kind] + to_varint(len(inner) + content) + inner


def _whole_number_list(type_: ColumnType, raw: bytes) -> list[int]:
    tag = _LISTS[type_.kind]
    if not raw.startswith(tag):
        raise RowError("another list")
    size, at = varint(raw, len(tag))
    if size != len(raw) - at or raw[at : at + 1] != _PACKED:
        raise RowError("a list that was cut")
    size, at = varint(raw, at + 1)
    numbers: list[int] = []
    while at < len(raw):
        number, at = varint(raw, at)
        numbers.append(number - (1 << 64) if number >> 63 else number)
    if len(numbers) != type_.length:
        raise RowError(f"a list of {len(numbers)}")
    return numbers


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at a position, and the position behind it; ``RowError`` where there is none."""
    number = shift = 0
    for i in range(at, min(at + MAX_VARINT_BYTES, len(raw))):
        number |= (raw[i] & 0x7F) << shift
        if raw[i] < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, i + 1
        shift += 7
    raise RowError("a number that was cut")


def to_varint(number: int) -> bytes:
    """An unsigned number as protobuf writes it."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@lru_cache(maxsize=_REMEMBERED_EVENT_TIMES)  # rows of one load share their moments
def event_time_us(raw: bytes) -> int:
    """A protobuf ``Timestamp`` in microseconds since 1970, parts of one cut off; ``RowError`` for anything else."""
    seconds = nanos = at = 0
    while at < len(raw):
        field, at = raw[at], at + 1
        number, at = varint(raw, at)
        if field == 0x08:
            seconds = number - (1 << 64) if number >> 63 else number
        elif field == 0x10:
            nanos = number
        else:
            raise RowError("no timestamp")
    if abs(seconds) > _MAX_TIMESTAMP_S or nanos >= 1_000_000_000:
        raise RowError("a timestamp that no row can hold")
    return seconds * _US + nanos // 1000
