from __future__ import annotations

import lightgbm
import pytest

from examples.flights.inputs import TrainingSet
from examples.flights.tables import Tables, read_tables
from examples.flights.trees import fit
from tests.unit.flights.days import Days, cut, training_set


@pytest.fixture(scope="session")
def year() -> Tables:
    return read_tables()


@pytest.fixture(scope="session")
def stormy(year: Tables) -> Days:
    """Three days of thunderstorms: long delays, many cancelled and diverted flights."""
    return cut(year, month=6, first=24, last=26)


@pytest.fixture(scope="session")
def month(year: Tables) -> Days:
    return cut(year, month=7, first=1, last=31)


@pytest.fixture(scope="session")
def known(month: Days) -> TrainingSet:
    """Of the month."""
    return training_set(month)


@pytest.fixture(scope="session")
def small_trees(known: TrainingSet) -> lightgbm.Booster:
    return fit(known.names, known.rows, known.late, trees=40, leaves=31)
