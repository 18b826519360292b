"""The fast lane and the ASGI route are one server: the same request gets the same bytes from both.

Each request goes out twice, plain (lane) and chunked (ASGI route). The metrics prove which way each took.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.raw_http import (
    Fields,
    RawHttp,
    floats_json,
    infer_json,
    post_infer,
    post_infer_chunked,
)
from tests.support.server_process import ServerProcess

LENGTH = "Inference-Header-Content-Length"
TEXT = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}'
ROW = np.arange(4, dtype=np.float32).tobytes()


class Case(NamedTuple):
    """A request that both ways must answer alike."""

    status: int
    body: bytes
    headers: Fields = ()
    model: str = "identity_fp32"
    version: str = ""


def _floats(**more: Any) -> bytes:
    return floats_json(**more)


def _with(field: str, value: Any) -> bytes:
    document = json.loads(_floats())
    document["inputs"][0][field] = value
    return json.dumps(document).encode()


def _binary(length: object, body: bytes = TEXT + ROW) -> dict[str, Any]:
    return {"body": body, "headers": [(LENGTH, str(length))]}


CASES = {
    "good": Case(200, _floats()),
    "good with an id": Case(200, _floats(id="a1")),
    "good with an empty id": Case(200, _floats(id="")),
    "good with a version": Case(200, _floats(), model="versioned", version="1"),
    "good, all rows": Case(200, _floats(rows=64)),
    "good, cut into batches": Case(200, _floats(rows=11), model="small_batches"),
    "good, nested": Case(200, _with("data", [[1, 2, 3, 4]])),
    "good, unknown fields": Case(200, _floats(parameters={"anything": [1]}, more={"a": 1})),
    "good, bytes in": Case(200, **_binary(len(TEXT))),
    "good, bytes out": Case(200, _floats(parameters={"binary_data_output": True})),
    "good, raw": Case(200, ROW, [(LENGTH, "0")]),
    "good, packed answer": Case(200, _floats(width=999), [("accept-encoding", "gzip")], "wide"),
    "good, content type of something else": Case(200, _floats(), [("content-type", "text/plain")]),
    "good, expects nothing": Case(200, _floats(), [("accept", "*/*"), ("user-agent", "curl")]),
    "good, NaN": Case(200, _floats().replace(b"0.0", b"NaN").replace(b"1.0", b"-Infinity")),
    "no such model": Case(404, _floats(), model="nobody"),
    "no such version": Case(404, _floats(), version="7"),
    "a version that is no number": Case(404, _floats(), version="latest"),
    "a model that did not load": Case(503, _floats(), model="broken"),
    "no body": Case(400, b""),
    "no JSON": Case(400, b"hello"),
    "half of the JSON": Case(400, _floats()[:-1]),
    "more than the JSON": Case(400, _floats() + b"}"),
    "an array": Case(400, b"[]"),
    "null": Case(400, b"null"),
    "no inputs": Case(400, b"{}"),
    "inputs of another type": Case(400, b'{"inputs":{}}'),
    "no such input": Case(400, _with("name", "z")),
    "a name that is a number": Case(400, _with("name", 7)),
    "another datatype": Case(400, _with("datatype", "FP64")),
    "no such datatype": Case(400, _with("datatype", "FLOAT")),
    "negative extent": Case(400, _with("shape", [-1, 4])),
    "negative extents that multiply to the right size": Case(400, _with("shape", [-1, -4])),
    "overflowing extents": Case(400, _with("shape", [2**62, 4])),
    "an extent beyond 64 bits": Case(400, _with("shape", [2**70, 4])),
    "an extent that is a fraction": Case(400, _with("shape", [1.5, 4])),
    "a shape that is text": Case(400, _with("shape", "1,4")),
    "too few numbers": Case(400, _with("data", [1, 2, 3])),
    "too many numbers": Case(400, _with("data", [1, 2, 3, 4, 5])),
    "ragged": Case(400, _with("data", [[1, 2], [3]])),
    "numbers as text": Case(400, _with("data", ["1", "2", "3", "4"])),
    "a number too many digits long": Case(400, _with("shape", [1, 4]) + b"9" * 5000),
    "an integer out of range": Case(
        400, infer_json("x", "INT8", [1, 4], [1, 2, 3, 128]), model="identity_int8"
    ),
    "an unknown output": Case(400, _floats(outputs=[{"name": "z"}])),
    "an output twice": Case(400, _floats(outputs=[{"name": "y"}, {"name": "y"}])),
    "classification": Case(
        501, _floats(outputs=[{"name": "y", "parameters": {"classification": 2}}])
    ),
    "shared memory": Case(501, _with("parameters", {"shared_memory_region": "r"})),
    "a sequence": Case(400, _floats(parameters={"sequence_id": 5, "sequence_start": True})),
    "a negative timeout": Case(400, _floats(parameters={"timeout": -1})),
    "a timeout that is text": Case(400, _floats(parameters={"timeout": "soon"})),
    "halves as JSON": Case(
        400, infer_json("x", "FP16", [1, 4], [1, 2, 3, 4]), model="identity_fp16"
    ),
    "text that is not UTF-8": Case(
        400,
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,1],'
        b'"parameters":{"binary_data_size":5}}]}\x01\0\0\0\xff',
        [(LENGTH, "93")],
        "one_text",
    ),
    "header length of half the JSON": Case(400, **_binary(len(TEXT) // 2)),
    "header length one short": Case(400, **_binary(len(TEXT) - 1)),
    "header length one long": Case(400, **_binary(len(TEXT) + 1)),
    "header length of everything": Case(400, **_binary(len(TEXT) + 16)),
    "header length beyond the body": Case(400, **_binary(len(TEXT) + 17)),
    "header length missing": Case(400, TEXT + ROW),
    "bytes left over": Case(400, **_binary(len(TEXT), TEXT + ROW + b"!")),
    "bytes missing": Case(400, **_binary(len(TEXT), TEXT + ROW[:-1])),
    "raw and empty": Case(400, b"", [(LENGTH, "0")]),
}


@pytest.mark.parametrize("case", CASES)
def test_same_answer(server: ServerProcess, case: str) -> None:
    expected, body, headers, model, version = CASES[case]
    with RawHttp(server.http) as connection:
        # The lane three times: its head is new, has come once, and is remembered.
        ways = [post_infer, post_infer_chunked, post_infer, post_infer]
        lane, route, *again = [
            connection.ask(make(model, body, headers, version=version)) for make in ways
        ]
    assert lane.status == expected, lane
    assert lane == route
    assert again == [lane, lane]
    if expected != 200:
        assert lane.error
    assert not lane.closes, "an error in a request is no reason to hang up"


def test_each_request_took_its_way(server: ServerProcess) -> None:
    def counts() -> list[float]:
        name = "headrace_http_infer_paths_total"
        return [server.metric(name, path=path) for path in ("fast_lane", "asgi")]

    before = counts()
    with RawHttp(server.http) as connection:
        for case in CASES.values():
            for make in (post_infer, post_infer_chunked):
                _, body, headers, model, version = case
                connection.ask(make(model, body, headers, version=version))
    after = counts()
    assert [late - early for late, early in zip(after, before, strict=True)] == [len(CASES)] * 2


@pytest.mark.parametrize("value", ["", "-1", "+5", "0x10", "1e2", "12 13", "²", "9" * 30, "10, 10"])
def test_header_lengths_that_are_no_number_take_the_route(
    server: ServerProcess, value: str
) -> None:
    fields = [(LENGTH, value)]
    with RawHttp(server.http) as connection:
        first = connection.ask(post_infer("identity_fp32", TEXT + ROW, fields))
        second = connection.ask(post_infer_chunked("identity_fp32", TEXT + ROW, fields))
    assert first.status == 400, first
    assert LENGTH in first.error
    assert first == second


def test_two_header_lengths(server: ServerProcess) -> None:
    fields = [(LENGTH, str(len(TEXT))), (LENGTH.lower(), str(len(TEXT)))]
    with RawHttp(server.http) as connection:
        response = connection.ask(post_infer("identity_fp32", TEXT + ROW, fields))
    assert response.status == 400
    assert "must be one whole number" in response.error
