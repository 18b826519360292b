"""Connections that hold on without getting on: each kind is cut in bounded time, and costs bounded memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.conftest import StartServer
from tests.support.neighbour import Neighbour
from tests.support.raw_http import (
    RawHttp,
    floats_json,
    get,
    infer_json,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.server_process import ServerProcess, peak_rss

LIMIT_S = 1
IDLE_S = 2
SWEPT_WITHIN_S = 4.0
"""The limit, two turns of the sweeper, and a busy machine."""

BODY = floats_json()
HEAD = request("POST", infer_path("identity"), [("content-length", str(len(BODY)))])
CHUNKED_HEAD = request("POST", infer_path("identity"), [("transfer-encoding", "chunked")])


@pytest.fixture(scope="module")
def strict(start_server: StartServer) -> ServerProcess:
    """A server without patience."""
    return start_server(
        http__head_timeout_s=LIMIT_S,
        http__body_timeout_s=LIMIT_S,
        http__write_stall_timeout_s=LIMIT_S / 2,
        http__keep_alive_s=IDLE_S,
    )


DRIPS = {
    "request line": (b"GET /", b"a"),
    "header name": (b"GET /v2 HTTP/1.1\r\n", b"a"),
    "header by header": (b"GET /v2 HTTP/1.1\r\nhost: test\r\n", b"x: y\r\n"),
    "body": (HEAD, b" "),
    "body behind a remembered head": (HEAD + BODY + HEAD, b" "),
    "chunk by chunk": (CHUNKED_HEAD, b"1\r\n \r\n"),
    "chunk size": (CHUNKED_HEAD, b"0"),
}


def test_slow_loris(strict: ServerProcess) -> None:
    """However steadily it drips, a request has a limited time to become whole."""
    with Neighbour(strict), ExitStack() as stack:
        began_s = time.monotonic()
        drips = {name: stack.enter_context(RawHttp(strict.http)) for name in DRIPS}
        for name, connection in drips.items():
            connection.send(DRIPS[name][0])
        assert drips["body behind a remembered head"].receive().status == 200
        stack.enter_context(_dripping(drips))
        for name, connection in drips.items():
            response = connection.receive()
            assert response.status == 408, f"{name}: {response}"
            assert "not complete after 1 s" in response.error
            assert response.closes
        assert LIMIT_S <= time.monotonic() - began_s < SWEPT_WITHIN_S
        for connection in drips.values():
            connection.expect_close()


@contextmanager
def _dripping(drips: dict[str, RawHttp]) -> Iterator[None]:
    """A thread that sends one more drop on each connection every now and then."""
    stop = threading.Event()

    def drip() -> None:
        left = dict(drips)
        while left and not stop.wait(0.05):
            for name, connection in list(left.items()):
                try:
                    connection.send(DRIPS[name][1])
                except OSError:
                    del left[name]  # cut, as it should be

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def test_idle_connections_are_kept_for_a_while_and_then_closed(strict: ServerProcess) -> None:
    """Silence between requests is no stall; silence without end is."""
    one = post_infer("identity", BODY)
    with Neighbour(strict), ExitStack() as stack:
        began_s = time.monotonic()
        silent = [stack.enter_context(RawHttp(strict.http)) for _ in range(200)]
        lane, route = (stack.enter_context(RawHttp(strict.http)) for _ in range(2))
        assert lane.ask(one).status == route.ask(get("/v2")).status == 200
        time.sleep(1.2)  # longer than every limit but the one for idle connections
        assert lane.ask(one).status == route.ask(get("/v2")).status == 200
        for connection in silent:
            assert connection.expect_close() == b""
        assert IDLE_S <= time.monotonic() - began_s < IDLE_S + SWEPT_WITHIN_S
        assert lane.expect_close() == route.expect_close() == b""


def test_a_slow_model_is_no_stall(strict: ServerProcess) -> None:
    """The limits are for callers: an answer may take longer than each of them."""
    body = floats_json(rows=24, width=64)
    with RawHttp(strict.http) as connection:
        began_s = time.monotonic()
        for make in (post_infer, post_infer_chunked):
            connection.send(make("slow", body))
            connection.send(make("slow", body))
            assert connection.receive().status == 200
            assert connection.receive().status == 200
        assert time.monotonic() - began_s > LIMIT_S


# ---- readers that do not read ----------------------------------------------------------------------

BLOB = infer_json("x", "FP32", [1, 1], [1.5], parameters={"binary_data_output": True})
BLOB_BYTES = 1024 * 1024
READERS = 24


def _deaf(server: ServerProcess, buffer_bytes: int = 4096) -> RawHttp:
    """A connection with a small receive buffer."""
    connection = RawHttp.__new__(RawHttp)
    connection.socket = socket.socket()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.socket.settimeout(10)
    connection.socket.connect(server.http)
    return connection


@pytest.mark.parametrize("way", ["lane", "asgi", "pipelined"])
def test_readers_that_do_not_read(strict: ServerProcess, way: str) -> None:
    """Each costs one answer at most, not one for each request that it managed to send."""
    one = (post_infer_chunked if way == "asgi" else post_infer)("blob", BLOB)
    before = strict.rss_bytes
    with Neighbour(strict):
        deaf = [_deaf(strict) for _ in range(READERS)]
        for connection in deaf:
            if way == "pipelined":
                connection.send(one * 100)
                continue
            for _ in range(20):
                connection.send(one)
        peak = peak_rss(
            strict,
            "they are cut",
            lambda: strict.metric("headrace_connections", protocol="http") <= 2,
            within_s=LIMIT_S + 2 * SWEPT_WITHIN_S,
        )
        for connection in deaf:
            connection.socket.close()
    allowed = 3 * READERS * BLOB_BYTES + 32 * 1024 * 1024
    assert peak - before < allowed, f"{(peak - before) >> 20} MiB for {READERS} deaf readers"
    assert strict.metric("headrace_inflight_requests") == 0


def test_a_slow_reader_gets_everything(strict: ServerProcess) -> None:
    """Slow is not stalled: whoever reads on, however slowly, is served."""
    rows = 16
    large = infer_json(
        "x", "FP32", [rows, 1], [1.5] * rows, parameters={"binary_data_output": True}
    )
    with Neighbour(strict), _deaf(strict, buffer_bytes=256 * 1024) as connection:
        began_s = time.monotonic()
        connection.send(post_infer("blob", large))
        received = 0
        while received < rows * BLOB_BYTES:
            data = connection.socket.recv(65536)
            assert data, f"cut after {received} bytes and {time.monotonic() - began_s:.1f} s"
            received += len(data)
            time.sleep(3.2 * LIMIT_S * len(data) / (rows * BLOB_BYTES))
        assert time.monotonic() - began_s > 2 * LIMIT_S
