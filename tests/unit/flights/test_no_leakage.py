"""Nothing that happens at or after the prediction minute changes an input of that flight.

For flights of a stormy day the future is rewritten: every departure, landing and weather reading
from that minute on becomes an invented one, and so does everything that became of the flight itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from examples.flights.features import FEATURES, feature_rows
from examples.flights.flight_log import FlightLog, Ints, read_flight_log, utc_minutes
from examples.flights.tables import Tables
from tests.unit.flights.days import Days

ASKED = 60


@pytest.fixture
def dice() -> np.random.Generator:
    return np.random.default_rng(20130626)


def test_rewriting_the_future_changes_no_input(stormy: Days, dice: np.random.Generator) -> None:
    for flight in asked(stormy, dice):
        other = with_another_future(stormy, flight, dice)
        told = changes(stormy, flight, other, read_flight_log(other))
        assert not told, f"flight {flight} knows the future: {told}"


@pytest.mark.parametrize(("minutes", "share"), [(1, 0.3), (60, 0.95)])
def test_inputs_that_look_ahead_are_found_out(
    stormy: Days, dice: np.random.Generator, minutes: int, share: float
) -> None:
    # The same proof must fail for inputs that are taken a little after the prediction minute.
    peeking = later(stormy.log, minutes)
    ahead = dataclasses.replace(stormy, rows=feature_rows(stormy.tables, peeking, stormy.codes))
    found = 0
    for flight in asked(stormy, dice):
        other = with_another_future(stormy, flight, dice)
        found += bool(changes(ahead, flight, other, later(read_flight_log(other), minutes)))
    assert found >= share * ASKED


def test_rewriting_the_past_changes_inputs(stormy: Days) -> None:
    flights = stormy.tables.flights.copy()
    flights["dep_delay"] += 1
    flights["arr_delay"] += 1
    tables = dataclasses.replace(stormy.tables, flights=flights)
    rows = feature_rows(tables, read_flight_log(tables), stormy.codes)
    assert (rows != stormy.rows).any(axis=1).mean() > 0.95


def test_an_own_early_departure_is_not_told(stormy: Days) -> None:
    early = np.flatnonzero(stormy.log.departed < stormy.log.scheduled)
    for flight in early[:: len(early) // 10]:
        flights = stormy.tables.flights.copy()
        flights.loc[flight, "dep_delay"] = -1
        tables = dataclasses.replace(stormy.tables, flights=flights)
        assert not changes(stormy, flight, tables, read_flight_log(tables))


def asked(days: Days, dice: np.random.Generator) -> Ints:
    """Some flights of the last day, which has a past in the slice."""
    last_day = np.flatnonzero(days.log.midnight == days.log.midnight.max())
    return dice.choice(last_day, ASKED, replace=False)


def later(log: FlightLog, minutes: int) -> FlightLog:
    return dataclasses.replace(log, scheduled=log.scheduled + minutes)


def changes(
    days: Days, flight: int, tables: Tables, log: FlightLog
) -> dict[str, tuple[float, float]]:
    """Inputs of ``flight`` that are other in ``tables`` than in ``days``, with both values."""
    rows = feature_rows(tables, log, days.codes)
    pairs = zip(FEATURES, days.rows[flight].tolist(), rows[flight].tolist(), strict=True)
    return {feature.name: (was, now) for feature, was, now in pairs if was != now}


def with_another_future(days: Days, flight: int, dice: np.random.Generator) -> Tables:
    """The same world up to the prediction minute of ``flight``, and another one from then on."""
    log, now = days.log, int(days.log.scheduled[flight])
    size = len(log)
    own = np.arange(size) == flight
    flights = days.tables.flights.copy()

    # What had not departed departs at another minute that is still to come, or never.
    to_depart = (log.departed >= now) | own
    departures = (now + dice.integers(0, 600, size) - log.scheduled).astype(np.float64)
    departures[dice.random(size) < 0.2] = np.nan
    flights["dep_delay"] = np.where(to_depart, departures, flights["dep_delay"])

    # What had not landed lands at another minute that is still to come, or never; some that never
    # landed do so in the end.
    to_land = (log.landed >= now) | own
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
