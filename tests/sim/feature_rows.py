"""Rows that say whose they are and which of all writes made them; and what a model must see of them.

The right values follow from entity and write number alone, so a row of somebody else, an old one, or a default in the
place of a value is seen. Nothing here knows lookups; the packing is the real codec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote
from zlib import crc32

import numpy as np

from backends.signature import Signature, Tensor, TensorSpec
from featurecache.columns import Float64, Int64, String, Vector
from featurecache.definitions import Column, Entity, FeatureService, FeatureView, Input, Project
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.rows.codec import RowCodec
from featurecache.rows.schema import RowSchema
from tests.sim.feature_plans import ServicePlanned, StorePlan, ViewPlan
from tests.sim.rows import signature

EPOCH_US = 1_700_000_000_000_000
"""The day of the simulator begins its clock here, in µs since 1970."""
UNKNOWN = 1_000_000
"""Entities from here on have never been written."""
EMPTY = -1
"""A caller names no entity."""
DEFAULTS = (-1, -2, 7)
"""Of ``owner``, ``serial`` and ``mood``; ``share`` has none, and is NaN."""

_CODECS: dict[bool, RowCodec] = {}


def manifest_of(plan: StorePlan, width: int) -> Manifest:
    """All definitions of a day, for models whose callers send ``width`` ids a row."""
    entity = Entity("who", keys={"who": String})
    views = {one.name: _view(one, entity) for one in plan.views}
    ids, salt = Input("ids", Vector(Int64, width)), Input("salt", Int64)
    services = [
        FeatureService(
            service.name,
            inputs={
                "ids": [ids],
                "salt": [salt],
                "facts": [
                    views[name][column]
                    for name in service.views
                    for column in fact_columns(plan.view(name))
                ],
                "shares": [views[name]["share"] for name in service.views],
            },
        )
        for service in plan.services
    ]
    return compile_manifest([Project("sim"), *services])


def _view(plan: ViewPlan, entity: Entity) -> FeatureView:
    columns = [
        Column("share", Float64),
        Column("owner", Int64, default=DEFAULTS[0]),
        Column("serial", Int64, default=DEFAULTS[1]),
        Column("mood", Int64, default=DEFAULTS[2]),
    ]
    if plan.has_hole:
        columns.append(Column("hole", Int64))
    return FeatureView(
        plan.name,
        entity=entity,
        columns=columns,
        max_age=plan.max_age_s,
        cache_ttl=plan.cache_ttl_s,
        stale_if_error=plan.stale_if_error_s if plan.cache_ttl_s else 0,  # it is of copies
        on_missing=plan.on_missing,
        on_stale=plan.on_stale,
    )


def fact_columns(view: ViewPlan) -> tuple[str, ...]:
    """The integer columns of a view, in the order in which the model gets them."""
    return ("owner", "serial", "mood", "hole") if view.has_hole else ("owner", "serial", "mood")


def model_signature(plan: StorePlan, service: ServicePlanned, width: int) -> Signature:
    """Of a model that takes features beside what callers send."""
    plain = signature(width)
    facts = sum(len(fact_columns(plan.view(name))) for name in service.views)
    return Signature(
        (
            *plain.inputs,
            TensorSpec("facts", "INT64", (-1, facts)),
            TensorSpec("shares", "FP64", (-1, len(service.views))),
        ),
        plain.outputs,
    )


# -- entities and keys ----------------------------------------------------------------------------


def name_of(entity: int) -> bytes:
    """What callers call it; some names need escaping."""
    if entity == EMPTY:
        return b""
    return f"e {entity}/\u00e4".encode() if entity % 5 == 4 else b"e%d" % entity


def key_of(entity: int, view: str) -> bytes:
    """Where its row lies, by the documented form of keys."""
    return f"hr:sim:{{who:{quote(name_of(entity), safe='_.-')}}}:{view}".encode()


# -- rows -----------------------------------------------------------------------------------------


def make_row(view: ViewPlan, entity: int, serial: int, event_us: int, write_us: int) -> bytes:
    """A sound row; ``mood`` is null in some."""
    codec = _CODECS.get(view.has_hole)
    if codec is None:
        columns = [("share", Float64), ("owner", Int64), ("serial", Int64), ("mood", Int64)]
        if view.has_hole:
            columns.append(("hole", Int64))
        codec = _CODECS[view.has_hole] = RowCodec(RowSchema(columns))
    owner, share, mood, hole = _values(entity, serial)
    values = {
        "share": np.array([share]),
        "owner": np.array([owner]),
        "serial": np.array([serial]),
        "mood": np.array([mood]),
    }
    if view.has_hole:
        values["hole"] = np.array([hole])
    nulls = {"mood": np.array([_is_null(serial)])}
    return codec.encode(values, nulls, np.array([event_us], np.int64), write_us)[0]


def _values(entity: int, serial: int) -> tuple[int, float, int, int]:
    return entity, entity * 1000 + serial + 0.5, serial * 3 + entity, serial * 5 + entity


def _is_null(serial: int) -> bool:
    return serial % 7 == 3


def damaged(row: bytes) -> bytes:
    """The same row, one bit of it lost on the way."""
    at = len(row) // 2
    return row[:at] + bytes([row[at] ^ 4]) + row[at + 1 :]


def of_unknown_schema(row: bytes) -> bytes:
    """A sound row that nobody here can read."""
    content = row[:4] + b"\1\2\3\4" + row[8:-4]
    return content + crc32(content).to_bytes(4, "little")


def event_us_of(row: bytes) -> int:
    """When it became true."""
    return int.from_bytes(row[8:16], "little", signed=True)


def facts_of(view: ViewPlan, entity: int, serial: int) -> tuple[list[int], float]:
    """What the model must see of a row that can be used."""
    owner, share, mood, hole = _values(entity, serial)
    if _is_null(serial):
        mood = DEFAULTS[2]
    facts = [owner, serial, mood, hole] if view.has_hole else [owner, serial, mood]
    return facts, share


def default_facts() -> tuple[list[int], float]:
    """What it must see of one that cannot; there is no such thing for a view with a hole."""
    return list(DEFAULTS), float("nan")


def client_inputs(
    base: Sequence[Tensor], entities: Sequence[int], service: ServicePlanned
) -> tuple[tuple[Tensor, ...], tuple[str | None, ...]]:
    """What a caller sends: tensors, and the value of a parameter or header."""
    ids, salt = base
    values = (ids, salt[:, None])
    if service.key == "input":
        who = np.empty((len(ids), 1), np.object_)
        who[:, 0] = [name_of(one) for one in entities]
        return (who, *values), ()
    # Fronts hand headers on as they came: each byte is a character.
    return values, (
        name_of(entities[0]).decode("latin-1" if service.key == "header" else "utf-8") or None,
    )
