"""Rows as JSON objects, as people and services push them, turned into columns.

    {"origin": "JFK", "temp": 1.5, "sky": null, "event_time": "2026-11-23T15:00:00Z"}

Decides what each JSON value may become; strict, so that a slip is told and not stored. It must never guess a unit or
fill a hole: a column without value is written ``null``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.columns import MAX_STRING_BYTES, ColumnType, Values, parse_type
from featurecache.errors import RowError
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.rows.codec import Mask
from featurecache.rows.keys import ids_of, key_frame

EVENT_TIME = "event_time"
LEAST_US = 10**14
"""Of a bare number that is believed to be µs: March 1973. What is nearer to 1970 is more likely in another unit."""
LEAST_MS = 10**11
LATEST_US = 253_402_300_800_000_000
"""The year 10000: no calendar here reaches further."""

Row: TypeAlias = Mapping[str, Any]


class RowBatch(msgspec.Struct):
    """Rows, by column."""

    keys: list[bytes]
    columns: dict[str, Values]
    nulls: dict[str, Mask]
    event_us: npt.NDArray[np.int64]


class JsonRows:
    """Reads rows of one view."""

    def __init__(self, manifest: Manifest, view: ViewSpec) -> None:
        self._view = view
        entity = manifest.entity(view.entity)
        self._keys = {name: parse_type(text) for name, text in entity.keys.items()}
        self._columns = {one.name: one.parsed for one in view.columns}
        times = [EVENT_TIME, *([view.source.event_time] if view.source else [])]
        self._times = [
            one
            for one in dict.fromkeys(times)
            if one not in self._columns and one not in self._keys
        ]
        self._prefix, self._suffix = key_frame(manifest.project, entity.name, view.name)

    def batch(self, rows: Sequence[Row], now_us: int, first: int = 1) -> RowBatch:
        """The rows as columns. A row without event time is of ``now_us``; one that is a number counts µs since 1970.

        Raises ``RowError`` with the number of the first bad row, counted from ``first``.
        """
        ids: list[bytes] = []
        times: list[int] = []
        listed: dict[str, list[Any]] = {name: [] for name in self._columns}
        for number, row in enumerate(rows, first):
            try:
                self._check_names(row)
                ids.append(self.id_of(row))
                times.append(self._time_of(row, now_us))
                for name, type_ in self._columns.items():
                    listed[name].append(value_of(type_, row[name], name))
            except RowError as error:
                raise RowError(f"row {number}: {error}") from None
        nulls = {
            name: mask
            for name, values in listed.items()
            if (mask := np.array([one is None for one in values], np.bool_)).any()
        }
        columns = {name: _column(self._columns[name], values) for name, values in listed.items()}
        keys = [self._prefix + one + self._suffix for one in ids]
        return RowBatch(keys, columns, nulls, np.array(times, np.int64))

    def key(self, parts: Row) -> bytes:
        """The name of the row of one entity, from its join keys; text is taken for a number where one is needed."""
        missing = [name for name in self._keys if name not in parts]
        extra = [name for name in parts if name not in self._keys]
        if missing or extra:
            wanted = " ".join(f"{name}=…" for name in self._keys)
            what = f"'{extra[0]}' is none of its keys" if extra else f"'{missing[0]}' is missing"
            raise RowError(f"view '{self._view.name}' is asked by {wanted}; {what}")
        typed = {name: _typed(self._keys[name], parts[name]) for name in self._keys}
        return self._prefix + self.id_of(typed) + self._suffix

    def id_of(self, row: Row) -> bytes:
        """Of the entity that a row is about."""
        parts: list[list[bytes | int]] = []
        for name, type_ in self._keys.items():
            value = value_of(type_, row[name], name)
            if value is None:
                raise RowError(f"key '{name}' is null")
            parts.append([value])
        return ids_of(parts)[0]

    def _check_names(self, row: Row) -> None:
        if not isinstance(row, dict):
            raise RowError(f"not a JSON object: {str(row)[:60]}")
        known = [*self._keys, *self._columns]
        for name in row:
            if name not in known and name not in self._times:
                close = get_close_matches(name, [*known, *self._times], n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
                raise RowError(f"'{name}' is no column of view '{self._view.name}'; {hint}")
        for name in known:
            if name not in row:
                raise RowError(f"'{name}' is missing (write null where there is no value)")

    def _time_of(self, row: Row, now_us: int) -> int:
        given = [name for name in self._times if row.get(name) is not None]
        if not given:
            return now_us
        if len(given) > 1:
            raise RowError(f"'{given[0]}' and '{given[1]}' are both given; leave one out")
        value = row[given[0]]
        if isinstance(value, int) and not isinstance(value, bool):
            return _number_us(value, given[0])
        return moment_us(value, given[0])


def value_of(type_: ColumnType, value: Any, name: str) -> Any:
    """The value as its column holds it: ``bytes``, int, float, list of them, or None. Raises ``RowError``."""
    if value is None:
        return None
    if type_.length:
        if not isinstance(value, list) or len(value) != type_.length:
            raise RowError(f"'{name}' needs a list of {type_.length} numbers")
        element = ColumnType(type_.kind)
        return [value_of(element, math.nan if one is None else one, name) for one in value]
    if type_.is_string:
        if not isinstance(value, str):
            raise RowError(f"'{name}' is {value!r}, not a string")
        text = value.encode(errors="surrogatepass")
        if len(text) > MAX_STRING_BYTES:
            raise RowError(f"'{name}' has {len(text)} bytes: at most {MAX_STRING_BYTES}")
        return text
    if type_.kind == "bool":
        if not isinstance(value, bool):
            raise RowError(f"'{name}' is {value!r}, not true or false")
        return int(value)
    if type_.kind == "timestamp" and isinstance(value, str):
        return moment_us(value, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"'{name}' is {value!r}, not a number")
    if type_.is_float:
        # As Python compares them: an integer may be beyond every float.
        if abs(value) > float(np.finfo(type_.dtype).max) and value not in (math.inf, -math.inf):
            raise RowError(f"'{name}' is {value!r}: too large for {type_}")
        return float(value)
    info = np.iinfo(type_.dtype)
    if not isinstance(value, int) or not info.min <= value <= info.max:
        raise RowError(f"'{name}' is {value!r}, no {type_}")
    return value


def _number_us(value: int, name: str) -> int:
    """A bare number that is µs since 1970, and no other unit by mistake."""
    if abs(value) < LEAST_US:
        unit = "seconds" if abs(value) < LEAST_MS else "milliseconds"
        raise RowError(
            f"'{name}' is {value}, which looks like {unit}; give µs since 1970 or an ISO time"
        )
    if abs(value) >= LATEST_US:
        raise RowError(
            f"'{name}' is {str(value)[:24]}, no moment of a calendar; give µs since 1970 or an ISO time"
        )
    return value


def moment_us(value: Any, name: str) -> int:
    """ISO 8601 in µs since 1970; UTC where no zone is given."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise RowError(
            f"'{name}' is {value!r}, no moment; write for example 2026-11-23T15:00:00Z"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _typed(type_: ColumnType, value: Any) -> Any:
    if type_.is_string or not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise RowError(f"the key {value!r} is no {type_}") from None


def _column(type_: ColumnType, values: list[Any]) -> Values:
    if type_.is_string:
        filled = np.empty(len(values), np.object_)
        filled[:] = [b"" if one is None else one for one in values]
        return filled
    empty: Any = [0] * type_.length if type_.length else 0
    listed = [empty if one is None else one for one in values]
    return np.array(listed, type_.dtype).reshape(type_.shape(len(values)))
