"""Another future for real flights: every departure, landing and weather reading from a minute on is invented."""

from __future__ import annotations

import dataclasses

import numpy as np

from examples.flights.flight_log import utc_minutes
from examples.flights.tables import Tables
from tests.unit.flights.days import Days


def with_another_future(days: Days, now: int, dice: np.random.Generator) -> Tables:
    """The same world up to the UTC minute ``now``, and another one from then on."""
    log, size = days.log, len(days.log)
    flights = days.tables.flights.copy()

    # What had not departed departs at another minute that is still to come, or never.
    to_depart = log.departed >= now
    departures = (now + dice.integers(0, 600, size) - log.scheduled).astype(np.float64)
    departures[dice.random(size) < 0.2] = np.nan
    flights["dep_delay"] = np.where(to_depart, departures, flights["dep_delay"])

    # What had not landed lands at another minute that is still to come, or never; some that never
    # landed do so in the end.
    to_land = log.landed >= now
    landings = now + dice.integers(0, 900, size) - log.landed + log.arrival_delay
    landings = np.where(log.has_outcome, landings, 5_000).astype(np.float64)
    landings[dice.random(size) < 0.2] = np.nan
    flights["arr_delay"] = np.where(to_land, landings, flights["arr_delay"])

    # Clock faces say the same as the delays, and are not to be read.
    for column in ("dep_time", "arr_time", "air_time"):
        flights[column] = dice.integers(1, 2400, size).astype(np.float64)
    # Planes of later flights are not yet assigned.
    to_come = np.flatnonzero((log.scheduled > now) & to_depart & to_land)
    flights.loc[to_come, "tailnum"] = flights["tailnum"].to_numpy()[dice.permutation(to_come)]

    weather = days.tables.weather.copy()
    unknown = (utc_minutes(weather["time_hour"]) + 60 > now).nonzero()[0]
    for column in (
        "temp",
        "dewp",
        "humid",
        "wind_dir",
        "wind_speed",
        "wind_gust",
        "precip",
        "visib",
    ):
        readings = dice.integers(0, 90, len(unknown)).astype(np.float64)
        readings[dice.random(len(unknown)) < 0.2] = np.nan
        weather.loc[unknown, column] = readings
    return dataclasses.replace(days.tables, flights=flights, weather=weather)
