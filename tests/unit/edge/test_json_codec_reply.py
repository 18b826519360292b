import math
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.edge.json_codec import (
    encode_error,
)
from gateway.edge.json_reply import MAX_KNOWN
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Parameters
from tests.support.json_requests import one_input, reply
from tests.support.servables import stub, tensor_spec


class TestReply:
    def test_tritons_fields_in_tritons_order(self) -> None:
        target = one_input(name="iris", version="3")
        y = np.array([[0.1], [2.5]], np.float32)
        body, header_length = reply(target, [y], request_id='a"b')
        assert header_length is None
        assert body == (
            b'{"id":"a\\"b","model_name":"iris","model_version":"3","outputs":'
            b'[{"name":"y","datatype":"FP32","shape":[2,1],"data":[0.1,2.5]}]}'
        )

    def test_without_an_id_there_is_none(self) -> None:
        body, _ = reply(one_input(), [np.zeros((1, 1), np.float32)])
        assert "id" not in orjson.loads(body)

    @pytest.mark.parametrize(
        ("datatype", "values", "text"),
        [
            ("BOOL", [True, False], b"[true,false]"),
            ("UINT8", [0, 255], b"[0,255]"),
            ("UINT16", [0, 2**16 - 1], b"[0,65535]"),
            ("UINT32", [0, 2**32 - 1], b"[0,4294967295]"),
            ("UINT64", [0, 2**64 - 1], b"[0,18446744073709551615]"),
            ("INT8", [-128, 127], b"[-128,127]"),
            ("INT16", [-(2**15), 1], b"[-32768,1]"),
            ("INT32", [-(2**31), 1], b"[-2147483648,1]"),
            ("INT64", [-(2**63), 1], b"[-9223372036854775808,1]"),
            ("FP32", [0.1, -1e-7], b"[0.1,-1e-7]"),
            ("FP64", [0.1, 1 / 3], b"[0.1,0.3333333333333333]"),
            ("BYTES", [b"a", "ä".encode()], '["a","ä"]'.encode()),
            ("BYTES", ["a", "ä"], '["a","ä"]'.encode()),
        ],
    )
    def test_each_datatype(self, datatype: str, values: list[Any], text: bytes) -> None:
        spec = tensor_spec("y", datatype, -1, 1)
        target = stub([], [spec])
        body, _ = reply(target, [np.array(values, spec.dtype).reshape(2, 1)])
        assert text in body
        assert orjson.loads(body)["outputs"][0]["shape"] == [2, 1]

    @pytest.mark.parametrize("datatype", ["FP32", "FP64"])
    def test_tokens_for_what_json_lacks(self, datatype: str) -> None:
        spec = tensor_spec("y", datatype, -1)
        values = np.array([math.nan, 1, math.inf, -math.inf, -math.nan, 2], spec.dtype)
        body, _ = reply(stub([], [spec]), [values])
        assert b'"data":[NaN,1.0,Infinity,-Infinity,NaN,2.0]' in body

    @pytest.mark.parametrize(
        ("datatype", "bits", "pattern"),
        [("FP32", "u4", 0x7FA00000), ("FP64", "u8", 0x7FF4000000000000)],
    )
    def test_signalling_nans_do_not_warn(self, datatype: str, bits: str, pattern: int) -> None:
        spec = tensor_spec("y", datatype, -1)
        values = np.array([pattern], bits).view(spec.dtype)
        body, _ = reply(stub([], [spec]), [values])
        assert b'"data":[NaN]' in body

    def test_several_outputs_as_wanted(self) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1), tensor_spec("q", "INT64", -1)])
        outputs = [np.array([1.5], np.float32), np.array([2, 3])]
        for wanted, names in (((0, 1), ["p", "q"]), ((1, 0), ["q", "p"]), ((1,), ["q"]), ((), [])):
            body, _ = reply(target, outputs, wanted=wanted)
            assert [output["name"] for output in orjson.loads(body)["outputs"]] == names

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1, 2, 2)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        spec = tensor_spec("y", "FP32", *([-1] * len(shape)))
        body, _ = reply(stub([], [spec]), [np.ones(shape, np.float32)])
        (output,) = orjson.loads(body)["outputs"]
        assert output["shape"] == list(shape)
        assert output["data"] == [1.0] * math.prod(shape)

    def test_text_that_is_no_utf8(self) -> None:
        target = stub([], [tensor_spec("y", "BYTES", -1)])
        for element in (b"\xff", "\ud800"):
            with pytest.raises(HeadraceError, match=r"output 'y'.*binary_data") as caught:
                reply(target, [np.array([element], np.object_)])
            assert caught.value.code is ErrorCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_halves_are_refused(self, datatype: str) -> None:
        spec = tensor_spec("y", datatype, -1)
        with pytest.raises(HeadraceError, match=f"'y' is {datatype}.*binary_data"):
            reply(stub([], [spec]), [np.zeros(1, spec.dtype)])

    def test_names_are_quoted(self) -> None:
        target = stub([], [tensor_spec('y"\n', "FP32", -1)], name='m"', version="ä")
        body, _ = reply(target, [np.zeros(1, np.float32)])
        told = orjson.loads(body)
        assert told["model_name"] == 'm"'
        assert told["model_version"] == "ä"
        assert told["outputs"][0]["name"] == 'y"\n'

    def test_rows_of_a_batch_are_views(self) -> None:
        batch = np.arange(12, dtype=np.float32).reshape(6, 2)
        target = stub([], [tensor_spec("y", "FP32", -1, 2)])
        body, _ = reply(target, [batch[2:4]])
        assert orjson.loads(body)["outputs"][0]["data"] == [4, 5, 6, 7]

    def test_the_templates_are_bounded(self) -> None:
        target = stub([], [tensor_spec("y", "BOOL", -1)])
        for rows in range(MAX_KNOWN + 10):
            reply(target, [np.zeros(rows, np.bool_)])
        assert len(target.reply_templates["json_reply"]._known) <= MAX_KNOWN


def test_errors_are_json() -> None:
    assert encode_error('no "x"') == b'{"error":"no \\"x\\""}'
    assert orjson.loads(encode_error("half \ud800")) == {"error": "half ?"}


PARAMETERS: Parameters = {
    "feature_status": '{"a":"ä"}',
    "arm": "b",
    "count": 3,
    "share": 0.5,
    "is": True,
}


class TestParameters:
    @pytest.mark.parametrize("request_id", ["", "r-1"])
    @pytest.mark.parametrize("binary", [(), (True, False), (True, True)])
    @pytest.mark.parametrize("wanted", [(0, 1), (1, 0)])
    def test_they_stand_beside_the_outputs(
        self, request_id: str, binary: tuple[bool, ...], wanted: tuple[int, ...]
    ) -> None:
        target = stub([], [tensor_spec("p", "FP32", -1), tensor_spec("q", "FP32", -1)])
        outputs: list[Any] = [np.ones(2, np.float32), np.zeros(2, np.float32)]
        plain, plain_length = reply(target, outputs, binary, request_id, wanted)
        told, length = reply(target, outputs, binary, request_id, wanted, PARAMETERS)
        document = orjson.loads(told[:length])
        assert document.pop("parameters") == PARAMETERS
        assert document == orjson.loads(plain[:plain_length])
        if length is not None:
            assert plain_length is not None
            assert told[length:] == plain[plain_length:]

    @pytest.mark.parametrize("wanted", [(), (0,)])
    @pytest.mark.parametrize("request_id", ["", "r-1"])
    def test_with_one_output_and_with_none(self, request_id: str, wanted: tuple[int, ...]) -> None:
        outputs: list[Any] = [np.ones((1, 1), np.float32)]
        plain, _ = reply(one_input(), outputs, (), request_id, wanted)
        told, _ = reply(one_input(), outputs, (), request_id, wanted, PARAMETERS)
        assert orjson.loads(told) == orjson.loads(plain) | {"parameters": PARAMETERS}

    def test_there_may_be_none_of_them(self) -> None:
        told, _ = reply(one_input(), [np.ones((1, 1), np.float32)], parameters={})
        assert orjson.loads(told)["parameters"] == {}
