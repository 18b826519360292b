from __future__ import annotations

import lightgbm
import pytest

from examples.flights.tables import Tables, read_tables
from examples.flights.trees import fit
from tests.unit.flights.days import Days, cut


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
def small_trees(month: Days) -> lightgbm.Booster:
    known = month.log.has_outcome
    return fit(month.rows[known], month.log.late[known], trees=40, leaves=31)
