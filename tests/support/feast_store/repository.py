"""The feature repository that the checks share: runs in feast's own venv and imports only what is there.

Every type that a packed row can hold, several views on one hash, join keys of each kind, two join keys at once.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)

PROJECT = "flights_demo"
EVENT_TIME = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
WHOLE_SECOND = datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)
LONG_AGO = datetime(1969, 12, 31, 23, 59, 58, 250000, tzinfo=UTC)

AIRPORT = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
FLIGHT = Entity(name="flight", join_keys=["flight_no"], value_type=ValueType.INT64)
SEAT = Entity(name="seat", join_keys=["seat_no"], value_type=ValueType.INT32)

ALL_TYPES = (
    Field(name="f32", dtype=Float32),
    Field(name="f64", dtype=Float64),
    Field(name="i32", dtype=Int32),
    Field(name="i64", dtype=Int64),
    Field(name="flag", dtype=Bool),
    Field(name="word", dtype=String),
    Field(name="raw", dtype=Bytes),
    Field(name="seen", dtype=UnixTimestamp),
    Field(name="v32", dtype=Array(Float32)),
    Field(name="v64", dtype=Array(Float64)),
    Field(name="vi32", dtype=Array(Int32)),
    Field(name="vi64", dtype=Array(Int64)),
)


def feature_store(folder: Path, port: int, *, key_ttl_s: int | None = None) -> FeatureStore:
    """A store whose registry lies in ``folder`` and whose online rows go to the server on ``port``."""
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=RedisOnlineStoreConfig(
                connection_string=f"127.0.0.1:{port}", key_ttl_seconds=key_ttl_s
            ),
            entity_key_serialization_version=3,
        )
    )


def views(folder: Path) -> dict[str, FeatureView]:
    """The views by name; their files are never read, rows are pushed."""
    joins = {
        AIRPORT.name: [Field(name="origin", dtype=String)],
        FLIGHT.name: [Field(name="flight_no", dtype=Int64)],
        SEAT.name: [Field(name="seat_no", dtype=Int32)],
    }

    def view(
        name: str, entities: list[Entity], fields: list[Field], **options: object
    ) -> FeatureView:
        keys = [key for entity in entities for key in joins[entity.name]]
        source = FileSource(
            name=f"{name}_source",
            path=str(folder / f"{name}.parquet"),
            timestamp_field="event_timestamp",
        )
        return FeatureView(
            name=name, entities=entities, schema=[*keys, *fields], source=source, **options
        )

    rates = [Field(name=f"rate{i}", dtype=Float32) for i in range(4)]
    made = [
        view("all_types", [AIRPORT], list(ALL_TYPES), ttl=timedelta(days=3)),
        view("rates", [AIRPORT], rates, ttl=timedelta(0)),
        view("delays", [FLIGHT], [Field(name="minutes", dtype=Int64)]),
        view("prices", [SEAT], [Field(name="price", dtype=Float64)]),
        view("legs", [FLIGHT, AIRPORT], [Field(name="load", dtype=Float32)]),
    ]
    return {one.name: one for one in made}


def _all_types() -> list[pd.DataFrame]:
    """Twice: a whole-number column with nulls goes through a float64 inside feast, which loses what is above 2**53."""
    nulls = {field.name: None for field in ALL_TYPES}
    rows: list[dict[str, object]] = [
        {
            "origin": "JFK", "event_timestamp": EVENT_TIME,
            "f32": 1.25, "f64": 0.1, "i32": 7, "i64": 300, "flag": True, "word": "clear",
            "raw": b"\x00\xff", "seen": EVENT_TIME.replace(microsecond=0),
            "v32": [0.5, 1.5, -2.5], "v64": [0.1, 0.2], "vi32": [1, -1], "vi64": [1 << 40, -5],
        },
        {
            "origin": "", "event_timestamp": WHOLE_SECOND,
            "f32": 0.0, "f64": -0.0, "i32": 0, "i64": 0, "flag": False, "word": "",
            "raw": b"", "seen": datetime(1970, 1, 1, tzinfo=UTC),
            "v32": [0.0, 0.0, 0.0], "v64": [0.0, 0.0], "vi32": [0, 0], "vi64": [0, 0],
        },
        {
            "origin": "Zürich|%41 {x}:y", "event_timestamp": LONG_AGO,
            "f32": float("-inf"), "f64": 1.7976931348623157e308, "i32": -(1 << 31),
            "i64": -(1 << 63), "flag": True, "word": "bewölkt ☁ " * 30, "raw": bytes(range(256)),
            "seen": LONG_AGO.replace(microsecond=0),
            "v32": [3.4e38, 1e-40, -0.0], "v64": [5e-324, -1e300],
            "vi32": [(1 << 31) - 1, -(1 << 31)], "vi64": [(1 << 63) - 1, -(1 << 63)],
        },
        {
            "origin": "EWR", "event_timestamp": EVENT_TIME,
            "f32": 2.5, "f64": 2.5, "i32": (1 << 31) - 1, "i64": 1 << 53, "flag": None,
            "word": None, "raw": None, "seen": None, "v32": None, "v64": None, "vi32": None,
            "vi64": None,
        },
        {"origin": "LGA", "event_timestamp": EVENT_TIME, **nulls},
    ]  # fmt: skip
    whole, with_nulls = rows[:3], rows[3:]
    frame = pd.DataFrame(with_nulls)
    for name, dtype in {"i32": "Int32", "i64": "Int64", "flag": "boolean"}.items():
        frame[name] = pd.array([row[name] for row in with_nulls], dtype=dtype)
    return [pd.DataFrame(whole).astype({"i32": "int32", "i64": "int64"}), frame]


def frames() -> list[tuple[str, pd.DataFrame]]:
    """What is written: views, and rows for them."""
    rates = {f"rate{i}": [i + 0.5, -i - 0.25] for i in range(4)}
    at = {"event_timestamp": [EVENT_TIME, WHOLE_SECOND]}
    prices = pd.DataFrame({"seat_no": [-5, 12], **at, "price": [99.5, 0.0]})
    legs = {"flight_no": [11, 12], "origin": ["JFK", "LGA"], **at, "load": [0.75, 1.0]}
    return [
        *(("all_types", frame) for frame in _all_types()),
        ("rates", pd.DataFrame({"origin": ["JFK", "BOS"], **at, **rates})),
        ("delays", pd.DataFrame({"flight_no": [-5, 1 << 40], **at, "minutes": [-3, 128]})),
        ("prices", prices.astype({"seat_no": "int32"})),
        ("legs", pd.DataFrame(legs)),
    ]


def asked() -> dict[str, list[dict[str, object]]]:
    """The entities that each view is asked for: the written ones, and one that never was."""
    wanted: dict[str, list[dict[str, object]]] = {
        "all_types": [{"origin": one} for one in ["JFK", "", "Zürich|%41 {x}:y", "EWR", "LGA"]],
        "rates": [{"origin": one} for one in ["JFK", "BOS", "EWR"]],
        "delays": [{"flight_no": one} for one in [-5, 1 << 40]],
        "prices": [{"seat_no": one} for one in [-5, 12]],
        "legs": [{"flight_no": 11, "origin": "JFK"}, {"flight_no": 12, "origin": "LGA"}],
    }
    never: dict[str, object] = {"origin": "never", "flight_no": 404, "seat_no": 404}
    for rows in wanted.values():
        rows.append({key: never[key] for key in rows[0]})
    return wanted
