"""Where each column lies in a packed row.

The layout, little-endian: format version (u8), flags (u8), header length (u16), schema id (u32), event time and write
time (i64, µs since 1970), null bitmap (one bit a column, padded to 8 bytes), columns by falling width, then for
strings u32 offsets and their bytes, padding, and a CRC32 of all before. Every row is a multiple of 8 bytes long, so
that many rows, joined, are one aligned matrix.

Decides positions and the schema id. It must never touch values: ``codec.py`` does. Rows outlive releases: a change
here needs a new format version.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from featurecache.columns import ColumnType
from featurecache.errors import DefinitionError

FORMAT_VERSION = 1
HAS_BITMAP, HAS_VARIABLE_PART, HAS_CHECKSUM = 1, 2, 4
HEADER_BYTES = 24
CHECKSUM_BYTES = 4
MAX_COLUMNS = 1024
MAX_FIXED_BYTES = 60_000
"""Of a row without its strings; an advice long before: split views above 4 KB."""

_HEAD = struct.Struct("<BBHI")


class Slot:
    """Where one column lies."""

    __slots__ = ("bit", "index", "name", "offset", "type")

    def __init__(self, name: str, type_: ColumnType, index: int) -> None:
        self.name = name
        self.type = type_
        self.index = index
        """In the schema's order."""
        self.bit = index
        """In the null bitmap: byte ``bit // 8``, value ``1 << bit % 8``."""
        self.offset = 0
        """Bytes from the row's start; of a string, of its place among the strings."""


class RowSchema:
    """Ordered typed columns and the layout that follows from them."""

    __slots__ = (
        "bitmap_bytes",
        "columns",
        "fixed_bytes",
        "head",
        "id",
        "is_fixed",
        "row_bytes",
        "slots",
        "strings",
    )

    def __init__(self, columns: Sequence[tuple[str, ColumnType]]) -> None:
        if not 0 < len(columns) <= MAX_COLUMNS:
            raise DefinitionError(f"{len(columns)} columns: a view has 1 to {MAX_COLUMNS}")
        self.columns = tuple(columns)
        self.id = schema_id(columns)
        self.slots = {name: Slot(name, type_, i) for i, (name, type_) in enumerate(columns)}
        if len(self.slots) != len(columns):
            raise DefinitionError("a column name stands twice")
        self.strings = [slot for slot in self.slots.values() if slot.type.is_string]
        self.bitmap_bytes = -(-len(columns) // 64) * 8
        end = HEADER_BYTES + self.bitmap_bytes
        for width in (8, 4, 2, 1):
            for slot in self.slots.values():
                if slot.type.width == width:
                    slot.offset = end
                    end += width * slot.type.elements
        for place, slot in enumerate(self.strings):
            slot.offset = place
        self.is_fixed = not self.strings
        if self.strings:
            end = -(-end // 4) * 4 + 4 * (len(self.strings) + 1)
        self.fixed_bytes = end
        """Up to the strings' own bytes; the offsets of strings are the last of it."""
        if end > MAX_FIXED_BYTES:
            raise DefinitionError(
                f"a row of {end} bytes: at most {MAX_FIXED_BYTES}; split the view"
            )
        self.row_bytes = padded(end)
        """Of the whole row when it has no strings; the least otherwise."""
        flags = HAS_BITMAP | HAS_CHECKSUM | (HAS_VARIABLE_PART if self.strings else 0)
        self.head = _HEAD.pack(FORMAT_VERSION, flags, HEADER_BYTES, self.id)
        """The first 8 bytes of every row of this schema."""

    def may_have(self, row_bytes: int) -> bool:
        """Whether a row of this schema can be so long: one that is not would shift those that are read beside it."""
        return row_bytes == self.row_bytes if self.is_fixed else row_bytes >= self.row_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowSchema) and self.columns == other.columns

    def __hash__(self) -> int:
        return hash(self.columns)

    def __repr__(self) -> str:
        return f"RowSchema({self.id:08x}, {len(self.columns)} columns, {self.row_bytes} bytes)"


def padded(content_bytes: int) -> int:
    """The row's length: content, padding, checksum, in whole 8 bytes."""
    return -(-(content_bytes + CHECKSUM_BYTES) // 8) * 8


def schema_id(columns: Sequence[tuple[str, ColumnType]]) -> int:
    """The first four bytes, little-endian, of SHA-256 over the ordered names and types."""
    text = "\n".join(f"{name}:{type_}" for name, type_ in columns)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def head_of(row: bytes) -> tuple[int, int, int, int]:
    """Format version, flags, header length and schema id of a row of at least 8 bytes."""
    version, flags, header_bytes, id_ = _HEAD.unpack_from(row)
    return version, flags, header_bytes, id_
