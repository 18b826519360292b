"""Requests that are wrong, on a plain socket: each gets its 4xx as ``{"error": …}``, and nobody else notices.

How the bodies of good and bad requests are judged is the contract suite's; here the wire itself is bent.
"""

from __future__ import annotations

import gzip
import struct
import time
import zlib

import pytest

from tests.e2e.conftest import StartServer
from tests.support.neighbour import Neighbour
from tests.support.raw_http import (
    RawHttp,
    ask_once,
    chunked,
    floats_json,
    get,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("neighbour")

GZIP = [("content-encoding", "gzip")]
SMALL_LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def small(start_server: StartServer) -> ServerProcess:
    """A server that takes bodies of 64 KiB at most."""
    return start_server(http__max_body_bytes=SMALL_LIMIT)


def _assert_serves(connection: RawHttp) -> None:
    assert connection.ask(post_infer("identity", floats_json())).status == 200


# ---- compressed bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        ("gzip", gzip.compress(floats_json())[:-9], "ends too early"),
        ("gzip", gzip.compress(floats_json())[:10], "ends too early"),
        ("gzip", b"", "ends too early"),
        ("gzip", b"no gzip at all", "not valid gzip"),
        ("gzip", gzip.compress(floats_json()) + b"more", "follow the end"),
        ("gzip", zlib.compress(floats_json()), "not valid gzip"),
        ("deflate", zlib.compress(floats_json())[:-1], "ends too early"),
        ("deflate", b"\x78\x9c\xff\xff\xff", "not valid deflate"),
    ],
)
def test_broken_compression(server: ServerProcess, coding: str, body: bytes, words: str) -> None:
    with RawHttp(server.http) as connection:
        response = connection.ask(post_infer("identity", body, [("content-encoding", coding)]))
        assert response.status == 400, response
        assert words in response.error
        _assert_serves(connection)


def test_a_wrong_checksum(server: ServerProcess) -> None:
    packed = bytearray(gzip.compress(floats_json()))
    packed[-5] ^= 1
    response = ask_once(server.http, post_infer("identity", bytes(packed), GZIP))
    assert response.status == 400
    assert "not valid gzip" in response.error


def test_a_bomb_stays_small(server: ServerProcess) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(16 * 1024 * 1024)
    bomb = b"".join(packer.compress(zeros) for _ in range(16)) + packer.flush()
    assert len(bomb) < 300 * 1024
    before = server.rss_bytes
    for _ in range(6):
        response = ask_once(server.http, post_infer("identity", bomb, GZIP))
        assert response.status == 400
        assert "larger than" in response.error
    assert server.rss_bytes - before < 160 * 1024 * 1024, "the limit of a body is 64 MiB"


def test_small_bombs_do_not_hold_the_loop(server: ServerProcess) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(100 * 1024 * 1024)) + packer.flush()
    assert len(bomb) < 128 * 1024
    with Neighbour(server, slowest_s=1.0) as neighbour, RawHttp(server.http) as connection:
        for _ in range(10):
            assert connection.ask(post_infer("identity", bomb, GZIP)).status == 400
    assert neighbour.answers > 20, "a loop that expands bombs has no time for others"


# ---- bodies over the limit -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [SMALL_LIMIT + 1, 2**31, 2**32 + 5, 2**62])
def test_a_length_over_the_limit_is_refused_before_the_body(
    small: ServerProcess, length: int
) -> None:
    began_s = time.monotonic()
    with RawHttp(small.http) as connection:
        head = request("POST", infer_path("identity"), [("content-length", str(length))])
        response = connection.ask(head)
        assert response.status == 400, response
        assert f"at most {SMALL_LIMIT}" in response.error
        assert response.closes
        assert connection.expect_close() == b""
    assert time.monotonic() - began_s < 3.5


def test_a_length_beyond_every_number(small: ServerProcess) -> None:
    head = request("POST", infer_path("identity"), [("content-length", "9" * 40)])
    response = ask_once(small.http, head)
    assert response.status == 400
    assert response.error


def test_the_refusal_reaches_a_client_that_goes_on_sending(small: ServerProcess) -> None:
    """Closing on unread bytes would reset the connection and take the answer with it."""
    with RawHttp(small.http) as connection:
        connection.send(post_infer("identity", bytes(4 * 1024 * 1024)))
        response = connection.receive()
        assert response.status == 400
        assert f"at most {SMALL_LIMIT}" in response.error


def test_exactly_the_limit_is_taken(small: ServerProcess) -> None:
    body = floats_json()
    body += b" " * (SMALL_LIMIT - len(body))
    with RawHttp(small.http) as connection:
        assert connection.ask(post_infer("identity", body)).status == 200
        assert connection.ask(post_infer_chunked("identity", body)).status == 200


def test_chunks_over_the_limit(small: ServerProcess) -> None:
    with RawHttp(small.http) as connection:
        head = request("POST", infer_path("identity"), [("transfer-encoding", "chunked")])
        connection.send(head + chunked([bytes(SMALL_LIMIT), b"!"]))
        response = connection.receive()
        assert response.status == 400
        assert f"larger than the {SMALL_LIMIT} bytes" in response.error


def test_chunks_without_end_are_refused_once_and_then_cut(small: ServerProcess) -> None:
    chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    with RawHttp(small.http) as connection:
        connection.send(request("POST", infer_path("identity"), [("transfer-encoding", "chunked")]))
        connection.send(chunk * 3)
        response = connection.receive()
        assert response.status == 400
        assert "larger than" in response.error
        connection.send(chunk * 4)
        assert connection.expect_close() == b"", "a second answer would be that of the next request"


def test_the_rest_of_a_body_that_was_not_waited_for_is_skipped(small: ServerProcess) -> None:
    with RawHttp(small.http) as connection:
        connection.send(request("POST", infer_path("nobody"), [("transfer-encoding", "chunked")]))
        assert connection.receive().status == 404
        connection.send(chunked([bytes(1000)] * 20))
        _assert_serves(connection)


def test_a_small_body_that_expands_over_the_limit(small: ServerProcess) -> None:
    response = ask_once(small.http, post_infer("identity", gzip.compress(bytes(10**7)), GZIP))
    assert response.status == 400
    assert "larger than" in response.error


# ---- JSON that costs -------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"inputs":[', b"[[1,"])
def test_deep_json(server: ServerProcess, opening: bytes) -> None:
    with RawHttp(server.http) as connection:
        for make in (post_infer, post_infer_chunked):
            response = connection.ask(make("identity", opening * 100_000))
            assert response.status == 400, response
            assert response.error
        _assert_serves(connection)


def test_deep_data(server: ServerProcess) -> None:
    data = b"[" * 100_000 + b"]" * 100_000
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":%b}]}' % data
    response = ask_once(server.http, post_infer("identity", body))
    assert response.status == 400
    assert response.error


def test_deep_data_in_a_field_that_nobody_reads(server: ServerProcess) -> None:
    body = floats_json()[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    response = ask_once(server.http, post_infer("identity", body))
    assert response.status in (200, 400), response


def test_many_more_numbers_than_the_shape(server: ServerProcess) -> None:
    """Two bytes of text become forty of objects: ten megabytes may not become a quarter of a gigabyte."""
    body = floats_json().replace(b"[0.0, 1.0, 2.0, 3.0]", b"[" + b"1," * 5_000_000 + b"1]")
    assert len(body) > 10**7
    before = server.rss_bytes
    response = ask_once(server.http, post_infer("identity", body))
    assert response.status == 400
    assert "needs 4 elements" in response.error
    assert server.rss_bytes - before < 100 * 1024 * 1024


@pytest.mark.parametrize(
    "shape", ["[-1,4]", "[4294967296,4294967296]", "[9223372036854775807,4]", "[1e400,4]", "[null]"]
)
def test_sizes_that_overflow(server: ServerProcess, shape: str) -> None:
    body = floats_json().replace(b"[1, 4]", shape.encode())
    response = ask_once(server.http, post_infer("wide", body))
    assert response.status == 400, response
    assert response.error


def test_a_shape_alone_allocates_nothing(server: ServerProcess) -> None:
    size = 2**40
    text = (
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,%d],'
        b'"parameters":{"binary_data_size":8}}]}' % size
    )
    fields = [("Inference-Header-Content-Length", str(len(text)))]
    before = server.rss_bytes
    response = ask_once(
        server.http, post_infer("any_text", text + struct.pack("<II", 0, 0), fields)
    )
    assert response.status == 400
    assert "takes at least" in response.error
    assert server.rss_bytes - before < 16 * 1024 * 1024


# ---- where to ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/identity/infer"),
        ("PUT", "/v2/models/identity/infer"),
        ("DELETE", "/v2/models/identity"),
        ("POST", "/v2"),
        ("POST", "/v2/health/live"),
        ("PATCH", "/v2/models/identity/config"),
        ("OPTIONS", "/v2/models/identity/infer"),
    ],
)
def test_wrong_method(server: ServerProcess, method: str, path: str) -> None:
    with RawHttp(server.http) as connection:
        response = connection.ask(request(method, path, [], b""))
        assert response.status == 405, response
        assert method in response.error
        assert response.headers["allow"]
        _assert_serves(connection)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/models/identity",
        "/v2/",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/identity/",
        "/v2/models/identity/infer/",
        "/v2/models/identity/infer/more",
        "/v2/models/identity/versions//infer",
        "/V2/models/identity/infer",
        "//v2/models/identity/infer",
        "/v2/models/../models/identity/infer",
        "/v2/models/identity/versions/1/versions/1/infer",
        "/metrics",
        "/status",
    ],
)
def test_unknown_path(server: ServerProcess, path: str) -> None:
    with RawHttp(server.http) as connection:
        for ask in (get(path), request("POST", path, [], floats_json())):
            response = connection.ask(ask)
            assert response.status == 404, response
            assert response.error
        _assert_serves(connection)


@pytest.mark.parametrize("name", ["no%20body", "%2e%2e", "ident%69ty", "identit%C3%A9", "a%00b"])
def test_names_with_escapes(server: ServerProcess, name: str) -> None:
    response = ask_once(server.http, post_infer(name, floats_json()))
    assert response.status == (200 if name == "ident%69ty" else 404), response


@pytest.mark.parametrize("version", ["0", "2", "-1", "01", "1.0", "x" * 500, "9" * 50])
def test_wrong_version(server: ServerProcess, version: str) -> None:
    response = ask_once(server.http, post_infer("identity", floats_json(), version=version))
    assert response.status == 404, response
    assert "no version" in response.error


def test_a_query_changes_nothing(server: ServerProcess) -> None:
    body = floats_json()
    with RawHttp(server.http) as connection:
        plain = connection.ask(post_infer("identity", body))
        asked = connection.ask(request("POST", infer_path("identity") + "?a=1&b", [], body))
    assert plain == asked


def test_head_is_get_without_a_body(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        connection.send(request("HEAD", "/v2/health/live"))
        response = connection.receive(to_head=True)
        assert response.status == 200
        connection.send(request("HEAD", "/v2/models/nobody"))
        assert connection.receive(to_head=True).status == 404
        _assert_serves(connection)


def test_refusals_leave_no_trace(server: ServerProcess, neighbour: Neighbour) -> None:
    """A thousand refusals on one connection: no leak, no slowdown, and the thousandth is as polite as the first."""
    refused = post_infer("identity", floats_json(width=5))
    with RawHttp(server.http) as connection:
        first = connection.ask(refused)
        before = server.rss_bytes
        for _ in range(1000):
            assert connection.ask(refused) == first
        assert server.rss_bytes - before < 8 * 1024 * 1024
    assert neighbour.answers
