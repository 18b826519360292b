"""What an enrichment wants of a request reaches it, by every way in; who has no enrichment notices nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.edge import json_codec, proto_codec
from gateway.edge.json_wire import ONE_PASS_BYTES
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import PredictRequest
from protos.inference import ModelInferRequest
from tests.support.json_requests import an_input, body_of
from tests.support.servables import StubServable, WantedNames, stub, tensor_spec

WANTED = WantedNames(("user", "tier"), ("x-tenant", "x-region"))
HEADERS = [(b"host", b"h"), (b"x-tenant", b"acme")]
ROW = np.array([1, 2, 3], np.float32).tobytes()
VALUES = [True, 7, -7, 2**63, 0.5, "u7", "", "ä", None]


def model(wanted: WantedNames | None = WANTED) -> StubServable:
    outputs = [tensor_spec("y", "FP32", -1)]
    return stub([tensor_spec("x", "FP32", -1, 3)], outputs, max_batch_size=8, enrichment=wanted)


def refusal(error: pytest.ExceptionInfo[HeadraceError]) -> str:
    assert error.value.code is ErrorCode.INVALID_ARGUMENT
    return error.value.message


# ---- JSON ------------------------------------------------------------------------------------------


def one_pass(**more: Any) -> bytes:
    return body_of(an_input([1, 2, 3]), **more)


def text_first(**more: Any) -> bytes:
    body = body_of(an_input([1, 2, 3]), padding="x" * ONE_PASS_BYTES, **more)
    assert len(body) > ONE_PASS_BYTES
    return body


def by_tokens(**more: Any) -> bytes:
    return body_of(an_input([1, 2, 3]), **more).replace(b"[1,2,3]", b"[1,2,NaN]")


def from_json(
    body: bytes, target: StubServable, headers: Any = HEADERS, length: int | None = None
) -> PredictRequest:
    return json_codec.decode_infer(body, length, target, "", 100.0, headers)[0]


@pytest.mark.parametrize("reader", [one_pass, text_first, by_tokens])
class TestJsonReaders:
    @pytest.mark.parametrize("value", VALUES)
    def test_a_parameter_comes_as_it_is(self, reader: Any, value: Any) -> None:
        request = from_json(reader(parameters={"user": value, "other": [1]}), model())
        assert request.context == (value, None, "acme", None)
        assert type(request.context[0]) is type(value)
        assert not request.wants_feature_status

    @pytest.mark.parametrize("more", [{}, {"parameters": None}, {"parameters": {}}])
    def test_what_is_absent_is_none(self, reader: Any, more: dict[str, Any]) -> None:
        assert from_json(reader(**more), model()).context == (None, None, "acme", None)

    @pytest.mark.parametrize("value", [[1], {"id": 1}])
    def test_a_value_that_is_no_value_is_refused(self, reader: Any, value: Any) -> None:
        with pytest.raises(HeadraceError) as caught:
            from_json(reader(parameters={"user": value}), model())
        assert "$.parameters.user" in refusal(caught)

    @pytest.mark.parametrize(("asked", "wants"), [(True, True), (False, False), (None, False)])
    def test_the_feature_status(self, reader: Any, asked: Any, wants: bool) -> None:
        request = from_json(reader(parameters={"feature_status": asked}), model())
        assert request.wants_feature_status is wants

    def test_a_feature_status_that_is_no_boolean(self, reader: Any) -> None:
        with pytest.raises(HeadraceError) as caught:
            from_json(reader(parameters={"feature_status": "yes"}), model())
        assert "$.parameters.feature_status" in refusal(caught)

    def test_parameters_of_the_protocol_keep_their_meaning(self, reader: Any) -> None:
        wanted = model(WantedNames(("timeout", "user", "feature_status", "user")))
        parameters = {"timeout": 2_000_000, "user": "u", "feature_status": True, "priority": 3}
        request = from_json(reader(parameters=parameters), wanted)
        assert request.context == (2_000_000, "u", True, "u")
        assert (request.deadline_s, request.priority) == (102.0, 3)
        assert request.wants_feature_status

    def test_without_an_enrichment_nothing_is_looked_at(self, reader: Any) -> None:
        parameters = {"user": [1], "feature_status": "yes"}
        request = from_json(reader(parameters=parameters), model(None))
        assert request.context == ()
        assert not request.wants_feature_status


def test_half_of_a_surrogate_pair_is_refused() -> None:
    body = json.dumps(
        {"inputs": [an_input([1, 2, float("nan")])], "parameters": {"user": "\ud800"}}
    )
    with pytest.raises(HeadraceError) as caught:
        from_json(body.encode(), model())
    assert "UTF-8" in refusal(caught)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    body = one_pass(parameters={"user": 1}).replace(b'"user":1', b'"user":' + b"9" * 5000)
    with pytest.raises(HeadraceError) as caught:
        from_json(body, model())
    assert "$.parameters.user" in refusal(caught)


def test_names_that_are_no_identifiers() -> None:
    wanted = model(WantedNames(("user-id", "", "a.b", "größe", "wanted_0")))
    parameters = {"user-id": 1, "": 2, "a.b": 3, "größe": 4, "wanted_0": 5}
    assert from_json(one_pass(parameters=parameters), wanted).context == (1, 2, 3, 4, 5)


def test_a_body_with_bytes_behind_its_json() -> None:
    data = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
    text = orjson.dumps(
        {
            "inputs": [data | {"parameters": {"binary_data_size": 12}}],
            "parameters": {"user": "u7", "feature_status": True},
        }
    )
    request = from_json(text + ROW, model(), length=len(text))
    assert request.context == ("u7", None, "acme", None)
    assert request.wants_feature_status


def test_a_body_without_json_has_headers_only() -> None:
    request = from_json(ROW, model(), length=0)
    assert request.context == (None, None, "acme", None)


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([], (None, None)),
        ([(b"x-tenant", b"")], ("", None)),
        ([(b"x-region", b"eu"), (b"x-tenant", b"a")], ("a", "eu")),
        ([(b"x-tenant", b"a"), (b"x-tenant", b"b")], ("b", None)),
        ([(b"x-tenant", b" a b\t")], ("a b", None)),
        ([(b"x-tenant", b"\xe4")], ("ä", None)),
        ([(b"x-tenant2", b"a")], (None, None)),
    ],
)
def test_headers(lines: list[tuple[bytes, bytes]], values: tuple[str | None, ...]) -> None:
    wanted = WantedNames((), ("x-tenant", "x-region"))
    assert from_json(one_pass(), model(wanted), lines).context == values
    assert from_proto(message(), model(wanted), dict(lines)).context == values


# ---- protobuf --------------------------------------------------------------------------------------


def message(*, row: bytes = ROW, typed: bool = False, **parameters: Any) -> bytes:
    asked = ModelInferRequest(model_name="m", id="i")
    one = asked.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    if typed:
        one.contents.fp32_contents.extend(np.frombuffer(row, np.float32))
    else:
        asked.raw_input_contents.append(row)
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        if value is None:
            asked.parameters[name].SetInParent()  # it is there, and has no value
            continue
        kind = "uint64_param" if value == 2**63 else kinds[type(value)]
        setattr(asked.parameters[name], kind, value)
    return asked.SerializeToString(deterministic=True)


def from_proto(data: bytes, target: StubServable, headers: Any = None) -> PredictRequest:
    found = dict(HEADERS) if headers is None else headers
    return proto_codec.decode_infer(data, 100.0, lambda _name, _version: target, found)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("value", VALUES)
def test_a_parameter_of_a_message(value: Any, typed: bool) -> None:
    target = model()
    for _ in range(4):  # by the parser, and then from memory
        request = from_proto(message(user=value, other="o", typed=typed), target)
        assert request.context == (value, None, "acme", None)
        assert type(request.context[0]) is type(value)
        assert not request.wants_feature_status
    assert len(target.reply_templates["proto_request"].memo._known) == (not typed)


def test_messages_without_parameters() -> None:
    target = model()
    for _ in range(4):
        assert from_proto(message(), target).context == (None, None, "acme", None)


def test_a_remembered_message_is_its_own_callers() -> None:
    target = model()
    rows = [ROW, ROW[::-1]]
    for turn in range(6):
        for user in ("ann", "bob"):
            for asked in (True, False):
                row, tenant = rows[turn % 2], f"t{turn}"
                data = message(row=row, user=user, feature_status=asked)
                request = from_proto(data, target, {b"x-tenant": tenant.encode()})
                assert request.context == (user, None, tenant, None)
                assert request.wants_feature_status is asked
                assert request.inputs[0].tobytes() == row
    assert len(target.reply_templates["proto_request"].memo._known) == 4


@pytest.mark.parametrize("value", ["yes", 1, 0.5])
def test_a_feature_status_in_a_message_that_is_no_boolean(value: Any) -> None:
    target = model()
    for _ in range(4):
        with pytest.raises(HeadraceError) as caught:
            from_proto(message(feature_status=value), target)
        assert "bool_param" in refusal(caught)


def test_messages_without_an_enrichment_are_not_looked_at() -> None:
    target = model(None)
    for _ in range(4):
        request = from_proto(message(user="u", feature_status="yes"), target)
        assert request.context == ()
        assert not request.wants_feature_status


# ---- what a rollout's plan wants ---------------------------------------------------------------------


def test_a_plan_may_want_names_of_a_servable_without_an_enrichment() -> None:
    target = model(None)
    target.context_names = WANTED
    for _ in range(4):
        for request in (
            from_json(one_pass(parameters={"user": "u7"}), target),
            from_proto(message(user="u7"), target),
        ):
            assert request.context == ("u7", None, "acme", None)


def test_what_is_wanted_is_what_counts_and_not_the_enrichment() -> None:
    target = model()
    target.context_names = WantedNames(("tier",), ("x-user", "x-tenant"))
    headers = [*HEADERS, (b"x-user", b"ann")]
    asked: dict[str, Any] = {"user": "u7", "tier": 3}
    for request in (
        from_json(one_pass(parameters=asked), target, headers),
        from_proto(message(**asked), target, dict(headers)),
    ):
        assert request.context == (3, "ann", "acme")


def test_once_forgotten_other_names_are_read() -> None:
    target = model(None)
    for names in (None, WantedNames(("user",)), WantedNames((), ("x-tenant",)), None):
        target.context_names = names
        target.reply_templates.clear()
        expected = {None: (), 1: ("u7",), 0: ("acme",)}[names and len(names.parameters)]
        for _ in range(3):
            assert from_json(one_pass(parameters={"user": "u7"}), target).context == expected
            assert from_proto(message(user="u7"), target).context == expected


def test_without_any_wanted_header_all_of_them_are_absent() -> None:
    for headers in ([], [(b"host", b"h")]):
        assert from_json(one_pass(), model(), headers).context == (None,) * 4
        assert from_proto(message(), model(), dict(headers)).context == (None,) * 4


def test_a_head_that_comes_again_is_not_taken_for_another() -> None:
    """Heads that the front remembers are one object for many requests; others may be equal and are not the same."""
    target = model()
    acme, other, none = HEADERS, [(b"x-tenant", b"other")], [(b"host", b"h")]
    for headers, tenant in (
        (acme, "acme"),
        (acme, "acme"),
        (none, None),
        (other, "other"),
        (list(acme), "acme"),
        (none, None),
    ):
        assert from_json(one_pass(), target, headers).context == (None, None, tenant, None)
        assert from_json(one_pass(parameters={"user": 3}), target, headers).context == (
            3,
            None,
            tenant,
            None,
        )
