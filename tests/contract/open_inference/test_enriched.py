"""What an enrichment wants of a request reaches it by every way in, and what it says comes back by the same way."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.support.enriched_server import ENRICHED, PLAIN, EnrichedServer
from tests.support.protocol_callers import (
    REFERENCE,
    WAYS,
    Answer,
    Ask,
    Caller,
    CallError,
    Given,
    Wanted,
    make_caller,
)
from tests.support.raw_http import (
    Fields,
    RawHttp,
    Response,
    floats_json,
    post_infer,
    post_infer_chunked,
)

ROW = np.ones((1, 4), np.float32)
VALUES = ["u7", "", "ä", True, False, 0, -7, 2**62, 0.5]
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def fronts() -> Iterator[EnrichedServer]:
    with EnrichedServer("nghttp2") as running:
        yield running


@pytest.fixture(scope="module")
def reference_fronts() -> Iterator[EnrichedServer]:
    with EnrichedServer("grpcio") as running:
        yield running


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Caller]:
    is_reference = request.param.startswith(REFERENCE)
    fronts = request.getfixturevalue("reference_fronts" if is_reference else "fronts")
    caller = make_caller(request.param, fronts)
    before = dict(fronts.meters.http_paths)
    yield caller
    caller.close()
    if caller.is_http:
        taken = fronts.meters.http_paths[caller.path] - before.get(caller.path, 0)
        assert taken == caller.infer_calls


def asked(way: Caller, model: str = ENRICHED, row: Any = ROW, **more: Any) -> Answer:
    answer = way.ask(Ask(model, [Given("x", "FP32", row)], **more))
    np.testing.assert_array_equal(answer.outputs["y"], row)
    return answer


def context(answer: Answer) -> list[Any]:
    return list(json.loads(answer.parameters["context"]))


def test_nothing_is_sent_and_nothing_comes(way: Caller) -> None:
    for _ in range(4):
        answer = asked(way)
        assert context(answer) == [None, None, None]
        assert answer.parameters.keys() == {"context", "values"}


@pytest.mark.parametrize("value", VALUES)
def test_a_parameter_comes_as_it_is(way: Caller, value: Any) -> None:
    for _ in range(4):
        found = context(asked(way, parameters={"tier": value, "other": 1}))
        assert found == [None, value, None]
        assert type(found[1]) is type(value)


def test_headers_belong_to_their_request(way: Caller) -> None:
    for tenant in ("a", "a", "a", "b", "a", "b", "b", "b", "a"):
        assert context(asked(way, headers={"x-tenant": tenant})) == [None, None, tenant]
    assert context(asked(way)) == [None, None, None]


def test_the_case_of_a_headers_name_is_nothing(way: Caller) -> None:
    name = "X-Tenant" if way.is_http else "x-tenant"  # metadata has no capitals
    assert context(asked(way, headers={name: "a"})) == [None, None, "a"]


def test_all_of_it_together_and_an_answer_in_bytes_or_json(way: Caller) -> None:
    for binary in (True, False):
        answer = asked(
            way,
            parameters={"user": "u7", "tier": 3, "feature_status": True},
            headers={"x-tenant": "acme"},
            outputs=[Wanted("y", binary)],
            request_id="r-1",
            priority=1,
        )
        assert answer.request_id == "r-1"
        assert context(answer) == ["u7", 3, "acme"]
        told = {name: answer.parameters[name] for name in ("feature_status", "share", "complete")}
        assert told == {"feature_status": "{}", "share": 0.5, "complete": True}


def test_a_feature_status_that_is_not_wanted(way: Caller) -> None:
    answer = asked(way, parameters={"feature_status": False})
    assert "feature_status" not in answer.parameters


def test_a_feature_status_that_is_no_boolean_is_refused(way: Caller) -> None:
    with pytest.raises(CallError) as refused:
        asked(way, parameters={"feature_status": "yes"})
    assert refused.value.status == ("400" if way.is_http else "INVALID_ARGUMENT")
    assert "feature_status" in refused.value.message


def test_a_model_without_features_ignores_all_of_it(way: Caller) -> None:
    for status in (True, "yes"):
        answer = asked(
            way,
            PLAIN,
            parameters={"user": "u7", "feature_status": status},
            headers={"x-tenant": "acme"},
        )
        assert answer.parameters == {}


def test_missing_features_are_an_error_of_their_own(way: Caller) -> None:
    with pytest.raises(CallError) as refused:
        asked(way, row=-ROW)
    assert refused.value.status == ("424" if way.is_http else "FAILED_PRECONDITION")
    assert "3 of 4 features are missing" in refused.value.message


# ---- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["fronts", "reference_fronts"])
def test_a_stream_has_its_headers_and_each_message_its_parameters(
    request: pytest.FixtureRequest, server: str
) -> None:
    fronts: EnrichedServer = request.getfixturevalue(server)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    tensor = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(ROW)
    users = ["ann", "bob", "ann", "ann", "ann", "bob", "bob", "bob"]
    with tritonclient.grpc.InferenceServerClient("{}:{}".format(*fronts.grpc)) as client:
        client.start_stream(
            lambda result, error: answers.put((result, error)), headers={"x-tenant": "acme"}
        )
        for number, user in enumerate(users):
            asks = {"user": user, "tier": number} | ({"feature_status": True} if number else {})
            client.async_stream_infer(
                ENRICHED, [tensor], parameters=asks, enable_empty_final_response=number == 1
            )
        tensor.set_data_from_numpy(-ROW)
        client.async_stream_infer(ENRICHED, [tensor])
        for number, user in enumerate(users):
            result, error = answers.get(timeout=TIMEOUT_S)
            assert error is None
            told = result.get_response().parameters
            assert json.loads(told["context"].string_param) == [user, number, "acme"]
            assert ("feature_status" in told) == bool(number)
            assert ("triton_final_response" in told) == (number == 1)
        _, error = answers.get(timeout=TIMEOUT_S)
        assert "3 of 4 features are missing" in error.message()
        client.stop_stream()


# ---- the lane's memory of heads --------------------------------------------------------------------


def told(response: Response) -> list[Any]:
    assert response.status == 200, response
    return list(json.loads(response.json["parameters"]["context"]))


def test_the_lane_never_takes_one_callers_header_for_anothers(fronts: EnrichedServer) -> None:
    """The same bytes but for that header, until each of these heads is remembered, and then again."""
    lane = fronts.meters.http_paths["fast_lane"]
    heads: dict[str, Fields] = {
        "a": [("x-tenant", "a")],
        "b": [("x-tenant", "b")],
        "b, in capitals": [("X-TENANT", "b")],
        "twice": [("x-tenant", "a"), ("x-tenant", "b")],
        "nobody": [],
        "somebody else's": [("x-tenants", "c")],
    }
    values = ["a", "b", "b", "b", None, None]
    with RawHttp(fronts.http) as first, RawHttp(fronts.http) as second:
        for _ in range(4):
            for fields, value in zip(heads.values(), values, strict=True):
                for connection in (first, second):
                    asked = post_infer(ENRICHED, floats_json(), fields)
                    assert told(connection.ask(asked)) == [None, None, value]
    assert fronts.meters.http_paths["fast_lane"] - lane == 4 * 2 * len(heads)
    asked = post_infer(ENRICHED, floats_json(), heads["a"])
    assert fronts.http_front.heads.plan_of(asked.partition(b"\r\n\r\n")[0]) is not None


def test_a_remembered_head_has_the_parameters_of_its_own_body(fronts: EnrichedServer) -> None:
    with RawHttp(fronts.http) as connection:
        for number in range(8):
            body = floats_json(parameters={"tier": number % 3, "user": "u"})
            asked = post_infer(ENRICHED, body, [("x-tenant", "same")])
            assert told(connection.ask(asked)) == ["u", number % 3, "same"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (floats_json(parameters={"user": 7}), [("x-tenant", "a")]),
        (floats_json(parameters={"user": 7}), [("x-tenant", "a"), ("X-Tenant", "b")]),
        (floats_json(parameters={"user": 7}), [("x-tenant", "  padded \t")]),
        (floats_json(parameters={"user": 7}), [("x-tenant", "ä")]),
        (floats_json(parameters={"user": 7}), [("x-tenant", "")]),
        (floats_json(parameters={"user": [7]}), []),
        (floats_json(parameters={"user": {}}), []),
        (floats_json(parameters={"user": None}), []),
        (floats_json(parameters={"feature_status": True}, id="r"), []),
        (floats_json(parameters={"feature_status": 1}), []),
        (floats_json(parameters={"binary_data_output": True, "user": "u"}), [("x-tenant", "a")]),
        (ROW.tobytes(), [("Inference-Header-Content-Length", "0"), ("x-tenant", "a")]),
        (floats_json(first=-1.0), []),
    ],
)
def test_lane_and_route_agree(fronts: EnrichedServer, body: bytes, fields: Fields) -> None:
    ways = [post_infer, post_infer_chunked, post_infer, post_infer]
    with RawHttp(fronts.http) as connection:
        lane, route, *again = [connection.ask(make(ENRICHED, body, fields)) for make in ways]
    assert lane == route
    assert again == [lane, lane]
