"""What became known, and when: one table of events per feature view, made from the published tables.

**The prediction minute is 30 minutes before the scheduled departure.** A row of a table says what was known of its
entity from the minute ``known_at`` on, until the entity's next row; the last row with ``known_at`` not after the
prediction minute is what a prediction may use, and what the store held at that minute. So the tables decide when a
fact becomes known, each at the end of its minute:

- a departure and its delay when the flight leaves, an arrival and its delay when it lands;
- that a flight is overdue from its scheduled minute until it leaves, or for two hours: the log does not say when it
  was cancelled;
- the weather of an hour when the hour is over;
- the timetable, the plane of each flight and the register of planes beforehand.

Windows over events change when an event enters and also when one leaves; a job that runs every ten minutes (for
``flight_history``: every night) writes a row for each entity whose values may have changed since. An entity
without a row for as long as its view's longest window has empty windows, so a row that is older says what its
defaults say: that is the ``max_age`` of these views.

It must never use of a flight what happened at or after the minute of the row. Values lie on a grid of 1/8: between
two neighbours there is room for a split in float32, so a tree means the same in training and in serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from examples.flights.flight_log import (
    LATE_MINUTES,
    NEVER,
    FlightLog,
    Ints,
    read_flight_log,
    utc_minutes,
)
from examples.flights.streams import Moments, Stream, grouped
from examples.flights.tables import Tables

LEAD_MINUTES = 30
"""From the prediction minute to the scheduled departure. Three flights of the year had left by then; nobody asks."""
KNOWN_AT = "known_at"
GRID = 8
"""Values are whole multiples of 1/8."""

_HOUR = 60
_DAY = 24 * _HOUR
_TEN_MINUTES = 10
_NIGHT = 8 * _HOUR  # UTC; 3 or 4 o'clock in New York
_OVERDUE_UNTIL = 2 * _HOUR
_TURNAROUND = 45
_STORM_MPH = 150.0  # one reading of 1,048 mph is a fault of the instrument
_HISTORY = 28 * _DAY
_ORDINARY_FLIGHTS, _ORDINARY_LATE = 5, 1  # what a flight number is taken for before it is known

_YEAR_BEGINS = int(np.datetime64("2013-01-01T05:00", "m").astype(np.int64))
_UNKNOWN_MINUTE = 0  # no plane was ready in 1970

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]


def feature_tables(tables: Tables) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each view, one after the other, each by ``known_at`` and then by its keys.

    Keys are strings (the flight's number int64), ``known_at`` is UTC in microseconds, values are float32 with NaN
    for null, ``ready_at`` of the planes UTC in microseconds.
    """
    log = read_flight_log(tables)
    yield "airport_weather", airport_weather(tables.weather)
    views: dict[str, Callable[[FlightLog], pd.DataFrame]] = {
        "airport_delay": airport_delay,
        "carrier_delay": carrier_delay,
        "destination_delay": destination_delay,
        "route_delay": route_delay,
        "flight_history": flight_history,
        "plane_last_leg": plane_last_leg,
    }
    for name, view in views.items():
        yield name, view(log)
    yield "plane", plane(tables.planes)


def write_feature_tables(tables: Tables, folder: Path) -> dict[str, int]:
    """One folder of Parquet files per view, a file per month (UTC); the number of rows of each view."""
    rows = {}
    for name, table in feature_tables(tables):
        (folder / name).mkdir(parents=True, exist_ok=True)
        months = table[KNOWN_AT].dt.tz_convert(None).to_numpy().astype("datetime64[M]")
        for month in np.unique(months):
            table[months == month].to_parquet(folder / name / f"{month}.parquet", index=False)
        rows[name] = len(table)
    return rows


def questions(log: FlightLog) -> pd.DataFrame:
    """Who is asked about, when, with what: one row per flight that arrived where it should, by ``asked_at``.

    The join keys, the request-time inputs of ``definitions.py``, ``flight_row`` (the place in the log), ``month``
    and the outcome ``late``. Not asked about: who had left by the prediction minute.
    """
    asked_at = log.scheduled - LEAD_MINUTES
    row = np.flatnonzero(log.has_outcome & (log.departed >= asked_at))
    row = row[np.argsort(asked_at[row], kind="stable")]
    return pd.DataFrame(
        {
            "asked_at": pd.DatetimeIndex(_moments_of(asked_at[row]), tz="UTC"),
            "carrier": log.carrier[row],
            "origin": log.origin[row],
            "dest": log.dest[row],
            "flight": log.number[row],
            "tailnum": log.tail[row],
            "scheduled_at": pd.DatetimeIndex(_moments_of(log.scheduled[row]), tz="UTC"),
            "minute_of_day": log.minute_of_day[row].astype(np.float32),
            "day_of_week": log.day_of_week[row].astype(np.float32),
            "distance_miles": log.distance[row].astype(np.float32),
            "flight_row": row,
            "month": log.month[row],
            "late": log.late[row],
        }
    )


def airport_weather(weather: pd.DataFrame) -> pd.DataFrame:
    """Per origin and hour, known when the hour is over: that from 9 to 10 counts at 10:00."""
    ordered = weather.sort_values(["origin", "time_hour"], ignore_index=True)
    over = utc_minutes(ordered["time_hour"]) + _HOUR
    by_origin = ordered.set_index(pd.DatetimeIndex(over.astype("datetime64[m]"))).groupby("origin")
    rain = by_origin["precip"].rolling("6h").sum().to_numpy()
    sight = by_origin["visib"].rolling("3h").min().to_numpy()
    speed = ordered["wind_speed"]
    return _table(
        ordered[["origin"]],
        over,
        {
            "temperature_f": ordered["temp"].to_numpy(),
            "humidity_percent": ordered["humid"].to_numpy(),
            "wind_direction_deg": ordered["wind_dir"].to_numpy(),
            "wind_speed_mph": speed.where(speed < _STORM_MPH).to_numpy(),
            "wind_gust_mph": ordered["wind_gust"].fillna(0.0).to_numpy(),
            "precipitation_6h_hundredths_in": rain * 100,
            "visibility_miles": ordered["visib"].to_numpy(),
            "visibility_3h_miles": sight,
        },
    )


def airport_delay(log: FlightLog) -> pd.DataFrame:
    """Per origin: departures of the last hours, and flights whose time has come and that have not left."""
    group, names = grouped(origin=log.origin)
    left, late = _departures(log, group)
    waits = _waits(log, group)
    moments = _moments(_TEN_MINUTES, (left, _HOUR), (left, 3 * _HOUR))
    moments.change(waits.group, waits.minute + 1)
    key, tick = moments.all()
    return _table(
        names.iloc[key],
        tick,
        {
            "departure_delay_1h": _mean(*left.window(key, tick, _HOUR)),
            "late_percent_1h": _mean(*late.window(key, tick, _HOUR)) * 100,
            "departure_delay_3h": _mean(*left.window(key, tick, 3 * _HOUR)),
            "overdue": waits.total(key, tick),
        },
    )


def carrier_delay(log: FlightLog) -> pd.DataFrame:
    """Per carrier and origin: the same of the carrier's own flights there."""
    group, names = grouped(carrier=log.carrier, origin=log.origin)
    left, _ = _departures(log, group)
    waits = _waits(log, group)
    moments = _moments(_TEN_MINUTES, (left, _HOUR), (left, 3 * _HOUR))
    moments.change(waits.group, waits.minute + 1)
    key, tick = moments.all()
    departures, delay = left.window(key, tick, 3 * _HOUR)
    return _table(
        names.iloc[key],
        tick,
        {
            "departures_3h": departures,
            "departure_delay_1h": _mean(*left.window(key, tick, _HOUR)),
            "departure_delay_3h": _mean(departures, delay),
            "overdue": waits.total(key, tick),
        },
    )


def destination_delay(log: FlightLog) -> pd.DataFrame:
    """Per destination: landings there, and flights to it that have not left."""
    group, names = grouped(dest=log.dest)
    landed, late = _landings(log, group)
    waits = _waits(log, group)
    moments = _moments(_TEN_MINUTES, (landed, 4 * _HOUR), (late, 2 * _HOUR))
    moments.change(waits.group, waits.minute + 1)
    key, tick = moments.all()
    return _table(
        names.iloc[key],
        tick,
        {
            "arrival_delay_4h": _mean(*landed.window(key, tick, 4 * _HOUR)),
            "late_percent_2h": _mean(*late.window(key, tick, 2 * _HOUR)) * 100,
            "overdue": waits.total(key, tick),
        },
    )


def route_delay(log: FlightLog) -> pd.DataFrame:
    """Per carrier and destination: landings of the last day."""
    group, names = grouped(carrier=log.carrier, dest=log.dest)
    landed, _ = _landings(log, group)
    key, tick = _moments(_TEN_MINUTES, (landed, _DAY)).all()
    arrivals, delay = landed.window(key, tick, _DAY)
    return _table(
        names.iloc[key],
        tick,
        {"arrivals_24h": arrivals, "arrival_delay_24h": _mean(arrivals, delay)},
    )


def flight_history(log: FlightLog) -> pd.DataFrame:
    """Per carrier, flight number and origin, every night: how often it landed late in four weeks."""
    group, names = grouped(
        carrier=log.carrier, flight=log.number.astype(np.object_), origin=log.origin
    )
    names["flight"] = names["flight"].astype(np.int64)
    _, late = _landings(log, group)
    key, tick = _moments(_DAY, (late, _HISTORY), phase=_NIGHT).all()
    landings, times = late.window(key, tick, _HISTORY)
    share = (times + _ORDINARY_LATE) / (landings + _ORDINARY_FLIGHTS)
    return _table(
        names.iloc[key], tick, {"landings_28d": landings, "late_percent_28d": share * 100}
    )


def plane_last_leg(log: FlightLog) -> pd.DataFrame:
    """Per plane, whenever it leaves or lands: its last leg, and when it can leave New York again.

    The way back is not in the data. It is taken to last as long as the way out by the schedule, and to begin when
    the plane has landed; until that is known, when it would land by the schedule.
    """
    group, names = grouped(tailnum=log.tail)
    left = Stream(group, log.departed, log.departure_delay)
    landed = Stream(group, log.landed, log.arrival_delay)
    moments = Moments(step=1)
    moments.change(left.group, left.minute + 1)
    moments.change(landed.group, landed.minute + 1)
    key, tick = moments.all()
    out, there = left.latest(key, tick), landed.latest(key, tick)
    arrival = np.where(log.landed < NEVER, log.landed, log.departed)[out]
    arrival = np.where(log.landed[out] < tick, arrival, log.departed[out] + log.duration[out])
    ready = arrival + log.duration[out] + _TURNAROUND
    return _table(
        names.iloc[key],
        tick,
        {
            "departure_delay": np.where(out >= 0, log.departure_delay[out], np.nan),
            "arrival_delay": np.where(there >= 0, log.arrival_delay[there], np.nan),
            "ready_at": _moments_of(np.where(out >= 0, ready, _UNKNOWN_MINUTE)),
        },
    )


def plane(planes: pd.DataFrame) -> pd.DataFrame:
    """Per plane: the register, known since the local midnight on which the year begins."""
    age = 2013 - planes["year"]
    return _table(
        planes[["tailnum"]],
        np.full(len(planes), _YEAR_BEGINS),
        {"age_years": age.to_numpy(), "seats": planes["seats"].to_numpy()},
    )


def _departures(log: FlightLog, group: Ints) -> tuple[Stream, Stream]:
    """Departures with their delay, and with 1 for a late one."""
    late = (log.departure_delay >= LATE_MINUTES).astype(np.int64)
    return Stream(group, log.departed, log.departure_delay), Stream(group, log.departed, late)


def _landings(log: FlightLog, group: Ints) -> tuple[Stream, Stream]:
    """Landings with their delay, and with 1 for a late one."""
    late = log.late.astype(np.int64)
    return Stream(group, log.landed, log.arrival_delay), Stream(group, log.landed, late)


def _waits(log: FlightLog, group: Ints) -> Stream:
    """+1 when a flight's time has come without it, -1 when it leaves or is given up: the sum waits now."""
    over = np.minimum(log.departed, log.scheduled + _OVERDUE_UNTIL)
    waits = over > log.scheduled
    minute = np.concatenate([log.scheduled, over])
    change = np.repeat(np.array([1, -1]), len(log))
    return Stream(np.tile(np.where(waits, group, -1), 2), minute, change)


def _moments(step: int, *windows: tuple[Stream, int], phase: int = 0) -> Moments:
    moments = Moments(step, phase)
    for stream, minutes in windows:
        moments.window(stream, minutes)
    return moments


def _mean(count: Ints, total: Ints) -> Floats:
    """Mean of each window; an empty one is an ordinary hour, 0."""
    return np.asarray(total / np.maximum(count, 1), dtype=np.float64)


def _table(keys: pd.DataFrame, known: Ints, columns: Columns) -> pd.DataFrame:
    table = keys.reset_index(drop=True)
    table[KNOWN_AT] = pd.DatetimeIndex(_moments_of(known), tz="UTC")
    for name, values in columns.items():
        if values.dtype.kind == "M":
            table[name] = pd.DatetimeIndex(values, tz="UTC")
        else:
            table[name] = (np.round(values * GRID) / GRID).astype(np.float32)
    return table.sort_values([KNOWN_AT, *keys.columns], kind="stable", ignore_index=True)


def _moments_of(minutes: Ints) -> npt.NDArray[np.datetime64]:
    return minutes.astype("datetime64[m]").astype("datetime64[us]")
