from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from examples.flights.flight_log import NEVER, FlightLog, read_flight_log
from examples.flights.tables import Tables


@pytest.fixture(scope="module")
def log(year: Tables) -> FlightLog:
    return read_flight_log(year)


def test_the_year_is_whole(year: Tables, log: FlightLog) -> None:
    assert len(log) == 336_776
    assert (log.departed == NEVER).sum() == 8_255  # cancelled
    assert (log.landed == NEVER).sum() == 9_430  # cancelled or diverted
    assert log.late.sum() == (year.flights["arr_delay"] >= 15).sum()


def test_time_in_the_air_fits_between_departure_and_landing(year: Tables, log: FlightLog) -> None:
    # The air time is measured apart from all clocks. What is left is taxiing, at both ends together:
    # an error of one hour anywhere in 327,346 flights would show.
    taxiing = (log.landed - log.departed)[log.has_outcome] - year.flights["air_time"].dropna()
    assert taxiing.min() >= 5
    assert taxiing.quantile(0.001) >= 10
    assert taxiing.quantile(0.9999) <= 180
    assert taxiing.max() <= 240


@pytest.mark.parametrize(
    ("moment", "clock"), [("departed", "dep_time"), ("scheduled", "sched_dep_time")]
)
def test_moments_are_what_the_printed_clocks_show(
    year: Tables, log: FlightLog, moment: str, clock: str
) -> None:
    happened = getattr(log, moment) < NEVER
    minutes = getattr(log, moment)[happened].astype("datetime64[m]")
    local = pd.DatetimeIndex(minutes, tz="UTC").tz_convert("America/New_York")
    printed = year.flights[clock].to_numpy()[happened] % 2400
    assert np.array_equal(local.hour * 100 + local.minute, printed)


@pytest.mark.parametrize(
    ("flight", "month", "departed", "landed"),
    [
        # JFK 08:57 to Honolulu 15:16, five hours behind New York in winter
        (("HA", 51), 1, "2013-01-01T13:57", "2013-01-02T01:16"),
        # JFK 10:05 to Honolulu 15:27, six hours behind in summer
        (("HA", 51), 7, "2013-07-01T14:05", "2013-07-02T01:27"),
        # EWR 14:24 to Phoenix 16:18, which knows no summer time, on the day when it begins elsewhere
        (("US", 186), 3, "2013-03-10T18:24", "2013-03-10T23:18"),
    ],
)
def test_flights_read_by_hand(
    year: Tables, log: FlightLog, flight: tuple[str, int], month: int, departed: str, landed: str
) -> None:
    carrier, number = flight
    of_that_day = year.flights["time_hour"].str.startswith(departed[:10])
    chosen = of_that_day & (log.carrier == carrier) & (log.number == number) & (log.month == month)
    (row,) = np.flatnonzero(chosen)
    assert text(log.departed[row]) == departed
    assert text(log.landed[row]) == landed


def text(minute: np.int64) -> str:
    return datetime.fromtimestamp(int(minute) * 60, UTC).strftime("%Y-%m-%dT%H:%M")
