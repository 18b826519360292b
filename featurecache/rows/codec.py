"""Columns of values to packed rows, and back, without a Python object per value.

Decides how values lie at the places that ``schema.py`` fixes, and how a row of an older schema is read today. It must
never decide what a missing or old value means: ``resolve.py`` does. Strings are the slow path: one object each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import starmap
from struct import Struct
from zlib import crc32

import numpy as np
import numpy.typing as npt

from featurecache.columns import MAX_STRING_BYTES, ColumnType, Default, Values
from featurecache.errors import RowError
from featurecache.rows.schema import CHECKSUM_BYTES, HEADER_BYTES, RowSchema, Slot, head_of, padded

RESIDUE = 0x2144DF1C
"""CRC32 of anything that ends with its own CRC32: a sound row, whatever its length."""

SHORTEST_ROW_BYTES = 40
"""Header, a bitmap, one byte of a column and the checksum, padded."""

EVENT, WRITE = 1, 2
"""Where the times stand in a row seen as 8-byte integers."""

_U32 = Struct("<I")
_DTYPES = {
    code: np.dtype(code) for code in ("<f4", "<f8", "<i8", "<i4", "<i2", "|i1", "|u1", "<u4")
}
Mask = npt.NDArray[np.bool_]
Block = npt.NDArray[np.uint8]


class RowTable:
    """Rows of one schema, side by side; columns are views of their bytes."""

    __slots__ = ("_data", "_matrices", "_replaced", "_rows", "_schema", "_stride")

    def __init__(self, schema: RowSchema, rows: Sequence[bytes]) -> None:
        """``rows`` must all be of ``schema``; ``RowCodec.sort`` sees to that."""
        self._schema = schema
        self._rows = rows
        self._stride = schema.row_bytes
        self._data: bytes | bytearray
        self._replaced: dict[str, Values] | None = None
        if schema.is_fixed:
            self._data = b"".join(rows) if len(rows) != 1 else rows[0]
        else:
            self._data = b"".join([row[: self._stride] for row in rows])
        self._matrices: dict[str, Values] = {}

    def matrix(self, code: str) -> Values:
        """The rows as ``(rows, n)`` elements of one dtype, such as ``<f4``; a column is some of its columns."""
        matrix = self._matrices.get(code)
        if matrix is None:
            dtype = _DTYPES[code]
            shape = len(self._rows), self._stride // dtype.itemsize
            matrix = self._matrices[code] = np.ndarray(shape, dtype, self._data)
        return matrix

    @property
    def event_us(self) -> npt.NDArray[np.int64]:
        """Event times, in µs since 1970."""
        return self.matrix("<i8")[:, EVENT]

    @property
    def write_us(self) -> npt.NDArray[np.int64]:
        """Write times, in µs since 1970."""
        return self.matrix("<i8")[:, WRITE]

    @property
    def any_null(self) -> bool:
        """Whether any value in any row is null."""
        start = HEADER_BYTES // 8
        end = start + self._schema.bitmap_bytes // 8
        return bool(self.matrix("<i8")[:, start:end].any())

    def nulls(self, name: str) -> Mask:
        """Which values of a column are null: ``(rows,)``."""
        bit = self._schema.slots[name].bit
        bits = self.matrix("|u1")[:, HEADER_BYTES + bit // 8]
        return (bits >> (bit % 8) & 1).astype(np.bool_)

    def column(self, name: str) -> Values:
        """Values of a column: ``(rows,)`` or ``(rows, n)``; ``bytes`` objects for strings. Nulls are NaN, 0 or b""."""
        slot = self._schema.slots[name]
        if slot.type.is_string:
            return self._strings(slot)
        width, start = slot.type.width, slot.offset // slot.type.width
        matrix = self.matrix(slot.type.dtype.str)
        assert slot.offset % width == 0
        if slot.type.length:
            return matrix[:, start : start + slot.type.length]
        return matrix[:, start]

    def replace(self, name: str, where: Mask, value: Default) -> None:
        """Another value at some places of a column; the rows themselves stay as they are."""
        slot = self._schema.slots[name]
        if slot.type.is_string:
            column = self._strings(slot).copy()
            column[where] = str(value).encode()
            self._replaced = {**(self._replaced or {}), name: column}
            return
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
            self._matrices.clear()
        self.column(name)[where] = value

    def _strings(self, slot: Slot) -> Values:
        if self._replaced is not None and slot.name in self._replaced:
            return self._replaced[slot.name]
        end = self._schema.fixed_bytes
        first = (end - 4 * (len(self._schema.strings) + 1)) // 4 + slot.offset
        places = self.matrix("<u4")[:, first : first + 2].tolist()
        found = np.empty(len(self._rows), np.object_)
        found[:] = [
            row[end + start : end + stop]
            for row, (start, stop) in zip(self._rows, places, strict=True)
        ]
        return found


class RowCodec:
    """Writes rows of one schema, reads those and rows of the schemas before it."""

    def __init__(
        self,
        schema: RowSchema,
        older: Sequence[RowSchema] = (),
        defaults: Mapping[str, Default] | None = None,
    ) -> None:
        self.schema = schema
        self._older = {one.head: one for one in older}
        self._defaults = dict.fromkeys(schema.slots) | dict(defaults or {})

    # -- writing --------------------------------------------------------------------------------------

    def encode(
        self,
        columns: Mapping[str, Values],
        nulls: Mapping[str, Mask],
        event_us: npt.NDArray[np.int64],
        write_us: int | npt.NDArray[np.int64],
    ) -> list[bytes]:
        """One row for each place of ``event_us``.

        ``columns``: by name, of the schema's dtypes and shapes; strings as objects, ``bytes`` or ``str``. ``nulls``: by
        name, True where there is no value; a column that is not in it has none.
        """
        block = self._filled(columns, nulls, event_us, write_us)
        if not self.schema.is_fixed:
            return self._with_strings(block, columns, nulls)
        whole = Struct(f"{self.schema.row_bytes}s")
        return [row for (row,) in whole.iter_unpack(_sealed(block).data)]

    def encode_block(
        self,
        columns: Mapping[str, Values],
        nulls: Mapping[str, Mask],
        event_us: npt.NDArray[np.int64],
        write_us: int | npt.NDArray[np.int64],
    ) -> Block:
        """The same rows side by side, ``(rows, row_bytes)``, of a schema without strings: no object per row."""
        assert self.schema.is_fixed, "rows with strings differ in length"
        return _sealed(self._filled(columns, nulls, event_us, write_us))

    def _filled(
        self,
        columns: Mapping[str, Values],
        nulls: Mapping[str, Mask],
        event_us: npt.NDArray[np.int64],
        write_us: int | npt.NDArray[np.int64],
    ) -> Block:
        """Rows without their strings and checksums."""
        schema, rows = self.schema, len(event_us)
        block = np.zeros((rows, schema.row_bytes), np.uint8)
        block[:, :8] = np.frombuffer(schema.head, np.uint8)
        as_times = block.view("<i8")
        as_times[:, EVENT] = event_us
        as_times[:, WRITE] = write_us
        for name, mask in nulls.items():
            bit = schema.slots[name].bit
            block[:, HEADER_BYTES + bit // 8] |= mask.astype(np.uint8) << (bit % 8)
        for name, slot in schema.slots.items():
            if slot.type.is_string:
                continue
            start = slot.offset // slot.type.width
            target = block.view(slot.type.dtype)[:, start : start + slot.type.elements]
            target[:] = np.reshape(columns[name], (rows, slot.type.elements))
            mask_ = nulls.get(name)
            if mask_ is not None:
                target[mask_] = np.nan if slot.type.is_float else 0
        return block

    def _with_strings(
        self, block: Block, columns: Mapping[str, Values], nulls: Mapping[str, Mask]
    ) -> list[bytes]:
        schema, rows = self.schema, len(block)
        texts: list[list[bytes]] = []
        for slot in schema.strings:
            empty = nulls.get(slot.name)
            listed = [_text(one) for one in columns[slot.name]]
            if empty is not None:
                listed = [
                    b"" if null else one for one, null in zip(listed, empty.tolist(), strict=True)
                ]
            texts.append(listed)
        places = np.zeros((rows, len(texts) + 1), np.uint32)
        for i, listed in enumerate(texts):
            places[:, i + 1] = list(map(len, listed))
        np.cumsum(places, axis=1, out=places)
        end = schema.fixed_bytes
        block[:, end - 4 * places.shape[1] : end] = np.ascontiguousarray(places).view(np.uint8)
        sealed = []
        for start, pieces in zip(block[:, :end], zip(*texts, strict=True), strict=True):
            content = start.tobytes() + b"".join(pieces)
            content += bytes(padded(len(content)) - CHECKSUM_BYTES - len(content))
            sealed.append(content + _U32.pack(crc32(content)))
        return sealed

    @cached_property
    def default_row(self) -> bytes:
        """What stands in for a row that cannot be used: every default, NaN for floats without, else 0 and ""."""
        columns: dict[str, Values] = {}
        for name, slot in self.schema.slots.items():
            columns[name] = default_column(slot.type, self._defaults[name], 1)
        return self.encode(columns, {}, np.zeros(1, np.int64), 0)[0]

    # -- reading --------------------------------------------------------------------------------------

    def reads(self, row: bytes) -> bool:
        """Whether a sound row is of this schema or of one before it."""
        head = row[:8]
        schema = self.schema if head == self.schema.head else self._older.get(head)
        return schema is not None and schema.may_have(len(row))

    def renew(self, rows: Sequence[bytes]) -> list[bytes]:
        """The same rows, those of older schemas rewritten to today's; columns that they lack get their defaults, or are
        null when they have none.

        Every row must pass ``reads``.
        """
        renewed = list(rows)
        head = self.schema.head
        groups: dict[bytes, list[int]] = {}
        for i, row in enumerate(rows):
            if row[:8] != head:
                groups.setdefault(row[:8], []).append(i)
        for group, places in groups.items():
            table = RowTable(self._older[group], [rows[i] for i in places])
            for i, row in zip(places, self._renewed(self._older[group], table), strict=True):
                renewed[i] = row
        return renewed

    def _renewed(self, old: RowSchema, table: RowTable) -> list[bytes]:
        columns: dict[str, Values] = {}
        nulls: dict[str, Mask] = {}
        count = len(table.event_us)
        for name, slot in self.schema.slots.items():
            before = old.slots.get(name)
            if before is not None and before.type == slot.type:
                columns[name] = table.column(name)
                nulls[name] = table.nulls(name)
            else:
                default = self._defaults[name]
                columns[name] = default_column(slot.type, default, count)
                if default is None and not slot.type.is_float:  # nothing may be made up
                    nulls[name] = np.ones(count, np.bool_)
        return self.encode(columns, nulls, table.event_us, table.write_us)

    def table(self, rows: Sequence[bytes]) -> RowTable:
        """Rows of today's schema, to be read by column."""
        return RowTable(self.schema, rows)


def default_column(type_: ColumnType, default: Default, rows: int) -> Values:
    """A column full of defaults: NaN for floats that have none, else zeros and empty strings."""
    if type_.is_string:
        filled = np.empty(rows, np.object_)
        filled[:] = str(default or "").encode()
        return filled
    column = np.zeros(type_.shape(rows), type_.dtype)
    if default is not None:
        column[...] = default
    elif type_.is_float:
        column[...] = np.nan
    return column


def is_sound(row: bytes) -> bool:
    """Whether a row arrived as it was written."""
    return len(row) >= SHORTEST_ROW_BYTES and crc32(row) == RESIDUE


def explain(row: bytes) -> str:
    """Why a row cannot be read, for people; "" when it is sound."""
    if len(row) < SHORTEST_ROW_BYTES or len(row) % 8:
        return f"{len(row)} bytes: too short, or cut off"
    version, _, _, schema = head_of(row)
    if crc32(row) != RESIDUE:
        return f"the checksum does not match (format {version}, schema {schema:08x})"
    return ""


def _sealed(block: Block) -> Block:
    """The block, with its rows' checksums filled in."""
    rows, stride = block.shape
    # Of the ways to cut bytes this makes the fewest objects per row.
    contents = Struct(f"{stride - CHECKSUM_BYTES}s{CHECKSUM_BYTES}x").iter_unpack(block.data)
    block.view("<u4")[:, -1] = np.fromiter(starmap(crc32, contents), np.uint32, rows)
    return block


def _text(value: object) -> bytes:
    text = value.encode() if isinstance(value, str) else b"" if value is None else value
    if not isinstance(text, bytes):
        raise RowError(f"{value!r} is no string")
    if len(text) > MAX_STRING_BYTES:
        raise RowError(f"a string of {len(text)} bytes: at most {MAX_STRING_BYTES} are possible")
    return text
