"""Names of rows in the store: ``hr:<project>:{<entity>:<id>}:<view>``.

Decides how the id of an entity becomes bytes, the same for whoever writes and whoever reads. The braces are Redis
Cluster's hash tag: all views of an entity lie on one node. It must never change silently: rows under old names
are rows that nobody finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from featurecache.columns import ColumnType, Values
from featurecache.errors import RowError

MAX_ID_BYTES = 256
"""Of one part of an id, before escaping."""

_PLAIN = re.compile(rb"[A-Za-z0-9_.\-]+").fullmatch
_MARKS = b"_.-"
_ODD = re.compile(rb"[^A-Za-z0-9_.\-]")

KEY_KINDS = ("string", "int64", "int32")
"""What a part of an id may be."""


def key_frame(project: str, entity: str, view: str) -> tuple[bytes, bytes]:
    """What stands before and behind the id in every key of a view."""
    return f"hr:{project}:{{{entity}:".encode(), f"}}:{view}".encode()


def is_plain(part: bytes) -> bool:
    """Whether it stands in a key as it is; no for a few that do, of marks alone."""
    return part.translate(None, _MARKS).isalnum() and len(part) <= MAX_ID_BYTES


def are_plain(parts: Sequence[bytes]) -> bool:
    """The same of all of them, looked at together, not one by one."""
    if len(parts) == 1:
        return is_plain(parts[0])
    letters = b"".join(parts).translate(None, _MARKS)
    return letters.isalnum() and all(parts) and max(map(len, parts)) <= MAX_ID_BYTES


def escape(part: bytes) -> bytes:
    """A part of an id as it stands in a key; ``RowError`` when it is empty, too long or not UTF-8."""
    if _PLAIN(part) and len(part) <= MAX_ID_BYTES:
        return part
    if not part:
        raise RowError("an empty key names no entity")
    if len(part) > MAX_ID_BYTES:
        raise RowError(f"a key of {len(part)} bytes: at most {MAX_ID_BYTES} are possible")
    try:
        part.decode()
    except UnicodeDecodeError as error:
        raise RowError(f"a key that is not UTF-8 (byte {error.start}): {part[:40]!r}") from None
    return _ODD.sub(lambda found: f"%{ord(found[0]):02X}".encode(), part)


def ids_of(parts: Sequence[Iterable[bytes | int]]) -> list[bytes]:
    """The ids of entities whose keys are given column by column.

    Raises ``RowError`` for the first that cannot be one. Empty strings are the caller's to take out before.
    """
    columns = [_escaped(list(part)) for part in parts]
    if len(columns) == 1:
        return columns[0]
    return [b"|".join(row) for row in zip(*columns, strict=True)]


def _escaped(parts: list[bytes | int]) -> list[bytes]:
    texts = [one if isinstance(one, bytes) else b"%d" % one for one in parts]
    return texts if are_plain(texts) else [escape(one) for one in texts]


def key_values(type_: ColumnType, values: Values) -> list[bytes | int]:
    """The values of a key column as ids are made of: ``bytes`` or ``int``, one per row."""
    listed: list[bytes | int] = np.ravel(values).tolist()
    return (
        [one.encode() if isinstance(one, str) else one for one in listed]
        if type_.is_string
        else listed
    )
