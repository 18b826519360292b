"""What becomes of pushed rows, and of every mistake: the same over REST and both gRPC fronts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurecache.errors import RowError, SourceError
from gateway.live_manifest import LiveManifest
from gateway.messages import PushOutcome
from gateway.pushed_rows import PushedRowsWriter
from gateway.settings import FeatureSettings
from tests.support import feature_rows
from tests.support.feature_pushes import (
    GrpcPusher,
    Pusher,
    RestPusher,
    counted,
    look_up,
    now_us,
    profile,
)
from tests.support.feature_rows import features_toml, write_seen
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess

MAX_ROWS = 50
DAY_US = 86_400_000_000
WAYS = {"rest": "nghttp2", "grpc": "nghttp2", "grpc-reference": "grpcio"}
DEFINITIONS = (
    feature_rows.DEFINITIONS
    + """
visits = FeatureView(
    "visits",
    entity=user,
    columns=[Column("pages", Int16, default=0), Column("at", Timestamp), Column("steps", Vector(Int64, 2))],
    source=ParquetSource("visits.parquet", event_time="known_at"),
    max_age="12h",
    retention="1d",
)
"""
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerProcess]]:
    """By gRPC front; both before one store."""
    folder = tmp_path_factory.mktemp("pushed")
    feature_rows.apply(folder / "features", DEFINITIONS)
    write_seen(folder / "models", "items", 2, features_toml("items"), datatype="FP64")
    with ValkeyServer() as store:
        settings = {
            "features.manifest": folder / "features",
            "features.push": True,
            "features.max_push_rows": MAX_ROWS,
            "store.redis_url": store.url,
        }
        fronts = {
            name: ServerProcess(Path(folder / "models"), settings | {"grpc.server": name})
            for name in ("nghttp2", "grpcio")
        }
        with fronts["nghttp2"], fronts["grpcio"]:
            yield fronts


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def shop(way: str, servers: dict[str, ServerProcess]) -> ServerProcess:
    return servers[WAYS[way]]


@pytest.fixture(scope="module")
def pusher(way: str, shop: ServerProcess) -> Iterator[Pusher]:
    made: Pusher = RestPusher(shop) if way == "rest" else GrpcPusher(shop)
    yield made
    made.close()


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """An id of the test's own."""
    return str(request.node.name)[:200]


def test_the_store_decides_which_row_wins(pusher: Pusher, user: str) -> None:
    at = now_us()
    assert pusher.push("profile", [profile(user, event_time=at)]).counts == counted(created=1)
    assert pusher.push("profile", [profile(user, event_time=at)]).counts == counted(rewritten=1)
    assert pusher.push("profile", [profile(user, event_time=at + 1)]).counts == counted(newer=1)
    assert pusher.push("profile", [profile(user, event_time=at)]).counts == counted(older=1)
    assert pusher.push("profile", [profile(user)]).counts == counted(newer=1)
    later = "2100-01-01T00:00:00Z"
    assert pusher.push("profile", [profile(user, event_time=later)]).status == "400"


def test_both_words_for_a_moment_mean_the_same(
    shop: ServerProcess, pusher: Pusher, user: str
) -> None:
    for moment in (
        "2026-01-02T03:04:05.000006Z",
        "2026-01-02T04:04:05.000006+01:00",
        1767323045000006,
    ):
        answer = pusher.push("profile", [profile(user, event_time=moment)])
        assert answer.counts in (counted(created=1), counted(rewritten=1)), answer
    found = look_up(shop, "views/profile", {"keys": {"user_id": [user]}})[1]
    assert found["views"][0]["event_times"] == ["2026-01-02T03:04:05.000006Z"]


def test_of_two_rows_of_one_entity_the_newer_is_written(pusher: Pusher, user: str) -> None:
    at = now_us()
    rows = [profile(user, event_time=at), profile(user, event_time=at - 1)]
    assert pusher.push("profile", rows).counts == counted(created=1, duplicates=1)


def test_as_many_rows_as_may_come(pusher: Pusher, user: str) -> None:
    rows = [profile(f"{user} {one}") for one in range(MAX_ROWS)]
    assert pusher.push("profile", rows).counts == counted(created=MAX_ROWS)
    refused = pusher.push("profile", [*rows, profile(user)])
    assert refused.status == "400"
    assert "51 rows" in refused.message
    assert "features.max_push_rows" in refused.message
    assert pusher.push("profile", []).counts == counted()


def test_times_and_whole_numbers_and_a_retention(
    shop: ServerProcess, pusher: Pusher, user: str
) -> None:
    row = {"user_id": user, "pages": -5, "at": "2020-01-01T00:00:00Z", "steps": [2**62, -1]}
    assert pusher.push("visits", [row | {"known_at": now_us() - 60_000_000}]).counts == counted(
        created=1
    )
    old = now_us() - 2 * DAY_US
    assert pusher.push("visits", [row | {"event_time": old}]).counts == counted(expired=1)
    numbers = row | {"at": 1577836800000000, "pages": 7}
    assert pusher.push("visits", [numbers]).counts == counted(newer=1)
    found = look_up(shop, "views/visits", {"keys": {"user_id": [user]}})[1]["features"]
    assert [one["values"] for one in found] == [[7], ["2020-01-01T00:00:00Z"], [[2**62, -1]]]


# ---- mistakes ------------------------------------------------------------------------------------

FUTURE = "2100-01-01T00:00:00Z"
MISTAKES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "unknown view": ("profil", {}, ["no feature view 'profil'"]),
    "missing key": ("profile", {"user_id": ...}, ["'user_id' is missing"]),
    "missing column": ("profile", {"tier": ...}, ["'tier' is missing", "write null"]),
    "null as key": ("profile", {"user_id": None}, ["'user_id' is null"]),
    "empty key": ("profile", {"user_id": ""}, ["empty key"]),
    "key too long": ("profile", {"user_id": "x" * 257}, ["257 bytes", "256"]),
    "number as key": ("profile", {"user_id": 5}, ["'user_id' is 5, not a string"]),
    "unknown column": ("profile", {"agee": 5.0}, ["'agee' is no column", "did you mean 'age'?"]),
    "text as number": ("profile", {"age": "5"}, ["'age' is '5', not a number"]),
    "flag as number": ("profile", {"age": True}, ["'age' is True, not a number"]),
    "too large": ("profile", {"age": 1e39}, ["'age' is 1e+39: too large for float32"]),
    "number as text": ("profile", {"tier": 5}, ["'tier' is 5, not a string"]),
    "number as flag": ("profile", {"is_vip": 1}, ["'is_vip' is 1, not true or false"]),
    "short vector": ("profile", {"recent": [1.0, 2.0]}, ["'recent' needs a list of 3 numbers"]),
    "number as vector": ("profile", {"recent": 1.0}, ["'recent' needs a list of 3 numbers"]),
    "long text": ("profile", {"tier": "x" * 65537}, ["'tier' has 65537 bytes"]),
    "fraction": ("stock", {"left": 1.5}, ["'left' is 1.5, no int32"]),
    "beyond its type": ("stock", {"left": 2**31}, ["'left' is 2147483648, no int32"]),
    "future": ("profile", {"event_time": FUTURE}, ["in the future", "at most 300 s"]),
    "future in numbers": ("profile", {"event_time": 4_102_444_800_000_000}, ["in the future"]),
    "nanoseconds": ("profile", {"event_time": 10**18}, ["no moment"]),
    "no calendar": ("profile", {"event_time": 2**62}, ["no moment"]),
    "seconds": (
        "profile",
        {"event_time": 1_795_450_874},
        ["1795450874, which looks like seconds; give µs since 1970 or an ISO time"],
    ),
    "milliseconds": ("profile", {"event_time": 1_795_450_874_000}, ["looks like milliseconds"]),
    "before 1684": ("profile", {"event_time": -(2**54)}, ["before the year 1684"]),
    "no moment": ("profile", {"event_time": "yesterday"}, ["'yesterday', no moment"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_bad_row_and_nothing_is_written(
    shop: ServerProcess, pusher: Pusher, user: str, mistake: str
) -> None:
    view, wrong, words = MISTAKES[mistake]
    if view == "stock":
        good: dict[str, Any] = {"item_id": 77, "left": 5, "price": 0.5}
        keys: dict[str, list[Any]] = {"item_id": [77]}
    else:
        good, keys = profile(user), {"user_id": [user]}
    bad = {name: value for name, value in (good | wrong).items() if value is not ...}
    answer = pusher.push(view, [good, good, bad, good])
    assert answer.status == ("404" if mistake == "unknown view" else "400"), answer
    for word in words:
        assert word in answer.message
    if mistake != "unknown view":
        assert "row 3: " in answer.message
        found = look_up(shop, f"views/{view}", {"keys": keys})[1]
        assert found["views"][0]["statuses"] == ["MISSING"]


def test_a_row_has_one_time(pusher: Pusher, user: str) -> None:
    row = {"user_id": user, "pages": 1, "at": None, "steps": [1, 2], "known_at": now_us()}
    answer = pusher.push("visits", [row, row | {"event_time": now_us()}])
    assert answer.status == "400"
    assert "row 2: 'event_time' and 'known_at' are both given; leave one out" in answer.message
    assert pusher.push("visits", [row | {"known_at": None}]).counts == counted(created=1)


def test_a_time_that_is_refused_costs_no_connection(tmp_path: Path) -> None:
    feature_rows.apply(tmp_path)
    live = LiveManifest(FeatureSettings(manifest=str(tmp_path)))
    with ValkeyServer() as store, store.client() as client:
        writer = PushedRowsWriter(store.url, live, 2.0)
        try:
            writer.write(lambda _: ("profile", [profile("a")]), 1)
            rows = [profile("b"), profile("c", event_time=4_102_444_800_000_000)]
            with pytest.raises(RowError, match=r"row 2: .* in the future"):
                writer.write(lambda _: ("profile", rows), 2)
            names = [one["name"] for one in client.client_list()]
            assert names.count("headrace-push") == 1
            assert not client.exists("hr:shop:{user:b}:profile")
        finally:
            writer.close()


def test_nothing_of_a_push_that_failed_goes_with_a_later_one(tmp_path: Path) -> None:
    feature_rows.apply(tmp_path)
    live = LiveManifest(FeatureSettings(manifest=str(tmp_path)))
    with ValkeyServer() as store:
        writer = PushedRowsWriter(store.url, live, 0.2)
        try:
            assert writer.write(lambda _: ("profile", [profile("a")]), 1).outcome.created == 1
            with store.frozen(), pytest.raises(SourceError):
                writer.write(lambda _: ("profile", [profile("b")]), 1)
            written = writer.write(lambda _: ("profile", [profile("c")]), 1)
            assert written.outcome == PushOutcome(created=1)
        finally:
            writer.close()
