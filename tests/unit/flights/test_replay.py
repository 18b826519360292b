"""An afternoon moved to today: nothing of it changes but the date, and nothing is shown before its minute."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.flights import definitions
from examples.flights.callers import asked_of, request_text, some_of
from examples.flights.feature_tables import (
    KNOWN_AT,
    feature_tables,
    questions,
    write_feature_tables,
)
from examples.flights.place import DEFINITIONS
from examples.flights.replay import DUE_FROM, DUE_UNTIL, LEAD_S, Replay, json_rows
from examples.flights.scores import join
from featurecache.manifests.applying import compile_file
from featurecache.manifests.manifest import Manifest
from featurecache.manifests.needs import key_types, needed_refs
from featurecache.rows.json_rows import JsonRows
from tests.unit.flights.days import Days

MOMENT = datetime(2013, 6, 25, 18, 0, tzinfo=UTC)
NOW_S = 1_795_000_000.25


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return compile_file(DEFINITIONS)[1]


@pytest.fixture(scope="module")
def tables(stormy: Days, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_feature_tables(stormy.tables, folder)
    questions(stormy.log).to_parquet(folder.parent / "questions.parquet", index=False)
    return folder


@pytest.fixture
def replay() -> Replay:
    return Replay.beginning(NOW_S, MOMENT)


def back(rows: pd.DataFrame, replay: Replay) -> pd.DataFrame:
    """Moved to 2013 again."""
    moments = rows.select_dtypes("datetimetz").columns
    return rows.assign(
        **{name: rows[name] - timedelta(microseconds=replay.offset_us) for name in moments}
    )


def test_the_clock_stands_a_little_before_the_moment(replay: Replay) -> None:
    assert replay.due_s - NOW_S == pytest.approx(LEAD_S)
    assert replay.clock(NOW_S) == MOMENT - timedelta(seconds=LEAD_S)


def test_the_past_is_what_a_store_would_hold(
    replay: Replay, manifest: Manifest, tables: Path, tmp_path: Path
) -> None:
    counts = replay.write_past(manifest, tables, tmp_path)
    before = MOMENT - timedelta(minutes=1)
    for view in manifest.views:
        everything = pd.read_parquet(tables / view.name)
        kept = everything[everything[KNOWN_AT] <= before]
        if view.retention_s is not None:
            kept = kept[kept[KNOWN_AT] >= before - timedelta(seconds=view.retention_s)]
        written = pd.read_parquet(tmp_path / view.name / "past.parquet")
        assert len(written) == counts[view.name] == len(kept) > 0
        pd.testing.assert_frame_equal(
            back(written, replay), kept.reset_index(drop=True), check_dtype=False
        )
        assert written[KNOWN_AT].max() <= pd.Timestamp(NOW_S, unit="s", tz="UTC")


def test_news_are_what_becomes_known_at_the_moment_and_read_as_they_were_written(
    replay: Replay, manifest: Manifest, tables: Path, tmp_path: Path
) -> None:
    news = replay.write_news(manifest, tables, tmp_path)
    assert {"airport_weather", "airport_delay", "carrier_delay", "destination_delay"} <= set(news)
    for name, path in news.items():
        rows = pd.read_parquet(path)
        assert set(back(rows, replay)[KNOWN_AT]) == {pd.Timestamp(MOMENT)}
        batch = JsonRows(manifest, manifest.view(name)).batch(json_rows(path), now_us=0)
        assert set(batch.event_us) == {round(replay.due_s * 1e6)}
        for column in manifest.view(name).columns:
            values = rows[column.name]
            if column.type == "timestamp":
                values = values.dt.tz_convert(None).astype("datetime64[us]").astype(np.int64)
            nulls = batch.nulls.get(column.name, np.zeros(len(rows), np.bool_))
            np.testing.assert_array_equal(nulls, rows[column.name].isna())
            np.testing.assert_array_equal(batch.columns[column.name][~nulls], values[~nulls])


def test_an_offset_changes_no_input(
    replay: Replay, stormy: Days, tables: Path, tmp_path: Path, manifest: Manifest
) -> None:
    replay.write_past(manifest, tables, tmp_path)
    replay.write_news(manifest, tables, tmp_path)
    moved = {
        view.name: pd.read_parquet(tmp_path / view.name).sort_values(KNOWN_AT, kind="stable")
        for view in manifest.views
    }
    flights = replay.flights(tables.parent / "questions.parquet")
    assert len(flights) > 50
    at = pd.Timestamp(int(replay.due_s * 1e6), unit="us", tz="UTC")
    told = join(definitions.flights, moved, flights.assign(asked_at=at))
    then = back(flights, replay).assign(asked_at=pd.Timestamp(MOMENT).as_unit("us"))
    of_2013 = join(definitions.flights, dict(feature_tables(stormy.tables)), then)
    pd.testing.assert_frame_equal(told, of_2013)
    assert told["plane_slack"].nunique() > 10


def test_flights_that_are_due_are_asked_about(replay: Replay, tables: Path) -> None:
    flights = back(replay.flights(tables.parent / "questions.parquet"), replay)
    assert flights["scheduled_at"].is_monotonic_increasing
    assert flights["scheduled_at"].min() >= MOMENT + DUE_FROM
    assert flights["scheduled_at"].max() <= MOMENT + DUE_UNTIL


def test_callers_send_keys_and_what_only_they_know(
    replay: Replay, tables: Path, manifest: Manifest
) -> None:
    flights = replay.flights(tables.parent / "questions.parquet")
    sent = json.loads(request_text(some_of(asked_of(flights), slice(2)), feature_status=True))
    service = manifest.service("flights")
    inputs = {ref.name for ref in needed_refs(manifest, service) if ref.kind == "input"}
    keys = key_types(manifest, service)
    assert {one["name"] for one in sent["inputs"]} == {*keys, *inputs}
    first = {one["name"]: one["data"][0] for one in sent["inputs"]}
    flight = flights.iloc[0]
    assert first["tailnum"] == flight["tailnum"]
    assert first["flight"] == flight["flight"]
    assert first["scheduled_at"] == round(flight["scheduled_at"].timestamp() * 1e6)
    assert all(one["shape"] == [2, 1] and len(one["data"]) == 2 for one in sent["inputs"])
    assert sent["parameters"] == {"feature_status": True}
