"""Messages and models for the tests of the protobuf codec."""

from typing import Any

import numpy as np
import pytest

from gateway.edge.proto_codec import decode_infer
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import PredictRequest
from protos.inference import ModelInferRequest
from tests.support.servables import StubServable, stub, tensor_spec


def model(*inputs: Any, **settings: Any) -> StubServable:
    inputs = inputs or (tensor_spec("x", "FP32", -1, 3),)
    outputs = [tensor_spec(name, "FP32", -1) for name in ("p", "q", "r")]
    return stub(list(inputs), outputs, **settings)


def request_for(
    *tensors: tuple[str, str, tuple[int, ...], bytes | None], **fields: Any
) -> ModelInferRequest:
    """Inputs of (name, datatype, shape, raw bytes or None)."""
    message = ModelInferRequest(**({"model_name": "m"} | fields))
    for name, datatype, shape, raw in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is not None:
            message.raw_input_contents.append(raw)
    return message


ONE_ROW = ("x", "FP32", (1, 3), np.array([1, 2, 3], np.float32).tobytes())


def decode(
    message: ModelInferRequest | bytes, target: StubServable | None = None
) -> PredictRequest:
    target = target or model()
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return decode_infer(data, 100.0, lambda _name, _version: target)


def refused(message: ModelInferRequest | bytes, target: StubServable | None = None) -> str:
    with pytest.raises(HeadraceError) as caught:
        decode(message, target)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.message
