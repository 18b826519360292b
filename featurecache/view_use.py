"""One view as one service asks it: from the ids of entities to keys, from rows to columns that can be used.

Decides what a missing, old, unreadable or null value becomes, by the view's own words (``on_missing`` …), and which
status it has. Good rows cost nothing per value and almost nothing per row. It must never wait or ask a store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf

import numpy as np
import numpy.typing as npt

from featurecache.codec import RowCodec, RowTable
from featurecache.errors import UnfillableError
from featurecache.keys import key_frame
from featurecache.lookup_waiting import CORRUPT, UNREACHABLE, Caching
from featurecache.manifest import Manifest, ViewSpec
from featurecache.status import Status

Statuses = npt.NDArray[np.uint8]


class ViewRead:
    """The rows of one view for one request, every one of them usable."""

    __slots__ = ("defaulted_rows", "nulls", "statuses", "table")

    def __init__(self, table: RowTable, statuses: Statuses | None, defaulted_rows: int) -> None:
        self.table = table
        self.statuses = statuses
        """Of each row; None: all are PRESENT."""
        self.defaulted_rows = defaulted_rows
        """Rows in which every value is a default."""
        self.nulls: dict[str, npt.NDArray[np.bool_]] = {}
        """Of the columns in use that have any."""


class ViewUse:
    """What a service needs to know of one view, computed once."""

    __slots__ = (
        "_allowed_us",
        "_codec",
        "_head",
        "_max_age_us",
        "_minds_nulls",
        "_needs_row",
        "_prefix",
        "_schema",
        "_suffix",
        "caching",
        "columns",
        "keys",
        "spec",
        "title",
    )

    def __init__(
        self, manifest: Manifest, spec: ViewSpec, renamed: Mapping[str, str], columns: Sequence[str]
    ) -> None:
        """``renamed``: the view's own join keys → the service's. ``columns``: those that the service uses."""
        self.spec = spec
        self.columns = list(columns)
        others = ",".join(f"{own}={asked}" for own, asked in sorted(renamed.items()))
        self.title = f"{spec.name}({others})" if others else spec.name
        """The view's name, and by which keys it is asked where those are not its own."""
        self.keys = tuple(renamed.get(own, own) for own in manifest.entity(spec.entity).keys)
        """The service's join keys that make up the id, in order."""
        self.caching = Caching(cache_ttl_s=spec.cache_ttl_s)
        self._prefix, self._suffix = key_frame(manifest.project, spec.entity, spec.name)
        self._codec = RowCodec(
            spec.schema, spec.older_schemas, {one.name: one.default for one in spec.columns}
        )
        self._schema = self._codec.schema
        self._head = self._schema.head
        self._max_age_us = inf if spec.max_age_s is None else spec.max_age_s * 1e6
        self._allowed_us = self._max_age_us + spec.stale_if_error_s * 1e6
        without = [
            name
            for name in columns
            if spec.column(name).default is None and not spec.column(name).parsed.is_float
        ]
        self._needs_row = without[0] if without else ""
        """A column that nothing can stand in for; "" when there is none."""
        self._minds_nulls = spec.on_null == "fail" or any(
            name in without or spec.column(name).default is not None for name in columns
        )

    def row_keys(self, ids: Sequence[bytes]) -> list[bytes]:
        """Where the rows of these entities lie."""
        prefix, suffix = self._prefix, self._suffix
        return [prefix + one + suffix for one in ids]

    def read(self, rows: list[bytes | None], aged: Collection[int], now_us: int) -> ViewRead:
        """The rows as columns; what cannot be used is replaced by defaults, and said so.

        ``aged``: places of rows that are copies kept past their time because the store fails. ``now_us``: since 1970.
        Raises ``UnfillableError`` where the view, or a column without a default, allows no replacement.
        """
        found = self._all_good(rows, now_us) or self._judged(rows, aged, now_us)
        if self._minds_nulls and found.table.any_null:
            self._fill_nulls(found)
        return found

    def _all_good(self, rows: list[bytes | None], now_us: int) -> ViewRead | None:
        """The rows as they are, if every one of them is there, of today's schema and young enough."""
        if len(rows) == 1:
            (row,) = rows
            if row is None or row[:8] != self._head:
                return None
            oldest_us: float = int.from_bytes(row[8:16], "little", signed=True)
            table = RowTable(self._schema, rows)  # type: ignore[arg-type]  # it is not None
        else:
            try:
                heads = {row[:8] for row in rows}  # type: ignore[index]  # a None ends in the except
            except TypeError:
                return None
            if heads != {self._head}:
                return None
            table = RowTable(self._schema, rows)  # type: ignore[arg-type]  # none is None
            oldest_us = inf if self._max_age_us == inf else int(table.event_us.min())
        if now_us - oldest_us > self._max_age_us:
            return None
        return ViewRead(table, None, 0)

    def _judged(self, rows: list[bytes | None], aged: Collection[int], now_us: int) -> ViewRead:
        """Row by row: something in them is missing, old, of another schema, or broken."""
        spec, codec = self.spec, self._codec
        statuses = np.zeros(len(rows), np.uint8)
        good: list[bytes] = []
        defaulted = 0
        for i, row in enumerate(rows):
            status = self._status(row, now_us)
            statuses[i] = status
            is_used = status is Status.PRESENT or (
                status is Status.STALE
                and row is not None
                and (spec.on_stale == "use" or self._is_allowed(row, i in aged, now_us))
            )
            if is_used:
                assert row is not None
                good.append(row)
                continue
            self._refuse_if_it_must(status)
            defaulted += 1
            good.append(codec.default_row)
        return ViewRead(codec.table(codec.renew(good)), statuses, defaulted)

    def _status(self, row: bytes | None, now_us: int) -> Status:
        if row is None:
            return Status.MISSING
        if row == UNREACHABLE:
            return Status.DEFAULTED
        if row == CORRUPT or not self._codec.reads(row):
            return Status.ERROR
        age_us = now_us - int.from_bytes(row[8:16], "little", signed=True)
        return Status.PRESENT if age_us <= self._max_age_us else Status.STALE

    def _is_allowed(self, row: bytes, is_aged: bool, now_us: int) -> bool:
        """Whether an old copy may stand in while the store fails."""
        age_us = now_us - int.from_bytes(row[8:16], "little", signed=True)
        return is_aged and age_us <= self._allowed_us

    def _refuse_if_it_must(self, status: Status) -> None:
        spec = self.spec
        why = _WHY[status]
        policy = spec.on_stale if status is Status.STALE else spec.on_missing
        if policy == "fail":
            raise UnfillableError(
                f"feature view '{spec.name}' {why}, and must not be guessed", status
            )
        if self._needs_row:
            raise UnfillableError(
                f"feature view '{spec.name}' {why}, and its column '{self._needs_row}' has no default",
                status,
            )

    def _fill_nulls(self, found: ViewRead) -> None:
        spec, table = self.spec, found.table
        for name in self.columns:
            mask = table.nulls(name)
            if not mask.any():
                continue
            found.nulls[name] = mask
            column = spec.column(name)
            if spec.on_null == "fail":
                raise UnfillableError(
                    f"feature '{spec.name}.{name}' is null, and must not be guessed", Status.NULL
                )
            if column.default is not None:
                table.replace(name, mask, column.default)
            elif not column.parsed.is_float:
                raise UnfillableError(
                    f"feature '{spec.name}.{name}' is null and has no default", Status.NULL
                )


_WHY = {
    Status.MISSING: "has no row for an entity of the request",
    Status.STALE: "has only a row that is older than its max_age",
    Status.DEFAULTED: "could not be asked in time",
    Status.ERROR: "has a row that cannot be read",
}
