"""Keys of rows that need no escaping, as one column, without a Python object per key.

Decides when that is so: every part of every id is there, of a length that an id may have, and made of characters that
stand for themselves. It must never let a key through that ``keys.ids_of`` would write differently or refuse; whoever
gets None looks at each key.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurecache.offline.arrow_columns import ColumnReader
from featurecache.rows.keys import MAX_ID_BYTES

PLAIN_ID_BYTES = (string.ascii_letters + string.digits + "_.-").encode()
_BINARY = pa.large_binary()
_NOTHING, _BAR = pa.scalar(b"", _BINARY), pa.scalar(b"|", _BINARY)


class KeyColumn:
    """Keys ``prefix + id + suffix``."""

    def __init__(self, prefix: bytes, suffix: bytes, ids: Any) -> None:
        """``ids``: an Arrow array of large binary, without nulls."""
        self._prefix, self._suffix, self._ids = prefix, suffix, ids

    def __len__(self) -> int:
        return len(self._ids)

    def listed(self) -> list[bytes]:
        """One object each."""
        prefix, suffix = self._prefix, self._suffix
        return [prefix + one + suffix for one in self._ids.to_pylist()]

    def all_differ(self) -> bool:
        """Whether no key is there twice."""
        return len(self._ids.unique()) == len(self._ids)

    def words(self) -> tuple[memoryview, list[int]]:
        """The keys as words of the store's protocol, one behind the other, and where each begins; last the end."""
        lengths = pc.binary_length(self._ids)
        frame_bytes = len(self._prefix) + len(self._suffix)
        heads = pa.array(
            [b"$%d\r\n%b" % (frame_bytes + length, self._prefix)
             for length in range(pc.max(lengths).as_py() + 1)],
            _BINARY,
        )  # fmt: skip
        behind = pa.scalar(self._suffix + b"\r\n", _BINARY)
        framed = pc.binary_join_element_wise(pc.take(heads, lengths), self._ids, behind, _NOTHING)
        content, places = _content(framed)
        return content, places.tolist()


def plain_ids(columns: Sequence[Any], readers: Sequence[ColumnReader]) -> Any:
    """The ids of entities whose keys are given column by column, as an Arrow array of large binary.

    None when there are none, or when a key is missing, bad or needs escaping.
    """
    parts = [_plain_part(column, reader) for column, reader in zip(columns, readers, strict=True)]
    if any(one is None for one in parts):
        return None
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _BAR)


def _plain_part(column: Any, reader: ColumnReader) -> Any:
    if column.null_count or not len(column):
        return None
    is_encoded = pa.types.is_dictionary(column.type)
    if pa.types.is_integer(column.type.value_type if is_encoded else column.type):
        found = reader.read(column)
        whole = found.nulls is None and found.bad is None
        return pa.array(found.values).cast(pa.large_string()).cast(_BINARY) if whole else None
    raw = (column.dictionary_decode() if is_encoded else column).cast(_BINARY)
    if raw.null_count:  # of the dictionary's
        return None
    content, places = _content(raw)
    lengths = np.diff(places)
    if lengths.min() < 1 or lengths.max() > MAX_ID_BYTES:
        return None
    return None if bytes(content).translate(None, PLAIN_ID_BYTES) else raw


def _content(array: Any) -> tuple[memoryview, np.ndarray[Any, np.dtype[np.int64]]]:
    """All bytes of an array of large binary without nulls, and where each value begins in them; last the end."""
    _, offsets, data = array.buffers()
    places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    content = memoryview(data if data is not None else b"")[places[0] : places[-1]]
    return content, places - places[0]
