"""The rows of one view as they are shown: values, statuses, times, and why a prediction would refuse them.

Decides how a view that refuses some rows is shown nevertheless: the others are read as a prediction would read them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from featurecache.columns import ColumnType, Values
from featurecache.errors import UnfillableError
from featurecache.joining.view_use import ViewRead, ViewUse
from featurecache.rows.codec import SHORTEST_ROW_BYTES, RowTable
from featurecache.status import Status
from featurecache.writing.looking import moment


class SeenView:
    """What one view had for the rows of a question."""

    def __init__(
        self, use: ViewUse, rows: list[bytes | None], aged: Collection[int], now_us: int
    ) -> None:
        """``rows`` and ``aged`` as a ``Lookup`` has them; ``now_us``: since 1970."""
        self._use, self._rows, self._aged, self._now_us = use, rows, aged, now_us
        self.refused: dict[int, str] = {}
        """Rows of which a prediction would not be made, and why."""
        self.statuses = [Status.PRESENT] * len(rows)
        try:
            read = self._read(range(len(rows)))
        except UnfillableError:
            self._find_refused()
            read = self._read(self._places)
        self._table = read.table
        if read.statuses is not None:
            for place, status in zip(self._places, read.statuses.tolist(), strict=True):
                self.statuses[place] = Status(status)

    @property
    def _places(self) -> list[int]:
        return [i for i in range(len(self._rows)) if i not in self.refused]

    def _read(self, places: Sequence[int]) -> ViewRead:
        aged = {i for i, place in enumerate(places) if place in self._aged}
        return self._use.read([self._rows[one] for one in places], aged, self._now_us)

    def _find_refused(self) -> None:
        for place in range(len(self._rows)):
            try:
                self._read([place])
            except UnfillableError as error:
                self.refused[place] = str(error)
                self.statuses[place] = error.status

    def table_of(self, places: Sequence[int]) -> RowTable:
        """Some of the rows that are not refused."""
        return self._table if len(places) == len(self._rows) else self._read(places).table

    def values(self, column: str, type_: ColumnType) -> list[Any]:
        """As a model would get them; None for NaN, and in rows that are refused."""
        values: list[Any] = [None] * len(self._rows)
        shown = json_values(type_, self._table.column(column))
        for place, value in zip(self._places, shown, strict=True):
            values[place] = value
        return values

    def value_statuses(self, column: str) -> list[str]:
        """The rows' statuses, and NULL where a value was written as null."""
        names = [one.name for one in self.statuses]
        nulls = self._table.nulls(column).tolist()
        for place, is_null in zip(self._places, nulls, strict=True):
            if is_null:
                names[place] = Status.NULL.name
        return names

    def told(self) -> dict[str, Any]:
        """The rows themselves: columns of one entry per row."""
        event_us = [
            int.from_bytes(row[8:16], "little", signed=True)
            if row is not None and len(row) >= SHORTEST_ROW_BYTES
            else None
            for row in self._rows
        ]
        return {
            "view": self._use.title,
            "statuses": [one.name for one in self.statuses],
            "event_times": [None if one is None else moment(one) for one in event_us],
            "ages_s": [None if one is None else (self._now_us - one) / 1e6 for one in event_us],
            "old_copies": sorted(self._aged),
            "refused": [{"row": row, "why": why} for row, why in self.refused.items()],
        }


def json_values(type_: ColumnType, column: Values) -> list[Any]:
    """A column as JSON can say it: NaN is None, infinities and times are text."""
    values: list[Any] = column.tolist()
    if type_.is_string:
        return [one.decode(errors="replace") for one in values]
    if type_.kind == "bool":
        return [bool(one) for one in values]
    if type_.kind == "timestamp":
        return [moment(one) for one in values]
    if type_.is_float:
        if type_.length:
            return [[_number(one) for one in row] for row in values]
        return [_number(one) for one in values]
    return values


def _number(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
