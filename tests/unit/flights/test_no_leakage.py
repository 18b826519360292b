"""Nothing that happens at or after the prediction minute changes an input of that flight.

For flights of a stormy day the future is rewritten: every departure, landing and weather reading
from that minute on becomes an invented one, and so does everything that became of the flight itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from examples.flights.features import FEATURES, feature_rows
from examples.flights.flight_log import FlightLog, Ints, read_flight_log
from examples.flights.tables import Tables
from tests.unit.flights.days import Days
from tests.unit.flights.futures import with_another_future

ASKED = 60


@pytest.fixture
def dice() -> np.random.Generator:
    return np.random.default_rng(20130626)


def test_rewriting_the_future_changes_no_input(stormy: Days, dice: np.random.Generator) -> None:
    for flight in asked(stormy, dice):
        other = with_another_future(stormy, int(stormy.log.scheduled[flight]), dice, own=flight)
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
        other = with_another_future(stormy, int(stormy.log.scheduled[flight]), dice, own=flight)
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
