"""Our codecs against the encoders and decoders of Triton's own clients, for every datatype."""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.service_pb2 as triton_messages
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc._utils import _get_inference_request

from backends.signature import NUMPY_DTYPES, Tensor
from gateway.edge import json_codec, proto_codec
from gateway.edge.json_wire import ONE_PASS_BYTES
from gateway.messages import Prediction, PredictRequest
from tests.support.servables import StubServable, stub, tensor_spec

DATATYPES = tuple(NUMPY_DTYPES)
JSON_DATATYPES = tuple(name for name in DATATYPES if name not in ("FP16", "BF16"))
HttpClient = triton_http.InferenceServerClient

quick = settings(derandomize=True, deadline=None, max_examples=60)
shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4) | st.sampled_from(
    [(0,), (0, 3), (2, 0), (2, 0, 3)]
)
texts = st.text(st.characters(codec="utf-8"), max_size=8)


def tensors(datatype: str, shape: tuple[int, ...], *, as_json: bool) -> st.SearchStrategy[Tensor]:
    if datatype == "BYTES":
        elements = texts.map(str.encode) if as_json else st.binary(max_size=8)
        return hnp.arrays(np.object_, shape, elements=elements)
    if datatype == "BF16":
        return hnp.arrays(np.uint16, shape)
    return hnp.arrays(NUMPY_DTYPES[datatype], shape)


def echo(datatype: str, rank: int) -> StubServable:
    dims = [-1] * rank
    return stub([tensor_spec("x", datatype, *dims)], [tensor_spec("y", datatype, *dims)])


def for_client(datatype: str, tensor: Tensor) -> Any:
    return tensor.view(ml_dtypes.bfloat16) if datatype == "BF16" else tensor


def assert_same(told: Any, tensor: Tensor) -> None:
    assert told.shape == tensor.shape
    if tensor.dtype.hasobject:
        assert told.tolist() == tensor.tolist()
    else:
        assert told.dtype.itemsize == tensor.dtype.itemsize
        np.testing.assert_array_equal(told.view(tensor.dtype), tensor)


def drawn(data: st.DataObject, datatypes: tuple[str, ...], *, as_json: bool) -> tuple[str, Tensor]:
    datatype = data.draw(st.sampled_from(datatypes))
    return datatype, data.draw(tensors(datatype, data.draw(shapes), as_json=as_json))


def http_request(
    datatype: str, tensor: Tensor, *, binary: bool, **more: Any
) -> tuple[PredictRequest, json_codec.OutputEncoding, StubServable]:
    client_input = triton_http.InferInput("x", list(tensor.shape), datatype)
    client_input.set_data_from_numpy(for_client(datatype, tensor), binary_data=binary)
    body, header_length = HttpClient.generate_request_body([client_input], **more)
    target = echo(datatype, tensor.ndim)
    request, encoding = json_codec.decode_infer(body, header_length, target, "", 0.0)
    return request, encoding, target


@quick
@given(st.data())
def test_http_binary(data: st.DataObject) -> None:
    datatype, tensor = drawn(data, DATATYPES, as_json=False)
    request, encoding, target = http_request(datatype, tensor, binary=True)
    assert_same(request.inputs[0], tensor)
    assert encoding.binary == (True,)  # what this client wants when no outputs are named
    body, header_length = json_codec.encode_prediction(
        request, Prediction(target, [tensor]), encoding
    )
    result = HttpClient.parse_response_body(body, header_length=header_length)
    assert_same(result.as_numpy("y"), tensor)


@quick
@given(st.data())
def test_http_json(data: st.DataObject) -> None:
    datatype, tensor = drawn(data, JSON_DATATYPES, as_json=True)
    outputs = [triton_http.InferRequestedOutput("y", binary_data=False)]
    request, encoding, target = http_request(
        datatype, tensor, binary=False, outputs=outputs, request_id="r-1"
    )
    assert request.request_id == "r-1"
    assert_same(request.inputs[0], tensor)
    body, header_length = json_codec.encode_prediction(
        request, Prediction(target, [tensor]), encoding
    )
    assert header_length is None
    result = HttpClient.parse_response_body(body)
    assert result.get_response()["id"] == "r-1"
    if datatype == "BYTES":
        expected = [item.decode() for item in tensor.ravel().tolist()]
        assert result.as_numpy("y").ravel().tolist() == expected
    else:
        assert_same(result.as_numpy("y"), tensor)


@quick
@given(st.data(), st.sampled_from([None, 2]), st.booleans())
def test_hand_written_json(data: st.DataObject, indent: int | None, is_nested: bool) -> None:
    datatype, tensor = drawn(data, JSON_DATATYPES, as_json=True)
    values = (tensor if is_nested else tensor.ravel()).tolist()
    document = {
        "inputs": [{"name": "x", "shape": list(tensor.shape), "datatype": datatype, "data": values}]
    }
    body = json.dumps(document, indent=indent, default=bytes.decode, ensure_ascii=is_nested)
    target = echo(datatype, tensor.ndim)
    request, _ = json_codec.decode_infer(body.encode(), None, target, "", 0.0)
    assert_same(request.inputs[0], tensor)


@quick
@given(st.data(), st.booleans())
def test_every_reader_of_json_agrees(data: st.DataObject, is_nested: bool) -> None:
    datatype, tensor = drawn(data, ("FP32", "FP64"), as_json=True)
    values = (tensor if is_nested else tensor.ravel()).tolist()
    document = {
        "inputs": [{"name": "x", "shape": list(tensor.shape), "datatype": datatype, "data": values}]
    }
    plain = json.dumps(document).encode()
    bodies = [
        plain,
        plain[:-1] + b',"pad":"%b"}' % (b" " * ONE_PASS_BYTES),  # text first
        plain[:-1] + b',"unread":NaN}',  # tokens
    ]
    for body in bodies:
        request, _ = json_codec.decode_infer(body, None, echo(datatype, tensor.ndim), "", 0.0)
        assert_same(request.inputs[0], tensor)


@quick
@given(st.data(), st.sampled_from(["", "r-1", "ä" * 90]))
def test_grpc(data: st.DataObject, request_id: str) -> None:
    datatype, tensor = drawn(data, DATATYPES, as_json=False)
    client_input = triton_grpc.InferInput("x", list(tensor.shape), datatype)
    client_input.set_data_from_numpy(for_client(datatype, tensor))
    message = _get_inference_request(
        "m", [client_input], "", request_id, None, 0, False, False, 3, 1000, None
    ).SerializeToString()
    target = echo(datatype, tensor.ndim)
    request = proto_codec.decode_infer(message, 5.0, lambda _name, _version: target)
    reply = proto_codec.encode_prediction(request, Prediction(target, [tensor]))
    for _ in range(3):
        assert_same(request.inputs[0], tensor)
        assert (request.request_id, request.priority) == (request_id, 3)
        assert request.deadline_s == pytest.approx(5.001)
        request = proto_codec.decode_infer(message, 5.0, lambda _name, _version: target)
    parsed = triton_messages.ModelInferResponse.FromString(reply)
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("m", "1", request_id)
    assert_same(triton_grpc.InferResult(parsed).as_numpy("y"), tensor)


@pytest.mark.parametrize("binary", [True, False])
def test_http_with_several_inputs_and_outputs(binary: bool) -> None:
    target = stub(
        [tensor_spec("a", "FP32", -1, 2), tensor_spec("b", "BYTES", -1)],
        [tensor_spec("p", "FP32", -1, 2), tensor_spec("q", "BYTES", -1)],
        max_batch_size=8,
    )
    a = np.array([[1.5, 2], [3, 4]], np.float32)
    b = np.array([b"x", b"yy"], np.object_)
    inputs = [
        triton_http.InferInput("b", [2], "BYTES").set_data_from_numpy(b, binary_data=binary),
        triton_http.InferInput("a", [2, 2], "FP32").set_data_from_numpy(a, binary_data=not binary),
    ]
    outputs = [
        triton_http.InferRequestedOutput("q", binary_data=True),
        triton_http.InferRequestedOutput("p", binary_data=False),
    ]
    body, header_length = HttpClient.generate_request_body(
        inputs, outputs=outputs, timeout=2_000_000, priority=2
    )
    request, encoding = json_codec.decode_infer(body, header_length, target, "", 1.0)
    assert (request.rows, request.outputs, encoding.binary) == (2, (1, 0), (True, False))
    assert (request.deadline_s, request.priority) == (3.0, 2)
    assert_same(request.inputs[0], a)
    assert_same(request.inputs[1], b)
    reply, length = json_codec.encode_prediction(request, Prediction(target, [a, b]), encoding)
    result = HttpClient.parse_response_body(reply, header_length=length)
    assert_same(result.as_numpy("p"), a)
    assert_same(result.as_numpy("q"), b)


def test_http_tokens_are_read_by_the_client() -> None:
    tensor = np.array([math.nan, math.inf, -math.inf, 1], np.float32)
    outputs = [triton_http.InferRequestedOutput("y", binary_data=False)]
    request, encoding, target = http_request("FP32", tensor, binary=False, outputs=outputs)
    assert_same(request.inputs[0], tensor)
    body, _ = json_codec.encode_prediction(request, Prediction(target, [tensor]), encoding)
    assert_same(HttpClient.parse_response_body(body).as_numpy("y"), tensor)


def test_grpc_with_several_inputs_and_outputs() -> None:
    target = stub(
        [tensor_spec("a", "FP32", -1, 2), tensor_spec("b", "INT64", -1)],
        [tensor_spec("p", "FP32", -1, 2), tensor_spec("q", "BYTES", -1)],
        max_batch_size=8,
    )
    a = np.array([[1.5, 2], [3, 4]], np.float32)
    b = np.array([7, 8])
    text = np.array([b"x", b"yy"], np.object_)
    inputs = [
        triton_grpc.InferInput("b", [2], "INT64").set_data_from_numpy(b),
        triton_grpc.InferInput("a", [2, 2], "FP32").set_data_from_numpy(a),
    ]
    outputs = [triton_grpc.InferRequestedOutput("q"), triton_grpc.InferRequestedOutput("p")]
    message = _get_inference_request(
        "m", inputs, "1", "", outputs, 0, False, False, 0, None, None
    ).SerializeToString()
    request = proto_codec.decode_infer(message, 0.0, lambda _name, _version: target)
    reply = proto_codec.encode_prediction(request, Prediction(target, [a, text]))
    for _ in range(3):
        assert (request.rows, request.outputs, request.version) == (2, (1, 0), "1")
        assert_same(request.inputs[0], a)
        assert_same(request.inputs[1], b)
        request = proto_codec.decode_infer(message, 0.0, lambda _name, _version: target)
    result = triton_grpc.InferResult(triton_messages.ModelInferResponse.FromString(reply))
    assert [output.name for output in result.get_response().outputs] == ["q", "p"]
    assert_same(result.as_numpy("p"), a)
    assert_same(result.as_numpy("q"), text)
