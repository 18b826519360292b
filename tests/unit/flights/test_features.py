from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from examples.flights.category_codes import UNSEEN, CategoryCodes, fit_codes
from examples.flights.features import FEATURES, GRID, UNKNOWN, feature_rows
from examples.flights.flight_log import Flags, FlightLog, read_flight_log
from tests.unit.flights.days import Days

SAMPLE = slice(None, None, 23)


def column(days: Days, name: str) -> np.ndarray:
    return days.rows[:, [feature.name for feature in FEATURES].index(name)]


def test_rows_are_float32_on_the_grid_and_never_nan(stormy: Days) -> None:
    assert stormy.rows.dtype == np.float32
    assert stormy.rows.shape == (len(stormy.log), len(FEATURES)) == (len(stormy.log), 24)
    assert np.isfinite(stormy.rows).all()
    assert np.array_equal(stormy.rows * GRID, np.round(stormy.rows * GRID))


def test_names_are_unique_and_every_column_says_something(month: Days) -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert (np.ptp(month.rows, axis=0) > 0).all()


def test_rows_do_not_depend_on_the_order_of_the_tables(stormy: Days) -> None:
    dice = np.random.default_rng(3)
    order = dice.permutation(len(stormy.log))
    tables = dataclasses.replace(
        stormy.tables,
        flights=stormy.tables.flights.iloc[order].reset_index(drop=True),
        weather=stormy.tables.weather.sample(frac=1, random_state=3).reset_index(drop=True),
    )
    rows = feature_rows(tables, read_flight_log(tables), stormy.codes)
    assert np.array_equal(rows, stormy.rows[order])


@pytest.mark.parametrize(
    ("name", "moment", "delay", "same", "minutes"),
    [
        ("origin_departure_delay_1h", "departed", "departure_delay", ["origin"], 60),
        ("carrier_origin_departure_delay_3h", "departed", "departure_delay", ["carrier", "origin"], 180),
        ("carrier_departure_delay_today", "departed", "departure_delay", ["carrier"], None),
        ("dest_arrival_delay_4h", "landed", "arrival_delay", ["dest"], 240),
        ("carrier_dest_arrival_delay_24h", "landed", "arrival_delay", ["carrier", "dest"], 1440),
    ],
)  # fmt: skip
def test_mean_delays_are_those_of_a_plain_loop(
    stormy: Days, name: str, moment: str, delay: str, same: list[str], minutes: int | None
) -> None:
    log = stormy.log
    given = column(stormy, name)
    for one in range(len(log))[SAMPLE]:
        now = log.scheduled[one]
        start = log.midnight[one] if minutes is None else now - minutes
        others = others_like(log, one, same)
        others &= (getattr(log, moment) >= start) & (getattr(log, moment) < now)
        delays = getattr(log, delay)[others]
        expected = delays.mean() if len(delays) else 0.0
        assert given[one] == np.round(expected * GRID) / GRID


def test_overdue_flights_are_those_of_a_plain_loop(stormy: Days) -> None:
    log = stormy.log
    given = column(stormy, "origin_overdue_2h")
    assert given.max() > 30  # a stormy day indeed
    for one in range(len(log))[SAMPLE]:
        now = log.scheduled[one]
        waiting = (log.scheduled >= now - 120) & (log.scheduled < now) & (log.departed >= now)
        assert given[one] == (waiting & others_like(log, one, ["origin"])).sum()


def test_the_plane_is_remembered_from_its_last_landing(stormy: Days) -> None:
    log = stormy.log
    delays, waits = (
        column(stormy, name) for name in ("plane_arrival_delay", "plane_minutes_since_landing")
    )
    for one in range(len(log))[SAMPLE]:
        earlier = others_like(log, one, ["tail"]) & (log.landed < log.scheduled[one])
        earlier &= (log.landed >= log.scheduled[one] - 1440) & (log.tail[one] != "")
        if earlier.any():
            last = int(np.flatnonzero(earlier)[np.argmax(log.landed[earlier])])
            assert waits[one] == log.scheduled[one] - log.landed[last]
            assert delays[one] == log.arrival_delay[last]
        else:
            assert (waits[one], delays[one]) == (UNKNOWN, 0)


def test_the_weather_is_that_of_the_last_full_hour(stormy: Days) -> None:
    weather = stormy.tables.weather.assign(temp=lambda table: table["hour"] + 0.125)
    tables = dataclasses.replace(stormy.tables, weather=weather)
    rows = dataclasses.replace(stormy, rows=feature_rows(tables, stormy.log, stormy.codes))
    hour = stormy.log.minute_of_day // 60
    later = stormy.log.midnight > stormy.log.midnight.min()  # the first night has no day before
    assert np.array_equal(column(rows, "temperature_f")[later], (hour - 1)[later] + 0.125)


def test_weather_older_than_six_hours_is_unknown(stormy: Days) -> None:
    weather = stormy.tables.weather
    ends_at_midnight = dataclasses.replace(stormy.tables, weather=weather[weather["day"] < 26])
    rows = feature_rows(ends_at_midnight, stormy.log, stormy.codes)
    days = dataclasses.replace(stormy, rows=rows)
    last_day = stormy.log.midnight == stormy.log.midnight.max()
    is_unknown = column(days, "visibility_miles")[last_day] == UNKNOWN
    assert np.array_equal(is_unknown, stormy.log.minute_of_day[last_day] > 6 * 60)


def test_a_wind_that_nobody_survives_is_unknown(stormy: Days) -> None:
    broken = stormy.tables.weather.assign(wind_speed=1048.36)
    rows = feature_rows(
        dataclasses.replace(stormy.tables, weather=broken), stormy.log, stormy.codes
    )
    days = dataclasses.replace(stormy, rows=rows)
    assert (column(days, "wind_speed_mph") == UNKNOWN).all()


def test_a_name_that_training_has_not_seen_has_its_own_code(stormy: Days) -> None:
    only_jfk = stormy.log.origin == "JFK"
    codes = fit_codes({"origin": stormy.log.origin, "dest": stormy.log.dest}, only_jfk)
    assert codes.codes["origin"] == {"JFK": 0}
    assert np.array_equal(codes.encode("origin", stormy.log.origin) == UNSEEN, ~only_jfk)
    names = list(codes.codes["dest"])
    assert names == sorted(names)
    assert CategoryCodes(codes.codes) == codes


def others_like(log: FlightLog, one: int, same: list[str]) -> Flags:
    alike: Flags = np.arange(len(log)) != one
    for name in same:
        alike &= getattr(log, name) == getattr(log, name)[one]
    return alike
