"""One afternoon of 2013, moved to today: the rows that a store would hold by then, and those that come next.

Decides which moment is replayed, and that one offset moves it to now: ages are measured by today's clock, so every
moment of rows and requests moves by the same number of microseconds, and nothing else changes. It must never show a
row before its minute has come.

The jobs of ``feature_tables`` run every ten minutes. The replay begins a little before such a run, in real time, and
goes on until it has happened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.flights.feature_tables import KNOWN_AT
from examples.flights.inputs import ASKED_AT
from featurecache.manifests.manifest import Manifest, ViewSpec

MOMENT = datetime(2013, 10, 7, 18, 0, tzinfo=UTC)
"""Two in the afternoon in New York; a front with thunderstorms is about to close the airports. A run of the jobs."""
LEAD_S = 8.0
"""From the beginning of the replay to the run of the jobs."""
DUE_FROM, DUE_UNTIL = timedelta(minutes=10), timedelta(hours=2)
"""Which flights are asked about: those that are scheduled so long after the moment."""

_SECOND = 1_000_000
_PAST, _NEWS = "past.parquet", "news.parquet"


@dataclass(frozen=True)
class Replay:
    """The moment, and by how many microseconds it is moved."""

    moment: datetime
    offset_us: int

    @classmethod
    def beginning(cls, now_s: float, moment: datetime = MOMENT) -> Replay:
        """One in which the clock stands ``LEAD_S`` before ``moment`` when it is ``now_s`` (since 1970) here."""
        return cls(moment, int((now_s + LEAD_S) * _SECOND) - int(moment.timestamp()) * _SECOND)

    @property
    def due_s(self) -> float:
        """When the moment comes, in seconds since 1970 of today's clock."""
        return self.moment.timestamp() + self.offset_us / _SECOND

    def clock(self, now_s: float) -> datetime:
        """What the replayed clock shows when it is ``now_s`` here, UTC."""
        return self.moment + timedelta(seconds=now_s - self.due_s)

    def write_past(self, manifest: Manifest, tables: Path, folder: Path) -> dict[str, int]:
        """What the store would still hold a minute before the moment, a file per view; how many rows of each."""
        shutil.rmtree(folder, ignore_errors=True)
        last = self.moment - timedelta(minutes=1)
        counts = {}
        for view in manifest.views:
            first = None if view.retention_s is None else last - timedelta(seconds=view.retention_s)
            counts[view.name] = self._write(view, tables, folder / view.name / _PAST, first, last)
        return counts

    def write_news(self, manifest: Manifest, tables: Path, folder: Path) -> dict[str, Path]:
        """What becomes known at the moment, a file per view that has any, beside the past."""
        files = {}
        for view in manifest.views:
            path = folder / view.name / _NEWS
            if self._write(view, tables, path, self.moment, self.moment):
                files[view.name] = path
        return files

    def flights(self, questions: Path) -> pd.DataFrame:
        """The flights that are due, by schedule, with the columns of ``questions``; moments are today's."""
        table = pd.read_parquet(questions)
        due = table["scheduled_at"].between(self.moment + DUE_FROM, self.moment + DUE_UNTIL)
        order = ["scheduled_at", "carrier", "flight"]
        return self._moved(table[due].sort_values(order, ignore_index=True))

    def _write(
        self, view: ViewSpec, tables: Path, path: Path, first: datetime | None, last: datetime
    ) -> int:
        where = [(KNOWN_AT, "<=", last)] + ([(KNOWN_AT, ">=", first)] if first else [])
        rows = pd.read_parquet(tables / view.name, filters=where)
        if len(rows):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._moved(rows).to_parquet(path, index=False)
        return len(rows)

    def _moved(self, table: pd.DataFrame) -> pd.DataFrame:
        moments = table.select_dtypes("datetimetz").columns
        offset = np.timedelta64(self.offset_us, "us")
        return table.assign(**{name: table[name] + offset for name in moments})


def json_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file as they are pushed: JSON objects with ``event_time``."""
    table = pd.read_parquet(path)
    rows: list[Mapping[str, Any]] = []
    for row in table.to_dict("records"):
        values = {name: _plain(value) for name, value in row.items() if name != KNOWN_AT}
        rows.append({**values, "event_time": row[KNOWN_AT].isoformat()})
    return rows


def write_spine(flights: pd.DataFrame, asked_s: Mapping[int, float], path: Path) -> None:
    """The question about every flight, once per key of ``asked_s``, at that second since 1970; in this order."""
    asked = [
        flights.assign(**{ASKED_AT: pd.Timestamp(int(at * _SECOND), unit="us", tz="UTC")})
        for at in asked_s.values()
    ]
    pd.concat(asked, ignore_index=True).to_parquet(path, index=False)


def push_body(rows: list[Mapping[str, Any]]) -> str:
    """The body of a push over REST."""
    return json.dumps({"rows": rows})


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value
