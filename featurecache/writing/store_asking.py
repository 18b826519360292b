"""The online side of a comparison, when it is the store itself: what a gateway would take from its rows.

Decides what each row gives by the view's own words, apart from ``verify.py``, which works it out from the files. It
must never look at the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from featurecache.columns import Values
from featurecache.manifests.manifest import ColumnSpec, Manifest, ViewSpec
from featurecache.offline.verify import OnlineRow
from featurecache.offline.verify_offline import Entity
from featurecache.rows.codec import Mask, RowCodec, default_column, is_sound
from featurecache.rows.keys import ids_of, key_frame
from featurecache.status import Status
from featurecache.writing.store_keys import StoreKeys

_USABLE = (Status.PRESENT, Status.STALE)


class StoreAsk:
    """Answers ``verify`` from the store."""

    def __init__(
        self,
        manifest: Manifest,
        store: StoreKeys,
        now_us: int,
        told: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """``told``: how many entities were asked so far."""
        self._manifest, self._store, self._now_us = manifest, store, now_us
        self._told, self._asked = told, 0

    def __call__(self, name: str, entities: Sequence[Entity]) -> list[OnlineRow]:
        """One row for each entity, in order. Raises ``SourceError``."""
        view = self._manifest.view(name)
        codec = RowCodec(view.schema, view.older_schemas, {c.name: c.default for c in view.columns})
        prefix, suffix = key_frame(self._manifest.project, view.entity, view.name)
        parts = [[_part(entity[i]) for entity in entities] for i in range(len(entities[0]))]
        rows = self._store.get_all([prefix + one + suffix for one in ids_of(parts)])
        statuses = [self._status(view, codec, row) for row in rows]
        usable = [
            row if row is not None and status in _USABLE else codec.default_row
            for row, status in zip(rows, statuses, strict=True)
        ]
        table = codec.table(codec.renew(usable))
        found = {
            one.name: _given(view, one, statuses, table.column(one.name), table.nulls(one.name))
            for one in view.columns
        }
        times = table.event_us.tolist()
        self._asked += len(rows)
        self._told(self._asked)
        return [
            OnlineRow(
                status,
                {name: values[i] for name, values in found.items()},
                times[i] if status in _USABLE else None,
            )
            for i, status in enumerate(statuses)
        ]

    def _status(self, view: ViewSpec, codec: RowCodec, row: bytes | None) -> Status:
        if row is None:
            return Status.MISSING
        if not is_sound(row) or not codec.reads(row):
            return Status.ERROR
        age_us = self._now_us - int.from_bytes(row[8:16], "little", signed=True)
        is_old = view.max_age_s is not None and age_us > view.max_age_s * 1e6
        return Status.STALE if is_old else Status.PRESENT


def _given(
    view: ViewSpec, column: ColumnSpec, statuses: Sequence[Status], values: Values, nulls: Mask
) -> list[object]:
    """Of one column, what a model is given for each row; None where the request fails."""
    type_ = column.parsed
    (default,) = default_column(type_, column.default, 1)
    stand_in: object = None
    if column.default is not None or type_.is_float:
        stand_in = default.tolist() if isinstance(default, np.ndarray | np.generic) else default
    given: list[object] = []
    for status, value, null in zip(statuses, values.tolist(), nulls.tolist(), strict=True):
        is_used = status is Status.PRESENT or (status is Status.STALE and view.on_stale == "use")
        if is_used and not null:
            given.append(value)
            continue
        policy: str = view.on_stale if status is Status.STALE else view.on_missing
        policy = view.on_null if is_used else policy
        given.append(None if policy == "fail" else stand_in)
    return given


def _part(value: object) -> bytes | int:
    assert isinstance(value, bytes | str | int)
    return value.encode() if isinstance(value, str) else value
