import orjson
import pytest
from tritonclient.grpc import service_pb2

from loadtests import json_payload, models, protobuf_payload


def test_the_json_request_is_a_v2_request() -> None:
    request = orjson.loads(json_payload.infer_body(timeout_us=50_000))
    (tensor,) = request["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("input", "FP32", [1, 32])
    assert tensor["data"] == pytest.approx(models.sample_rows()[0].tolist())
    assert request["parameters"] == {"timeout": 50_000}
    assert "parameters" not in orjson.loads(json_payload.infer_body())


@pytest.mark.parametrize("data", ["[0.5]", "[[0.5]]", "0.5"])
def test_the_answer_is_found_nested_or_flat(data: str) -> None:
    assert json_payload.answer_of(b'{"outputs":[{"data":%b}]}' % data.encode()) == 0.5


def test_the_json_echo_is_a_v2_reply() -> None:
    assert json_payload.answer_of(json_payload.infer_reply("tiny", 0.25)) == 0.25


def test_generated_code_reads_the_request_written_by_hand() -> None:
    request = service_pb2.ModelInferRequest.FromString(protobuf_payload.infer_request("tiny"))
    (tensor,) = request.inputs
    assert (request.model_name, tensor.name, tensor.datatype) == ("tiny", "input", "FP32")
    assert list(tensor.shape) == [1, 32]
    assert list(request.raw_input_contents) == [models.sample_rows().tobytes()]


def test_generated_code_reads_the_reply_written_by_hand() -> None:
    reply = service_pb2.ModelInferResponse.FromString(protobuf_payload.infer_response("tiny", 0.25))
    assert (reply.model_name, reply.model_version) == ("tiny", "1")
    assert list(reply.outputs[0].shape) == [1, 1]
    assert protobuf_payload.answer_of(reply.SerializeToString()) == 0.25


def test_the_answer_is_found_among_all_kinds_of_fields() -> None:
    reply = service_pb2.ModelInferResponse(model_name="m", model_version="1", id="x" * 300)
    reply.parameters["a"].int64_param = 1 << 40
    reply.parameters["b"].double_param = 0.5
    reply.outputs.add(name="output", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(2)
    assert protobuf_payload.answer_of(reply.SerializeToString()) == 2


def test_a_frame_holds_its_message() -> None:
    assert protobuf_payload.framed(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert protobuf_payload.unframed(b"\x00\x00\x00\x00\x03abc") == b"abc"


@pytest.mark.parametrize("body", [b"\x01\x00\x00\x00\x03abc", b"\x00\x00\x00\x00\x04abc"])
def test_a_compressed_or_cut_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="compressed or cut"):
        protobuf_payload.unframed(body)
