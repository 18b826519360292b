from typing import Any

import numpy as np
import pytest

from backends.signature import NUMPY_DTYPES
from gateway.edge.proto_codec import encode_prediction
from gateway.edge.proto_reply import MAX_KNOWN, length_prefix
from gateway.edge.tensor_bytes import write_elements
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest
from protos.inference import ModelInferResponse
from tests.support.servables import StubServable, stub, tensor_spec


class TestReply:
    def encode(
        self,
        target: StubServable,
        outputs: list[Any],
        request_id: str = "",
        wanted: tuple[int, ...] | None = None,
    ) -> ModelInferResponse:
        wanted = target.signature.all_outputs if wanted is None else wanted
        request = PredictRequest("m", "", request_id, (), 1, wanted, NO_DEADLINE_S, 1, 0.0, 0)
        data = encode_prediction(request, Prediction(target, outputs))
        reply = ModelInferResponse.FromString(data)
        # The same as a message that protobuf was asked to fill.
        expected = ModelInferResponse(
            model_name=target.name, model_version=target.version, id=request_id
        )
        for index in wanted:
            spec, tensor = target.signature.outputs[index], outputs[index]
            expected.outputs.add(name=spec.name, datatype=spec.datatype, shape=tensor.shape)
            is_text = spec.datatype == "BYTES"
            expected.raw_output_contents.append(
                write_elements(tensor) if is_text else tensor.tobytes()
            )
        assert reply == expected
        assert len(data) == expected.ByteSize()
        return reply

    @pytest.mark.parametrize("datatype", NUMPY_DTYPES)
    @pytest.mark.parametrize("shape", [(1, 1), (200, 300), (0, 5), ()])
    def test_each_datatype(self, datatype: str, shape: tuple[int, ...]) -> None:
        spec = tensor_spec("y", datatype, *([-1] * len(shape)))
        tensor = np.ones(shape, spec.dtype)
        if datatype == "BYTES":
            tensor = np.full(shape, b"ab", np.object_)
        target = stub([], [spec])
        for _ in range(2):
            self.encode(target, [tensor])
            self.encode(target, [tensor], "r-1")

    def test_several_outputs(self) -> None:
        target = stub(
            [],
            [
                tensor_spec("p", "FP32", -1),
                tensor_spec("q", "BYTES", -1),
                tensor_spec("r", "INT64", -1, 2),
            ],
        )
        outputs = [
            np.array([1.5], np.float32),
            np.array([b"a", "ä"], np.object_),
            np.array([[2, 3]]),
        ]
        for wanted in ((0, 1, 2), (2, 0), (1,), (1, 2), ()):
            for request_id in ("", "i", "ä" * 100, "x" * 20_000):
                self.encode(target, outputs, request_id, wanted)

    def test_shapes_change_between_replies(self) -> None:
        target = stub([], [tensor_spec("p", "UINT8", -1), tensor_spec("q", "UINT8", -1)])
        for rows in (1, 127, 128, 129, 1):
            tensor = np.ones(rows, np.uint8)
            self.encode(target, [tensor, tensor[: rows // 2]])
            self.encode(target, [tensor, tensor], wanted=(1,))

    def test_the_templates_are_bounded(self) -> None:
        target = stub([], [tensor_spec("y", "UINT8", -1)])
        request = PredictRequest("m", "", "", (), 1, (0,), NO_DEADLINE_S, 1, 0.0, 0)
        for rows in range(MAX_KNOWN + 10):
            encode_prediction(request, Prediction(target, [np.zeros(rows, np.uint8)]))
        assert len(target.reply_templates["proto_reply"]._known) <= MAX_KNOWN


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**31 - 1, 2**35])
def test_lengths_are_written_as_protobuf_does(length: int) -> None:
    written = length_prefix(length)
    value = 0
    for i, byte in enumerate(written):
        value |= (byte & 127) << (7 * i)
    assert value == length
    assert all(byte & 128 for byte in written[:-1])
    assert not written[-1] & 128


class TestParameters:
    @pytest.mark.parametrize("request_id", ["", "r-1"])
    @pytest.mark.parametrize("wanted", [(0,), (1, 0), ()])
    def test_they_stand_behind_the_outputs(self, request_id: str, wanted: tuple[int, ...]) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1), tensor_spec("q", "FP32", -1)])
        outputs: list[Any] = [np.ones(2, np.float32), np.zeros(2, np.float32)]
        request = PredictRequest("m", "", request_id, (), 1, wanted, NO_DEADLINE_S, 1, 0.0, 0)
        told = {"s": "ä", "b": True, "i": -3, "u": 2**63, "d": 0.5}
        plain = ModelInferResponse.FromString(
            encode_prediction(request, Prediction(target, outputs))
        )
        data = encode_prediction(request, Prediction(target, outputs, told))
        for name, kind in zip(told, ("string", "bool", "int64", "uint64", "double"), strict=True):
            setattr(plain.parameters[name], f"{kind}_param", told[name])
        assert ModelInferResponse.FromString(data) == plain

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
    def test_an_integer_beyond_64_bits_is_our_mistake(self, value: int) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1)])
        request = PredictRequest("m", "", "", (), 1, (0,), NO_DEADLINE_S, 1, 0.0, 0)
        with pytest.raises(ValueError, match="range"):
            encode_prediction(request, Prediction(target, [np.ones(2, np.float32)], {"i": value}))
