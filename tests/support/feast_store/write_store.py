"""Runs in feast's own venv: writes the shared repository through feast, reads it back through feast, tells both.

usage: python -m tests.support.feast_store.write_store --port PORT --folder FOLDER [--key-ttl-s S]

On stdout one JSON object: ``answers`` is what ``get_online_features`` gave (by view: for each entity asked, each
feature's value, status and event time), ``hashes`` what then lies in the server, ``murmur`` and ``keys`` what feast's
own functions make of some names and entities.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path

import feast
import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from tests.support.feast_store.repository import (
    AIRPORT,
    FLIGHT,
    SEAT,
    asked,
    feature_store,
    frames,
    views,
)

NAMES = ["", "a", "ab", "abc", "abcd", "abcde", "view:feature", "rates:rate0", "Größe:☁", "x" * 257]
KEYS = [
    [("origin", Value(string_val="JFK"))],
    [("origin", Value(string_val=""))],
    [("origin", Value(bytes_val=b"\x00}"))],
    [("flight_no", Value(int64_val=-5))],
    [("flight_no", Value(int32_val=7))],
    [("at", Value(unix_timestamp_val=1_700_000_000))],
    [("b", Value(int64_val=1)), ("a", Value(string_val="Zürich"))],
    [("Zeta", Value(int32_val=1)), ("alpha", Value(string_val="x")), ("B", Value(int64_val=2))],
]


def told(value: Value) -> object:
    """A value that JSON holds exactly: floats as the hex of their little-endian bytes."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    one = getattr(value, kind)
    if kind.endswith("list_val"):
        return [kind, [exact(kind, item) for item in one.val]]
    return [kind, exact(kind, one)]


def exact(kind: str, one: object) -> object:
    if kind.startswith("float"):
        return struct.pack("<f", one).hex()
    if kind.startswith("double"):
        return struct.pack("<d", one).hex()
    return one.hex() if isinstance(one, bytes) else one


def answer(store: feast.FeatureStore, view: str, rows: list[dict[str, object]]) -> list[object]:
    features = [f"{view}:{field.name}" for field in store.get_feature_view(view).features]
    found = store.get_online_features(features=features, entity_rows=rows).proto
    names = list(found.metadata.feature_names.val)
    told_rows: list[object] = []
    for i, row in enumerate(rows):
        columns = {}
        for name, column in zip(names, found.results, strict=True):
            if name in row:
                continue
            at = column.event_timestamps[i]
            columns[name] = {
                "value": told(column.values[i]),
                "status": FieldStatus.Name(column.statuses[i]),
                "event_time_us": at.seconds * 1_000_000 + at.nanos // 1000,
            }
        told_rows.append({"entity": row, "features": columns})
    return told_rows


def _hex(raw: bytes | str) -> str:
    assert isinstance(raw, bytes)
    return raw.hex()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--key-ttl-s", type=int)
    options = parser.parse_args()
    store = feature_store(options.folder, options.port, key_ttl_s=options.key_ttl_s)
    store.apply([AIRPORT, FLIGHT, SEAT, *views(options.folder).values()])
    for view, frame in frames():
        store.write_to_online_store(view, df=frame)
    server = redis.Redis(port=options.port)
    keys = sorted(server.scan_iter())
    said = {
        "feast": feast.__version__,
        "answers": {view: answer(store, view, rows) for view, rows in asked().items()},
        "hashes": {
            _hex(key): {_hex(field): _hex(value) for field, value in server.hgetall(key).items()}
            for key in keys
        },
        "expiry_s": sorted({server.ttl(key) for key in keys}),
        "murmur": {name: _mmh3(name).hex() for name in NAMES},
        "keys": [
            [
                [[name, told(value)] for name, value in parts],
                serialize_entity_key(
                    EntityKey(join_keys=[n for n, _ in parts], entity_values=[v for _, v in parts])
                ).hex(),
            ]
            for parts in KEYS
        ],
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
