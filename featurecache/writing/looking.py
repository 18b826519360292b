"""One row of the store, taken apart for people.

Decides what is told of a row and of what the gateway makes of it today. It must never change anything, and never
fail over a row that cannot be read: that is what it is for.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import msgspec

from featurecache.columns import ColumnType, Values
from featurecache.manifests.manifest import ViewSpec
from featurecache.rows.codec import RESIDUE, SHORTEST_ROW_BYTES, RowCodec, explain
from featurecache.rows.schema import head_of
from featurecache.status import Status

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SeenValue(msgspec.Struct):
    """One value and its status."""

    name: str
    type: str
    value: Any
    """As JSON: None for null and NaN, text for times."""
    status: str


class SeenRow(msgspec.Struct):
    """A row as it lies in the store, and what it means now."""

    view: str
    key: str
    entity: str
    """Its id, as it stands in the key."""
    status: str
    """PRESENT, MISSING, STALE or ERROR."""
    values: list[SeenValue]
    """Of a row that is not PRESENT: the defaults, if the view uses them."""
    event_time: str | None = None
    write_time: str | None = None
    age_s: float | None = None
    """Since the event time."""
    expires_in_s: float | None = None
    """Until the store forgets it; None: never."""
    problem: str = ""
    """Why the row cannot be read."""


class SeenComputed(msgspec.Struct):
    """The value of an on-demand feature."""

    on_demand: str
    """Its name."""
    type: str
    value: Any = None
    """As JSON: None for NaN, text for times."""
    status: str = "COMPUTED"
    """"-": there is no value."""
    problem: str = ""
    """Why there is none."""


class RawRow(msgspec.Struct):
    """The bytes of a row."""

    bytes: int
    format_version: int
    flags: int
    header_bytes: int
    schema_id: str
    schema: str
    """"current", "older" or "unknown"."""
    checksum: str
    """"ok" or "wrong"."""
    hex: str


def see(
    view: ViewSpec, key: bytes, row: bytes | None, *, now_us: int, expires_in_s: float | None
) -> SeenRow:
    """What the row is, and what a gateway would take from it now."""
    codec = RowCodec(
        view.schema, view.older_schemas, {one.name: one.default for one in view.columns}
    )
    name = key.decode()
    entity = name[name.index("{") + 1 : name.rindex("}")].partition(":")[2]
    seen = SeenRow(view.name, name, entity, Status.MISSING.name, [], expires_in_s=expires_in_s)
    status = Status.MISSING
    if row is not None:
        problem = explain(row)
        if not problem and not codec.reads(row):
            problem = (
                f"its schema {head_of(row)[3]:08x} is not in the manifest; load the view again"
            )
        status, seen.problem = (Status.ERROR if problem else Status.PRESENT), problem
    if status is Status.PRESENT and row is not None:
        event_us = int.from_bytes(row[8:16], "little", signed=True)
        seen.age_s = (now_us - event_us) / 1e6
        seen.event_time = moment(event_us)
        seen.write_time = moment(int.from_bytes(row[16:24], "little", signed=True))
        if view.max_age_s is not None and seen.age_s > view.max_age_s:
            status = Status.STALE
    seen.status = status.name
    is_readable = row is not None and status in (Status.PRESENT, Status.STALE)
    seen.values = _values(
        view, codec, codec.renew([row])[0] if is_readable and row else None, status
    )
    return seen


def _values(view: ViewSpec, codec: RowCodec, row: bytes | None, status: Status) -> list[SeenValue]:
    is_used = status is Status.PRESENT or (status is Status.STALE and view.on_stale == "use")
    shown = row if row is not None and is_used else codec.default_row
    table, defaults = codec.table([shown]), codec.table([codec.default_row])
    told = []
    for column in view.columns:
        type_ = column.parsed
        is_null = row is not None and is_used and bool(table.nulls(column.name)[0])
        stands_in = is_null or not is_used
        value = None
        if not stands_in or column.default is not None:
            value = plain(type_, (defaults if stands_in else table).column(column.name))
        name = Status.NULL.name if is_null else status.name
        told.append(SeenValue(column.name, column.type, value, name))
    return told


def raw(view: ViewSpec, row: bytes) -> RawRow | None:
    """The header and the bytes; None when there are too few of them."""
    if len(row) < SHORTEST_ROW_BYTES:
        return None
    version, flags, header_bytes, id_ = head_of(row)
    known = {view.schema.id: "current"} | {one.id: "older" for one in view.older_schemas}
    return RawRow(
        bytes=len(row),
        format_version=version,
        flags=flags,
        header_bytes=header_bytes,
        schema_id=f"{id_:08x}",
        schema=known.get(id_, "unknown"),
        checksum="ok" if crc32(row) == RESIDUE else "wrong",
        hex=row.hex(),
    )


def moment(us: int) -> str:
    """ISO 8601 in UTC; the bare number where no calendar reaches."""
    try:
        return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{us} µs"


def plain(type_: ColumnType, column: Values) -> Any:
    """The first value of a column, as JSON has it: None for NaN, text for times."""
    value = column[0].tolist() if hasattr(column[0], "tolist") else column[0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if type_.kind == "bool":
        return bool(value)
    if type_.kind == "timestamp":
        return moment(value)
    if isinstance(value, list):
        return [None if isinstance(one, float) and math.isnan(one) else one for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
