"""Models whose inputs are completed from a real store, asked by stock clients: metadata, values, keys, versions."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.support.feature_rows import (
    BASKET_WIDTH,
    amounts,
    basket_row,
    profile_of,
    texts,
    users,
)
from tests.support.feature_shop import (
    ODD_NAMES,
    SHOP_WAYS,
    USERS,
    WITH_STATUS,
    Shop,
    ask_basket,
    refusal,
)
from tests.support.protocol_callers import Ask, Caller, Given, make_caller
from tests.support.raw_http import RawHttp, infer_json, post_infer

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module", params=SHOP_WAYS)
def way(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Caller]:
    caller = make_caller(request.param, shop.server)
    yield caller
    caller.close()


# ---- metadata ----------------------------------------------------------------------------------------


def _inputs(way: Caller, model: str, *version: str) -> list[tuple[str, str, list[int]]]:
    found = way.query("get_model_metadata", model, *version)["inputs"]
    return [(one["name"], one["datatype"], [int(size) for size in one["shape"]]) for one in found]


def test_metadata_tells_what_a_caller_sends(way: Caller) -> None:
    user, amount = ("user_id", "BYTES", [-1, 1]), ("amount", "FP32", [-1, 1])
    assert _inputs(way, "basket") == [user, amount]
    assert _inputs(way, "by_parameter") == [amount]
    assert _inputs(way, "routes") == [("origin", "BYTES", [-1, 1]), ("dest", "BYTES", [-1, 1])]
    assert _inputs(way, "routes_mixed") == [("to", "BYTES", [-1, 1])]
    assert _inputs(way, "items") == [("item_id", "INT64", [-1, 1])]
    assert _inputs(way, "cards") == [user]
    assert _inputs(way, "scores_raw") == [("x", "FP32", [-1, BASKET_WIDTH])]
    outputs = way.query("get_model_metadata", "basket")["outputs"]
    assert [one["name"] for one in outputs] == ["y"]
    for version, inputs in (("1", 2), ("2", 2), ("3", 1)):
        assert len(_inputs(way, "versions", version)) == inputs
    assert _inputs(way, "versions", "3") == [("x", "FP32", [-1, 3])]


# ---- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("binary", [True, False])
def test_predictions_are_those_of_the_raw_values(way: Caller, count: int, binary: bool) -> None:
    numbers = [(17 * one) % len(USERS) for one in range(count)]
    seen = np.array([basket_row(one, i / 4) for i, one in enumerate(numbers)], np.float32)
    for _ in range(2):  # out of the store, then out of the cache
        answer = ask_basket(way, numbers, binary=binary)
        np.testing.assert_array_equal(answer.outputs["y"], seen)
        assert answer.parameters == {}
    completed = ask_basket(way, numbers, model="scores", binary=binary).outputs["y"]
    raw = way.ask(Ask("scores_raw", [Given("x", "FP32", seen, binary)])).outputs["y"]
    assert completed.shape == (count, 1)
    np.testing.assert_allclose(completed, raw, rtol=1e-5)


def test_every_type_comes_to_an_input_of_its_own(way: Caller) -> None:
    answer = way.ask(Ask("cards", [users([4, 5, 9])]))
    known = [profile_of(one) for one in (4, 5, 9)]
    name = answer.outputs["name_out"].ravel().tolist()
    assert [one if isinstance(one, bytes) else one.encode() for one in name] == [
        one.tier.encode() for one in known
    ]
    assert answer.outputs["amount_out"].ravel().tolist() == [one.spend for one in known]
    assert answer.outputs["flag_out"].ravel().tolist() == [one.is_vip for one in known]
    nobody = way.ask(Ask("cards", [users([4, 99_999])])).outputs
    assert nobody["amount_out"].ravel().tolist() == [9.0, -3.0]
    assert nobody["flag_out"].ravel().tolist() == [True, False]


def test_on_demand_features_are_computed_from_both_sides(way: Caller) -> None:
    answer = way.ask(Ask("shares", [amounts([3, 10, 6]), users([1, 2, 99_999])]))
    np.testing.assert_array_equal(answer.outputs["y"], [[3, 1], [10, 2], [6, -2]])


# ---- where keys come from ----------------------------------------------------------------------------


def test_a_key_out_of_a_parameter_counts_for_every_row(way: Caller) -> None:
    answer = way.ask(Ask("by_parameter", [amounts([1, 2, 3])], parameters={"who": "u11"}))
    seen = [basket_row(11, one) for one in (1, 2, 3)]
    np.testing.assert_array_equal(answer.outputs["y"], seen)


def test_a_key_out_of_a_header_or_metadata(way: Caller) -> None:
    name = "X-User" if way.is_http else "x-user"  # metadata has no capitals
    for user in (12, 13, 12):
        answer = way.ask(Ask("by_header", [amounts([1, 2])], headers={name: f"u{user}"}))
        np.testing.assert_array_equal(
            answer.outputs["y"], [basket_row(user, one) for one in (1, 2)]
        )


def test_composite_keys_are_more_than_their_text_in_a_row(way: Caller) -> None:
    origins, dests = ["OSL", "BGO", "a|b", "a"], ["BGO", "OSL", "c", "b|c"]
    inputs = [Given("origin", "BYTES", texts(origins)), Given("dest", "BYTES", texts(dests))]
    seen = [[1.5, 60], [2.5, 70], [3.5, 80], [-7, -8]]
    np.testing.assert_array_equal(way.ask(Ask("routes", inputs)).outputs["y"], seen)
    mixed = Ask(
        "routes_mixed", [Given("to", "BYTES", texts(["BGO", "OSL"]))], headers={"x-origin": "OSL"}
    )
    np.testing.assert_array_equal(way.ask(mixed).outputs["y"], [[1.5, 60], [-7, -8]])


def test_an_integer_key(way: Caller) -> None:
    keys = np.array([[7], [-1], [2**62]], np.int64)
    answer = way.ask(Ask("items", [Given("item_id", "INT64", keys)]))
    np.testing.assert_array_equal(answer.outputs["y"], [[70, 0.7], [10, 0.1], [620, 6.2]])


@pytest.mark.parametrize("value", [7, "7", " +7"])
def test_an_integer_key_out_of_a_parameter(way: Caller, value: Any) -> None:
    answer = way.ask(Ask("item_by_parameter", [amounts([1, 2])], parameters={"item": value}))
    np.testing.assert_array_equal(answer.outputs["y"], [[1, 70, 0.7], [2, 70, 0.7]])


@pytest.mark.parametrize("value", [1.5, True, "seven", "0x7", "7" * 30, str(2**63)])
def test_an_integer_key_that_is_none_is_refused(way: Caller, value: Any) -> None:
    ask = Ask("item_by_parameter", [amounts([1])], parameters={"item": value})
    message = refusal(way, ask, "400", "INVALID_ARGUMENT")
    assert "key 'item_id'" in message
    assert "must be of type int64" in message


def test_names_with_odd_signs_find_their_rows(way: Caller) -> None:
    inputs = [Given("user_id", "BYTES", texts(ODD_NAMES)), amounts([0.0] * len(ODD_NAMES))]
    seen = [basket_row(one, 0.0) for one in range(len(ODD_NAMES))]
    np.testing.assert_array_equal(way.ask(Ask("basket", inputs)).outputs["y"], seen)
    for number, name in enumerate(ODD_NAMES):
        answer = way.ask(Ask("by_parameter", [amounts([0.0])], parameters={"who": name}))
        np.testing.assert_array_equal(answer.outputs["y"], seen[number : number + 1])


def test_a_header_may_be_utf8_and_nothing_else(shop: Shop) -> None:
    body = infer_json("amount", "FP32", [1, 1], [0.5])
    with RawHttp(shop.server.http) as http:
        # What goes out is latin-1: these are the bytes of the name.
        utf8 = ODD_NAMES[0].encode().decode("latin-1")
        found = http.ask(post_infer("by_header", body, [("x-user", utf8)]))
        assert found.json["outputs"][0]["data"] == basket_row(0, 0.5), found
        refused = http.ask(post_infer("by_header", body, [("x-user", "\xff")]))
        assert refused.status == 400, refused
        assert "user_id" in refused.error
        assert "UTF-8" in refused.error


# ---- versions ----------------------------------------------------------------------------------------


def test_versions_with_features_of_their_own(way: Caller) -> None:
    first = ask_basket(way, [1, 2], model="versions", version="1")
    np.testing.assert_array_equal(first.outputs["y"], [basket_row(1, 0), basket_row(2, 0.25)])
    pair = [Given("origin", "BYTES", texts(["OSL"])), Given("dest", "BYTES", texts(["BGO"]))]
    second = way.ask(Ask("versions", pair, version="2"))
    np.testing.assert_array_equal(second.outputs["y"], [[1.5, 60]])
    row = np.arange(3, dtype=np.float32).reshape(1, 3)
    for version in ("3", ""):  # none of its own; it is the newest as well
        third = way.ask(Ask("versions", [Given("x", "FP32", row)], version=version))
        assert third.version == "3"
        np.testing.assert_array_equal(third.outputs["y"], row)


# ---- streams -----------------------------------------------------------------------------------------


def test_a_stream_completes_each_of_its_requests(shop: Shop) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = tritonclient.grpc.InferenceServerClient("{}:{}".format(*shop.server.grpc))
    try:
        client.start_stream(
            lambda result, error: answers.put((result, error)), headers={"x-user": "u21"}
        )
        for number in range(20):
            named = _triton_inputs(users([number]), amounts([number]))
            client.async_stream_infer("basket", named, parameters=WITH_STATUS)
            client.async_stream_infer("by_header", _triton_inputs(amounts([number])))
        client.async_stream_infer("bounds", _triton_inputs(users([99_999])))
        for number in range(20):
            for user, has_status in ((number, True), (21, False)):
                result, error = answers.get(timeout=TIMEOUT_S)
                assert error is None
                np.testing.assert_array_equal(result.as_numpy("y"), [basket_row(user, number)])
                assert ("feature_status" in result.get_response().parameters) == has_status
        _, error = answers.get(timeout=TIMEOUT_S)
        assert "must not be guessed" in error.message()
    finally:
        client.stop_stream()
        client.close()


def _triton_inputs(*given: Given) -> list[Any]:
    found = []
    for one in given:
        made = tritonclient.grpc.InferInput(one.name, list(one.array.shape), one.datatype)
        made.set_data_from_numpy(one.array)
        found.append(made)
    return found
