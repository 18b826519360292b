"""What becomes of requests that cannot be completed as they should: statuses, defaults, refusals, and counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from tests.support.feature_rows import (
    BASKET_DEFAULTS,
    BASKET_WIDTH,
    amounts,
    basket_row,
    floats,
    profile_of,
    row_statuses,
    status_of,
    texts,
    users,
)
from tests.support.feature_shop import (
    REWRITTEN,
    SHOP_WAYS,
    WITH_STATUS,
    Shop,
    ask_basket,
    refusal,
)
from tests.support.protocol_callers import Ask, Caller, CallError, Given, make_caller
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module", params=SHOP_WAYS)
def way(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Caller]:
    caller = make_caller(request.param, shop.server)
    yield caller
    caller.close()


# ---- requests ----------------------------------------------------------------------------------------


def test_the_status_is_told_when_it_is_asked_for(way: Caller) -> None:
    told = status_of(ask_basket(way, [1, 2], parameters=WITH_STATUS))
    assert told["defaulted_fraction"] == 0
    assert told["views"]["profile"]["status"] == {"PRESENT": 2}
    assert 0 <= told["views"]["profile"]["worst_age_s"] < 600
    answer = ask_basket(way, [1, 99_999, 3, 99_998], parameters=WITH_STATUS)
    told = status_of(answer)
    assert told["defaulted_fraction"] == 0.5
    assert told["views"]["profile"]["status"] == {"PRESENT": 2, "MISSING": 2}
    assert row_statuses(told, "profile", 4) == ["PRESENT", "MISSING"] * 2
    np.testing.assert_array_equal(answer.outputs["y"][1], [0.25, *BASKET_DEFAULTS])
    assert (
        "feature_status"
        not in ask_basket(way, [1], parameters={"feature_status": False}).parameters
    )


def test_an_empty_key_names_nobody(way: Caller) -> None:
    inputs = [Given("user_id", "BYTES", texts(["u3", "", "u4"])), amounts([1, 2, 3])]
    answer = way.ask(Ask("basket", inputs, parameters=WITH_STATUS))
    seen = [basket_row(3, 1), [2, *BASKET_DEFAULTS], basket_row(4, 3)]
    np.testing.assert_array_equal(answer.outputs["y"], seen)
    assert row_statuses(status_of(answer), "profile", 3) == ["PRESENT", "MISSING", "PRESENT"]
    for model in ("by_parameter", "by_header"):  # no parameter, no header
        answer = way.ask(Ask(model, [amounts([1])], parameters=WITH_STATUS))
        np.testing.assert_array_equal(answer.outputs["y"], [[1, *BASKET_DEFAULTS]])
        assert row_statuses(status_of(answer), "profile", 1) == ["MISSING"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (b"x" * 257, "257 bytes: at most 256"),
        (b"\xff\xfe", "not UTF-8 (byte 0)"),
        ("é".encode()[:1], "not UTF-8"),
    ],
)
def test_a_key_that_cannot_be_one_is_the_callers_mistake(
    way: Caller, key: bytes, words: str
) -> None:
    inputs = [Given("user_id", "BYTES", texts([b"u1", key])), amounts([1, 2])]
    message = refusal(way, Ask("basket", inputs), "400", "INVALID_ARGUMENT")
    assert "key 'user_id'" in message
    assert words in message
    longest = [Given("user_id", "BYTES", texts([b"x" * 256])), amounts([1])]
    assert way.ask(Ask("basket", longest)).outputs["y"].shape == (1, BASKET_WIDTH)


@pytest.mark.parametrize("value", [7, True, 1.5])
def test_a_parameter_of_another_type_is_refused(way: Caller, value: Any) -> None:
    ask = Ask("by_parameter", [amounts([1])], parameters={"who": value})
    message = refusal(way, ask, "400", "INVALID_ARGUMENT")
    assert "key 'user_id'" in message
    assert "must be of type string" in message


def test_inputs_of_the_wrong_type_shape_or_name_are_refused(way: Caller) -> None:
    as_numbers = Ask("basket", [Given("user_id", "FP32", floats([1])), amounts([1])])
    assert "user_id" in refusal(way, as_numbers, "400", "INVALID_ARGUMENT")
    uneven = Ask("basket", [users([1, 2]), amounts([1])])
    refusal(way, uneven, "400", "INVALID_ARGUMENT")
    raw = Ask("basket", [Given("x", "FP32", np.zeros((1, BASKET_WIDTH), np.float32))])
    assert "user_id" in refusal(way, raw, "400", "INVALID_ARGUMENT")
    wide = Ask("basket", [Given("user_id", "BYTES", texts(["a", "b"]).reshape(1, 2)), amounts([1])])
    assert "user_id" in refusal(way, wide, "400", "INVALID_ARGUMENT")


def test_too_many_defaults_are_refused_with_a_sentence(way: Caller) -> None:
    numbers = [1, 2, 3, 99_999]
    np.testing.assert_array_equal(
        ask_basket(way, numbers, model="guarded").outputs["y"][3], [0.75, *BASKET_DEFAULTS]
    )
    ask = Ask("guarded", [users([1, 2, 99_998, 99_999]), amounts([0] * 4)])
    message = refusal(way, ask, "424", "FAILED_PRECONDITION")
    assert "6 of 12 feature values had to be defaults" in message
    assert "at most 0.25" in message


def test_what_must_not_be_guessed_is_refused(way: Caller) -> None:
    np.testing.assert_array_equal(way.ask(Ask("bounds", [users([5])])).outputs["y"], [[1005, 5]])
    message = refusal(way, Ask("bounds", [users([5, 99_999])]), "424", "FAILED_PRECONDITION")
    assert "feature view 'limits' has no row for an entity" in message
    null = Ask("items", [Given("item_id", "INT64", np.array([[8]]))])
    assert "'stock.price' is null" in refusal(way, null, "424", "FAILED_PRECONDITION")


def test_a_row_that_is_too_old_is_told_and_not_used(way: Caller, shop: Shop) -> None:
    shop.rows.put_users([590], age_s=7200)
    answer = way.ask(Ask("known", [users([590, 1])], parameters=WITH_STATUS))
    np.testing.assert_array_equal(answer.outputs["y"], [[-9, -1], [2001, 1]])
    told = status_of(answer)
    assert row_statuses(told, "last_seen", 2) == ["STALE", "PRESENT"]
    assert row_statuses(told, "profile", 2) == ["STALE", "PRESENT"]
    refused = Ask("bounds", [users([590])])
    assert "older than its max_age" in refusal(way, refused, "424", "FAILED_PRECONDITION")


def test_rows_that_are_no_rows_are_an_error_of_their_own(way: Caller, shop: Shop) -> None:
    with ExitStack() as ending:
        for number, junk in ((591, b"junk"), (592, bytes(200)), (593, b"")):
            key = shop.rows.key("profile", b"u%d" % number)
            shop.rows.client.set(key, junk)
            ending.callback(shop.rows.client.delete, key)
        told = status_of(ask_basket(way, [591, 592, 593, 1], parameters=WITH_STATUS))
        assert row_statuses(told, "profile", 4) == ["ERROR", "ERROR", "ERROR", "PRESENT"]


def test_a_new_row_is_seen_though_the_old_one_was_cached(way: Caller, shop: Shop) -> None:
    def age_seen() -> float:
        return float(ask_basket(way, [REWRITTEN]).outputs["y"][0, 1])

    assert age_seen() == REWRITTEN
    columns = {
        name: [getattr(profile_of(REWRITTEN), name)]
        for name in ("score", "spend", "recent", "tier", "is_vip")
    }
    shop.rows.put("profile", [[b"u%d" % REWRITTEN]], {"age": [1.0], **columns})
    eventually("the new row", lambda: age_seen() == 1.0)
    shop.rows.put("profile", [[b"u%d" % REWRITTEN]], {"age": [float(REWRITTEN)], **columns})
    eventually("the one after it", lambda: age_seen() == float(REWRITTEN))


# ---- what is told about all that ---------------------------------------------------------------------


def test_rows_are_counted_by_view_and_status(shop: Shop) -> None:
    def rows(status: str) -> float:
        return shop.server.metric("headrace_feature_rows_total", view="profile", status=status)

    caller = make_caller("grpc", shop.server)
    try:
        present, missing = rows("present"), rows("missing")
        refused = shop.server.metric("headrace_feature_requests_refused_total", service="basket")
        ask_basket(caller, [1, 2, 3, 99_999])
        with pytest.raises(CallError):
            ask_basket(caller, [99_998], model="guarded")
        assert rows("present") == present + 3
        assert rows("missing") == missing + 2
        assert (
            shop.server.metric("headrace_feature_requests_refused_total", service="basket")
            == refused + 1
        )
        assert shop.server.metric("headrace_feature_store_up") == 1
        assert shop.server.metric("headrace_feature_breaker_state") == 0
        assert shop.server.metric("headrace_feature_lookup_rows_total", outcome="hit") > 0
        assert shop.server.metric("headrace_feature_reads_total") > 0
        told = shop.server.status()["features"]
        assert told["is_up"]
        assert told["breaker"] == "closed"
    finally:
        caller.close()
