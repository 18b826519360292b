import json
import math
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.edge import json_wire
from gateway.edge.json_codec import (
    OutputEncoding,
    decode_infer,
    encode_error,
    encode_prediction,
)
from gateway.edge.json_reply import MAX_KNOWN
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest
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
) -> tuple[bytes, int | None]:
    wanted = target.signature.all_outputs if wanted is None else wanted
    request = PredictRequest("m", "", request_id, (), 1, wanted, NO_DEADLINE_S, 1, 0.0, 0)
    return encode_prediction(request, Prediction(target, outputs), OutputEncoding(binary))


class TestRequest:
    def test_every_field(self) -> None:
        target = one_input(max_batch_size=4, name="iris")
        body = body_of(an_input([1, 2, 3, 4, 5, 6], (2, 3)), id="r-1")
        request, encoding = decode_infer(body, None, target, "7", 100.0)
        assert request.model == "iris"
        assert request.version == "7"
        assert request.request_id == "r-1"
        assert request.rows == 2
        assert request.outputs == (0,)
        assert request.deadline_s == NO_DEADLINE_S
        assert request.priority == 1
        assert request.received_s == 100.0
        assert request.size_bytes == len(body)
        assert encoding.binary == ()
        (x,) = request.inputs
        assert x.dtype == np.float32
        assert x.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert x.flags.c_contiguous
        assert x.flags.aligned

    @pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
    @pytest.mark.parametrize("datatype", [*INTEGERS, "FP32", "FP64"])
    def test_flat_and_nested_numbers(self, datatype: str, data: list[Any]) -> None:
        body = body_of(an_input(data, (2, 3), datatype))
        (x,) = decode(body, one_input(datatype)).inputs
        assert x.tolist() == [[1, 2, 3], [4, 5, 6]]

    def test_rows_are_one_without_batching(self) -> None:
        assert decode(body_of(an_input([1] * 9, (3, 3))), one_input()).rows == 1

    def test_more_rows_than_a_batch_are_allowed(self) -> None:
        body = body_of(an_input([1] * 9, (3, 3)))
        assert decode(body, one_input(max_batch_size=2)).rows == 3

    def test_inputs_come_in_the_signatures_order(self) -> None:
        body = body_of(
            {"name": "b", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]},
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]},
        )
        a, b = decode(body, two_inputs("FP32", "INT32")).inputs
        assert a.dtype == np.float32
        assert a.tolist() == [[0.5, 1]]
        assert b.dtype == np.int32
        assert b.tolist() == [[1, 2]]

    @pytest.mark.parametrize(
        ("first", "second", "data_a", "data_b"),
        [
            ("BOOL", "FP32", [True, False], [1, 2.5]),
            ("BYTES", "INT64", ["ä", "x,\\"], [[1, 2]]),
            ("BOOL", "BYTES", [[True, False]], [["1", "2"]]),
            ("FP32", "FP64", [[1, 2.5]], [3, 4]),
            ("UINT8", "INT64", [[1, 2]], [3, 4]),
        ],
    )
    def test_inputs_of_different_kinds(
        self, first: str, second: str, data_a: list[Any], data_b: list[Any]
    ) -> None:
        body = body_of(
            {"name": "a", "shape": [1, 2], "datatype": first, "data": data_a},
            {"name": "b", "shape": [1, 2], "datatype": second, "data": data_b},
        )
        a, b = decode(body, two_inputs(first, second)).inputs
        for tensor, data in ((a, data_a), (b, data_b)):
            flat = data[0] if isinstance(data[0], list) else data
            texts = [item.encode() if isinstance(item, str) else item for item in flat]
            assert tensor.ravel().tolist() == texts

    def test_inputs_of_different_ranks(self) -> None:
        target = stub(
            [tensor_spec("a", "FP32", 2), tensor_spec("b", "FP32", 2, 2, 2)],
            [tensor_spec("y", "FP32", -1)],
        )
        cube = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
        body = body_of(
            {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]},
            {"name": "b", "shape": [2, 2, 2], "datatype": "FP32", "data": cube},
        )
        a, b = decode(body, target).inputs
        assert a.tolist() == [1, 2]
        assert b.tolist() == cube

    def test_inputs_that_nest_differently(self) -> None:
        target = stub(
            [tensor_spec("a", "FP32", -1, 1), tensor_spec("b", "FP32", -1, 1, 2)],
            [tensor_spec("y", "FP32", -1)],
        )
        body = body_of(
            {"name": "a", "shape": [2, 1], "datatype": "FP32", "data": [[1], [2]]},
            {"name": "b", "shape": [2, 1, 2], "datatype": "FP32", "data": [[[1, 2]], [[3, 4]]]},
        )
        a, b = decode(body, target).inputs
        assert a.tolist() == [[1], [2]]
        assert b.tolist() == [[[1, 2]], [[3, 4]]]

    def test_a_scalar(self) -> None:
        target = stub([tensor_spec("x", "INT32")], [tensor_spec("y", "INT32")])
        (x,) = decode(body_of(an_input([7], (), "INT32")), target).inputs
        assert x.shape == ()
        assert x.tolist() == 7

    @pytest.mark.parametrize(
        ("shape", "data"), [((0, 3), []), ((2, 0), [[], []]), ((2, 0), []), ((0, 0), [])]
    )
    def test_tensors_without_elements(self, shape: tuple[int, ...], data: list[Any]) -> None:
        (x,) = decode(body_of(an_input(data, shape)), one_input("FP32", -1, -1)).inputs
        assert x.shape == shape

    def test_unknown_fields_and_parameters_are_ignored(self) -> None:
        body = body_of(
            an_input([1, 2, 3], parameters={"mine": [1]}, extra={"deep": [[1]]}),
            parameters={"mine": {"a": 1}, "headers": "x"},
            outputs=[{"name": "y", "parameters": {"mine": None}, "extra": 1}],
            more=[{"a": None}],
        )
        assert decode(body, one_input()).inputs[0].tolist() == [[1, 2, 3]]

    @pytest.mark.parametrize("given", [{"id": ""}, {"id": None}, {}])
    def test_no_id(self, given: dict[str, Any]) -> None:
        assert decode(body_of(an_input([1, 2, 3]), **given), one_input()).request_id == ""

    @pytest.mark.parametrize("field", ["outputs", "parameters"])
    def test_null_is_absent(self, field: str) -> None:
        request = decode(body_of(an_input([1, 2, 3]), **{field: None}), one_input())
        assert request.outputs == (0,)

    def test_a_body_may_be_a_view(self) -> None:
        body = memoryview(b"..." + body_of(an_input([1, 2, 3])))[3:]
        request, _ = decode_infer(body, None, one_input(), "", 0.0)
        assert request.inputs[0].tolist() == [[1, 2, 3]]

    def test_white_space_is_free(self) -> None:
        body = json.dumps({"inputs": [an_input([[1, 2, 3]])]}, indent=4).encode()
        assert decode(body, one_input()).inputs[0].tolist() == [[1, 2, 3]]

    def test_large_bodies_are_read_text_first_with_the_same_result(self) -> None:
        count = json_wire.ONE_PASS_BYTES // 4
        numbers = np.arange(count, dtype=np.float32) / 8
        target = one_input("FP32", -1)
        for data in (numbers.tolist(), [1e300, -1e300] + [0.5] * (count - 2)):
            body = body_of(an_input(data, (count,)))
            assert len(body) > json_wire.ONE_PASS_BYTES
            (x,) = decode(body, target).inputs
            expected = [math.inf, -math.inf, 0.5] if data[0] == 1e300 else numbers[:3].tolist()
            assert x[:3].tolist() == expected
            assert x.shape == (count,)


class TestParameters:
    def test_timeout_is_microseconds_from_now(self) -> None:
        body = body_of(an_input([1, 2, 3]), parameters={"timeout": 2_500_000})
        assert decode(body, one_input()).deadline_s == 102.5

    def test_timeout_zero_is_no_deadline(self) -> None:
        body = body_of(an_input([1, 2, 3]), parameters={"timeout": 0})
        assert decode(body, one_input(default_timeout_s=3.0)).deadline_s == NO_DEADLINE_S

    @pytest.mark.parametrize("parameters", [{}, {"other": 1}, None, {"timeout": None}])
    def test_without_timeout_the_models_default_counts(self, parameters: Any) -> None:
        body = body_of(an_input([1, 2, 3]), parameters=parameters)
        assert decode(body, one_input(default_timeout_s=3.0)).deadline_s == 103.0

    @pytest.mark.parametrize(("given", "expected"), [(3, 3), (0, 5), (None, 5)])
    def test_priority(self, given: int | None, expected: int) -> None:
        body = body_of(an_input([1, 2, 3]), parameters={"priority": given})
        assert decode(body, one_input(default_priority=5)).priority == expected

    @pytest.mark.parametrize("name", ["timeout", "priority"])
    @pytest.mark.parametrize("value", [-1, 1.5, "5", True, [1], 2**63])
    def test_wrong_values(self, name: str, value: Any) -> None:
        message = refused(body_of(an_input([1, 2, 3]), parameters={name: value}), one_input())
        assert f"$.parameters.{name}" in message

    @pytest.mark.parametrize(
        "parameters",
        [
            {"sequence_id": 1},
            {"sequence_id": "s"},
            {"sequence_start": True},
            {"sequence_end": True},
        ],
    )
    def test_sequences_are_refused(self, parameters: dict[str, Any]) -> None:
        message = refused(body_of(an_input([1, 2, 3]), parameters=parameters), one_input())
        assert "keeps no state" in message

    def test_the_sequence_that_is_none(self) -> None:
        parameters = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
        assert decode(body_of(an_input([1, 2, 3]), parameters=parameters), one_input()).rows == 1


class TestOutputs:
    def ask(self, target: StubServable, **more: Any) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        body = body_of(an_input([1, 2, 3]), **more)
        request, encoding = decode_infer(body, None, target, "", 0.0)
        return request.outputs, encoding.binary

    def three(self) -> StubServable:
        outputs = [tensor_spec(name, "FP32", -1) for name in ("p", "q", "r")]
        return stub([tensor_spec("x", "FP32", -1, 3)], outputs)

    @pytest.mark.parametrize("outputs", [[], None])
    def test_none_named_means_all(self, outputs: Any) -> None:
        assert self.ask(self.three(), outputs=outputs) == ((0, 1, 2), ())

    def test_named_ones_in_the_callers_order(self) -> None:
        assert self.ask(self.three(), outputs=[{"name": "r"}, {"name": "p"}]) == ((2, 0), ())

    def test_all_binary(self) -> None:
        parameters = {"binary_data_output": True}
        assert self.ask(self.three(), parameters=parameters) == ((0, 1, 2), (True, True, True))

    def test_an_outputs_own_wish_wins(self) -> None:
        outputs = [
            {"name": "q", "parameters": {"binary_data": False}},
            {"name": "p"},
            {"name": "r", "parameters": {"binary_data": True, "classification": 0}},
        ]
        given = self.ask(self.three(), outputs=outputs, parameters={"binary_data_output": True})
        assert given == ((1, 0, 2), (False, True, True))
        given = self.ask(self.three(), outputs=outputs)
        assert given == ((1, 0, 2), (False, False, True))

    @pytest.mark.parametrize(
        ("outputs", "words"),
        [
            ([{"name": "nope"}], ["'nope' is not an output", "'p', 'q', 'r'"]),
            ([{"name": "p"}, {"name": "p"}], ["'p' is asked for more than once"]),
            ([{}], ["`name`", "$.outputs[0]"]),
            ([{"name": 5}], ["`str`", "$.outputs[0].name"]),
            ({"name": "p"}, ["`array | null`", "$.outputs"]),
            ([{"name": "p", "parameters": {"binary_data": 1}}], ["bool", "binary_data"]),
        ],
    )
    def test_refusals(self, outputs: Any, words: list[str]) -> None:
        message = refused(body_of(an_input([1, 2, 3]), outputs=outputs), self.three())
        for word in words:
            assert word in message

    @pytest.mark.parametrize("parameters", [{"classification": 3}, {"shared_memory_region": "r"}])
    def test_what_is_not_offered(self, parameters: dict[str, Any]) -> None:
        body = body_of(an_input([1, 2, 3]), outputs=[{"name": "p", "parameters": parameters}])
        with pytest.raises(HeadraceError, match="not offered here") as caught:
            decode(body, self.three())
        assert caught.value.code is ErrorCode.UNIMPLEMENTED

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_halves_must_be_asked_for_as_bytes(self, datatype: str) -> None:
        target = stub([tensor_spec("x", "FP32", -1, 3)], [tensor_spec("p", datatype, -1)])
        for more in ({}, {"outputs": [{"name": "p"}]}):
            message = refused(body_of(an_input([1, 2, 3]), **more), target)
            assert "'p'" in message
            assert datatype in message
            assert "binary_data" in message
        assert self.ask(target, parameters={"binary_data_output": True}) == ((0,), (True,))


class TestStrictness:
    """Each rule on the one-pass reader and, behind an element only the last resort reads, on it."""

    @pytest.mark.parametrize(
        ("datatype", "value", "words"),
        [
            ("FP32", "1.5", ["got `str`", "data[1]"]),
            ("FP32", True, ["got `bool`", "data[1]"]),
            ("FP64", None, ["got `null`", "data[1]"]),
            ("FP32", {}, ["got `object`", "data[1]"]),
            ("INT32", 1.5, ["got `float`", "data[1]"]),
            ("INT32", 1.0, ["got `float`", "data[1]"]),
            ("INT32", True, ["got `bool`", "data[1]"]),
            ("INT32", "1", ["got `str`", "data[1]"]),
            ("BOOL", 1, ["got `int`", "data[1]"]),
            ("BOOL", "true", ["got `str`", "data[1]"]),
            ("BYTES", 1, ["got `int`", "data[1]"]),
            ("BYTES", None, ["got `null`", "data[1]"]),
            ("UINT8", 256, ["element 1 of the data, 256,", "UINT8"]),
            ("UINT8", -1, ["element 1 of the data, -1,", "UINT8"]),
            ("INT8", 128, ["128", "INT8"]),
            ("INT16", 2**15, ["32768", "INT16"]),
            ("UINT16", 2**16, ["65536", "UINT16"]),
            ("INT32", -(2**31) - 1, ["-2147483649", "INT32"]),
            ("UINT32", 2**32, ["4294967296", "UINT32"]),
            ("INT64", 2**63, ["9223372036854775808", "INT64"]),
            ("UINT64", -1, ["-1", "UINT64"]),
        ],
    )
    def test_no_value_is_bent_to_fit(self, datatype: str, value: Any, words: list[str]) -> None:
        good = {"BOOL": True, "BYTES": "s"}.get(datatype, 1)
        message = refused(
            body_of(an_input([good, value, good], (3,), datatype)), one_input(datatype, -1)
        )
        for word in ["'x'", *words]:
            assert word in message

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"123456789012345678901234567890", ["UINT64"]),
            (b"1" * 5000, ["out of range"]),
        ],
    )
    def test_huge_integers(self, text: bytes, words: list[str]) -> None:
        body = body_of(an_input([1], (1,), "UINT64")).replace(b"[1]}", b"[%b]}" % text)
        message = refused(body, one_input("UINT64", -1))
        for word in ["'x'", *words]:
            assert word in message
        assert len(message) < 300

    @pytest.mark.parametrize("datatype", INTEGERS)
    def test_the_whole_range_of_integers(self, datatype: str) -> None:
        target = one_input(datatype, -1)
        limits = np.iinfo(datatype.lower())
        (x,) = decode(
            body_of(an_input([int(limits.min), int(limits.max)], (2,), datatype)), target
        ).inputs
        assert x.tolist() == [limits.min, limits.max]

    def test_floats_out_of_fp32_become_infinities(self) -> None:
        (x,) = decode(body_of(an_input([1e300, -3.5e38, 3.4e38])), one_input()).inputs
        assert x[0, :2].tolist() == [math.inf, -math.inf]
        assert x[0, 2] == np.float32(3.4e38)

    def test_fp64_has_no_such_mercy(self) -> None:
        body = body_of(an_input([1], (1,), "FP64")).replace(b"[1]}", b"[1e400]}")
        assert "out of range" in refused(body, one_input("FP64", -1))

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    @pytest.mark.parametrize("data", [[1, 2, 3], [], ["x"]])
    def test_halves_travel_as_bytes_only(self, datatype: str, data: list[Any]) -> None:
        message = refused(body_of(an_input(data, datatype=datatype)), one_input(datatype))
        assert "'x'" in message
        assert f"{datatype} travels as raw bytes only" in message

    def test_bytes_are_utf8(self) -> None:
        data = ["", "ä€😀", 'quote " and \\', "\u0000"]
        (x,) = decode(body_of(an_input(data, (4,), "BYTES")), one_input("BYTES", -1)).inputs
        assert x.tolist() == [item.encode() for item in data]
        assert x.dtype == np.object_

    def test_rejected_kinds_in_a_model_with_floats_and_integers(self) -> None:
        target = two_inputs("FP32", "INT32")
        for data in ([1, 2.5], [1, True], [1, 2**31]):
            body = body_of(
                {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]},
                {"name": "b", "shape": [1, 2], "datatype": "INT32", "data": data},
            )
            assert "'b'" in refused(body, target)


class TestNesting:
    @pytest.mark.parametrize(
        "data",
        [
            [[1, 2], [3]],
            [[1, 2], [3, 4], [5, 6]],
            [[1, 2, 3, 4]],
            [[1], [2], [3], [4]],
            [[[1, 2], [3, 4]]],
            [1, [2, 3, 4]],
            [[1, 2], 3],
            [[1, 2], [3, [4]]],
            [1, 2, 3, [4]],
        ],
    )
    @pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
    def test_ragged_or_other_nesting_is_refused(self, datatype: str, data: Any) -> None:
        if datatype == "BYTES":
            data = json.loads(json.dumps(data), parse_int=str)
        target = one_input(datatype, -1, 2)
        assert "'x'" in refused(body_of(an_input(data, (2, 2), datatype)), target)

    def test_strings_are_no_lists_of_letters(self) -> None:
        body = body_of(an_input([["a", "b"], "cd"], (2, 2), "BYTES"))
        assert "not lists" in refused(body, one_input("BYTES", -1, 2))

    def test_ragged_where_ranks_differ(self) -> None:
        target = stub(
            [tensor_spec("a", "FP32"), tensor_spec("b", "FP32", -1, -1)],
            [tensor_spec("y", "FP32", -1)],
        )
        for data in ([[1]], [1, 2]):
            body = body_of(
                {"name": "a", "shape": [], "datatype": "FP32", "data": data},
                {"name": "b", "shape": [1, 1], "datatype": "FP32", "data": [1]},
            )
            assert "'a'" in refused(body, target)

    @pytest.mark.parametrize(
        ("data", "count"), [([1, 2], 2), ([1, 2, 3, 4], 4), ([], 0), ([[1, 2, 3], [1, 2, 3]], 2)]
    )
    def test_another_number_of_elements(self, data: list[Any], count: int) -> None:
        message = refused(body_of(an_input(data)), one_input())
        assert "'x'" in message
        assert f"{count} " in message
        assert "[1, 3]" in message

    @pytest.mark.parametrize("data", [5, "1,2,3", True, {"a": 1}])
    def test_data_that_is_no_list(self, data: Any) -> None:
        message = refused(body_of(an_input(data)), one_input())
        assert "'x'" in message
        assert "`array`" in message


class TestSignature:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"name": "nope"}, ["'nope' is not an input of model 'm'", "'x'"]),
            ({"name": "n" * 5000}, ["…"]),
            ({"datatype": "INT32"}, ["'x' has datatype 'INT32'", "expects FP32"]),
            ({"datatype": "fp32"}, ["'fp32'"]),
            ({"shape": [3]}, ["shape [3]", "expects [-1, 3]"]),
            ({"shape": [1, 1, 3]}, ["shape [1, 1, 3]", "expects [-1, 3]"]),
            ({"shape": [1, 4]}, ["shape [1, 4]", "expects [-1, 3]"]),
            ({"shape": [-1, 3]}, ["shape [-1, 3]", "must not be negative"]),
            ({"shape": [0, 3]}, ["batch dimension", "at least 1"]),
            ({"shape": [2**62, 3]}, ["too many elements"]),
            ({"shape": [2**64, 3]}, ["too many elements"]),
            ({"shape": [1] * 5000}, ["…", "expects [-1, 3]"]),
        ],
    )
    def test_refusals(self, change: dict[str, Any], words: list[str]) -> None:
        item = an_input([1, 2, 3]) | change
        body = json.dumps({"inputs": [item]}).encode()
        message = refused(body, one_input(max_batch_size=4))
        for word in words:
            assert word in message
        assert len(message) < 400

    def test_zeros_do_not_hide_an_overflow(self) -> None:
        body = body_of(an_input([], (0, 2**40, 2**40)))
        assert "too many elements" in refused(body, one_input("FP32", -1, -1, -1))

    def test_missing_duplicate_and_unknown_inputs(self) -> None:
        target = two_inputs("FP32", "FP32")

        def item(name: str, rows: int = 1) -> dict[str, Any]:
            data = [1, 2] * rows
            return {"name": name, "shape": [rows, 2], "datatype": "FP32", "data": data}

        assert "missing: 'b'" in refused(body_of(item("a")), target)
        assert "missing: 'a', 'b'" in refused(body_of(), target)
        assert "'a' is given more than once" in refused(body_of(item("a"), item("a")), target)
        three = body_of(item("a"), item("b"), item("b"))
        assert "'b' is given more than once" in refused(three, target)
        assert "'c' is not an input" in refused(body_of(item("a"), item("c")), target)
        three = body_of(item("a"), item("b"), item("c"))
        assert "'c' is not an input" in refused(three, target)
        rows = refused(body_of(item("a", 2), item("b", 3)), target)
        assert "same batch dimension" in rows
        assert decode(body_of(item("b", 2), item("a", 2)), target).rows == 2

    def test_neither_data_nor_binary_data_size(self) -> None:
        for item in (
            {"name": "x", "shape": [1, 3], "datatype": "FP32"},
            an_input(None),
            an_input(None, parameters={}),
        ):
            assert "'x' has neither data nor" in refused(body_of(item), one_input())
        # A model whose inputs differ in kind is read in another way.
        body = body_of(
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": None},
            {"name": "b", "shape": [1, 2], "datatype": "BOOL", "data": [True, True]},
        )
        assert "'a' has neither data nor" in refused(body, two_inputs("FP32", "BOOL"))

    def test_shared_memory_is_not_offered(self) -> None:
        item: dict[str, Any] = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
        item["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
        with pytest.raises(HeadraceError, match="input 'x' names a shared_memory_region") as caught:
            decode(body_of(item), one_input())
        assert caught.value.code is ErrorCode.UNIMPLEMENTED

    def test_refused_shapes_are_not_remembered(self) -> None:
        target = one_input("FP32", -1)
        refused(body_of(an_input([1], (1, 1))), target)
        decode(body_of(an_input([1], (1,))), target)
        assert list(target.reply_templates["inputs"].known) == [("x", "FP32", (1,))]

    def test_the_table_of_shapes_is_bounded(self) -> None:
        target = one_input("BOOL", -1)
        for rows in range(1, MAX_KNOWN + 10):
            decode(body_of(an_input([True] * rows, (rows,), "BOOL")), target)
        assert len(target.reply_templates["inputs"].known) <= MAX_KNOWN


class TestBrokenJson:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", ["truncated"]),
            (b'{"inputs":[', ["truncated"]),
            (b'{"inputs":[]} x', ["malformed", "byte 15"]),
            (b'{"inputs":[,]}', ["malformed", "byte 11"]),
            (b"\xff\xfe", ["malformed"]),
            (b'{"inputs":[],"id":"\xff"}', ["UTF-8"]),
            (b'{"inputs":[],"id":"\\ud800"}', ["malformed"]),
            (b"[]", ["`object`"]),
            (b"{}", ["required field `inputs`"]),
            (b'{"inputs":{}}', ["`array`", "$.inputs"]),
            (b'{"inputs":[5]}', ["`object`", "$.inputs[0]"]),
            (b'{"inputs":[{"name":"x"}]}', ["required field", "$.inputs[0]"]),
            (b'{"inputs":[],"id":5}', ["`str", "got `int`", "$.id"]),
            (b'{"inputs":[],"parameters":[]}', ["`object", "$.parameters"]),
        ],
    )
    def test_what_and_where(self, body: bytes, words: list[str]) -> None:
        message = refused(body, one_input())
        for word in words:
            assert word in message

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"name": 5}, "$.inputs[0].name"),
            ({"shape": "1"}, "$.inputs[0].shape"),
            ({"shape": [1.0, 3]}, "$.inputs[0].shape[0]"),
            ({"shape": [True, 3]}, "$.inputs[0].shape[0]"),
            ({"datatype": None}, "$.inputs[0].datatype"),
            ({"parameters": 5}, "$.inputs[0].parameters"),
            ({"parameters": {"binary_data_size": "5"}}, "$.inputs[0].parameters.binary_data_size"),
            ({"parameters": {"binary_data_size": -5}}, "$.inputs[0].parameters.binary_data_size"),
        ],
    )
    def test_wrong_types_come_with_their_path(self, change: dict[str, Any], path: str) -> None:
        assert path in refused(body_of(an_input([1, 2, 3]) | change), one_input())

    @pytest.mark.parametrize(
        "body",
        [
            b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":'
            + b"[" * 100_000
            + b"]" * 100_000
            + b"}]}",
            b'{"unknown":NaN,"more":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        ],
    )
    def test_deep_nesting(self, body: bytes) -> None:
        assert "nested too deeply" in refused(body, one_input())


class TestTokens:
    """NaN, Infinity and -Infinity, which JSON does not have and Triton does."""

    @pytest.mark.parametrize("datatype", ["FP32", "FP64"])
    @pytest.mark.parametrize("data", [b"[NaN,Infinity,-Infinity]", b"[[NaN,Infinity,-Infinity]]"])
    def test_accepted(self, datatype: str, data: bytes) -> None:
        body = body_of(an_input([7], datatype=datatype), id="ä").replace(b"[7]", data)
        request = decode(body, one_input(datatype))
        (x,) = request.inputs
        assert math.isnan(x[0, 0])
        assert x[0, 1:].tolist() == [math.inf, -math.inf]
        assert request.request_id == "ä"

    def test_integers_beside_them_become_floats(self) -> None:
        body = body_of(an_input([7])).replace(b"[7]", b"[1,2.5,NaN]")
        (x,) = decode(body, one_input()).inputs
        assert x[0, :2].tolist() == [1, 2.5]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b'[NaN,"1",2]', ["'x'", "got `str`", "data[1]"]),
            (b"[NaN,true,2]", ["'x'", "got `bool`"]),
            (b"[NaN,[1],2]", ["'x'"]),
            (b"[NaN,1]", ["'x'", "2 elements"]),
            (b"[NaN,,1]", ["malformed", "char"]),
            (b"[NaN,nan,1]", ["malformed"]),
            (b"[NaN," + b"1" * 5000 + b",2]", ["malformed"]),
        ],
    )
    def test_the_rules_stay(self, text: bytes, words: list[str]) -> None:
        body = body_of(an_input([7])).replace(b"[7]", text)
        message = refused(body, one_input())
        for word in words:
            assert word in message

    def test_not_for_integers(self) -> None:
        body = body_of(an_input([7], (1,), "INT32")).replace(b"[7]", b"[NaN]")
        assert "got `float`" in refused(body, one_input("INT32", -1))

    def test_not_for_halves(self) -> None:
        body = body_of(an_input([7], (1,), "FP16")).replace(b"[7]", b"[NaN]")
        assert "raw bytes only" in refused(body, one_input("FP16", -1))

    def test_a_text_that_says_nan_does_not_excuse_broken_json(self) -> None:
        assert "malformed" in refused(b'{"id":"NaN",}', one_input())
        assert "UTF-8" in refused(b'{"id":"\xff","inputs":[NaN]}', one_input())

    def test_halves_of_surrogate_pairs(self) -> None:
        body = body_of(an_input([7]), id="i").replace(b"[7]", b"[NaN,1,2]")
        assert "UTF-8" in refused(body.replace(b'"i"', b'"\\ud800"'), one_input())
        target = two_inputs("FP32", "BYTES")
        body = body_of(
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [7]},
            {"name": "b", "shape": [1, 2], "datatype": "BYTES", "data": ["s", "t"]},
        ).replace(b"[7]", b"[NaN,1]")
        assert decode(body, target).inputs[1].tolist() == [[b"s", b"t"]]
        message = refused(body.replace(b'"t"', b'"\\ud800"'), target)
        assert "'b'" in message
        assert "element 1" in message
        assert encode_error(message)

    def test_wrong_structure_beside_them(self) -> None:
        for body in (b'{"unread":NaN,"inputs":[5]}', b'{"inputs":[5],"unread":NaN}'):
            assert "$.inputs[0]" in refused(body, one_input())


class TestBounds:
    def test_a_shape_may_not_declare_more_than_the_cap(self) -> None:
        target = one_input("FP64", -1)
        message = refused(body_of(an_input([1], (1 << 40,), "FP64")), target)
        assert "binary" in message
        body = body_of(an_input([1] * 9, (9,), "FP64"))
        assert "72 bytes" in refused(body, target, max_tensor_bytes=71)
        assert decode(body, target, max_tensor_bytes=72).inputs[0].nbytes == 72

    @pytest.mark.parametrize(
        ("datatype", "element"),
        [("FP32", b"0"), ("BYTES", b'""'), ("BYTES", b'"\\\\"'), ("BYTES", b'"\\""')],
    )
    @pytest.mark.parametrize("shape", [(1,), (0,)])
    def test_more_elements_than_the_shape_never_become_objects(
        self, datatype: str, element: bytes, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[int] = []
        monkeypatch.setattr(
            "gateway.edge.tensor_json.tensor_of", lambda _, values: made.append(len(values))
        )
        elements = b",".join([element] * json_wire.ONE_PASS_BYTES)
        body = body_of(an_input([7], shape, datatype)).replace(b"[7]", b"[%b]" % elements)
        assert "the data has more" in refused(body, one_input(datatype, -1))
        assert made == []

    def test_strings_with_quotes_and_commas_are_not_counted_wrongly(self) -> None:
        texts = ['"', "\\", '\\"', ",", '","', "x" * json_wire.ONE_PASS_BYTES] * 2
        body = body_of(an_input(texts, (12,), "BYTES"))
        (x,) = decode(body, one_input("BYTES", -1)).inputs
        assert x.tolist() == [text.encode() for text in texts]


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
