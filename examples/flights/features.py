"""What the model may know about a flight, and from when: the 24 inputs, in their order.

**The prediction point is the scheduled departure minute**, and every input is a fact from strictly
before it: the timetable, the plane, the weather of the last full hour at the origin, and the delays
of other flights that had already departed or landed. It must never use how the flight itself
departs: more than half of all flights leave a little before their time, and a model that is told so
mostly repeats it. The plane that will fly is taken as known, and so is the timetable.

Inputs lie on a grid of 1/8. Between two neighbours on the grid there is room for a split of a
decision tree in float32, so a tree means the same in training (float64 thresholds) and in serving
(float32), and the numbers are short in JSON. No input is NaN, which JSON could not carry: what is
unknown has a number of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from examples.flights.category_codes import UNSEEN, CategoryCodes
from examples.flights.flight_log import NEVER, FlightLog, Ints, Words, utc_minutes
from examples.flights.tables import Tables
from examples.flights.windows import Events, grouped

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

UNKNOWN = -100.0
"""What stands for a measurement that is not there."""
GRID = 8
"""Inputs are whole multiples of 1/8."""

_HOUR = 60
_DAY = 24 * _HOUR
_OVERDUE_UNTIL = 2 * _HOUR  # a flight that is later than this counts as cancelled
_WEATHER_TOO_OLD = 6 * _HOUR
_STORM_MPH = 150.0  # one reading of 1,048 mph is a fault of the instrument

PREDICTION_POINT = (
    "the scheduled departure minute; every input is a fact from strictly before it, "
    "and nothing is known of how the flight itself departs"
)


@dataclass(frozen=True)
class Feature:
    """One column of the model's input. ``when_unknown`` is ``None`` for what is always known."""

    name: str
    unit: str
    meaning: str
    when_unknown: float | None = UNKNOWN


FEATURES = (
    Feature("minute_of_day", "min", "scheduled departure, New York local time", None),
    Feature("day_of_week", "day", "0 is Monday, New York local date", None),
    Feature("carrier", "code", "airline, by its code", UNSEEN),
    Feature("origin", "code", "airport of departure, by its code", UNSEEN),
    Feature("dest", "code", "airport of arrival, by its code", UNSEEN),
    Feature("distance_miles", "mi", "between the two airports", None),
    Feature("plane_age_years", "a", "2013 minus the year of manufacture"),
    Feature("plane_seats", "count", "seats of the plane"),
    Feature("temperature_f", "°F", "at the origin, last full hour"),
    Feature("wind_direction_deg", "°", "at the origin, last full hour"),
    Feature("wind_speed_mph", "mph", "at the origin, last full hour"),
    Feature("wind_gust_mph", "mph", "at the origin, last full hour; 0 without gusts"),
    Feature("precipitation_hundredths_in", "in/100", "at the origin, last full hour"),
    Feature("visibility_miles", "mi", "at the origin, last full hour"),
    Feature("origin_departures_1h", "count", "departures from the origin", 0.0),
    Feature("origin_departure_delay_1h", "min", "their mean delay", 0.0),
    Feature("origin_overdue_2h", "count", "flights of the last 2 h that should have left", 0.0),
    Feature("carrier_origin_departures_3h", "count", "the carrier's departures there", 0.0),
    Feature("carrier_origin_departure_delay_3h", "min", "their mean delay", 0.0),
    Feature("carrier_departure_delay_today", "min", "the carrier's mean delay since midnight", 0.0),
    Feature("dest_arrival_delay_4h", "min", "mean delay of landings at the destination", 0.0),
    Feature("carrier_dest_arrival_delay_24h", "min", "the same, this carrier's, 24 h", 0.0),
    Feature("plane_arrival_delay", "min", "of the plane's last landing, at most a day ago", 0.0),
    Feature("plane_minutes_since_landing", "min", "since that landing"),
)
CATEGORIES = ("carrier", "origin", "dest")


def feature_rows(tables: Tables, log: FlightLog, codes: CategoryCodes) -> Rows:
    """The inputs of every flight of ``tables`` in the order of ``FEATURES``, float32 [N, 24].

    ``log`` is ``read_flight_log(tables)``.
    """
    columns: dict[str, Ints | Floats] = {
        "minute_of_day": log.minute_of_day,
        "day_of_week": log.day_of_week,
        "carrier": codes.encode("carrier", log.carrier),
        "origin": codes.encode("origin", log.origin),
        "dest": codes.encode("dest", log.dest),
        "distance_miles": log.distance,
        **_plane(tables, log),
        **_weather(tables, log),
        **_delays_at_the_origin(log),
        **_delays_at_the_destination(log),
        **_delay_of_the_plane(log),
    }
    rows = np.column_stack([columns[feature.name] for feature in FEATURES])
    return np.asarray(np.round(rows * GRID) / GRID, dtype=np.float32)


def _plane(tables: Tables, log: FlightLog) -> dict[str, Floats]:
    planes = tables.planes.set_index("tailnum")
    tails = pd.Series(log.tail)
    return {
        "plane_age_years": _or_unknown(2013 - tails.map(planes["year"])),
        "plane_seats": _or_unknown(tails.map(planes["seats"])),
    }


def _weather(tables: Tables, log: FlightLog) -> dict[str, Floats]:
    """An hour is known when it is over: that from 9 to 10 counts for a departure at 10:00."""
    weather = tables.weather
    readings: dict[str, tuple[str, Callable[[pd.Series], pd.Series]]] = {
        "temperature_f": ("temp", lambda reading: reading),
        "wind_direction_deg": ("wind_dir", lambda reading: reading),
        "wind_speed_mph": ("wind_speed", lambda reading: reading.where(reading < _STORM_MPH)),
        "wind_gust_mph": ("wind_gust", lambda reading: reading.fillna(0.0)),
        "precipitation_hundredths_in": ("precip", lambda reading: reading * 100),
        "visibility_miles": ("visib", lambda reading: reading),
    }
    hour_is_over = utc_minutes(weather["time_hour"]) + _HOUR
    row = _last_row(log, np.asarray(weather["origin"], dtype=np.object_), hour_is_over)
    return {
        name: np.where(row >= 0, _or_unknown(clean(weather[column]))[row], UNKNOWN)
        for name, (column, clean) in readings.items()
    }


def _last_row(log: FlightLog, station: Words, known_at: Ints) -> Ints:
    """The last row of the origin's station that was known at the prediction point, or -1."""
    newest = np.full(len(log), -1, dtype=np.int64)
    for origin in sorted(set(log.origin)):
        rows = np.flatnonzero(station == origin)
        if not len(rows):
            continue
        rows = rows[np.argsort(known_at[rows], kind="stable")]
        here = log.origin == origin
        place = np.searchsorted(known_at[rows], log.scheduled[here], side="right") - 1
        row = rows[np.maximum(place, 0)]
        fresh = (place >= 0) & (log.scheduled[here] - known_at[row] <= _WEATHER_TOO_OLD)
        newest[here] = np.where(fresh, row, -1)
    return newest


def _delays_at_the_origin(log: FlightLog) -> dict[str, Ints | Floats]:
    now = log.scheduled
    origin = grouped(log.origin)
    there = Events(origin, log.departed, log.departure_delay)
    carrier_there = Events(grouped(log.carrier, log.origin), log.departed, log.departure_delay)
    carrier = Events(grouped(log.carrier), log.departed, log.departure_delay)
    departures, delay = there.others_between(now - _HOUR, now)
    carrier_departures, carrier_delay = carrier_there.others_between(now - 3 * _HOUR, now)
    today = carrier.others_between(log.midnight, now)
    return {
        "origin_departures_1h": departures,
        "origin_departure_delay_1h": _mean(departures, delay),
        "origin_overdue_2h": _overdue(log, origin),
        "carrier_origin_departures_3h": carrier_departures,
        "carrier_origin_departure_delay_3h": _mean(carrier_departures, carrier_delay),
        "carrier_departure_delay_today": _mean(*today),
    }


def _overdue(log: FlightLog, origin: Ints) -> Ints:
    """Other flights at the origin whose time has come and that have not left, int64 [N].

    A flight waits from its schedule until it leaves or is given up. Begun minus ended waits is who
    waits now, so nothing has to be known of how a wait ends that is not over.
    """
    given_up = np.minimum(log.departed, log.scheduled + _OVERDUE_UNTIL)
    waits = given_up > log.scheduled
    once = np.ones(len(log), dtype=np.int64)
    ever = np.zeros(len(log), dtype=np.int64)
    begun = Events(origin, np.where(waits, log.scheduled, NEVER), once)
    ended = Events(origin, np.where(waits, given_up, NEVER), once)
    return (
        begun.others_between(ever, log.scheduled)[0] - ended.others_between(ever, log.scheduled)[0]
    )


def _delays_at_the_destination(log: FlightLog) -> dict[str, Floats]:
    now = log.scheduled
    there = Events(grouped(log.dest), log.landed, log.arrival_delay)
    carrier_there = Events(grouped(log.carrier, log.dest), log.landed, log.arrival_delay)
    return {
        "dest_arrival_delay_4h": _mean(*there.others_between(now - 4 * _HOUR, now)),
        "carrier_dest_arrival_delay_24h": _mean(*carrier_there.others_between(now - _DAY, now)),
    }


def _delay_of_the_plane(log: FlightLog) -> dict[str, Ints | Floats]:
    """The plane's last flight out of New York; its way back is not in the data."""
    landings = Events(grouped(log.tail), log.landed, log.arrival_delay)
    flight = landings.latest_other(before=log.scheduled)
    waited = log.scheduled - log.landed[flight]
    known = (flight >= 0) & (waited <= _DAY)
    return {
        "plane_arrival_delay": np.where(known, log.arrival_delay[flight], 0),
        "plane_minutes_since_landing": np.where(known, waited, UNKNOWN),
    }


def _mean(count: Ints, total: Ints) -> Floats:
    """Mean of each window; an empty one is an ordinary day, 0."""
    return np.asarray(total / np.maximum(count, 1), dtype=np.float64)


def _or_unknown(readings: pd.Series) -> Floats:
    return np.asarray(readings.fillna(UNKNOWN).to_numpy(), dtype=np.float64)
