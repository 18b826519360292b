"""What a connection is good for after an error, how it ends, and how it answers to floods of headers."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.e2e.conftest import StartServer
from tests.support.neighbour import Neighbour
from tests.support.raw_http import (
    RawHttp,
    floats_json,
    get,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("neighbour")

GOOD = post_infer("identity", floats_json())
LIVE = get("/v2/health/live")
POST = f"POST {infer_path('identity')} HTTP/1.1\r\nhost: test\r\n".encode()


def test_reuse_after_errors(server: ServerProcess) -> None:
    wrong = [
        post_infer("identity", b"no JSON"),
        post_infer("nobody", floats_json()),
        get("/nowhere"),
        request("DELETE", infer_path("identity"), [], b""),
        post_infer_chunked("identity", b"[" * 1000),
        post_infer("identity", b"x", [("content-encoding", "gzip")]),
    ]
    with RawHttp(server.http) as connection:
        for one in wrong * 3:
            response = connection.ask(one)
            assert 400 <= response.status < 500
            assert response.error
            assert not response.closes
            assert connection.ask(GOOD).status == 200


@pytest.mark.parametrize("field", [("connection", "close"), ("Connection", "Close")])
def test_close_is_obeyed(server: ServerProcess, field: tuple[str, str]) -> None:
    for ask in (post_infer("identity", floats_json(), [field]), request("GET", "/v2", [field])):
        with RawHttp(server.http) as connection:
            response = connection.ask(ask)
            assert response.status == 200
            assert response.closes
            assert connection.expect_close() == b""


def test_http_1_0(server: ServerProcess) -> None:
    for ask in (GOOD, LIVE):
        with RawHttp(server.http) as connection:
            response = connection.ask(ask.replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert response.status == 200
            assert response.closes
            assert connection.expect_close() == b""


@pytest.mark.parametrize("waits", [True, False])
def test_expect_100_continue(server: ServerProcess, waits: bool) -> None:
    body = floats_json()
    fields = [("content-length", str(len(body))), ("expect", "100-continue")]
    with RawHttp(server.http) as connection:
        for _ in range(2):
            connection.send(request("POST", infer_path("identity"), fields))
            if waits:
                assert connection.receive().status == 100
            connection.send(body)
            response = connection.receive()
            if response.status == 100:
                response = connection.receive()
            assert response.status == 200, response


def test_expect_100_continue_for_a_body_that_is_not_wanted(server: ServerProcess) -> None:
    fields = [("content-length", str(2**33)), ("expect", "100-continue")]
    with RawHttp(server.http) as connection:
        response = connection.ask(request("POST", infer_path("identity"), fields))
        assert response.status == 400, "no invitation for a body that is too large"
        assert response.closes


def test_an_offer_to_upgrade_is_ignored(server: ServerProcess) -> None:
    """Java's client offers HTTP/2 with its first request, and goes on in HTTP/1.1."""
    fields = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "")]
    with RawHttp(server.http) as connection:
        for ask in (
            post_infer("identity", floats_json(), fields),
            GOOD,
            request("GET", "/v2/health/live", fields),
            LIVE,
            post_infer("identity", floats_json(), [*fields, ("x", "y")]),
            post_infer("identity", floats_json(), [("x-new", "head")]),
            post_infer_chunked("identity", floats_json()),
        ):
            assert connection.ask(ask).status == 200


def test_a_half_closed_connection(server: ServerProcess) -> None:
    """A caller that has said everything and closes its half gets a clean end, never half of an answer."""
    with RawHttp(server.http) as connection:
        connection.send(GOOD)
        connection.socket.shutdown(1)
        assert connection.expect_close()[:12] in (b"", b"HTTP/1.1 200")


# ---- floods of headers -----------------------------------------------------------------------------


def _flood(connection: RawHttp, piece: bytes, *, times: int) -> None:
    try:
        for _ in range(times):
            connection.send(piece)
    except ConnectionError:
        pass  # the server had enough


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /v2 HTTP/1.1\r\n", b"x-many: 1\r\n" * 100),
        (b"GET /v2 HTTP/1.1\r\nx-endless: ", b"a" * 1000),
        (b"GET /v2 HTTP/1.1\r\n", b"n" * 1000),
        (b"GET /", b"u" * 1000),
        (POST, b"x: y\r\n" * 200),
    ],
    ids=["many", "endless value", "endless name", "endless url", "many for infer"],
)
def test_header_flood(server: ServerProcess, start: bytes, piece: bytes) -> None:
    before = server.rss_bytes
    with RawHttp(server.http) as connection:
        connection.send(start)
        _flood(connection, piece, times=2000)
        response = connection.receive()
        assert response.status in (400, 414, 431), response
        assert response.error
        assert response.closes
    assert server.rss_bytes - before < 24 * 1024 * 1024


def test_headers_that_are_too_large_in_one_piece(start_server: StartServer) -> None:
    """The limit does not wait for a second read to notice."""
    server = start_server(http__max_header_bytes=8192)
    too_large = b"GET /v2 HTTP/1.1\r\nx-large: " + b"a" * 20_000
    for before in (b"", LIVE):
        with RawHttp(server.http) as connection:
            if before:
                assert connection.ask(before).status == 200
            connection.send(too_large)
            assert connection.receive().status == 431


def test_many_connections_that_flood(start_server: StartServer) -> None:
    server = start_server(http__max_header_bytes=8192)
    before = server.rss_bytes
    with Neighbour(server), ExitStack() as opened:
        connections = [opened.enter_context(RawHttp(server.http)) for _ in range(200)]
        for connection in connections:
            connection.send(b"GET /" + b"u" * 7000)
        for connection in connections:
            _flood(connection, b"u" * 2000, times=5)
            assert connection.receive().status == 431
            connection.close()
    assert server.rss_bytes - before < 32 * 1024 * 1024
