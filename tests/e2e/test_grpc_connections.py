"""HTTP/2 connections that abuse: each is bounded or cut, with the reason where there is one, and others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from hyperframe.frame import ContinuationFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame

from tests.e2e.conftest import StartServer
from tests.support import h2_frames
from tests.support.h2_frames import CallFrames, frames_of, opening
from tests.support.neighbour import Neighbour
from tests.support.raw_h2 import PREFACE, RawGrpc, frame, infer_message
from tests.support.raw_http import get
from tests.support.server_process import ServerProcess, peak_rss
from tests.support.waiting import eventually

ENHANCE_YOUR_CALM = 11
INITIAL_WINDOW_SIZE = 4
LIMIT_S = 1
SWEPT_WITHIN_S = 4.0

IDENTITY = frame(infer_message("identity", bytes(16), [1, 4]))
BLOB = frame(infer_message("blob", bytes(4), [1, 1]))
BLOB_BYTES = 1024 * 1024


class Wire:
    """A socket that sends bytes and takes frames apart."""

    def __init__(self, server: ServerProcess, *, buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(10)
        self.socket.connect(server.grpc)

    def send(self, data: bytes) -> bool:
        """Whether the server still took it."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def read_until_closed(self) -> list[Frame]:
        """Every frame until the server closes; a timeout is a failure."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                received += data
        return frames_of(received)

    def read_some(self, wanted_bytes: int) -> bytes:
        """At least so many bytes."""
        received = b""
        while len(received) < wanted_bytes:
            data = self.socket.recv(65536)
            assert data, "closed"
            received += data
        return received


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    one = Wire(server)
    yield one
    one.socket.close()


@pytest.fixture(scope="module")
def strict(start_server: StartServer) -> ServerProcess:
    """A server without patience."""
    return start_server(
        grpc__preface_timeout_s=LIMIT_S,
        grpc__write_stall_timeout_s=LIMIT_S,
        grpc__message_timeout_s=LIMIT_S,
        grpc__keepalive_time_s=1,
        grpc__keepalive_timeout_s=1,
    )


# ---- openings --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03" * 20,
        b"hello\r\n\r\n",
        get("/v2/health/live"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        PREFACE[:-1] + b"!" + bytes(50),
        PREFACE + bytes(100),
        PREFACE + b"GET / HTTP/1.1\r\n\r\n" * 3,
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        opening() + b"\x00\x00\x05\x09\x04\x00\x00\x00\x01hello",
        opening() + h2_frames.data(1, b"no such call"),
        opening() + h2_frames.window_update(0, 2**31 - 1) * 2,
        opening({INITIAL_WINDOW_SIZE: 2**31}),
    ],
    ids=[
        "binary",
        "text",
        "http/1.1",
        "tls",
        "almost a preface",
        "zeros",
        "http after preface",
        "endless frame",
        "continuation of nothing",
        "data without headers",
        "window overflow",
        "bad settings",
    ],
)
def test_garbage_is_cut(wire: Wire, data: bytes) -> None:
    wire.send(data)
    frames = wire.read_until_closed()
    assert not any(isinstance(one, HeadersFrame) for one in frames), "no answer to garbage"


def test_silent_connections_are_cut(strict: ServerProcess) -> None:
    with Neighbour(strict):
        openings = [b"", PREFACE[:10], PREFACE]
        silent = [Wire(strict) for _ in range(60)]
        began_s = time.monotonic()
        for number, one in enumerate(silent):
            one.send(openings[number % 3])
        for one in silent:
            one.read_until_closed()
            one.socket.close()
        assert time.monotonic() - began_s < SWEPT_WITHIN_S


def test_who_answers_pings_stays_and_who_does_not_is_cut(strict: ServerProcess) -> None:
    deaf = Wire(strict)
    deaf.send(opening())
    with RawGrpc(strict.grpc) as alive:
        until_s = time.monotonic() + 2.5
        alive.socket.settimeout(0.2)
        while time.monotonic() < until_s:
            with contextlib.suppress(TimeoutError):
                alive.pump()
        alive.socket.settimeout(5)
        assert alive.ask(infer_message("identity", bytes(16), [1, 4])).status == 0
    frames = deaf.read_until_closed()
    deaf.socket.close()
    assert any(isinstance(one, PingFrame) for one in frames), "first it was asked"


def test_a_message_that_never_ends(strict: ServerProcess) -> None:
    with Neighbour(strict), RawGrpc(strict.grpc) as connection:
        stream = connection.open()
        connection.send(stream, IDENTITY[:10], end_stream=False)
        outcome = connection.outcome(stream)
        assert outcome.status == 4, outcome
        assert "not complete after 1 s" in outcome.message


# ---- floods ----------------------------------------------------------------------------------------


def test_rapid_reset(server: ServerProcess, wire: Wire) -> None:
    """Calls opened and given up without work: the connection is cut, and nobody else waits."""
    before = server.rss_bytes
    with Neighbour(server):
        frames = CallFrames()
        wire.send(opening())
        began_s = time.monotonic()
        sent = 0
        while sent < 60_000:
            burst = b"".join(frames.opened_and_reset() for _ in range(500))
            if not wire.send(burst):
                break
            sent += 500
        heard = wire.read_until_closed()
        assert time.monotonic() - began_s < 15
    goaways = [one for one in heard if isinstance(one, GoAwayFrame)]
    assert sent < 60_000 or goaways
    assert all(one.error_code == ENHANCE_YOUR_CALM for one in goaways)
    assert server.rss_bytes - before < 32 * 1024 * 1024


def test_the_reason_of_a_cut_is_told(server: ServerProcess, wire: Wire) -> None:
    """A client that stops to listen right after the limit hears ENHANCE_YOUR_CALM."""
    limit = server.status()["settings"]["grpc"]["reset_burst"]
    frames = CallFrames()
    wire.send(opening())
    for _ in range(limit // 100 + 1):
        wire.send(b"".join(frames.opened_and_reset() for _ in range(100)))
        time.sleep(0.001)
    for _ in range(100):
        if not wire.send(b"".join(frames.opened_and_reset() for _ in range(20))):
            break
        time.sleep(0.001)
    goaways = [one for one in wire.read_until_closed() if isinstance(one, GoAwayFrame)]
    assert [one.error_code for one in goaways] == [ENHANCE_YOUR_CALM]


@pytest.mark.parametrize("reads", [True, False])
def test_ping_flood(server: ServerProcess, wire: Wire, reads: bool) -> None:
    before = server.rss_bytes
    with Neighbour(server):
        wire.send(opening())
        wire.socket.settimeout(0.5)
        burst = h2_frames.ping() * 500
        with contextlib.suppress(TimeoutError):
            for _ in range(200):
                if not wire.send(burst):
                    break
                if reads:
                    wire.read_some(1000)
    assert server.rss_bytes - before < 24 * 1024 * 1024


def test_settings_flood(server: ServerProcess, wire: Wire) -> None:
    before = server.rss_bytes
    with Neighbour(server):
        wire.send(opening())
        wire.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(100):
                if not wire.send(h2_frames.settings() * 1000):
                    break
    assert server.rss_bytes - before < 24 * 1024 * 1024


def test_empty_data_flood(server: ServerProcess, wire: Wire) -> None:
    with Neighbour(server):
        wire.send(opening())
        stream_id, head = CallFrames().headers()
        wire.send(head)
        wire.socket.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(50):
                if not wire.send(h2_frames.data(stream_id, b"") * 1000):
                    break


def test_continuation_flood(server: ServerProcess, wire: Wire) -> None:
    before = server.rss_bytes
    with Neighbour(server):
        wire.send(opening())
        head = HeadersFrame(1, data=b"\x00")
        wire.send(head.serialize())
        more = ContinuationFrame(1, data=b"").serialize()
        for _ in range(1000):
            if not wire.send(more * 100):
                break
        frames = wire.read_until_closed()
    assert not any(isinstance(one, HeadersFrame) for one in frames)
    assert server.rss_bytes - before < 16 * 1024 * 1024


def test_more_calls_at_once_than_allowed(start_server: StartServer) -> None:
    """Calls beyond the limit are refused one by one; those inside are answered."""
    server = start_server(grpc__max_concurrent_streams=50)
    row = frame(infer_message("slow", bytes(256), [1, 64]))
    with Neighbour(server):
        one = Wire(server)
        frames = CallFrames()
        one.send(opening() + b"".join(frames.call(row)[1] for _ in range(80)))
        received, resets, answers = b"", 0, 0
        while resets + answers < 80:
            received += one.socket.recv(65536)
            found, received = h2_frames.split(received)
            resets += sum(type(item).__name__ == "RstStreamFrame" for item in found)
            answers += sum(
                isinstance(item, HeadersFrame) and "END_STREAM" in item.flags for item in found
            )
        one.socket.close()
    assert (answers, resets) == (50, 30)


# ---- readers that do not read ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no window", "no reading", "window but no reading"])
def test_readers_that_do_not_read(strict: ServerProcess, kind: str) -> None:
    """What nobody takes is bounded: by the limit of unread bytes at worst, never by what was asked for."""
    limit = strict.status()["settings"]["grpc"]["max_unread_bytes"]
    before = strict.rss_bytes
    with Neighbour(strict):
        one = Wire(strict, buffer_bytes=4096)
        window = {"no window": 0, "no reading": 65535, "window but no reading": 2**31 - 1}[kind]
        one.send(opening({INITIAL_WINDOW_SIZE: window}))
        if window > 65535:
            one.send(h2_frames.window_update(0, 2**31 - 1 - 65535))
        eventually(
            "it is there", lambda: strict.metric("headrace_connections", protocol="grpc") == 2
        )
        frames = CallFrames()
        one.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            one.send(b"".join(frames.call(BLOB)[1] for _ in range(1000)))
        peak = peak_rss(
            strict,
            "it is cut",
            lambda: strict.metric("headrace_connections", protocol="grpc") <= 1,
            within_s=2 * SWEPT_WITHIN_S,
        )
        one.socket.close()
    assert peak - before < 2 * limit + 32 * BLOB_BYTES, f"{(peak - before) >> 20} MiB"
    assert strict.metric("headrace_inflight_requests") <= 1


def test_a_slow_reader_gets_everything(strict: ServerProcess) -> None:
    """Slow is not stalled: whoever reads on, however slowly, is served."""
    with Neighbour(strict), RawGrpc(strict.grpc, window=65535) as connection:
        began_s = time.monotonic()
        stream = connection.start(infer_message("blob", bytes(4 * 8), [8, 1]))
        while not connection.peek(stream).ended:
            connection.pump()
            time.sleep(2 * LIMIT_S * 65535 / (8 * BLOB_BYTES))
        assert len(connection.peek(stream).reply.raw_output_contents[0]) == 8 * BLOB_BYTES
        assert time.monotonic() - began_s > 2 * LIMIT_S


def test_five_hundred_connections(server: ServerProcess) -> None:
    """Connections without calls cost little, and hold up nobody."""
    before = server.rss_bytes
    with Neighbour(server), contextlib.ExitStack() as stack:
        for _ in range(500):
            one = Wire(server)
            stack.callback(one.socket.close)
            one.send(opening())
        eventually(
            "all are there", lambda: server.metric("headrace_connections", protocol="grpc") > 500
        )
        assert server.rss_bytes - before < 500 * 100 * 1024
