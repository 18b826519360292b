"""HTTP/1.1 peers that flood, smuggle, pipeline and vanish; each is bounded or cut, and somebody else is served.

``test_http_framing.py``, ``test_http_connections.py`` and ``test_http_stalls.py`` have the commoner kinds: broken HTTP,
floods of headers, slow-loris, deaf readers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from tests.support.floods import MB, cut, dial, endured, open_files, pour
from tests.support.raw_http import (
    ClosedError,
    RawHttp,
    floats_json,
    get,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

CHURN = 10_000
BODY = floats_json()
GOOD = post_infer("identity", BODY)
CHUNKED = post_infer_chunked("identity", BODY)
POST = f"POST {infer_path('identity')} HTTP/1.1\r\nhost: test\r\n".encode()
CHUNKS = POST + b"transfer-encoding: chunked\r\n\r\n"
INNER = get("/v2/models/smuggled")


# ---- smuggling -------------------------------------------------------------------------------------

SHAPES = {
    "bare LF": POST.replace(b"\r\n", b"\n") + b"content-length: 5\n\nhello",
    "LF in one line": POST + b"x: y\ncontent-length: 5\r\n\r\nhello",
    "LF LF at the end": POST + b"content-length: 5\n\nhello",
    "CRLF LF at the end": POST + b"content-length: 5\r\n\nhello",
    "CR CR LF": POST + b"content-length: 5\r\r\n\r\nhello",
    "bare CR in a value": POST + b"x: a\rb\r\ncontent-length: 5\r\n\r\nhello",
    "NUL in a value": POST + b"x: a\0b\r\ncontent-length: 5\r\n\r\nhello",
    "folded": POST + b"x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello",
    "folded length": POST + b"content-length:\r\n 5\r\n\r\nhello",
    "folded coding": POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "vertical tab": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no coding of that name": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two lines": POST + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "empty length": POST + b"content-length:\r\n\r\nhello",
    "LF in an extension": CHUNKS + b"5;a\nhello\r\n0\r\n\r\n",
    "LF after a size": CHUNKS + b"5\nhello\r\n0\r\n\r\n",
    "LF after a chunk": CHUNKS + b"5\r\nhello\n0\r\n\r\n",
    "space after a size": CHUNKS + b"5 \r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("behind", [b"", GOOD + GOOD], ids=["first", "behind a remembered head"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_two_servers_could_read_differently(
    server: ServerProcess, shape: str, behind: bytes
) -> None:
    """Refused, and the end of the connection: whatever follows is nobody's request."""
    with RawHttp(server.http) as connection:
        for _ in range(2 if behind else 0):
            assert connection.ask(GOOD).status == 200
        connection.send(SHAPES[shape] + INNER)
        response = connection.receive()
        assert response.status == 400, response
        assert response.closes
        assert b"HTTP/1.1" not in connection.expect_close(), "a second answer"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-encoding", "gzip"),
        ("inference-header-content-length", "3"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ],
)
def test_trailers_are_no_headers(server: ServerProcess, name: str, value: str) -> None:
    """However the bytes are cut: what comes behind the body says nothing about it."""
    trailed = CHUNKED.removesuffix(b"\r\n") + f"{name}: {value}\r\n\r\n".encode()
    for at in (len(trailed), len(trailed) - 4, len(CHUNKED) - 8):
        with RawHttp(server.http) as connection:
            connection.send(trailed[:at])
            connection.send(trailed[at:])
            response = connection.receive()
            # llhttp reads some of these names even here, and then refuses.
            assert response.status == 200 or (response.status == 400 and response.closes), response
            if response.status == 200:
                assert connection.ask(GOOD).status == 200


# ---- floods ----------------------------------------------------------------------------------------

FLOODS = {
    "trailers": (CHUNKS + b"0\r\n", b"x-many: 1\r\n" * 1000),
    "a trailer's value": (CHUNKS + b"0\r\nx: ", b"a" * 10_000),
    "a trailer's name": (CHUNKS + b"0\r\n", b"a" * 10_000),
    "an extension": (CHUNKS + b"5;", b"a" * 10_000),
    "an extension's value": (CHUNKS + b"5;a=", b"a" * 10_000),
    "a size": (CHUNKS, b"0" * 10_000),
    "empty lines": (b"", b"\r\n" * 5000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_what_goes_on_without_a_body(server: ServerProcess, kind: str) -> None:
    """Whatever may stand around a body is bounded as headers are, in bytes and in time."""
    first, burst = FLOODS[kind]
    with endured(server, grows_bytes=8 * MB), dial(server.http) as connection:
        connection.sendall(first)
        was_cut, heard = pour(connection, lambda: burst, 64 * MB)
        assert was_cut
        assert heard.startswith(b"HTTP/1.1 431 "), heard[:200]


@pytest.mark.parametrize("model", ["identity", "nobody"])
def test_a_body_of_tiny_chunks(server: ServerProcess, model: str) -> None:
    """Six bytes for one: it costs what it costs, and holds nobody up."""
    head = CHUNKS.replace(b"identity", model.encode())
    with endured(server), dial(server.http) as connection:
        connection.sendall(head)
        pour(connection, lambda: b"1\r\n \r\n" * 1000, 3 * MB, reads=False, listens_s=0.1)
        cut(connection)


# ---- pipelining ------------------------------------------------------------------------------------

DEPTH = 2000
DEAF = 10
MOST_PIPELINED_BYTES = 12 * MB
"""Of one connection: one read takes a quarter of a megabyte, which may be a thousand requests."""
MIXTURE: list[tuple[Callable[[int], bytes], int]] = [
    (lambda number: post_infer("identity", floats_json(id=str(number))), 200),
    (lambda number: post_infer_chunked("identity", floats_json(id=str(number))), 200),
    (lambda _: get("/v2/health/live"), 200),
    (lambda _: post_infer("identity", b"{"), 400),
    (lambda number: post_infer("identity", floats_json(id=str(number))), 200),
    (lambda _: get("/nowhere"), 404),
    (lambda _: request("DELETE", "/v2", [], b""), 405),
    (lambda _: post_infer("nobody", BODY), 404),
]


def _mixture(count: int) -> tuple[bytes, list[int]]:
    """So many requests in a row, and the statuses of their answers."""
    sent = [MIXTURE[number % len(MIXTURE)] for number in range(count)]
    return b"".join(make(number) for number, (make, _) in enumerate(sent)), [one for _, one in sent]


def _assert_in_order(connection: RawHttp, statuses: list[int]) -> int:
    """How many answers came before the end, each at its place."""
    for number, status in enumerate(statuses):
        try:
            response = connection.receive()
        except ClosedError:
            return number
        if response.closes:
            assert response.status == 400
            return number
        assert response.status == status, (number, response)
        if "id" in (document := response.json):
            assert document["id"] == str(number)
    return len(statuses)


def test_two_thousand_in_a_row_with_errors_between(server: ServerProcess) -> None:
    stream, statuses = _mixture(DEPTH)
    with (
        endured(server, grows_bytes=MOST_PIPELINED_BYTES),
        RawHttp(server.http, timeout_s=30) as connection,
    ):
        sender = threading.Thread(target=connection.send, args=(stream,))
        sender.start()
        assert _assert_in_order(connection, statuses) == DEPTH
        sender.join()
        response = connection.ask(b"NO HTTP\r\n\r\n" + GOOD)
        assert (response.status, response.closes) == (400, True)
        assert connection.expect_close() == b""


def test_no_answer_is_misplaced_when_the_middle_is_no_http(server: ServerProcess) -> None:
    """What was asked before may be lost with the connection; nothing is answered with somebody else's words."""
    stream, statuses = _mixture(40)
    with endured(server):
        for _ in range(10):
            with RawHttp(server.http) as connection:
                connection.send(stream + b"NO HTTP\r\n\r\n" + stream)
                assert _assert_in_order(connection, [*statuses, 0]) <= 40


def test_pipelines_that_nobody_reads(server: ServerProcess) -> None:
    """The server stops reading when its answers are not taken: a connection costs what one read of it may ask."""
    with endured(server, grows_bytes=DEAF * MOST_PIPELINED_BYTES):
        deaf = [dial(server.http, buffer_bytes=4096) for _ in range(DEAF)]
        for connection in deaf:
            connection.settimeout(0.1)
            try:
                for _ in range(100):
                    connection.sendall(GOOD * 100)
            except TimeoutError:
                continue
        assert server.metric("headrace_inflight_requests") <= 1
        for connection in deaf:
            cut(connection)


# ---- connections that come and go ------------------------------------------------------------------


def test_ten_thousand_connections_come_and_go(server: ServerProcess) -> None:
    """Some ask and wait, some say nothing, some stop in the middle: none leaves anything behind."""
    with endured(server):
        most = open_files(server) + 64
        for number in range(CHURN):
            with dial(server.http) as connection:
                kind = number % 5
                if kind < 2:
                    connection.sendall(GOOD if kind else CHUNKED)
                    heard = b""
                    while b'"outputs"' not in heard:
                        heard += connection.recv(4096)
                else:
                    connection.sendall(GOOD[: (kind - 2) * len(GOOD) // 3])
                cut(connection)
            if number % 1000 == 999:
                eventually("they are let go", lambda: open_files(server) < most, within_s=10)


# ---- chance ----------------------------------------------------------------------------------------


def test_requests_with_damaged_bytes(server: ServerProcess) -> None:
    """Any bytes at all: an answer or an end, in a moment, and never an error of ours."""
    chance = random.Random(11)
    stream = GOOD + CHUNKED + get("/v2") + GOOD
    with endured(server):
        for number in range(500):
            data = chance.randbytes(300) if number % 5 == 0 else _damaged(stream, chance)
            with dial(server.http) as connection:
                heard = b""
                try:
                    connection.sendall(data)
                    connection.shutdown(1)
                    while piece := connection.recv(65536):
                        heard += piece
                except ConnectionError:
                    pass
            assert b"HTTP/1.1 500" not in heard, data


def _damaged(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        how = chance.random()
        if how < 0.5:
            data[at] = chance.choice(b'\0\t\n\r ,:;0123456789abcdefxyz{}[]"\x7f\xff')
        elif how < 0.75:
            del data[at]
        else:
            data.insert(at, chance.choice(b"\n\r :0a"))
    return bytes(data)
