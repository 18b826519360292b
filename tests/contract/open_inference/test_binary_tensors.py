"""The binary tensor extension on the wire itself, where the clients of the other modules do not reach."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.raw_http import (
    RawHttp,
    Response,
    ask_once,
    floats_json,
    post_infer,
    post_infer_chunked,
)
from tests.support.server_process import ServerProcess

LENGTH = "Inference-Header-Content-Length"
ROW = np.arange(4, dtype=np.float32)
RAW = [(LENGTH, "0")]
WAYS = {"lane": post_infer, "asgi": post_infer_chunked}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[RawHttp]:
    with RawHttp(server.http) as opened:
        yield opened


def _split(response: Response) -> tuple[Any, bytes]:
    """JSON and bytes of a binary answer."""
    assert response.status == 200, response
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH.lower()])
    return json.loads(response.body[:length]), response.body[length:]


def _binary(
    inputs: Sequence[tuple[str, str, list[int], bytes]], *, outputs: Any = None
) -> tuple[bytes, list[tuple[str, str]]]:
    """Body and headers of a request whose inputs are all bytes."""
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": len(data)},
            }
            for name, datatype, shape, data in inputs
        ]
    }
    if outputs is not None:
        document["outputs"] = outputs
    text = json.dumps(document).encode()
    return text + b"".join(data for *_, data in inputs), [(LENGTH, str(len(text)))]


# ---- a body that is nothing but one tensor ---------------------------------------------------------


def test_raw_body(connection: RawHttp, way: Any) -> None:
    reply, data = _split(connection.ask(way("identity_fp32", ROW.tobytes(), RAW)))
    assert reply["outputs"] == [
        {
            "name": "y",
            "datatype": "FP32",
            "shape": [1, 4],
            "parameters": {"binary_data_size": 16},
        }
    ]
    assert data == ROW.tobytes()


def test_raw_body_for_a_variable_dimension(connection: RawHttp, way: Any) -> None:
    reply, data = _split(connection.ask(way("wide", ROW.tobytes() * 3, RAW)))
    assert reply["outputs"][0]["shape"] == [1, 12]
    assert data == ROW.tobytes() * 3


def test_raw_body_of_text(connection: RawHttp, way: Any) -> None:
    reply, data = _split(connection.ask(way("one_text", "hellö".encode(), RAW)))
    assert reply["outputs"][0]["shape"] == [1, 1]
    assert data == b"\x06\0\0\0hell\xc3\xb6"


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("identity_fp32", b"", "needs 16"),
        ("identity_fp32", b"123", "needs 16"),
        ("identity_fp32", b"1" * 20, "needs 16"),
        ("wide", b"123", "a multiple of 4"),
        ("simple", b"1" * 128, "takes 2"),
        ("any_shape", b"1" * 16, "more than one dimension"),
        ("identity_bytes", b"hello", "shape [1]"),
    ],
)
def test_raw_body_that_does_not_fit(
    connection: RawHttp, way: Any, model: str, body: bytes, words: str
) -> None:
    response = connection.ask(way(model, body, RAW))
    assert response.status == 400, response
    assert words in response.error


def test_raw_body_that_is_empty_where_nothing_is_a_size(connection: RawHttp, way: Any) -> None:
    response = connection.ask(way("wide", b"", RAW))
    reply, data = _split(response)
    assert reply["outputs"][0]["shape"] == [1, 0]
    assert data == b""


# ---- JSON and bytes --------------------------------------------------------------------------------


def test_answers_are_json_unless_asked_otherwise(connection: RawHttp, way: Any) -> None:
    body, headers = _binary([("x", "FP32", [1, 4], ROW.tobytes())])
    response = connection.ask(way("identity_fp32", body, headers))
    assert response.status == 200
    assert response.json["outputs"][0]["data"] == ROW.tolist()
    assert LENGTH.lower() not in response.headers


def test_an_output_overrules_the_default_for_all(connection: RawHttp, way: Any) -> None:
    document = {
        "inputs": [
            {"name": name, "datatype": "INT32", "shape": [1, 16], "data": list(range(16))}
            for name in ("INPUT0", "INPUT1")
        ],
        "outputs": [{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    reply, data = _split(connection.ask(way("simple", json.dumps(document).encode())))
    first, second = reply["outputs"]
    assert first["parameters"] == {"binary_data_size": 64}
    assert second["data"] == [0] * 16
    assert data == (np.arange(16, dtype=np.int32) * 2).tobytes()


def test_tensors_without_bytes(connection: RawHttp, way: Any) -> None:
    body, headers = _binary([("x", "FP32", [0, 4], b"")], outputs=[{"name": "y"}])
    response = connection.ask(way("any_shape", body, headers))
    assert response.json["outputs"][0] == {
        "name": "y",
        "datatype": "FP32",
        "shape": [0, 4],
        "data": [],
    }


def test_bytes_at_odd_places(connection: RawHttp, way: Any) -> None:
    texts = np.array([b"ab", b"c"], np.object_)
    packed = b"".join(len(one).to_bytes(4, "little") + one for one in texts)
    body, headers = _binary(
        [
            ("flag", "BOOL", [2, 1], b"\0\1"),
            ("name", "BYTES", [2, 1], packed),
            ("amount", "FP64", [2, 1], np.array([0.1, -1e300]).tobytes()),
        ]
    )
    outputs = connection.ask(way("mixed", body, headers)).json["outputs"]
    assert [one["data"] for one in outputs] == [["ab", "c"], [0.1, -1e300], [False, True]]


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=["gzip", "deflate"]
)
def test_the_length_counts_expanded_bytes(connection: RawHttp, name: str, pack: Any) -> None:
    body, headers = _binary([("x", "FP32", [1, 4], ROW.tobytes())])
    packed = pack(body)
    fields = [*headers, ("content-encoding", name)]
    response = connection.ask(post_infer("identity_fp32", packed, fields))
    assert response.json["outputs"][0]["data"] == ROW.tolist()


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, gzip", "x-gzip"])
def test_other_content_codings_are_not_offered(connection: RawHttp, name: str) -> None:
    response = connection.ask(
        post_infer("identity_fp32", floats_json(), [("content-encoding", name)])
    )
    assert response.status == 501
    assert "gzip, deflate or none" in response.error


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("br", ""),
        ("identity", ""),
        ("", ""),
    ],
)
def test_answers_are_packed_as_the_caller_allows(
    connection: RawHttp, way: Any, accept: str, expected: str
) -> None:
    body = floats_json(width=2000)
    response = connection.ask(way("wide", body, [("accept-encoding", accept)]))
    assert response.status == 200
    assert response.headers.get("content-encoding", "") == expected
    unpack: dict[str, Any] = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}
    assert json.loads(unpack[expected](response.body))["outputs"][0]["shape"] == [1, 2000]


def test_a_compressed_body_may_also_be_chunked(server: ServerProcess) -> None:
    fields = [("content-encoding", "gzip")]
    response = ask_once(
        server.http, post_infer_chunked("identity_fp32", gzip.compress(floats_json()), fields)
    )
    assert response.json["outputs"][0]["data"] == ROW.tolist()
