"""What the tables say was known at a minute: only what had happened by then, and all of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.flights import definitions
from examples.flights.feature_tables import (
    KNOWN_AT,
    LEAD_MINUTES,
    feature_tables,
    questions,
    write_feature_tables,
)
from examples.flights.flight_log import Ints, read_flight_log
from examples.flights.scores import join
from examples.flights.streams import Moments, Stream
from featurecache.definitions import FeatureView
from tests.unit.flights.days import Days
from tests.unit.flights.futures import with_another_future

Views = dict[str, pd.DataFrame]
TEN_MINUTES = 10


@pytest.fixture(scope="module")
def views(stormy: Days) -> Views:
    return dict(feature_tables(stormy.tables))


def test_rewriting_what_happens_from_a_minute_on_changes_no_row_known_by_then(
    stormy: Days, views: Views
) -> None:
    dice = np.random.default_rng(20130625)
    for now in dice.integers(stormy.log.scheduled.min(), stormy.log.scheduled.max(), 12):
        other = dict(feature_tables(with_another_future(stormy, int(now), dice)))
        for name, rows in views.items():
            pd.testing.assert_frame_equal(until(rows, now), until(other[name], now), obj=name)
        assert any(len(rows) and not rows.equals(other[name]) for name, rows in views.items())


@pytest.mark.parametrize("name", ["airport_weather", "airport_delay", "plane_last_leg"])
def test_rows_that_are_told_too_early_are_found_out(stormy: Days, views: Views, name: str) -> None:
    # The same proof must fail for rows that claim to have been known a little before they were.
    dice = np.random.default_rng(20130626)
    found = 0
    moments = dice.integers(stormy.log.scheduled.min() + 600, stormy.log.scheduled.max(), 6)
    for now in moments // 60 * 60:
        other = dict(feature_tables(with_another_future(stormy, int(now), dice)))
        found += not until(views[name], now + 60).equals(until(other[name], now + 60))
    assert found == len(moments)


def test_how_a_flight_itself_departs_and_lands_changes_none_of_its_inputs(
    stormy: Days, views: Views
) -> None:
    asked = questions(stormy.log)
    inputs = join(definitions.flights, views, asked)
    own = asked["flight_row"].to_numpy()
    early = np.flatnonzero(stormy.log.departed[own] < stormy.log.scheduled[own])
    for place in early[:: len(early) // 8]:
        flights = stormy.tables.flights.copy()
        flights.loc[own[place], ["dep_delay", "arr_delay"]] = [-LEAD_MINUTES, 300.0]
        other = dataclasses.replace(stormy.tables, flights=flights)
        again = questions(read_flight_log(other))
        told = join(definitions.flights, dict(feature_tables(other)), again)
        same = int(np.flatnonzero(again["flight_row"] == own[place])[0])
        pd.testing.assert_series_equal(inputs.loc[place], told.loc[same], check_names=False)


def test_nobody_is_asked_about_who_has_left(stormy: Days) -> None:
    flights = stormy.tables.flights.copy()
    flights.loc[7, "dep_delay"] = -LEAD_MINUTES - 1
    flights.loc[8, "dep_delay"] = -LEAD_MINUTES
    log = read_flight_log(dataclasses.replace(stormy.tables, flights=flights))
    rows = set(questions(log)["flight_row"])
    assert 7 not in rows
    assert 8 in rows


@pytest.mark.parametrize("view", ["airport_delay", "carrier_delay"])
def test_departures_are_those_that_a_loop_over_the_log_finds(
    stormy: Days, views: Views, view: str
) -> None:
    log, rows = stormy.log, views[view]
    for row in rows.iloc[:: len(rows) // 150].itertuples():
        now = minute(row.known_at)
        there = log.origin == row.origin
        if view == "carrier_delay":
            there &= log.carrier == row.carrier
        left = there & (log.departed >= now - 180) & (log.departed < now)
        expected = log.departure_delay[left].mean() if left.any() else 0.0
        assert row.departure_delay_3h == pytest.approx(expected, abs=1 / 16)
        until_then = np.minimum(log.departed, log.scheduled + 120)
        assert row.overdue == (there & (log.scheduled < now) & (until_then >= now)).sum()


def test_on_every_tick_the_last_row_says_what_a_fresh_count_says(
    stormy: Days, views: Views
) -> None:
    log, rows = stormy.log, views["airport_delay"]
    until_then = np.minimum(log.departed, log.scheduled + 120)
    for origin in ("EWR", "JFK", "LGA"):
        of = rows[rows["origin"] == origin]
        known, there = minutes(of), log.origin == origin
        for tick in range(int(known[0]), int(known[-1]), 2 * TEN_MINUTES):
            last = of.iloc[np.searchsorted(known, tick, side="right") - 1]
            left = there & (log.departed >= tick - 60) & (log.departed < tick)
            expected = log.departure_delay[left].mean() if left.any() else 0.0
            assert last["departure_delay_1h"] == pytest.approx(expected, abs=1 / 16)
            assert last["overdue"] == (there & (log.scheduled < tick) & (until_then >= tick)).sum()


def test_a_plane_is_told_of_when_it_leaves_and_when_it_lands(stormy: Days, views: Views) -> None:
    log, legs = stormy.log, views["plane_last_leg"]
    planes = legs.groupby("tailnum")
    some = [flight for flight in np.flatnonzero(log.has_outcome)[::211] if log.tail[flight]]
    for flight in some:
        rows = planes.get_group(log.tail[flight]).set_index(KNOWN_AT)
        leaves = rows.loc[moment(log.departed[flight] + 1)]
        lands = rows.loc[moment(log.landed[flight] + 1)]
        assert leaves["departure_delay"] == log.departure_delay[flight]
        assert lands["arrival_delay"] == log.arrival_delay[flight]
        block = int(log.duration[flight])
        assert leaves["ready_at"] == moment(log.departed[flight] + 2 * block + 45)
        if minute(lands["ready_at"]) != log.landed[flight] + block + 45:
            assert (log.departed[log.tail == log.tail[flight]] > log.departed[flight]).any()


def test_weather_is_known_when_its_hour_is_over(stormy: Days, views: Views) -> None:
    weather = stormy.tables.weather
    told = views["airport_weather"].merge(
        weather.assign(known_at=pd.to_datetime(weather["time_hour"]) + pd.Timedelta(hours=1)),
        on=["origin", KNOWN_AT],
    )
    assert len(told) == len(weather)
    assert (told["visibility_miles"] - told["visib"]).abs().max() <= 1 / 16
    assert (told["visibility_3h_miles"] <= told["visibility_miles"]).all()


def test_history_of_a_flight_number_is_that_of_the_nights_before(month: Days) -> None:
    views = dict(feature_tables(month.tables))
    log, rows = month.log, views["flight_history"]
    for row in rows.iloc[:: len(rows) // 100].itertuples():
        now = minute(row.known_at)
        same = (
            (log.carrier == row.carrier) & (log.origin == row.origin) & (log.number == row.flight)
        )
        before = same & (log.landed < now) & (log.landed >= now - 28 * 1440)
        assert row.landings_28d == before.sum()
        expected = 100 * (log.late[before].sum() + 1) / (before.sum() + 5)
        assert row.late_percent_28d == pytest.approx(expected, abs=1 / 16)
        assert row.known_at.hour == 8
        assert row.known_at.minute == 0


def test_tables_hold_what_the_definitions_ask_for(views: Views) -> None:
    defined = {one.name: one for one in vars(definitions).values() if isinstance(one, FeatureView)}
    assert set(defined) == set(views)
    for name, view in defined.items():
        columns = [column.name for column in view.columns]
        assert list(views[name]) == [*view.entity.keys, KNOWN_AT, *columns]
        assert view.source is not None
        assert view.source.event_time == KNOWN_AT
        assert not views[name].duplicated([*view.entity.keys, KNOWN_AT]).any()


def test_the_same_flights_give_the_same_rows_in_any_order(stormy: Days, views: Views) -> None:
    shuffled = dataclasses.replace(
        stormy.tables,
        flights=stormy.tables.flights.sample(frac=1, random_state=1, ignore_index=True),
        weather=stormy.tables.weather.sample(frac=1, random_state=2, ignore_index=True),
    )
    for name, rows in feature_tables(shuffled):
        pd.testing.assert_frame_equal(rows, views[name], obj=name)


def test_files_hold_the_rows(stormy: Days, views: Views, tmp_path: Path) -> None:
    counts = write_feature_tables(stormy.tables, tmp_path)
    assert counts == {name: len(rows) for name, rows in views.items()}
    for name, rows in views.items():
        files = sorted((tmp_path / name).glob("*.parquet"))
        again = pd.concat(map(pd.read_parquet, files), ignore_index=True)
        pd.testing.assert_frame_equal(again, rows)
        assert str(again[KNOWN_AT].dtype) == "datetime64[us, UTC]"


EVENT = st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 40), st.integers(-5, 5))


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 7))
def test_a_moment_is_marked_wherever_a_window_changes(
    events: list[tuple[int, int, int]], length: int, step: int
) -> None:
    group, at, value = (np.array(one, dtype=np.int64) for one in zip(*events, strict=True))
    stream = Stream(group, at, value)
    moments = Moments(step, phase=1)
    moments.window(stream, length)
    marked = set(zip(*(one.tolist() for one in moments.all()), strict=True))
    for key in (0, 1):
        before = (0, 0)
        for tick in range(1 - step, 80, step):
            inside = [v for g, m, v in events if g == key and tick - length <= m < tick]
            counted = tuple(int(one[0]) for one in stream.window(*query(key, tick), length))
            assert counted == (len(inside), sum(inside))
            assert counted == before or (key, tick) in marked
            before = counted


def query(key: int, tick: int) -> tuple[Ints, Ints]:
    return np.array([key], dtype=np.int64), np.array([tick], dtype=np.int64)


def until(rows: pd.DataFrame, now: int) -> pd.DataFrame:
    return rows[minutes(rows) <= now].reset_index(drop=True)


def minutes(rows: pd.DataFrame) -> Ints:
    naive = rows[KNOWN_AT].dt.tz_convert(None).to_numpy()
    return np.asarray(naive.astype("datetime64[m]").astype(np.int64))


def minute(at: pd.Timestamp) -> int:
    return int(at.timestamp()) // 60


def moment(at: int) -> pd.Timestamp:
    return pd.Timestamp(int(at) * 60, unit="s", tz="UTC")
