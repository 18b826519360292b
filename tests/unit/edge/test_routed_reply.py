"""How a request was routed, in the replies of both wires: the same names, whether written from parts or as a whole."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.edge import json_codec, proto_codec
from gateway.edge.json_codec import OutputEncoding
from gateway.messages import Assignment, Parameters, Prediction, PredictRequest
from gateway.ports import Servable
from protos.inference import ModelInferResponse
from tests.support.servables import stub, tensor_spec

ID = str(uuid.UUID(int=7 << 76 | 1 << 63 | 17))


def assigned(arm: str, assigned_by: str) -> Assignment:
    return Assignment(3, arm, "2", 0.5, assigned_by or "split", assigned_by)


def prediction(target: Servable, assignment: Assignment | None, said: Parameters | None) -> Any:
    outputs: list[Any] = [np.ones((1, 1), np.float32)]
    made = Prediction(target, outputs, said, assignment)
    made.prediction_id = ID if assignment else ""
    return made


def both(
    assignment: Assignment | None, said: Parameters | None, request_id: str, *, binary: bool = False
) -> list[dict[str, Any]]:
    """The parameters of the reply, as each wire's reader has them; {} for a reply without."""
    target = stub([], [tensor_spec("p", "FP32", -1, 1)])
    request = PredictRequest(target.name, "", request_id, (), 1, (0,), 1.0, 1, 0.0, 1)
    answer = prediction(target, assignment, said)
    body, length = json_codec.encode_prediction(
        request, answer, OutputEncoding((True,) if binary else ())
    )
    document = orjson.loads(body[:length])
    assert document.get("id", "") == request_id
    message = ModelInferResponse.FromString(proto_codec.encode_prediction(request, answer))
    assert message.id == request_id
    assert message.model_version == document["model_version"] == target.version
    read = {
        name: getattr(one, one.WhichOneof("parameter_choice"))
        for name, one in message.parameters.items()
    }
    return [document.get("parameters", {}), read]


@pytest.mark.parametrize("request_id", ["", "r-1"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("said", [None, {}, {"feature_status": "fresh", "count": 3}])
@pytest.mark.parametrize("assigned_by", ["", "request_id", "none", "override", "not_warm"])
@pytest.mark.parametrize("arm", ["champion", "candidate", "other"])
def test_both_wires_say_who_answered_why_and_under_which_id(
    arm: str, assigned_by: str, said: Parameters | None, binary: bool, request_id: str
) -> None:
    expected: dict[str, Any] = {"prediction_id": ID, "arm": arm}
    if assigned_by:
        expected["assigned_by"] = assigned_by
    expected |= said or {}
    for _ in range(2):  # written, and remembered
        assert both(assigned(arm, assigned_by), said, request_id, binary=binary) == [expected] * 2


def test_without_a_plan_they_say_nothing_of_it() -> None:
    assert both(None, None, "r-1") == [{}, {}]
    assert both(None, {"a": True}, "") == [{"a": True}] * 2
