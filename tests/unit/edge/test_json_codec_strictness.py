import json
import math
from typing import Any

import numpy as np
import pytest

from gateway.edge.json_reply import MAX_KNOWN
from gateway.errors import ErrorCode, HeadraceError
from tests.support.json_requests import (
    INTEGERS,
    an_input,
    body_of,
    decode,
    one_input,
    refused,
    two_inputs,
)
from tests.support.servables import stub, tensor_spec


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
