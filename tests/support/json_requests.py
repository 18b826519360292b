"""Requests and models for the tests of the JSON codec."""

from typing import Any

import orjson
import pytest

from gateway.edge.json_codec import (
    OutputEncoding,
    decode_infer,
    encode_prediction,
)
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S, Parameters, Prediction, PredictRequest
from tests.support.servables import StubServable, stub, tensor_spec

INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")


def one_input(datatype: str = "FP32", *shape: int, **settings: Any) -> StubServable:
    shape = shape or (-1, 3)
    return stub([tensor_spec("x", datatype, *shape)], [tensor_spec("y", "FP32", -1, 1)], **settings)


def two_inputs(first: str, second: str, shape: tuple[int, ...] = (-1, 2)) -> StubServable:
    return stub(
        [tensor_spec("a", first, *shape), tensor_spec("b", second, *shape)],
        [tensor_spec("y", "FP32", -1, 1), tensor_spec("z", "INT64", -1)],
        max_batch_size=8,
    )


def an_input(data: Any, shape: Any = (1, 3), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data, **more}


def body_of(*inputs: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **more})


def decode(body: bytes, target: StubServable, **more: Any) -> PredictRequest:
    return decode_infer(body, None, target, "", 100.0, **more)[0]


def refused(body: bytes, target: StubServable, **more: Any) -> str:
    with pytest.raises(HeadraceError) as caught:
        decode(body, target, **more)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.message


def reply(
    target: StubServable,
    outputs: list[Any],
    binary: tuple[bool, ...] = (),
    request_id: str = "",
    wanted: tuple[int, ...] | None = None,
    parameters: Parameters | None = None,
) -> tuple[bytes, int | None]:
    wanted = target.signature.all_outputs if wanted is None else wanted
    request = PredictRequest("m", "", request_id, (), 1, wanted, NO_DEADLINE_S, 1, 0.0, 0)
    prediction = Prediction(target, outputs, parameters)
    return encode_prediction(request, prediction, OutputEncoding(binary))
