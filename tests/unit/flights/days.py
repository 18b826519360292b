"""A few real days of the flight data, cut out of the year."""

from __future__ import annotations

import dataclasses

import numpy as np

from examples.flights import definitions
from examples.flights.feature_tables import feature_tables, questions
from examples.flights.flight_log import FlightLog, read_flight_log
from examples.flights.inputs import TrainingSet
from examples.flights.scores import join
from examples.flights.tables import Tables


@dataclasses.dataclass(frozen=True)
class Days:
    """The tables of these days, and their log."""

    tables: Tables
    log: FlightLog


def cut(year: Tables, month: int, first: int, last: int) -> Days:
    """Flights and weather from the first to the last day of a month, both included."""
    flights, weather = (
        table[(table["month"] == month) & table["day"].between(first, last)].reset_index(drop=True)
        for table in (year.flights, year.weather)
    )
    tables = dataclasses.replace(year, flights=flights, weather=weather)
    return Days(tables, read_flight_log(tables))


def training_set(days: Days) -> TrainingSet:
    """The inputs of all flights that are asked about, by pandas' join."""
    asked = questions(days.log)
    inputs = join(definitions.flights, dict(feature_tables(days.tables)), asked)
    return TrainingSet(
        tuple(name.replace(".", "__") for name in inputs),
        inputs.to_numpy(np.float32),
        asked["late"].to_numpy(),
        asked["month"].to_numpy(np.int64),
    )
