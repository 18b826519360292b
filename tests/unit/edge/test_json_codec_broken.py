import math
from typing import Any

import pytest

from gateway.edge import json_wire
from gateway.edge.json_codec import (
    encode_error,
)
from tests.support.json_requests import an_input, body_of, decode, one_input, refused, two_inputs


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
