from __future__ import annotations

import dataclasses
from collections.abc import Callable

import lightgbm
import numpy as np
import pytest

from examples.flights.category_codes import CategoryCodes, fit_codes
from examples.flights.features import CATEGORIES, Rows, feature_rows
from examples.flights.flight_log import FlightLog, read_flight_log
from examples.flights.tables import Tables, read_tables
from examples.flights.trees import fit


@dataclasses.dataclass(frozen=True)
class Slice:
    """A few real days: their tables, their log, codes for all names in them, their inputs."""

    tables: Tables
    log: FlightLog
    codes: CategoryCodes
    rows: Rows


@pytest.fixture(scope="session")
def year() -> Tables:
    return read_tables()


@pytest.fixture(scope="session")
def days(year: Tables) -> Callable[[int, int, int], Slice]:
    """The flights and the weather of some days of one month, the last day included."""

    def cut(month: int, first: int, last: int) -> Slice:
        flights, weather = (
            table[(table["month"] == month) & table["day"].between(first, last)].reset_index(drop=True)
            for table in (year.flights, year.weather)
        )
        tables = dataclasses.replace(year, flights=flights, weather=weather)
        log = read_flight_log(tables)
        everyone = np.ones(len(log), dtype=np.bool_)
        codes = fit_codes({name: getattr(log, name) for name in CATEGORIES}, everyone)
        return Slice(tables, log, codes, feature_rows(tables, log, codes))

    return cut


@pytest.fixture(scope="session")
def stormy(days: Callable[[int, int, int], Slice]) -> Slice:
    """Three days of thunderstorms: long delays, many cancelled and diverted flights."""
    return days(6, 24, 26)


@pytest.fixture(scope="session")
def week(days: Callable[[int, int, int], Slice]) -> Slice:
    return days(7, 1, 7)


@pytest.fixture(scope="session")
def small_trees(week: Slice) -> lightgbm.Booster:
    known = week.log.has_outcome
    return fit(week.rows[known], week.log.late[known], rounds=40)
