"""How bytes become requests: broken HTTP, requests in pieces, several in one piece, and what follows an error."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.raw_http import (
    RawHttp,
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

GOOD = post_infer("identity", floats_json())
LIVE = get("/v2/health/live")


def _numbered(number: int, *, chunks: bool = False) -> bytes:
    make = post_infer_chunked if chunks else post_infer
    return make("identity", floats_json(first=float(number), id=str(number)))


def _assert_numbered(connection: RawHttp, number: int) -> None:
    response = connection.receive()
    assert response.status == 200, response
    assert response.json["id"] == str(number), f"answers out of order: {response}"
    assert response.json["outputs"][0]["data"][0] == number


# ---- what is no HTTP -------------------------------------------------------------------------------

POST = f"POST {infer_path('identity')} HTTP/1.1\r\nhost: test\r\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 HTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost test\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nho st: test\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: empty\r\n\r\n",
        b"GET /v2\x00 HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nhost: test\r\n\r\n",
        b"CONNECT example:443 HTTP/1.1\r\nhost: test\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"content-length: abc\r\n\r\n",
        POST + b"content-length: -5\r\n\r\nhello",
        POST + b"content-length: +5\r\n\r\nhello",
        POST + b"content-length: 5, 5\r\n\r\nhello",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        POST + b"content-length: 0x10\r\n\r\n",
        POST + b"content-length: 99999999999999999999999\r\n\r\n",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: gzip\r\n\r\n",
        POST + b"transfer-encoding: chunked, gzip\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n",
    ],
)
def test_broken_http(server: ServerProcess, data: bytes) -> None:
    with RawHttp(server.http) as connection:
        connection.send(data)
        response = connection.receive()
        assert 400 <= response.status < 500, response
        assert response.error
        if response.closes:
            assert connection.expect_close() == b""


def test_smuggling_is_not_possible(server: ServerProcess) -> None:
    """Whichever length another proxy believes in, the inner request must not be answered as one of its own."""
    inner = b"GET /v2/models/smuggled HTTP/1.1\r\nhost: test\r\n\r\n"
    with RawHttp(server.http) as connection:
        head = b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % (len(inner) + 5)
        connection.send(POST + head + b"0\r\n\r\n" + inner)
        assert connection.receive().status == 400
        assert b"smuggled" not in connection.expect_close()


@pytest.mark.parametrize("garbage", [b"\x00\x01", b"GARBAGE / HTTP/1.1\r\n\r\n"])
def test_garbage_after_an_answer(server: ServerProcess, garbage: bytes) -> None:
    with RawHttp(server.http) as connection:
        assert connection.ask(GOOD).status == 200
        response = connection.ask(garbage)
        assert response.status == 400
        assert response.error
        assert response.closes
        assert connection.expect_close() == b""


# ---- in pieces -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [post_infer, post_infer_chunked], ids=["lane", "asgi"])
def test_cut_at_every_byte(server: ServerProcess, make: object) -> None:
    whole = post_infer("identity", floats_json())
    if make is post_infer_chunked:
        body = floats_json()
        head = request("POST", infer_path("identity"), [("transfer-encoding", "chunked")])
        whole = head + chunked([body[:20], body[20:]])
    with RawHttp(server.http) as connection:
        expected = connection.ask(whole)
        assert expected.status == 200
        for place in range(1, len(whole)):
            connection.send(whole[:place])
            time.sleep(0.0002)  # a segment of its own, most of the time
            assert connection.ask(whole[place:]) == expected, f"cut after {place} bytes"


def test_byte_by_byte(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        for _ in range(2):  # the second time, the head is one that the server remembers
            for one in GOOD:
                connection.send(bytes([one]))
            assert connection.receive().status == 200
        assert connection.ask(GOOD).status == 200


def test_head_and_body_apart(server: ServerProcess) -> None:
    head, _, body = GOOD.partition(b"\r\n\r\n")
    with RawHttp(server.http) as connection:
        for _ in range(3):
            connection.send(head + b"\r\n\r\n")
            time.sleep(0.002)
            assert connection.ask(body).status == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"transfer-encoding: chunked\r\n", b"%x;a=b;c\r\n%b\r\n0\r\n\r\n"),
        (b"transfer-encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n"),
        (b"Transfer-Encoding: Chunked\r\n", b"000%X\r\n%b\r\n000\r\n\r\n"),
        (b"x-empty:\r\nx-tab:\ta\r\ncontent-length:  %d  \r\n", b"%b"),
    ],
    ids=["chunk extensions", "trailers", "case and zeros", "spaces"],
)
def test_rare_but_right(server: ServerProcess, head: bytes, body: bytes) -> None:
    data = floats_json()
    sized = body.count(b"%x") + body.count(b"%X")
    whole = POST + (head % len(data) if b"%d" in head else head) + b"\r\n"
    whole += body % (len(data), data) if sized else body % data
    with RawHttp(server.http) as connection:
        for _ in range(2):
            assert connection.ask(whole).status == 200
            assert connection.ask(GOOD).status == 200


def test_a_target_with_scheme_and_host(server: ServerProcess) -> None:
    absolute = GOOD.replace(b"POST /", b"POST http://test/")
    with RawHttp(server.http) as connection:
        assert connection.ask(absolute).json == connection.ask(GOOD).json


def test_empty_lines_before_a_request(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        for _ in range(2):
            assert connection.ask(b"\r\n\r\n" + GOOD).status == 200


# ---- several in one piece --------------------------------------------------------------------------


def test_fifty_in_one_segment(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        for _ in range(3):
            connection.send(b"".join(_numbered(number) for number in range(50)))
            for number in range(50):
                _assert_numbered(connection, number)


def test_fifty_of_the_same_length_in_one_segment(server: ServerProcess) -> None:
    """Equal heads are remembered: each must still get its own body."""
    with RawHttp(server.http) as connection:
        _ = connection.ask(_numbered(10))
        connection.send(b"".join(_numbered(number) for number in range(10, 60)))
        for number in range(10, 60):
            _assert_numbered(connection, number)


def test_a_mixture_keeps_its_order(server: ServerProcess) -> None:
    wrong = post_infer("identity", b"{}")
    with RawHttp(server.http) as connection:
        parts: list[bytes] = []
        for number in range(20):
            parts += [_numbered(number), LIVE, _numbered(number, chunks=True), wrong]
        connection.send(b"".join(parts))
        for number in range(20):
            _assert_numbered(connection, number)
            assert connection.receive().json == {"live": True}
            _assert_numbered(connection, number)
            assert connection.receive().status == 400


def test_a_mixture_in_odd_pieces_keeps_its_order(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        whole = b"".join(
            _numbered(number, chunks=number % 3 == 0) + LIVE * (number % 2) for number in range(40)
        )
        for start in range(0, len(whole), 97):
            connection.send(whole[start : start + 97])
        for number in range(40):
            _assert_numbered(connection, number)
            if number % 2:
                assert connection.receive().json == {"live": True}


def test_behind_a_slow_one(server: ServerProcess) -> None:
    """A quick call on the same connection waits for the slow one before it, as HTTP/1.1 demands."""
    row = json.dumps([float(one) for one in range(64)])
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,64],"data":%b}]}' % row.encode()
    with RawHttp(server.http) as connection:
        connection.send(post_infer("slow", body) + _numbered(7) + LIVE)
        assert connection.receive().json["model_name"] == "slow"
        _assert_numbered(connection, 7)
        assert connection.receive().json == {"live": True}


def test_half_a_request_behind_a_large_one(server: ServerProcess) -> None:
    """The bytes of a body do not count as headers of the next request."""
    body = floats_json(width=30_000)
    assert len(body) > 200_000
    with RawHttp(server.http) as connection:
        for turn in range(20):  # where the reads cut is up to the kernel
            plain = post_infer("wide", body, [("x-turn", str(turn))])
            for large in (plain, post_infer_chunked("wide", body)):
                connection.send(large + LIVE[:20])
                assert connection.receive().status == 200
                assert connection.ask(LIVE[20:]).json == {"live": True}


def test_a_reset_behind_pipelined_requests(server: ServerProcess) -> None:
    for _ in range(20):
        connection = RawHttp(server.http)
        connection.send(GOOD * 30)
        connection.reset()


def test_the_last_of_several_closes(server: ServerProcess) -> None:
    with RawHttp(server.http) as connection:
        last = post_infer("identity", floats_json(id="last"), [("connection", "close")])
        connection.send(_numbered(1) + last + _numbered(2))
        _assert_numbered(connection, 1)
        response = connection.receive()
        assert response.json["id"] == "last"
        assert response.closes
        assert connection.expect_close() == b"", "nothing behind the last request is answered"
