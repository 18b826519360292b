"""Views, rows and inputs for the tests of whole requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurecache.columns import parse_type
from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureView,
    Float32,
    Float64,
    Input,
    Int64,
    String,
    Vector,
)
from featurecache.joining.assembly import ModelInput
from featurecache.joining.resolve import ServicePlan
from featurecache.rows.schema import RowSchema
from tests.unit.features.feature_plans import (
    NOW_US,
    SECOND_US,
    row_of,
)

AIRPORT = Entity("airport", keys={"origin": String})
FLIGHT = Entity("flight", keys={"carrier": String, "number": Int64})
DISTANCE = Input("distance", Float32)
WEATHER = FeatureView(
    "weather",
    entity=AIRPORT,
    columns=[
        Column("temp", Float32),
        Column("wind", Float32, default=-1.0),
        Column("sky", String, default="clear"),
        Column("hourly", Vector(Float32, 2)),
        Column("open", Bool, default=True),
    ],
    max_age="1h",
    cache_ttl="1m",
)
DELAY = FeatureView("delay", entity=FLIGHT, columns=[Column("late", Float64, default=0.25)])
X = ModelInput("x", "FP32", (-1, -1))


def weather(origin: bytes, age_s: float = 60, **values: Any) -> dict[bytes, bytes | None]:
    given = {"temp": 1.5, "wind": 2.5, "sky": b"fog", "hourly": [3, 4], "open": False} | values
    schema = RowSchema([(column.name, column.type) for column in WEATHER.columns])
    row = row_of(schema, given, event_us=NOW_US - round(age_s * SECOND_US))
    return {b"hr:p:{airport:%b}:weather" % origin: row}


def delay(flight: bytes, late: float | None) -> dict[bytes, bytes | None]:
    row = row_of(RowSchema([("late", parse_type("float64"))]), {"late": late})
    return {b"hr:p:{flight:%b}:delay" % flight: row}


def numbers(*values: int, kind: str = "i8") -> np.ndarray:
    return np.array(values, kind).reshape(-1, 1)


def row_keys(
    plan: ServicePlan, inputs: Sequence[np.ndarray], context: tuple[Any, ...] = ()
) -> list[list[bytes]]:
    return [view.keys for view in plan.wanted(inputs, context).views]
