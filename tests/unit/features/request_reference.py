"""Views, rows and values drawn from a seed, and what a request must become, value by value.

The reference knows nothing of bytes, tables or blocks: it goes by what people would write down.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np

from featurecache.columns import ColumnType, parse_type
from featurecache.definitions import Column, Entity, FeatureView, Int32
from featurecache.lookups.lookup_waiting import CORRUPT, UNREACHABLE
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.rows.schema import RowSchema
from featurecache.status import Status
from tests.unit.features.feature_plans import NOW_US, SECOND_US, plain, row_of

KINDS = ["float32", "float64", "int8", "int16", "int32", "int64", "bool", "string", "float32[2]"]
NOTHING = object()
"""Of a column that an older row has not."""


class Stored(msgspec.Struct):
    """What the store has under one key, as people would write it down."""

    fault: Status | None
    event_us: int
    values: dict[str, Any]
    aged: bool = False


def some_value(rng: random.Random, type_: ColumnType) -> Any:
    if type_.length:
        return [float(np.float32(rng.uniform(-9, 9))) for _ in range(type_.length)]
    if type_.is_string:
        return rng.choice([b"", b"x", "é".encode(), b"longer than eight bytes"])
    if type_.kind == "bool":
        return rng.random() < 0.5
    if type_.is_float:
        return float(np.float32(rng.choice([0.0, -1.5, 3e38, rng.uniform(-1e6, 1e6)]))) * (
            1e200 if type_.kind == "float64" and rng.random() < 0.1 else 1
        )
    info = np.iinfo(type_.dtype)
    return rng.choice([int(info.min), int(info.max), 0, rng.randint(int(info.min), int(info.max))])


def some_view(rng: random.Random, name: str, entity: Entity) -> FeatureView:
    columns = []
    for number in range(rng.choice([1, 3, 9, 70])):
        type_ = parse_type(rng.choice(KINDS))
        default = some_value(rng, type_) if rng.random() < 0.8 else None
        if isinstance(default, bytes):
            default = default.decode()
        columns.append(Column(f"c{number}", type_, default=default))
    return FeatureView(
        name,
        entity=entity,
        columns=columns,
        max_age=rng.choice([None, 10, 100]),
        cache_ttl=1,
        stale_if_error=rng.choice([0, 50]),
        on_missing=rng.choice(["default"] * 5 + ["fail"]),  # type: ignore[arg-type]
        on_stale=rng.choice(["default"] * 4 + ["use", "fail"]),  # type: ignore[arg-type]
        on_null=rng.choice(["default"] * 5 + ["fail"]),  # type: ignore[arg-type]
    )


def some_row(rng: random.Random, spec: ViewSpec, well: float) -> tuple[Stored, bytes | None]:
    """The same twice: as it is written down, and as it lies in the store."""
    if rng.random() > well:
        fault, row = rng.choice(
            [
                (Status.MISSING, None),
                (Status.DEFAULTED, UNREACHABLE),
                (Status.ERROR, CORRUPT),
                (Status.ERROR, row_of(RowSchema([("q", Int32)]), {"q": 1})),
            ]
        )
        return Stored(fault, 0, {}), row
    schema = spec.schema if rng.random() < 0.7 else rng.choice([spec.schema, *spec.older_schemas])
    age_s = rng.choice([0, 5, 10, 60, 60.000001, 100, 150, 150.000001, 1000, -3, 2e9])
    if rng.random() < well:
        age_s = 1
    event_us = NOW_US - round(age_s * SECOND_US)
    null = rng.choice([0, 0, 0.3])
    given = {
        name: None if rng.random() < null else some_value(rng, slot.type)
        for name, slot in schema.slots.items()
    }
    values = {
        one.name: given.get(one.name, NOTHING)
        if (one.name, one.parsed) in schema.columns
        else NOTHING
        for one in spec.columns
    }
    return Stored(None, event_us, values, rng.random() < 0.5), row_of(
        schema, given, event_us=event_us
    )


class Reference:
    """One value after the other. Collects all statuses for which a request may be refused."""

    def __init__(self, used: dict[tuple[str, bool], list[str]]) -> None:
        """``used``: columns by view and whether it is asked by the other key."""
        self.used = used
        self.refusals: set[Status] = set()

    def status(self, spec: ViewSpec, stored: Stored) -> tuple[Status, bool]:
        """And whether the row is used."""
        if stored.fault is not None:
            return stored.fault, False
        age_us = NOW_US - stored.event_us
        if spec.max_age_s is None or age_us <= spec.max_age_s * 1e6:
            return Status.PRESENT, True
        helps = stored.aged and age_us <= (spec.max_age_s + spec.stale_if_error_s) * 1e6
        return Status.STALE, helps or spec.on_stale == "use"

    def value(self, spec: ViewSpec, is_other: bool, stored: Stored, name: str) -> Any:
        column = spec.column(name)
        status, is_used = self.status(spec, stored)
        if is_used:
            value = stored.values[name]
            if value is not None and value is not NOTHING:
                return value
            has_none = column.default is None and not column.parsed.is_float
            if has_none or (value is None and spec.on_null == "fail"):
                self.refusals.add(Status.NULL)
        else:
            policy = spec.on_stale if status is Status.STALE else spec.on_missing
            needs = [
                one
                for one in spec.columns
                if one.name in self.used[spec.name, is_other]
                and one.default is None
                and not one.parsed.is_float
            ]
            if policy == "fail" or needs:
                self.refusals.add(status)
        if column.default is None:
            return np.nan if column.parsed.is_float else 0
        return plain(column.default)


def evolved(rng: random.Random, manifest: Manifest) -> Manifest:
    """With rows of other schemas about: columns reordered, missing, of another type, and some that are gone."""
    views = []
    for view in manifest.views:
        columns = [(one.name, one.type) for one in view.columns]
        earlier = rng.sample(columns, rng.randint(1, len(columns)))
        kind = rng.choice(["int16", "string"])
        odd = [(name, kind if rng.random() < 0.2 else type_) for name, type_ in earlier]
        older = [odd, [*columns[::-1], ("gone", "int64")]]
        views.append(msgspec.structs.replace(view, older=older))
    return msgspec.structs.replace(manifest, views=views)
