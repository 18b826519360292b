"""The flights demo, small: the days before one afternoon, two small versions, and every step that the demo takes.

Whatever the demo claims it checks itself, and ends with an error where a claim does not hold; seen here is that it
comes to a good end, that what it says is there, and that its checks find what they are for.
"""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from examples.flights import definitions, demo
from examples.flights.broken_version import BROKEN
from examples.flights.bundle import Bundle
from examples.flights.callers import Asked, asked_of, some_of
from examples.flights.claims import WrongAnswerError, check_answers, check_stranger, push
from examples.flights.demo_page import Page
from examples.flights.expectation import offline_chances, offline_inputs
from examples.flights.inputs import read_training_set
from examples.flights.place import CommandFailedError, Headrace, Place
from examples.flights.replay import Replay, json_rows
from examples.flights.scores import join
from examples.flights.tables import Tables, read_tables
from examples.flights.trees import Design
from featurecache.manifests.applying import read_manifest
from featurecache.manifests.manifest import Manifest
from foundation.store import open_store

CHECKOUT = Path(__file__).resolve().parents[2]
DESIGNS = (
    Design(version=1, months=(9,), trees=10, leaves=15),
    Design(version=2, months=(9,), trees=20, leaves=15),
)
FIRST, LAST = "2013-09-26", "2013-10-07"


def few_days() -> Tables:
    year = read_tables()
    flights, weather = (
        table[pd.to_datetime(table[["year", "month", "day"]]).between(FIRST, LAST)].reset_index(
            drop=True
        )
        for table in (year.flights, year.weather)
    )
    return dataclasses.replace(year, flights=flights, weather=weather)


@pytest.fixture(scope="module")
def headrace(tmp_path_factory: pytest.TempPathFactory) -> Headrace:
    folder = tmp_path_factory.mktemp("flights")
    command = folder / "headrace"  # from this checkout, wherever it is run
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from headrace.__main__ import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return Headrace([str(command)], Place(folder / "demo"))


@pytest.fixture(scope="module")
def told(headrace: Headrace) -> str:
    """All that a whole run of the demo says."""
    out = io.StringIO()
    page = Page(Console(file=out, width=160, highlight=False))
    demo.run(headrace, page, read=few_days, designs=DESIGNS)
    return out.getvalue()


def test_the_demo_comes_to_a_good_end_and_shows_what_it_checked(told: str) -> None:
    assert "all 127 answers, before and after, are LightGBM's own" in told
    assert "REST and gRPC agree" in told
    assert "both its views are MISSING" in told
    assert "127 PRESENT" in told
    assert "exit code 0" in told
    assert told.count("100.0000%") == 8
    assert "HTTP 400" in told


def test_version_2_takes_over_step_by_step_while_everybody_is_answered(told: str) -> None:
    act = told.partition("Act 1")[2].partition("Act 2")[0]
    ways = ("version 2 has 5 %", "version 2 has 25 %", "version 2 has 50 %", "version 2 has 100 %")
    places = [act.index(way) for way in ways]
    assert places == sorted(places)
    assert act.count("measured") >= 3
    assert "version 1 differs from itself in" in act.lower()
    assert "none failed" in act
    assert "none was ever sent back" in act


def test_version_3_leaves_by_itself_and_the_log_is_whole(told: str, headrace: Headrace) -> None:
    act = told.partition("Act 2")[2]
    assert act.index("version 3 has 5 %") < act.index("TAKEN BACK")
    assert "why: invalid:" in act
    assert re.search(r"[1-9]\d* of them by NaN", act)
    assert "since then version 2 has answered everything" in act
    assert "the audit log is whole: 9 records" in act
    assert not Bundle(headrace.place.models).model(BROKEN).parent.exists()


def test_the_training_set_is_what_pandas_joins(told: str, headrace: Headrace) -> None:
    # Another implementation of "as it was known at the minute", on the same tables and definitions.
    place = headrace.place
    views = {
        folder.name: pd.read_parquet(folder).sort_values("known_at", kind="stable")
        for folder in place.tables.iterdir()
    }
    known = read_training_set(place)
    inputs = join(definitions.flights, views, pd.read_parquet(place.questions))
    assert [name.replace(".", "__") for name in inputs] == list(known.names)
    np.testing.assert_array_equal(known.rows, inputs.to_numpy())
    assert len(known.rows) > 9_000


@pytest.fixture(scope="module")
def afternoon(told: str, headrace: Headrace) -> Iterator[Afternoon]:
    """A gateway with the rows of the afternoon, the moment just over, and the news not yet pushed."""
    place = headrace.place
    with ExitStack() as stack:
        store = stack.enter_context(open_store(place.store))
        demo.forget(place, store)
        page = Page()
        _, addresses = demo.start(stack, headrace, page)
        fronts = demo.connect(stack, addresses)
        manifest = read_manifest(place.manifest)
        replay = Replay.beginning(time.time() - 60)
        replay.write_past(manifest, place.tables, place.replay / "tables")
        headrace.run("features", "load", "--data", "replay/tables")
        flights = replay.flights(place.questions)
        yield Afternoon(headrace, manifest, replay, fronts, flights, asked_of(flights))


@dataclasses.dataclass(frozen=True)
class Afternoon:
    headrace: Headrace
    manifest: Manifest
    replay: Replay
    fronts: demo.Fronts
    flights: pd.DataFrame
    asked: Asked

    def offline(self) -> np.ndarray:
        """What the newest version must answer by the files."""
        (rows,) = offline_inputs(self.headrace, self.flights, {0: time.time()}).values()
        return offline_chances(Bundle(self.headrace.place.models), rows)[2]


def test_the_checks_see_news_that_have_not_come(afternoon: Afternoon) -> None:
    place, by_hand = afternoon.headrace.place, afternoon.fronts.by_hand
    data = "replay/tables"
    check_answers("before", by_hand.ask(afternoon.asked), afternoon.offline())
    afternoon.headrace.run("features", "verify", "--data", data)
    news = afternoon.replay.write_news(afternoon.manifest, place.tables, place.replay / "tables")
    # The files know the news, the store does not.
    after = afternoon.offline()
    with pytest.raises(WrongAnswerError, match="offline it is"):
        check_answers("without news", by_hand.ask(afternoon.asked), after)
    with pytest.raises(CommandFailedError, match="airport_weather"):
        afternoon.headrace.run("features", "verify", "--data", data)
    for view, path in news.items():
        assert push(by_hand, view, json_rows(path)) > 0
    for caller in (by_hand, afternoon.fronts.rest, afternoon.fronts.grpc):
        check_answers(caller.name, caller.ask(afternoon.asked), after)
    afternoon.headrace.run("features", "verify", "--data", data)


def test_a_push_that_comes_again_is_taken_and_an_older_one_is_not(afternoon: Afternoon) -> None:
    tables = afternoon.headrace.place.replay / "tables"
    rows = json_rows(tables / "airport_delay" / "news.parquet")
    assert push(afternoon.fronts.by_hand, "airport_delay", rows) == len(rows)
    past = json_rows(tables / "airport_delay" / "past.parquet")[:1]
    with pytest.raises(WrongAnswerError, match="older"):
        push(afternoon.fronts.by_hand, "airport_delay", past)


def test_a_plane_that_is_known_is_no_stranger(
    afternoon: Afternoon, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand, asked = afternoon.fronts.by_hand, afternoon.asked
    stranger = check_stranger(by_hand, asked, afternoon.offline())
    assert stranger.unknown != stranger.known
    report = by_hand.ask_with_status(asked).report
    seen = report["views"]["plane_last_leg"]["rows"]
    plane = report["views"]["plane"].get("rows") or ["PRESENT"] * len(seen)
    place = next(
        i for i, both in enumerate(zip(seen, plane, strict=True)) if set(both) == {"PRESENT"}
    )
    tail = some_of(asked, [place])["tailnum"][0, 0].decode()
    monkeypatch.setattr("examples.flights.claims.UNKNOWN_PLANE", tail)
    with pytest.raises(WrongAnswerError, match="is unknown, but"):
        check_stranger(by_hand, asked, afternoon.offline())
