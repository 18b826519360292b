from typing import Any

import numpy as np
import orjson
import pytest

from backends.signature import NUMPY_DTYPES
from gateway.edge.json_codec import OutputEncoding, decode_infer, encode_prediction
from gateway.edge.tensor_bytes import write_elements
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest
from tests.support.servables import StubServable, stub, tensor_spec


def model(*inputs: Any, **settings: Any) -> StubServable:
    return stub(list(inputs), [tensor_spec("y", "FP32", -1)], **settings)


def binary(name: str, datatype: str, shape: tuple[int, ...], size: int) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
    }


def decode(
    target: StubServable, inputs: list[dict[str, Any]], *blobs: bytes, pad: int = 0
) -> PredictRequest:
    header = orjson.dumps({"inputs": inputs}) + b" " * pad
    return decode_infer(header + b"".join(blobs), len(header), target, "", 0.0)[0]


def refused(target: StubServable, inputs: list[dict[str, Any]], *blobs: bytes) -> str:
    with pytest.raises(HeadraceError) as caught:
        decode(target, inputs, *blobs)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.message


class TestTensors:
    @pytest.mark.parametrize("datatype", [name for name in NUMPY_DTYPES if name != "BYTES"])
    @pytest.mark.parametrize("pad", range(8))
    def test_each_datatype_at_each_alignment(self, datatype: str, pad: int) -> None:
        dtype = NUMPY_DTYPES[datatype]
        values = (np.arange(6) % 2).astype(dtype).reshape(2, 3)
        item = binary("x", datatype, (2, 3), values.nbytes)
        target = model(tensor_spec("x", datatype, -1, 3), max_batch_size=4)
        request = decode(target, [item], values.tobytes(), pad=pad)
        (x,) = request.inputs
        assert x.dtype == dtype
        assert x.tolist() == values.tolist()
        assert x.flags.aligned
        assert x.flags.c_contiguous
        assert request.rows == 2

    def test_an_aligned_tensor_is_a_view(self) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        header = orjson.dumps({"inputs": [binary("x", "UINT8", (3,), 3)]})
        body = header + b"abc"
        (x,) = decode_infer(body, len(header), target, "", 0.0)[0].inputs
        assert not x.flags.owndata
        assert not x.flags.writeable

    def test_an_unaligned_view_of_a_body_is_copied(self) -> None:
        target = model(tensor_spec("x", "FP64", -1))
        values = np.array([1.5, 2.5])
        header = orjson.dumps({"inputs": [binary("x", "FP64", (2,), 16)]})
        for skip in range(8):
            body = memoryview(b"." * skip + header + values.tobytes())[skip:]
            (x,) = decode_infer(body, len(header), target, "", 0.0)[0].inputs
            assert x.flags.aligned
            assert x.tolist() == values.tolist()

    def test_binary_and_json_inputs_mix(self) -> None:
        target = model(
            tensor_spec("a", "FP32", 2), tensor_spec("b", "FP32", 2), tensor_spec("c", "BYTES", 1)
        )
        request = decode(
            target,
            [
                binary("c", "BYTES", (1,), 5),
                {"name": "b", "shape": [2], "datatype": "FP32", "data": [1, 2]},
                binary("a", "FP32", (2,), 8),
            ],
            b"\x01\0\0\0z",
            np.array([3, 4], np.float32).tobytes(),
        )
        a, b, c = request.inputs
        assert a.tolist() == [3, 4]
        assert b.tolist() == [1, 2]
        assert c.tolist() == [b"z"]

    def test_no_bytes_are_a_tensor_too(self) -> None:
        target = model(tensor_spec("x", "FP32", -1), tensor_spec("s", "BYTES", -1))
        request = decode(target, [binary("x", "FP32", (0,), 0), binary("s", "BYTES", (0,), 0)])
        assert [tensor.shape for tensor in request.inputs] == [(0,), (0,)]

    def test_the_header_may_be_the_whole_body(self) -> None:
        item = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
        assert decode(model(tensor_spec("x", "FP32", -1)), [item]).inputs[0].tolist() == [1]

    def test_nothing_caps_binary_tensors(self) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        header = orjson.dumps({"inputs": [binary("x", "UINT8", (9,), 9)]})
        request, _ = decode_infer(
            header + b"123456789", len(header), target, "", 0.0, max_tensor_bytes=8
        )
        assert request.inputs[0].shape == (9,)


class TestRefusals:
    def test_sizes(self) -> None:
        target = model(tensor_spec("x", "FP32", -1, 2))
        for size in (0, 4, 12):
            item = binary("x", "FP32", (1, 2), size)
            message = refused(target, [item], b"\0" * size)
            assert f"'x' has {size} bytes" in message
            assert "needs 8" in message
        message = refused(target, [binary("x", "FP32", (1, 2), 8)], b"\0" * 7)
        assert "binary_data_size 8, and 7 bytes are left" in message
        message = refused(target, [binary("x", "FP32", (1, 2), 8)], b"\0" * 9)
        assert "1 bytes more" in message

    def test_bytes_behind_json_inputs(self) -> None:
        item = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
        assert "3 bytes more" in refused(model(tensor_spec("x", "FP32", -1)), [item], b"abc")

    def test_both_or_no_data(self) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        both = binary("x", "UINT8", (1,), 1) | {"data": [1]}
        assert "'x' has both data" in refused(target, [both], b"a")

    def test_binary_data_without_the_header(self) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        body = orjson.dumps({"inputs": [binary("x", "UINT8", (2,), 2)]})
        with pytest.raises(HeadraceError, match="Inference-Header-Content-Length"):
            decode_infer(body, None, target, "", 0.0)

    @pytest.mark.parametrize("header_length", [-1, 100, 2**40])
    def test_header_length_out_of_range(self, header_length: int) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        with pytest.raises(HeadraceError, match=f"is {header_length}; the body has 2") as caught:
            decode_infer(b"{}", header_length, target, "", 0.0)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT

    def test_bools_are_zero_or_one(self) -> None:
        target = model(tensor_spec("x", "BOOL", -1))
        message = refused(target, [binary("x", "BOOL", (4,), 4)], b"\0\1\2\1")
        assert "'x' is BOOL" in message
        assert "byte 2" in message

    def test_a_json_fault_before_the_bytes(self) -> None:
        target = model(tensor_spec("x", "UINT8", -1))
        with pytest.raises(HeadraceError, match="malformed"):
            decode_infer(b'{"inputs":[}xyz', 12, target, "", 0.0)


class TestElements:
    target = model(tensor_spec("x", "BYTES", -1))

    @pytest.mark.parametrize(
        "elements", [[b""], [b"a", b"", b"\x00\xff" * 3], [b"x" * 70_000, b"y"]]
    )
    def test_read_what_is_written(self, elements: list[bytes]) -> None:
        data = write_elements(np.array(elements, np.object_))
        item = binary("x", "BYTES", (len(elements),), len(data))
        (x,) = decode(self.target, [item], data).inputs
        assert x.tolist() == elements
        assert x.dtype == np.object_

    def test_onnx_strings_are_written_as_utf8(self) -> None:
        assert write_elements(np.array(["ä"], np.object_)) == b"\x02\0\0\0\xc3\xa4"

    @pytest.mark.parametrize(
        ("data", "count", "words"),
        [
            (b"", 1, "0 bytes, which takes at least 4"),
            (b"\x01\0\0\0a", 2, "5 bytes, which takes at least 8"),
            (b"\x01\0\0\0a\x01\0\0", 2, "8 bytes, and element 1 has no length"),
            (b"\x02\0\0\0a", 1, "element 0 claims 2 of the 1 bytes left"),
            (b"\xff\xff\xff\xffa", 1, "element 0 claims 4294967295 of the 1 bytes left"),
            (b"\0\0\0\0\0\0\0\0", 1, "hold more than 1 elements"),
            (b"\x04\0\0\0\0\0\0\0", 2, "hold 1 elements, not 2"),
            (b"\0\0\0\0", 0, "hold more than 0 elements"),
        ],
    )
    def test_lengths_that_lie(self, data: bytes, count: int, words: str) -> None:
        message = refused(self.target, [binary("x", "BYTES", (count,), len(data))], data)
        assert "'x' is BYTES" in message
        assert words in message

    def test_an_element_may_not_reach_into_the_next_tensor(self) -> None:
        target = model(tensor_spec("x", "BYTES", 1), tensor_spec("z", "UINT8", 4))
        items = [binary("x", "BYTES", (1,), 5), binary("z", "UINT8", (4,), 4)]
        assert "claims 5 of the 1" in refused(target, items, b"\x05\0\0\0a", b"1234")

    def test_a_shape_alone_allocates_nothing(self) -> None:
        item = binary("x", "BYTES", (2**40,), 4)
        assert "at least" in refused(self.target, [item], b"\0\0\0\0")


class TestRawBody:
    """Inference-Header-Content-Length: 0."""

    def decode(self, target: StubServable, body: bytes) -> tuple[PredictRequest, OutputEncoding]:
        return decode_infer(body, 0, target, "2", 10.0)

    def refused(self, target: StubServable, body: bytes) -> str:
        with pytest.raises(HeadraceError) as caught:
            self.decode(target, body)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        return caught.value.message

    def test_the_request(self) -> None:
        target = stub(
            [tensor_spec("x", "FP32", -1, 3)],
            [tensor_spec("p", "FP16", -1), tensor_spec("q", "FP32", -1)],
            max_batch_size=8,
            default_timeout_s=2.0,
            default_priority=3,
        )
        values = np.array([1, 2, 3], np.float32)
        request, encoding = self.decode(target, values.tobytes())
        assert request.inputs[0].tolist() == [[1, 2, 3]]
        assert (request.rows, request.request_id, request.version) == (1, "", "2")
        assert (request.outputs, encoding.binary) == ((0, 1), (True, True))
        assert (request.deadline_s, request.priority, request.size_bytes) == (12.0, 3, 12)

    @pytest.mark.parametrize(
        ("shape", "max_batch_size", "count", "expected"),
        [
            ((-1, 3), 8, 3, (1, 3)),
            ((-1, -1), 8, 5, (1, 5)),
            ((-1, -1, 2), 8, 6, (1, 3, 2)),
            ((-1, 3), 0, 6, (2, 3)),
            ((-1,), 0, 0, (0,)),
            ((2, 2), 0, 4, (2, 2)),
        ],
    )
    def test_the_shape_follows_from_the_bytes(
        self, shape: tuple[int, ...], max_batch_size: int, count: int, expected: tuple[int, ...]
    ) -> None:
        target = model(tensor_spec("x", "INT32", *shape), max_batch_size=max_batch_size)
        body = np.arange(count, dtype=np.int32).tobytes()
        (x,) = self.decode(target, body)[0].inputs
        assert x.shape == expected
        assert x.ravel().tolist() == list(range(count))

    def test_one_element_of_bytes_is_the_body(self) -> None:
        target = model(tensor_spec("x", "BYTES", 1))
        assert self.decode(target, b"427")[0].inputs[0].tolist() == [b"427"]
        target = model(tensor_spec("x", "BYTES", -1, 1), max_batch_size=8)
        assert self.decode(target, b"")[0].inputs[0].tolist() == [[b""]]

    @pytest.mark.parametrize("shape", [(-1,), (2,), (1, -1)])
    def test_bytes_of_another_shape(self, shape: tuple[int, ...]) -> None:
        target = model(tensor_spec("x", "BYTES", *shape))
        assert "needs the shape [1] of BYTES input 'x'" in self.refused(target, b"427")

    def test_refusals(self) -> None:
        two = model(tensor_spec("a", "FP32", 1), tensor_spec("b", "FP32", 1))
        assert "this one takes 2" in self.refused(two, b"\0" * 4)
        variable = model(tensor_spec("x", "FP32", -1, -1))
        assert "more than one dimension varies" in self.refused(variable, b"\0" * 4)
        stepped = model(tensor_spec("x", "FP32", -1, 3))
        assert "a multiple of 12" in self.refused(stepped, b"\0" * 13)
        empty = model(tensor_spec("x", "FP32", -1, 0))
        assert "a multiple of 0" in self.refused(empty, b"\0" * 4)
        fixed = model(tensor_spec("x", "FP32", 2, 2))
        assert "has 12 bytes of data" in self.refused(fixed, b"\0" * 12)
        bools = model(tensor_spec("x", "BOOL", -1))
        assert "byte 7" in self.refused(bools, b"\0\7")
        batched = model(tensor_spec("x", "FP32", -1, -1), max_batch_size=4)
        assert self.decode(batched, b"")[0].inputs[0].shape == (1, 0)


class TestReply:
    def encode(
        self, target: StubServable, outputs: list[Any], binary: tuple[bool, ...], request_id: str
    ) -> tuple[dict[str, Any], bytes]:
        request = PredictRequest(
            "m", "", request_id, (), 1, target.signature.all_outputs, NO_DEADLINE_S, 1, 0.0, 0
        )
        body, header_length = encode_prediction(
            request, Prediction(target, outputs), OutputEncoding(binary)
        )
        assert header_length is not None
        return orjson.loads(body[:header_length]), body[header_length:]

    def test_every_datatype(self) -> None:
        specs = [tensor_spec(name, name, -1, 1) for name in NUMPY_DTYPES]
        target = stub([], specs)
        outputs: list[Any] = [np.ones((2, 1), spec.dtype) for spec in specs[:-1]]
        outputs.append(np.array([[b"ab"], ["ä"]], np.object_))
        told, blob = self.encode(target, outputs, (True,) * len(specs), "r")
        assert told["id"] == "r"
        assert [output["name"] for output in told["outputs"]] == list(NUMPY_DTYPES)
        for output, tensor in zip(told["outputs"], outputs, strict=True):
            size = output["parameters"]["binary_data_size"]
            data, blob = blob[:size], blob[size:]
            is_text = output["datatype"] == "BYTES"
            assert data == (write_elements(tensor) if is_text else tensor.tobytes())
            assert output["shape"] == [2, 1]
            assert "data" not in output
        assert blob == b""

    def test_json_and_binary_outputs_mix(self) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1), tensor_spec("q", "FP16", -1)])
        outputs: list[Any] = [np.array([1.5], np.float32), np.array([2], np.float16)]
        told, blob = self.encode(target, outputs, (False, True), "")
        assert told["outputs"] == [
            {"name": "p", "datatype": "FP32", "shape": [1], "data": [1.5]},
            {
                "name": "q",
                "datatype": "FP16",
                "shape": [1],
                "parameters": {"binary_data_size": 2},
            },
        ]
        assert blob == outputs[1].tobytes()

    def test_an_empty_binary_output(self) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1)])
        told, blob = self.encode(target, [np.zeros(0, np.float32)], (True,), "")
        assert told["outputs"][0]["parameters"] == {"binary_data_size": 0}
        assert blob == b""
