import json
import math
from typing import Any

import numpy as np
import pytest

from gateway.edge import json_wire
from gateway.edge.json_codec import (
    decode_infer,
)
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S
from tests.support.json_requests import (
    INTEGERS,
    an_input,
    body_of,
    decode,
    one_input,
    refused,
    two_inputs,
)
from tests.support.servables import StubServable, stub, tensor_spec


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
