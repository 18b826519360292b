"""A few real days of the flight data, cut out of the year."""

from __future__ import annotations

import dataclasses

import numpy as np

from examples.flights.category_codes import CategoryCodes, fit_codes
from examples.flights.features import CATEGORIES, Rows, feature_rows
from examples.flights.flight_log import FlightLog, read_flight_log
from examples.flights.tables import Tables


@dataclasses.dataclass(frozen=True)
class Days:
    """The tables of these days, their log, codes for all names in them, and their inputs."""

    tables: Tables
    log: FlightLog
    codes: CategoryCodes
    rows: Rows


def cut(year: Tables, month: int, first: int, last: int) -> Days:
    """Flights and weather from the first to the last day of a month, both included."""
    flights, weather = (
        table[(table["month"] == month) & table["day"].between(first, last)].reset_index(drop=True)
        for table in (year.flights, year.weather)
    )
    tables = dataclasses.replace(year, flights=flights, weather=weather)
    log = read_flight_log(tables)
    everyone = np.ones(len(log), dtype=np.bool_)
    codes = fit_codes({name: getattr(log, name) for name in CATEGORIES}, everyone)
    return Days(tables, log, codes, feature_rows(tables, log, codes))
