"""What the flights model is told: entities, feature views, request-time inputs, and the service that orders them.

Decides the inputs of the model and how old each may be. It must never import the rest of the example: the gateway
reads a copy of this file. ``feature_tables.py`` says how each table is made and when its rows were known.

A view whose windows are empty has no new rows; its ``max_age`` is therefore its longest window, and its defaults
are what empty windows say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int64,
    ParquetSource,
    Project,
    String,
    Timestamp,
    on_demand,
)

UNKNOWN = -100.0
"""What stands for a measurement that is not there; the trees split it off."""
NO_PLANE_SEEN = 1_000.0
"""Minutes of slack of a plane of which nothing is known."""
_LONGEST_LATENESS = -600.0
_MICROSECONDS = 60_000_000

project = Project("flights")

airport = Entity("airport", keys={"origin": String})
carrier_at_airport = Entity("carrier_at_airport", keys={"carrier": String, "origin": String})
destination = Entity("destination", keys={"dest": String})
carrier_route = Entity("carrier_route", keys={"carrier": String, "dest": String})
flight_number = Entity("flight_number", keys={"carrier": String, "flight": Int64, "origin": String})
tail = Entity("plane", keys={"tailnum": String})


def _source(view: str) -> ParquetSource:
    return ParquetSource(f"{view}/*.parquet", event_time="known_at")


def _measured(name: str, description: str) -> Column:
    return Column(name, Float32, default=UNKNOWN, description=description)


def _counted(name: str, description: str) -> Column:
    return Column(name, Float32, default=0.0, description=description)


airport_weather = FeatureView(
    "airport_weather",
    entity=airport,
    source=_source("airport_weather"),
    columns=[
        _measured("temperature_f", "last full hour, °F"),
        _measured("humidity_percent", "last full hour"),
        _measured("wind_direction_deg", "last full hour"),
        _measured("wind_speed_mph", "last full hour"),
        _measured("wind_gust_mph", "last full hour; 0 without gusts"),
        _measured("precipitation_6h_hundredths_in", "sum of six hours, 1/100 in"),
        _measured("visibility_miles", "last full hour"),
        _measured("visibility_3h_miles", "worst of three hours"),
    ],
    max_age="6h",
    retention="2d",
    cache_ttl="1m",
    stale_if_error="1d",
    owner="operations",
    description="Hourly weather at the origin, known when the hour is over.",
)
airport_delay = FeatureView(
    "airport_delay",
    entity=airport,
    source=_source("airport_delay"),
    columns=[
        _counted("departure_delay_1h", "mean delay of departures, min"),
        _counted("late_percent_1h", "of them, 15 minutes late or more"),
        _counted("departure_delay_3h", "mean delay, min"),
        _counted("overdue", "flights whose time came in the last 2 h and that have not left"),
    ],
    max_age="3h",
    retention="1d",
    cache_ttl="15s",
    stale_if_error="1h",
    owner="operations",
    description="Departures of the last hours at the origin.",
)
carrier_delay = FeatureView(
    "carrier_delay",
    entity=carrier_at_airport,
    source=_source("carrier_delay"),
    columns=[
        _counted("departures_3h", "the carrier's flights that left"),
        _counted("departure_delay_1h", "mean delay, min"),
        _counted("departure_delay_3h", "mean delay, min"),
        _counted("overdue", "flights whose time came in the last 2 h and that have not left"),
    ],
    max_age="3h",
    retention="1d",
    cache_ttl="15s",
    stale_if_error="1h",
    owner="operations",
    description="The carrier's departures of the last hours at the origin.",
)
destination_delay = FeatureView(
    "destination_delay",
    entity=destination,
    source=_source("destination_delay"),
    columns=[
        _counted("arrival_delay_4h", "mean delay of landings, min"),
        _counted("late_percent_2h", "of landings, 15 minutes late or more"),
        _counted("overdue", "flights to it whose time came in the last 2 h and that have not left"),
    ],
    max_age="4h",
    retention="1d",
    cache_ttl="15s",
    stale_if_error="1h",
    owner="operations",
    description="Landings at the destination, from New York.",
)
route_delay = FeatureView(
    "route_delay",
    entity=carrier_route,
    source=_source("route_delay"),
    columns=[
        _counted("arrivals_24h", "landings of the last day"),
        _counted("arrival_delay_24h", "their mean delay, min"),
    ],
    max_age="1d",
    retention="2d",
    cache_ttl="1m",
    stale_if_error="6h",
    owner="operations",
    description="The carrier's landings at the destination.",
)
flight_history = FeatureView(
    "flight_history",
    entity=flight_number,
    source=_source("flight_history"),
    columns=[
        _counted("landings_28d", "of this flight number"),
        Column(
            "late_percent_28d",
            Float32,
            default=20.0,
            description="of them, drawn towards 20 by five flights that never were",
        ),
    ],
    max_age="28d",
    retention="60d",
    cache_ttl="10m",
    stale_if_error="7d",
    owner="planning",
    description="How often the flight number landed late, computed every night.",
)
plane_last_leg = FeatureView(
    "plane_last_leg",
    entity=tail,
    source=_source("plane_last_leg"),
    columns=[
        _counted("departure_delay", "of the last departure from New York, min"),
        _counted("arrival_delay", "of the last landing after New York, min"),
        Column(
            "ready_at",
            Timestamp,
            default=0,
            description="back in New York and turned around, as far as can be told",
        ),
    ],
    max_age="1d",
    retention="2d",
    cache_ttl="15s",
    stale_if_error="1h",
    owner="operations",
    description="The plane's last leg out of New York, written when it leaves and when it lands.",
)
plane = FeatureView(
    "plane",
    entity=tail,
    source=_source("plane"),
    columns=[_measured("age_years", "2013 minus the year of manufacture"), _measured("seats", "")],
    cache_ttl="1h",
    owner="registry",
    description="The register of planes.",
)

scheduled_at = Input("scheduled_at", Timestamp, description="scheduled departure")
minute_of_day = Input("minute_of_day", Float32, description="of it, New York local time")
day_of_week = Input("day_of_week", Float32, description="of it, 0 is Monday, local date")
distance_miles = Input("distance_miles", Float32, description="between the two airports")


@on_demand(
    inputs=[scheduled_at, plane_last_leg["ready_at"]],
    output=Column("plane_slack", Float32, default=NO_PLANE_SEEN, description="min"),
)
def plane_slack(scheduled: Any, ready: Any) -> Any:
    """Whole minutes between the plane being ready and the scheduled departure; negative: it will not make it."""
    slack = (scheduled - ready) // _MICROSECONDS
    return np.clip(slack, _LONGEST_LATENESS, NO_PLANE_SEEN).astype(np.float32)


flights = FeatureService(
    "flights",
    inputs=[
        minute_of_day,
        day_of_week,
        distance_miles,
        *airport_weather.all(),
        *airport_delay.all(),
        *carrier_delay.all(),
        *destination_delay.all(),
        *route_delay.all(),
        *flight_history.all(),
        plane_last_leg["departure_delay"],
        plane_last_leg["arrival_delay"],
        plane_slack,
        *plane.all(),
    ],
    owner="operations",
    description="Chance of landing 15 or more minutes late, asked 30 minutes before the scheduled departure.",
)
