"""When everything happened: the flights on one clock, in whole minutes of UTC.

Decides how local clock times become moments, which is where a flight table is usually got wrong:
departures are printed in New York time, arrivals in the time of the destination, and delays may
cross midnight or the change to summer time. It must never decide what a model may know;
``feature_tables`` does that.

Flights that never departed were cancelled. They stay in the log, because at their scheduled time
nobody can see that they will not come, but they have no outcome to learn from. The same holds for
diverted flights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from examples.flights.tables import Tables

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.object_]

NEVER = 1 << 30
"""A minute that never comes, for what did not happen (the year 4011)."""
LATE_MINUTES = 15
"""From how many minutes after schedule an arrival counts as late."""
HOME_ZONE = "America/New_York"
ZONES_NOT_IN_AIRPORTS = {  # four destinations that the table of airports leaves out
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
_DAY = 24 * 60


@dataclass(frozen=True)
class FlightLog:
    """One entry per flight in every array, in the order of the table. Moments are UTC minutes.

    ``departed`` and ``landed`` are ``NEVER`` where the flight did not depart, or did not arrive
    where it should; the delay beside them (minutes, early is negative) is then 0. ``duration`` is from
    gate to gate by the schedule, in minutes; ``midnight`` is the local midnight before departure. Names
    are Python strings, ``""`` where there is none.
    """

    scheduled: Ints
    duration: Ints
    departed: Ints
    landed: Ints
    departure_delay: Ints
    arrival_delay: Ints
    midnight: Ints
    minute_of_day: Ints
    day_of_week: Ints
    month: Ints
    distance: Ints
    number: Ints
    carrier: Words
    origin: Words
    dest: Words
    tail: Words

    def __len__(self) -> int:
        return len(self.scheduled)

    @property
    def has_outcome(self) -> Flags:
        """Which flights arrived where they should: the only ones that can be judged, shape [N]."""
        return np.not_equal(self.landed, NEVER)

    @property
    def late(self) -> Flags:
        """Which flights arrived 15 or more minutes late, shape [N]. Mind ``has_outcome``."""
        return self.has_outcome & (self.arrival_delay >= LATE_MINUTES)


def read_flight_log(tables: Tables) -> FlightLog:
    """The flights of ``tables`` with all their moments."""
    flights = tables.flights
    scheduled = utc_minutes(flights["time_hour"]) + _ints(flights["minute"])
    did_depart = flights["dep_delay"].notna().to_numpy(dtype=np.bool_)
    did_land = flights["arr_delay"].notna().to_numpy(dtype=np.bool_)
    departure_delay = _ints(flights["dep_delay"].fillna(0))
    arrival_delay = _ints(flights["arr_delay"].fillna(0))
    duration = _scheduled_duration(tables, scheduled)
    days = pd.to_datetime(flights[["year", "month", "day"]])
    return FlightLog(
        scheduled=scheduled,
        duration=duration,
        departed=np.where(did_depart, scheduled + departure_delay, NEVER),
        landed=np.where(did_land, scheduled + duration + arrival_delay, NEVER),
        departure_delay=departure_delay,
        arrival_delay=arrival_delay,
        midnight=_minutes(days.dt.tz_localize(HOME_ZONE)),
        minute_of_day=_ints(flights["hour"]) * 60 + _ints(flights["minute"]),
        day_of_week=_ints(days.dt.day_of_week),
        month=_ints(flights["month"]),
        distance=_ints(flights["distance"]),
        number=_ints(flights["flight"]),
        carrier=_words(flights["carrier"]),
        origin=_words(flights["origin"]),
        dest=_words(flights["dest"]),
        tail=_words(flights["tailnum"]),
    )


def utc_minutes(texts: pd.Series) -> Ints:
    """Minutes since 1970 of texts such as ``2013-01-01T10:00:00Z``, int64 [N]."""
    return _minutes(pd.to_datetime(texts, format="%Y-%m-%dT%H:%M:%SZ", utc=True))


def _scheduled_duration(tables: Tables, scheduled: Ints) -> Ints:
    """Minutes from gate to gate by the schedule, int64 [N].

    The arrival is printed as hours and minutes at the destination, without a date. No flight lasts
    a day, so the clock face is enough.
    """
    clock = _ints(tables.flights["sched_arr_time"])
    minute_there = (clock // 100) * 60 + clock % 100
    offset = _utc_offsets(_zones(tables), scheduled)
    return (minute_there - offset - scheduled) % _DAY


def _zones(tables: Tables) -> Words:
    known = dict(zip(tables.airports["faa"], tables.airports["tzone"], strict=True))
    known |= ZONES_NOT_IN_AIRPORTS
    return _words(tables.flights["dest"].map(known))


def _utc_offsets(zones: Words, moments: Ints) -> Ints:
    """Minutes to add to UTC for the local clock of each zone at each moment, int64 [N]."""
    offsets = np.zeros(len(moments), dtype=np.int64)
    for zone in sorted(set(zones)):
        here = zones == zone
        local = pd.DatetimeIndex(moments[here].astype("datetime64[m]"), tz="UTC").tz_convert(zone)
        as_if_utc = local.tz_localize(None).to_numpy().astype("datetime64[m]").astype(np.int64)
        offsets[here] = as_if_utc - moments[here]
    return offsets


def _minutes(moments: pd.Series) -> Ints:
    naive = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(naive.to_numpy().astype("datetime64[m]").astype(np.int64), dtype=np.int64)


def _ints(numbers: pd.Series) -> Ints:
    return np.asarray(numbers.to_numpy(), dtype=np.int64)


def _words(names: pd.Series) -> Words:
    return np.asarray(names.fillna("").to_numpy(), dtype=np.object_)
