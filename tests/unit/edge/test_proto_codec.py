import math
from typing import Any

import numpy as np
import pytest

from backends.signature import NUMPY_DTYPES
from gateway.edge.proto_codec import decode_infer
from gateway.edge.proto_contents import CONTENTS_FIELDS
from gateway.edge.tensor_bytes import write_elements
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import NO_DEADLINE_S
from tests.support.proto_requests import ONE_ROW, decode, model, refused, request_for
from tests.support.servables import StubServable, tensor_spec


class TestRequest:
    def test_every_field(self) -> None:
        target = model(max_batch_size=8, name="iris", default_priority=4, default_timeout_s=2.0)
        asked = []

        def find(name: str, version: str) -> StubServable:
            asked.append((name, version))
            return target

        message = request_for(ONE_ROW, model_name="iris", model_version="3", id="r-1")
        data = message.SerializeToString()
        request = decode_infer(data, 100.0, find)
        assert set(asked) == {("iris", "3")}
        assert (request.model, request.version, request.request_id) == ("iris", "3", "r-1")
        assert (request.rows, request.outputs) == (1, (0, 1, 2))
        assert (request.deadline_s, request.priority) == (102.0, 4)
        assert (request.received_s, request.size_bytes) == (100.0, len(data))
        (x,) = request.inputs
        assert x.tolist() == [[1, 2, 3]]
        assert x.dtype == np.float32
        assert x.flags.aligned

    def test_what_the_catalog_raises_passes(self) -> None:
        def find(name: str, version: str) -> StubServable:
            raise HeadraceError(ErrorCode.NOT_FOUND, f"no model {name} {version}")

        for message in (request_for(ONE_ROW), request_for(ONE_ROW, model_name="")):
            with pytest.raises(HeadraceError, match="no model") as caught:
                decode_infer(message.SerializeToString(), 0.0, find)
            assert caught.value.code is ErrorCode.NOT_FOUND

    @pytest.mark.parametrize("datatype", NUMPY_DTYPES)
    def test_raw_contents(self, datatype: str) -> None:
        spec = tensor_spec("x", datatype, -1, 2)
        if datatype == "BYTES":
            values = np.array([[b"a", b""], [b"\xff", b"ccc"]], np.object_)
            raw = write_elements(values)
        else:
            values = np.array([[0, 1], [1, 1]], spec.dtype)
            raw = values.tobytes()
        target = model(spec, max_batch_size=4)
        message = request_for(("x", datatype, (2, 2), raw))
        for _ in range(4):  # the parser's way first, the memo's way later
            request = decode(message, target)
            assert request.inputs[0].tolist() == values.tolist()
            assert request.inputs[0].dtype == spec.dtype
            assert request.rows == 2

    @pytest.mark.parametrize("datatype", CONTENTS_FIELDS)
    def test_typed_contents(self, datatype: str) -> None:
        spec = tensor_spec("x", datatype, -1, 2)
        values: list[Any] = [b"a", b"\xff"] if datatype == "BYTES" else [1, 0]
        message = request_for(("x", datatype, (1, 2), None))
        getattr(message.inputs[0].contents, CONTENTS_FIELDS[datatype]).extend(values)
        (x,) = decode(message, model(spec)).inputs
        assert x.tolist() == [values]
        assert x.dtype == spec.dtype

    def test_typed_floats_keep_their_bits(self) -> None:
        message = request_for(("x", "FP32", (1, 3), None))
        message.inputs[0].contents.fp32_contents.extend([math.nan, math.inf, 0.1])
        (x,) = decode(message).inputs
        assert math.isnan(x[0, 0])
        assert x[0, 1:].tolist() == [math.inf, np.float32(0.1)]

    @pytest.mark.parametrize("typed", [True, False])
    def test_a_tensor_without_elements(self, typed: bool) -> None:
        message = request_for(("x", "FP32", (0, 3), None if typed else b""))
        assert decode(message).inputs[0].shape == (0, 3)

    def test_several_inputs_in_the_signatures_order(self) -> None:
        target = model(
            tensor_spec("a", "FP32", -1, 1), tensor_spec("b", "BOOL", -1, 3), max_batch_size=8
        )
        b = ("b", "BOOL", (2, 3), b"\0\1\0\1\1\1")
        a = ("a", "FP32", (2, 1), np.array([1, 2], np.float32).tobytes())
        for _ in range(4):
            request = decode(request_for(b, a), target)
            assert request.inputs[0].tolist() == [[1], [2]]
            assert request.inputs[1].tolist() == [[False, True, False], [True, True, True]]
            assert request.rows == 2

    def test_unknown_fields_and_parameters_are_ignored(self) -> None:
        message = request_for(ONE_ROW)
        message.parameters["mine"].string_param = "v"
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        message.inputs[0].parameters["mine"].double_param = 1.5
        data = message.SerializeToString() + b"\xfa\x07\x02hi"
        assert decode(data).inputs[0].tolist() == [[1, 2, 3]]


class TestOptions:
    @pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
    def test_timeout_and_priority(self, kind: str) -> None:
        message = request_for(ONE_ROW)
        setattr(message.parameters["timeout"], kind, 1_500_000)
        setattr(message.parameters["priority"], kind, 7)
        target = model()
        for _ in range(4):
            request = decode(message, target)
            assert (request.deadline_s, request.priority) == (101.5, 7)

    def test_zeros(self) -> None:
        message = request_for(ONE_ROW)
        message.parameters["timeout"].int64_param = 0
        message.parameters["priority"].int64_param = 0
        request = decode(message, model(default_timeout_s=1.0, default_priority=3))
        assert (request.deadline_s, request.priority) == (NO_DEADLINE_S, 3)

    @pytest.mark.parametrize("name", ["timeout", "priority"])
    @pytest.mark.parametrize(
        ("kind", "value"),
        [("int64_param", -1), ("string_param", "5"), ("double_param", 5.0), ("bool_param", True)],
    )
    def test_wrong_values(self, name: str, kind: str, value: Any) -> None:
        message = request_for(ONE_ROW)
        setattr(message.parameters[name], kind, value)
        told = refused(message)
        assert f"parameter {name} is {value!r}" in told

    def test_a_parameter_without_a_value_is_absent(self) -> None:
        message = request_for(ONE_ROW)
        message.parameters["timeout"].SetInParent()
        assert decode(message, model(default_timeout_s=1.0)).deadline_s == 101.0

    @pytest.mark.parametrize(
        ("name", "kind", "value"),
        [
            ("sequence_id", "int64_param", 5),
            ("sequence_id", "uint64_param", 5),
            ("sequence_id", "string_param", "s"),
            ("sequence_start", "bool_param", True),
            ("sequence_end", "bool_param", True),
        ],
    )
    def test_sequences_are_refused(self, name: str, kind: str, value: Any) -> None:
        message = request_for(ONE_ROW)
        setattr(message.parameters[name], kind, value)
        assert "keeps no state" in refused(message)

    def test_named_outputs(self) -> None:
        message = request_for(ONE_ROW)
        message.outputs.add(name="r")
        message.outputs.add(name="p").parameters["binary_data"].bool_param = True
        target = model()
        for _ in range(4):
            assert decode(message, target).outputs == (2, 0)
        message.outputs.add(name="p")
        assert "'p' is asked for more than once" in refused(message)
        del message.outputs[-1]
        message.outputs.add(name="nope")
        assert "'nope' is not an output of model 'm'" in refused(message)

    def test_what_is_not_offered(self) -> None:
        classification = request_for(ONE_ROW)
        output = classification.outputs.add(name="p")
        output.parameters["classification"].int64_param = 3
        region = request_for(ONE_ROW)
        output = region.outputs.add(name="p")
        output.parameters["shared_memory_region"].string_param = "r"
        shared = request_for(("x", "FP32", (1, 3), None))
        shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
        for message in (classification, region, shared):
            with pytest.raises(HeadraceError, match="not offered here") as caught:
                decode(message)
            assert caught.value.code is ErrorCode.UNIMPLEMENTED


class TestRefusals:
    def test_bytes_that_are_no_request(self) -> None:
        for data in (b"\xff", b"\x0a\x05m", b"\x0a\x01\xff", b"\x0a\x01m\x2a\x7fx", b"\x0a"):
            with pytest.raises(HeadraceError, match="does not parse") as caught:
                decode(data)
            assert caught.value.code is ErrorCode.INVALID_ARGUMENT

    def test_an_empty_message(self) -> None:
        assert "missing: 'x'" in refused(b"")

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (("z", "FP32", (1, 3), b"\0" * 12), "'z' is not an input"),
            (("x", "FP64", (1, 3), b"\0" * 24), "datatype 'FP64'"),
            (("x", "FP32", (3,), b"\0" * 12), "shape [3]"),
            (("x", "FP32", (1, 4), b"\0" * 16), "shape [1, 4]"),
            (("x", "FP32", (-1, 3), b"\0" * 12), "must not be negative"),
            (("x", "FP32", (2**62, 3), b"\0" * 12), "too many elements"),
            (("x", "FP32", (1, 3), b"\0" * 11), "11 bytes of data"),
            (("x", "FP32", (1, 3), b"\0" * 13), "13 bytes of data"),
            (("x", "FP32", (1, 3), b""), "0 bytes of data"),
            (("x", "FP32", (1, 3), None), "0 elements of data"),
        ],
    )
    def test_against_the_signature(self, tensor: Any, words: str) -> None:
        target = model()
        for _ in range(2):
            assert words in refused(request_for(tensor), target)

    def test_batched_models_want_rows(self) -> None:
        message = request_for(("x", "FP32", (0, 3), b""))
        assert "at least 1" in refused(message, model(max_batch_size=4))

    def test_raw_and_typed_do_not_mix(self) -> None:
        message = request_for(ONE_ROW)
        message.inputs[0].contents.fp32_contents.extend([1, 2, 3])
        assert "'x' has contents" in refused(message)
        target = model()
        decode(request_for(ONE_ROW), target)
        assert "'x' has contents" in refused(message, target)

    def test_raw_contents_for_some(self) -> None:
        target = model(tensor_spec("a", "UINT8", 1), tensor_spec("b", "UINT8", 1))
        message = request_for(("a", "UINT8", (1,), b"1"), ("b", "UINT8", (1,), None))
        assert "1 entries for 2 inputs" in refused(message, target)
        message = request_for(("a", "UINT8", (1,), b"1"), ("b", "UINT8", (1,), b"1"))
        message.raw_input_contents.append(b"1")
        assert "3 entries for 2 inputs" in refused(message, target)

    @pytest.mark.parametrize("raw", [b"1", None])
    def test_missing_and_duplicate_inputs(self, raw: bytes | None) -> None:
        target = model(tensor_spec("a", "UINT8", 1), tensor_spec("b", "UINT8", 1))
        a = ("a", "UINT8", (1,), raw)
        assert "missing: 'b'" in refused(request_for(a), target)
        twice = request_for(a, a)
        for item in twice.inputs if raw is None else ():
            item.contents.uint_contents.append(1)
        assert "'a' is given more than once" in refused(twice, target)

    def test_rows_differ(self) -> None:
        target = model(
            tensor_spec("a", "UINT8", -1), tensor_spec("b", "UINT8", -1), max_batch_size=8
        )
        message = request_for(("a", "UINT8", (1,), b"1"), ("b", "UINT8", (2,), b"12"))
        assert "same batch dimension" in refused(message, target)

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_halves_have_no_typed_contents(self, datatype: str) -> None:
        message = request_for(("x", datatype, (1,), None))
        message.inputs[0].contents.fp32_contents.append(1)
        told = refused(message, model(tensor_spec("x", datatype, -1)))
        assert f"{datatype} has no typed contents" in told

    def test_contents_of_another_datatype(self) -> None:
        message = request_for(("x", "FP32", (1, 3), None))
        message.inputs[0].contents.fp64_contents.extend([1, 2, 3])
        assert "'x' has fp64_contents; FP32 belongs into fp32_contents" in refused(message)

    @pytest.mark.parametrize(
        ("datatype", "value"),
        [("INT8", 128), ("INT8", -129), ("UINT8", 256), ("INT16", 2**15), ("UINT16", 2**16)],
    )
    def test_integers_out_of_range(self, datatype: str, value: int) -> None:
        message = request_for(("x", datatype, (2,), None))
        getattr(message.inputs[0].contents, CONTENTS_FIELDS[datatype]).extend([1, value])
        told = refused(message, model(tensor_spec("x", datatype, -1)))
        assert f"element 1 of the data, {value}, does not fit {datatype}" in told

    def test_another_number_of_typed_elements(self) -> None:
        message = request_for(("x", "BYTES", (2,), None))
        message.inputs[0].contents.bytes_contents.append(b"a")
        told = refused(message, model(tensor_spec("x", "BYTES", -1)))
        assert "1 elements of data" in told

    def test_bools_and_elements_are_checked(self) -> None:
        target = model(tensor_spec("x", "BOOL", -1))
        decode(request_for(("x", "BOOL", (1,), b"\1")), target)
        assert "byte 2" in refused(request_for(("x", "BOOL", (1,), b"\2")), target)
        target = model(tensor_spec("x", "BYTES", -1))
        message = request_for(("x", "BYTES", (1,), b"\5\0\0\0a"))
        assert "claims 5" in refused(message, target)


def test_a_catalog_may_refuse_in_its_own_words() -> None:
    def find(_name: str, _version: str) -> StubServable:
        raise invalid("no")

    with pytest.raises(HeadraceError, match="no"):
        decode_infer(b"", 0.0, find)
