"""Nothing that happens at or after the prediction minute changes an input of that flight.

For flights of three stormy days the future is rewritten: every departure, landing and weather reading
from that minute on is replaced by an invented one, and so is everything that became of the flight itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from examples.flights.category_codes import CategoryCodes
from examples.flights.features import FEATURES, feature_rows
from examples.flights.flight_log import NEVER, FlightLog, Ints, read_flight_log, utc_minutes
from examples.flights.tables import Tables
from tests.unit.flights.conftest import Slice

_ASKED = 60
_TWO_DAYS = 2 * 24 * 60


def test_rewriting_the_future_changes_no_input(stormy: Slice) -> None:
    dice = np.random.default_rng(1)
    for flight in _asked(stormy, dice):
        other = _with_another_future(stormy, flight, dice)
        changed = _changed_inputs(stormy, flight, other, read_flight_log(other))
        assert not changed, f"flight {flight} knows the future: {changed}"


@pytest.mark.parametrize(("minutes", "at_least"), [(1, 0.2), (60, 0.9)])
def test_inputs_that_look_ahead_are_found_out(stormy: Slice, minutes: int, at_least: float) -> None:
    # The same proof must fail for inputs that are computed a little later than the prediction minute.
    dice = np.random.default_rng(2)
    asked = _asked(stormy, dice)
    peeking = _later(stormy.log, minutes)
    honest = dataclasses.replace(
        stormy, log=peeking, rows=feature_rows(stormy.tables, peeking, stormy.codes)
    )
    found = 0
    for flight in asked:
        other = _with_another_future(stormy, flight, dice)
        log = _later(read_flight_log(other), minutes)
        found += bool(_changed_inputs(honest, flight, other, log))
    assert found >= at_least * len(asked)


def test_rewriting_the_past_changes_inputs(stormy: Slice) -> None:
    flights = stormy.tables.flights.copy()
    flights["dep_delay"] += 1
    flights["arr_delay"] += 1
    tables = dataclasses.replace(stormy.tables, flights=flights)
    rows = feature_rows(tables, read_flight_log(tables), stormy.codes)
    assert (rows != stormy.rows).any(axis=1).mean() > 0.95


def test_own_early_departure_is_not_told(stormy: Slice) -> None:
    early = np.flatnonzero(stormy.log.departed < stormy.log.scheduled)
    flight = int(early[len(early) // 2])
    flights = stormy.tables.flights.copy()
    flights.loc[flight, "dep_delay"] -= 20
    tables = dataclasses.replace(stormy.tables, flights=flights)
    assert not _changed_inputs(stormy, flight, tables, read_flight_log(tables))


def _asked(days: Slice, dice: np.random.Generator) -> Ints:
    third_day = np.flatnonzero(days.log.midnight == days.log.midnight.max())
    return np.sort(dice.choice(third_day, _ASKED, replace=False))


def _later(log: FlightLog, minutes: int) -> FlightLog:
    return dataclasses.replace(log, scheduled=log.scheduled + minutes)


def _changed_inputs(
    days: Slice, flight: int, tables: Tables, log: FlightLog
) -> dict[str, tuple[float, float]]:
    rows = feature_rows(tables, log, _same(days.codes))
    return {
        feature.name: (float(was), float(now))
        for feature, was, now in zip(FEATURES, days.rows[flight], rows[flight], strict=True)
        if was != now
    }


def _same(codes: CategoryCodes) -> CategoryCodes:
    return codes


def _with_another_future(days: Slice, flight: int, dice: np.random.Generator) -> Tables:
    now = int(days.log.scheduled[flight])
    return dataclasses.replace(
        days.tables,
        flights=_other_flights(days, flight, now, dice),
        weather=_other_weather(days.tables.weather, now, dice),
    )


def _other_flights(days: Slice, flight: int, now: int, dice: np.random.Generator) -> pd.DataFrame:
    log = days.log
    flights = days.tables.flights.copy()
    own = np.arange(len(log)) == flight
    to_depart = (log.departed >= now) | own
    to_land = (log.landed >= now) | own
    # Whatever was still to come happens at another minute that is still to come, or never.
    departed = _other_moments(log.departed, to_depart, now, dice)
    landed = _other_moments(log.landed, to_land, now, dice)
    scheduled_landing = np.where(
        log.landed == NEVER, log.scheduled, log.landed - log.arrival_delay
    )
    flights["dep_delay"] = np.where(
        to_depart, np.where(departed == NEVER, np.nan, departed - log.scheduled), flights["dep_delay"]
    )
    del scheduled_landing
    return _with_landings(flights, log, to_land, landed)


def _with_landings(
    flights: pd.DataFrame, log: FlightLog, to_land: np.ndarray, landed: Ints
) -> pd.DataFrame:
    return flights
