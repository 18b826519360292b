"""Our definitions of the repository in ``repository.py``, and whether rows hold what feast itself answers.

What feast said is the JSON object of ``write_store.py``; ``recorded.json`` is one that feast 0.67 said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis

from featurecache.columns import ColumnType
from featurecache.manifests.manifest import ColumnSpec, EntitySpec, Manifest, ViewSpec
from featurecache.rows.codec import RowCodec, RowTable, is_sound
from featurecache.rows.keys import ids_of, key_frame

PROJECT = "flights_demo"
RECORDED = Path(__file__).with_name("recorded.json")

ALL_TYPES = {
    "f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "flag": "bool",
    "word": "string", "seen": "timestamp",
    "v32": "float32[3]", "v64": "float64[2]", "vi32": "int32[2]", "vi64": "int64[2]",
}  # fmt: skip
"""Without ``raw``: rows hold no bytes that are no text."""

ENTITIES = {
    "airport": {"origin": "string"},
    "flight": {"flight_no": "int64"},
    "seat": {"seat_no": "int32"},
    "leg": {"origin": "string", "flight_no": "int64"},  # not in the order in which feast sorts them
}
VIEWS = {
    "all_types": ("airport", ALL_TYPES),
    "rates": ("airport", {f"rate{i}": "float32" for i in range(4)}),
    "delays": ("flight", {"minutes": "int64"}),
    "prices": ("seat", {"price": "float64"}),
    "legs": ("leg", {"load": "float32"}),
}

Said = dict[str, Any]


def recorded() -> Said:
    """What feast said when it was last asked."""
    said: Said = json.loads(RECORDED.read_text())
    return said


def write(client: redis.Redis, said: Said) -> None:
    """Let the server hold what feast wrote, and nothing else."""
    client.flushall()
    for key, fields in said["hashes"].items():
        whole: dict[Any, Any] = {
            bytes.fromhex(field): bytes.fromhex(value) for field, value in fields.items()
        }
        client.hset(bytes.fromhex(key), mapping=whole)


def view_spec(name: str, entity: str, columns: Mapping[str, str]) -> ViewSpec:
    """A view of ours."""
    return ViewSpec(name, entity, [ColumnSpec(*one) for one in columns.items()])


def manifest(**others: Mapping[str, str]) -> Manifest:
    """Our definitions of the views that feast wrote; ``others``: columns, in other types, of some views."""
    return Manifest(
        project="ours",
        entities=[EntitySpec(name, dict(keys)) for name, keys in ENTITIES.items()],
        views=[
            view_spec(name, entity, others.get(name, columns))
            for name, (entity, columns) in VIEWS.items()
        ],
    )


def key_of(view: str, entity: Mapping[str, Any]) -> bytes:
    """Our name of the row. An empty key, which we never ask for and feast writes, is spelled out."""
    kind = VIEWS[view][0]
    parts = [entity[key] for key in ENTITIES[kind]]
    before, after = key_frame("ours", kind, view)
    if parts == [""]:
        return before + after
    (entity_id,) = ids_of([[one.encode() if isinstance(one, str) else one] for one in parts])
    return before + entity_id + after


def asked(said: Said) -> tuple[list[bytes], list[tuple[str, Mapping[str, Any]]]]:
    """Keys of all that feast was asked, and feast's answer to each: the view, and its features by name."""
    keys, answers = [], []
    for view, rows in said["answers"].items():
        for row in rows:
            keys.append(key_of(view, row["entity"]))
            answers.append((view, row["features"]))
    return keys, answers


def assert_same(
    rows: Sequence[bytes | None], answers: Sequence[tuple[str, Mapping[str, Any]]]
) -> int:
    """Every value, null and event time is as feast says; how many values were compared."""
    compared = 0
    specs = {view.name: view for view in manifest().views}
    for row, (view, features) in zip(rows, answers, strict=True):
        first = next(iter(features.values()))
        if all(one["value"] is None for one in features.values()) and not first["event_time_us"]:
            assert row is None, f"{view}: feast has nothing, we have {row!r}"
            continue
        assert row is not None, f"{view}: feast has {features}"
        assert is_sound(row), f"{view}: {row!r} of {features}"
        table = RowCodec(specs[view].schema).table([row])
        assert table.event_us.tolist() == [first["event_time_us"]]
        for column in specs[view].columns:
            said = features[column.name]
            _assert_same_value(column.name, column.parsed, table, said["value"])
            compared += 1
    return compared


def _assert_same_value(name: str, type_: ColumnType, table: RowTable, said: Any) -> None:
    assert table.nulls(name).tolist() == [said is None], name
    if said is None:
        return
    kind, value = said
    values = value if isinstance(value, list) else [value]
    found = np.ravel(table.column(name)[0]) if type_.length else table.column(name)
    if type_.is_string:
        assert found.tolist() == [value.encode()]
    elif type_.is_float:  # bit by bit: signs of zeros, denormals
        dtype = "<f8" if kind.startswith("double") else "<f4"
        expected = np.frombuffer(bytes.fromhex("".join(values)), dtype)
        assert found.astype(dtype).tobytes() == expected.tobytes(), name
    elif type_.kind == "timestamp":
        assert found.tolist() == [one * 1_000_000 for one in values]
    else:
        assert found.tolist() == [int(one) for one in values], name
