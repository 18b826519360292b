"""One view as one service asks it: from the ids of entities to keys, from rows to columns that can be used.

Decides what a missing, old, unreadable or null value becomes, by the view's own words (``on_missing`` …), and which
status it has. Good rows cost nothing per value and almost nothing per row. It must never wait or ask a store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from math import inf

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.errors import UnfillableError
from featurecache.lookups.lookup_waiting import CORRUPT, UNREACHABLE, Caching
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.rows.codec import RowCodec, RowTable
from featurecache.rows.keys import key_frame
from featurecache.rows.schema import HEADER_BYTES
from featurecache.status import Status

Statuses = npt.NDArray[np.uint8]

JOINED_BYTES = 512
"""Rows up to this length are looked at as one block; of longer ones only their heads are copied together."""
FEW_IDS = 4
"""Below this one by one is quicker."""


class Usable(msgspec.Struct, gc=False):
    """The rows of one view for one request, every one of them fit for a model."""

    rows: list[bytes]
    """Of today's schema; a default row where there is none that can be used."""
    statuses: Statuses | None = None
    """Of each row; None: all are PRESENT."""
    defaulted_rows: int = 0
    """Rows in which every value is a default."""


class ViewRead(msgspec.Struct):
    """The same, and its columns."""

    table: RowTable
    statuses: Statuses | None
    defaulted_rows: int
    nulls: dict[str, npt.NDArray[np.bool_]]
    """Of the columns in use that have any."""


class ViewUse:
    """What a service needs to know of one view, computed once."""

    __slots__ = (
        "_allowed_us",
        "_codec",
        "_head",
        "_head_number",
        "_max_age_us",
        "_needs_row",
        "_prefix",
        "_replaced_when_null",
        "_required_bits",
        "_schema",
        "_suffix",
        "caching",
        "columns",
        "fit",
        "frame",
        "keys",
        "present",
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
        self.frame = self._prefix, self._suffix = key_frame(
            manifest.project, spec.entity, spec.name
        )
        """What stands before and behind an id in the keys of its rows."""
        self._codec = RowCodec(
            spec.schema, spec.older_schemas, {one.name: one.default for one in spec.columns}
        )
        self._schema = self._codec.schema
        self._head = self._schema.head
        self._head_number = int.from_bytes(self._head, "little", signed=True)
        self._max_age_us = inf if spec.max_age_s is None else spec.max_age_s * 1e6
        self._allowed_us = self._max_age_us + spec.stale_if_error_s * 1e6
        without = [
            name
            for name in columns
            if spec.column(name).default is None and not spec.column(name).parsed.is_float
        ]
        self._needs_row = without[0] if without else ""
        """A column that nothing can stand in for; "" when there is none."""
        required = columns if spec.on_null == "fail" else without
        self._required_bits = sum(1 << self._schema.slots[name].bit for name in required)
        """Of columns that must not be null."""
        self._replaced_when_null = [
            (name, spec.column(name).default)
            for name in columns
            if name not in required and spec.column(name).default is not None
        ]
        self.present = (spec.name, int(Status.PRESENT))
        """Under which good rows are counted."""
        what = (self._head, self._schema.columns, spec.max_age_s, self._required_bits)
        self.fit = int.from_bytes(blake2b(repr(what).encode(), digest_size=7).digest(), "little")
        """Everything that decides whether a row is good, as a number: two uses with the same agree on every row."""

    def row_keys(self, ids: Sequence[bytes]) -> list[bytes]:
        """Where the rows of these entities lie."""
        prefix, suffix = self._prefix, self._suffix
        if len(ids) < FEW_IDS:
            return [prefix + one + suffix for one in ids]
        # Once joined and cut again, in C; no id has a NUL byte in it.
        return (prefix + (suffix + b"\0" + prefix).join(ids) + suffix).split(b"\0")

    def good_for_s(self, row: bytes, now_us: int) -> float:
        """How long a row that is PRESENT now will be, in seconds: until its ``max_age``."""
        if self._max_age_us == inf:
            return inf
        age_us = now_us - int.from_bytes(row[8:16], "little", signed=True)
        return (self._max_age_us - age_us) * 1e-6

    def usable(self, rows: list[bytes | None], aged: Collection[int], now_us: int) -> Usable:
        """The rows, with default rows where there is none that can be used; good ones cost next to nothing.

        ``aged``: places of rows that are copies kept past their time because the store fails. ``now_us``: since 1970.
        Raises ``UnfillableError`` where the view, or a column without a default, allows no replacement.
        """
        if self._are_good(rows, now_us):
            found = Usable(rows)  # type: ignore[arg-type]  # none is None
        else:
            found = self._judged(rows, aged, now_us)
        if self._required_bits:
            self._refuse_nulls(found.rows)
        return found

    def table(self, rows: Sequence[bytes]) -> RowTable:
        """Usable rows as columns, of one request or of many; nulls have their columns' defaults."""
        table = RowTable(self._schema, rows)
        if self._replaced_when_null and table.any_null:
            for name, default in self._replaced_when_null:
                mask = table.nulls(name)
                if mask.any():
                    table.replace(name, mask, default)
        return table

    def read(self, rows: list[bytes | None], aged: Collection[int], now_us: int) -> ViewRead:
        """``usable`` and ``table`` in one, for whoever looks at one view."""
        found = self.usable(rows, aged, now_us)
        table = self.table(found.rows)
        nulls = {name: table.nulls(name) for name in self.columns}
        return ViewRead(
            table,
            found.statuses,
            found.defaulted_rows,
            {name: mask for name, mask in nulls.items() if mask.any()},
        )

    def _are_good(self, rows: list[bytes | None], now_us: int) -> bool:
        """Whether every row is there, of today's schema and young enough."""
        if len(rows) == 1:
            (row,) = rows
            return (
                row is not None
                and row[:8] == self._head
                and self._schema.may_have(len(row))
                and now_us - int.from_bytes(row[8:16], "little", signed=True) <= self._max_age_us
            )
        try:
            lengths = set(map(len, rows))  # type: ignore[arg-type]  # a None ends in the except
        except TypeError:
            return False
        may_have = self._schema.may_have
        if not rows or not (may_have(min(lengths)) and may_have(max(lengths))):
            return False
        if len(lengths) == 1 and max(lengths) <= JOINED_BYTES:
            joined, stride = b"".join(rows), lengths.pop()  # type: ignore[arg-type]  # none is None
        else:
            joined, stride = b"".join([row[:16] for row in rows]), 16  # type: ignore[index]  # likewise
        starts = np.ndarray((len(rows), 2), "<i8", joined, 0, (stride, 8))
        return bool((starts[:, 0] == self._head_number).all()) and (
            self._max_age_us == inf or now_us - int(starts[:, 1].min()) <= self._max_age_us
        )

    def _judged(self, rows: list[bytes | None], aged: Collection[int], now_us: int) -> Usable:
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
        return Usable(codec.renew(good), statuses, defaulted)

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

    def _refuse_nulls(self, rows: Sequence[bytes]) -> None:
        start, end = HEADER_BYTES, HEADER_BYTES + self._schema.bitmap_bytes
        found = 0
        for row in rows:
            found |= int.from_bytes(row[start:end], "little")
        found &= self._required_bits
        if not found:
            return
        slots = self._schema.slots
        name = next(one for one in self.columns if found >> slots[one].bit & 1)
        why = ", and must not be guessed" if self.spec.on_null == "fail" else " and has no default"
        raise UnfillableError(f"feature '{self.spec.name}.{name}' is null{why}", Status.NULL)


_WHY = {
    Status.MISSING: "has no row for an entity of the request",
    Status.STALE: "has only a row that is older than its max_age",
    Status.DEFAULTED: "could not be asked in time",
    Status.ERROR: "has a row that cannot be read",
}
