"""Rows that applications push, before two workers: what a prediction makes of them a moment later, and lookups.

Who may push, and stores that fail: ``test_feature_push_refusals.py``. What becomes of single rows, and every mistake:
``tests/contract/features/test_pushes.py``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from tests.support import feature_rows
from tests.support.feature_pushes import (
    GrpcPusher,
    Pusher,
    RestPusher,
    counted,
    look_up,
    now_us,
    post,
    profile,
)
from tests.support.feature_rows import BASKET_WIDTH, amounts, features_toml, texts, write_seen
from tests.support.protocol_callers import Ask, Given, make_caller
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

SEEN_WITHIN_S = 0.5
"""A prediction after a push; on a machine that does nothing else it is some milliseconds."""
PUSH_SETTINGS = {"features.push": True}


@pytest.fixture(scope="module")
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, store: ValkeyServer) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pushed_shop")
    feature_rows.apply(folder / "features")
    write_seen(folder / "models", "basket", BASKET_WIDTH, features_toml("basket"))
    write_seen(folder / "models", "items", 2, features_toml("items"), datatype="FP64")
    settings = {
        "features.manifest": folder / "features",
        "store.redis_url": store.url,
        "server.workers": 2,
        **PUSH_SETTINGS,
    }
    with ServerProcess(folder / "models", settings) as running:
        yield running


@pytest.fixture(scope="module", params=[RestPusher, GrpcPusher], ids=["rest", "grpc"])
def pusher(request: pytest.FixtureRequest, shop: ServerProcess) -> Iterator[Pusher]:
    made: Pusher = request.param(shop)
    yield made
    made.close()


@pytest.fixture
def user(request: pytest.FixtureRequest, pusher: Pusher) -> str:
    """An id of the test's own."""
    return f"{type(pusher).__name__} {request.node.name}"[:200]


# ---- what becomes of rows ------------------------------------------------------------------------


def test_everything_that_was_pushed_is_what_a_lookup_shows(
    shop: ServerProcess, pusher: Pusher, user: str
) -> None:
    empty = dict.fromkeys(["age", "score", "spend", "recent", "tier", "is_vip"])
    at = now_us() - 5_000_000
    rows = [profile(user, event_time=at), {"user_id": user + "!", **empty}]
    assert pusher.push("profile", rows).counts == counted(created=2)
    asked = {"keys": {"user_id": [user, "nobody at all", "", user + "!"]}}
    status, found = look_up(shop, "views/profile", asked)
    assert status == 200, found
    values = {one["name"]: (one["type"], one["values"]) for one in found["features"]}
    assert values == {
        "profile.age": ("float32", [1.5, -1.0, -1.0, -1.0]),
        "profile.score": ("float32", [2.5, -2.0, -2.0, -2.0]),
        "profile.spend": ("float64", [3.5, -3.0, -3.0, -3.0]),
        "profile.recent": (
            "float32[3]",
            [[0.5, 0.25, 0.125], *[[-4.0, -5.0, -6.0]] * 3],
        ),
        "profile.tier": ("string", ["gold ü", "none", "none", "none"]),
        "profile.is_vip": ("bool", [True, False, False, False]),
    }
    statuses = {tuple(one["statuses"]) for one in found["features"]}
    assert statuses == {("PRESENT", "MISSING", "MISSING", "NULL")}
    (view,) = found["views"]
    assert view["statuses"] == ["PRESENT", "MISSING", "MISSING", "PRESENT"]
    assert view["ages_s"][1:3] == [None, None]
    assert 5.0 <= view["ages_s"][0] < 60.0
    assert 0.0 <= view["ages_s"][3] < 60.0


# ---- a prediction a moment later -----------------------------------------------------------------


def test_predictions_of_all_workers_see_a_pushed_row_at_once(
    shop: ServerProcess, pusher: Pusher, user: str
) -> None:
    """Several clients, so that both workers have a copy of the row before it changes."""
    given = [Given("user_id", "BYTES", texts([user])), amounts([7])]
    with ExitStack() as stack:
        callers = [make_caller(way, shop) for way in ("http-lane", "grpc") * 4]
        for caller in callers:
            stack.callback(caller.close)

        def ages() -> list[float]:
            answers = [one.ask(Ask("basket", given)).outputs["y"] for one in callers]
            return [float(one[0, 1]) for one in answers]

        assert set(ages()) == {-1.0}
        for age in (11.0, 12.0, 13.0):
            assert pusher.push("profile", [profile(user, age)]).status == "200"
            eventually(
                "every worker shows the new value",
                lambda age=age: set(ages()) == {age},  # type: ignore[misc]
                within_s=SEEN_WITHIN_S,
            )


def test_numbers_as_keys_and_a_view_that_fails(shop: ServerProcess, pusher: Pusher) -> None:
    item = 2**62 + (1 if isinstance(pusher, RestPusher) else 2)
    caller = make_caller("http-lane", shop)
    try:
        pushed = pusher.push("stock", [{"item_id": item, "left": 5, "price": 0.5}])
        assert pushed.status == "200", pushed
        ask = Ask("items", [Given("item_id", "INT64", np.array([[item]], np.int64))])

        def seen() -> list[list[float]]:
            found: list[list[float]] = caller.ask(ask).outputs["y"].tolist()
            return found

        eventually("it is there", lambda: seen() == [[5.0, 0.5]], within_s=SEEN_WITHIN_S)
        pusher.push("stock", [{"item_id": item, "left": 6, "price": None}])
        status, found = look_up(shop, "items", {"keys": {"item_id": [item, 1]}})
    finally:
        caller.close()
    assert status == 200
    (view,) = found["views"]
    assert view["statuses"] == ["NULL", "MISSING"]
    assert view["refused"] == [
        {"row": 0, "why": "feature 'stock.price' is null, and must not be guessed"}
    ]
    assert [one["values"] for one in found["features"]] == [[None, -1], [None, None]]


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"rows": 5}',
        b'{"rows": [5]}',
        b'{"rows": [[]]}',
        b'{"rows": [null]}',
        b'{"row": []}',
        b'{"rows": [], "view": "profile"}',
        b'{"rows": [{"age": NaN}]}',
        b"\xff\xfe",
        b'{"rows": [{"user_id": "\\ud800"}]}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_push(shop: ServerProcess, body: bytes) -> None:
    status, answer, _ = post(shop.http, "/v2/features/profile/push", body)
    assert status == 400, answer
    assert json.loads(answer)["error"]


def test_bodies_that_are_too_large(shop: ServerProcess) -> None:
    limit = 1024 * 1024
    rows = json.dumps({"rows": [profile("x" * 200)] * 20}).encode()
    for body, fields in (
        (rows + b" " * limit, {}),
        (gzip.compress(rows + b" " * limit), {"content-encoding": "gzip"}),
    ):
        status, answer, _ = post(shop.http, "/v2/features/profile/push", body, fields)
        assert status == 400
        assert "features.max_push_bytes" in json.loads(answer)["error"]
    packed = gzip.compress(rows + b" " * (limit // 2))
    fields = {"content-encoding": "gzip"}
    assert post(shop.http, "/v2/features/profile/push", packed, fields)[0] == 200
    large = GrpcPusher(shop)
    try:
        said = large.push("profile", [profile("u", tier="x" * 60_000)] * 20)
    finally:
        large.close()
    assert said.status == "400"
    assert "features.max_push_bytes" in said.message


# ---- lookups -------------------------------------------------------------------------------------


def test_the_definitions_in_short(shop: ServerProcess) -> None:
    found = json.loads(shop.get_admin("/v2/features"))
    assert (found["project"], found["revision"]) == ("shop", 1)
    assert len(found["digest"]) == 64
    views = {one["name"]: one for one in found["views"]}
    assert views["profile"]["max_age_s"] == 3600.0
    assert views["profile"]["cache_ttl_s"] == 60.0
    assert views["profile"]["columns"]["recent"] == "float32[3]"
    services = {one["name"]: one for one in found["services"]}
    assert services["shares"]["inputs"] == ["amount"]
    assert services["shares"]["keys"] == {"user_id": "string"}
    assert services["shares"]["features"] == ["amount", "share"]


def test_a_service_with_a_computed_feature(shop: ServerProcess, pusher: Pusher, user: str) -> None:
    pusher.push("profile", [profile(user, spend=4.0)])
    asked: dict[str, Any] = {"keys": {"user_id": [user, "nobody"]}, "inputs": {"amount": [2.0, 6]}}
    status, found = look_up(shop, "shares", asked)
    assert status == 200, found
    assert [one["values"] for one in found["features"]] == [[2.0, 6.0], [0.5, -2.0]]
    assert [one["kind"] for one in found["features"]] == ["input", "on_demand"]
    del asked["inputs"]
    amount, share = look_up(shop, "shares", asked)[1]["features"]
    assert amount["values"] == share["values"] == [None, None]
    assert share["why"] == "it needs input 'amount', which has no values"


@pytest.mark.parametrize(
    ("path", "asked", "status", "word"),
    [
        ("nothing", {}, 404, "no feature service 'nothing'"),
        ("views/nothing", {}, 404, "no feature view 'nothing'"),
        ("basket", {}, 400, "keys lack 'user_id'"),
        ("basket", {"keys": {"user_id": ["a"], "x": ["b"]}}, 400, "no join key 'x'"),
        ("basket", {"keys": {"user_id": [5]}}, 400, "'user_id' is 5, not a string"),
        ("basket", {"keys": {"user_id": "a"}}, 400, "Expected `array`"),
        (
            "basket",
            {"keys": {"user_id": ["a"]}, "inputs": {"b": [1]}},
            400,
            "no request-time input",
        ),
        ("basket", {"keys": {"user_id": ["a"]}, "inputs": {"amount": []}}, 400, "has 1 values"),
        ("basket", {"keys": {"user_id": ["a" * 257]}}, 400, "257 bytes"),
        ("basket", {"keys": {"user_id": ["a"] * 1001}}, 400, "at most 1000"),
        ("items", {"keys": {"item_id": ["5"]}}, 400, "'item_id' is '5', not a number"),
        ("items", {"keys": {"item_id": [2**63]}}, 400, "item_id"),
        ("basket", {"key": {}}, 400, "unknown field `key`"),
        ("basket", [], 400, "JSON object"),
    ],
)
def test_lookups_that_make_no_sense(
    shop: ServerProcess, path: str, asked: Any, status: int, word: str
) -> None:
    found_status, found = look_up(shop, path, asked)
    assert (found_status, word in found["error"]) == (status, True), found


def test_it_is_all_counted(shop: ServerProcess, pusher: Pusher, user: str) -> None:
    def rows(outcome: str) -> float:
        name = "headrace_feature_pushed_rows_total"
        return shop.metric(name, view="profile", outcome=outcome)

    before = rows("created"), rows("older")
    refused = shop.metric("headrace_feature_pushes_total", outcome="invalid_argument")
    pusher.push("profile", [profile(user), profile(user + "2")])
    pusher.push("profile", [profile(user, event_time=10**15)])
    pusher.push("profile", [{}])
    assert (rows("created"), rows("older")) == (before[0] + 2, before[1] + 1)
    after = shop.metric("headrace_feature_pushes_total", outcome="invalid_argument")
    assert after == refused + 1
    assert shop.metric("headrace_feature_pushes_inside") == 0
