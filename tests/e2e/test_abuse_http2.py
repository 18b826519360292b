"""HTTP/2 peers that drip, stall, come and go; each is bounded or cut, and somebody else is served meanwhile.

``test_abuse_http2_floods.py`` and ``test_grpc_connections.py`` have the louder ones.
"""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections.abc import Iterable

import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame

from tests.e2e.conftest import StartServer
from tests.support import h2_frames
from tests.support.floods import MB, cut, dial, endured, open_files, pour
from tests.support.h2_frames import CallFrames, frames_of, opening
from tests.support.neighbour import Neighbour
from tests.support.raw_h2 import PREFACE, frame, infer_message
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

INITIAL_WINDOW_SIZE = 4
LIMIT_S = 1
SWEPT_WITHIN_S = 6.0
CHURN = 10_000

IDENTITY = frame(infer_message("identity", bytes(16), [1, 4]))
SLOW = frame(infer_message("slow", bytes(256), [1, 64]))
BLOB = frame(infer_message("blob", bytes(4), [1, 1]))


# ---- windows ---------------------------------------------------------------------------------------


def test_windows_that_open_and_shut(server: ServerProcess) -> None:
    """SETTINGS that change the window of a thousand open streams, back and forth."""
    calls = CallFrames()
    toggle = h2_frames.settings({INITIAL_WINDOW_SIZE: 65535}) + h2_frames.settings(
        {INITIAL_WINDOW_SIZE: 0}
    )
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening() + b"".join(calls.headers()[1] for _ in range(1000)))
        was_cut, _ = pour(connection, lambda: toggle * 100, 200 * MB)
        assert was_cut


def test_an_answer_taken_byte_by_byte(server: ServerProcess) -> None:
    """A window of one byte, opened again and again, buys one small frame for each read of ours."""
    stream_id, call = CallFrames().call(BLOB)
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening({INITIAL_WINDOW_SIZE: 0}) + call)
        eventually("the answer waits", lambda: server.metric("headrace_inflight_requests") <= 1)
        _, heard = pour(
            connection, lambda: h2_frames.window_update(stream_id, 1) * 50, 4 * MB, listens_s=0.1
        )
        cut(connection)
    sizes = [len(one.data) for one in frames_of(heard) if isinstance(one, DataFrame)]
    assert sum(sizes) <= 4 * MB // 13


def _listen(connection: socket.socket, within_s: float) -> tuple[bool, bytes]:
    """All that is said until the end, without answering a single frame."""
    heard = b""
    connection.settimeout(within_s)
    until_s = time.monotonic() + within_s
    try:
        while time.monotonic() < until_s:
            data = connection.recv(65536)
            if not data:
                return True, heard
            heard += data
    except ConnectionError:
        return True, heard
    except TimeoutError:
        pass
    return False, heard


# ---- drips and stalls -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(start_server: StartServer) -> ServerProcess:
    """A server without patience."""
    return start_server(
        grpc__preface_timeout_s=LIMIT_S,
        grpc__message_timeout_s=LIMIT_S,
        grpc__write_stall_timeout_s=LIMIT_S,
        grpc__keepalive_time_s=30,
    )


def test_a_preface_that_drips(strict: ServerProcess) -> None:
    """However steadily it drips: the opening of a connection has a limited time."""
    first = PREFACE + bytes(9)
    with endured(strict), dial(strict.grpc) as connection:
        _drip(connection, itertools.chain(first[:-4], itertools.repeat(0)))


def test_a_message_that_drips(strict: ServerProcess) -> None:
    stream_id, head = CallFrames().headers()
    announced = b"\0" + (1000).to_bytes(4, "big")
    with endured(strict), dial(strict.grpc) as connection:
        connection.sendall(opening() + head + h2_frames.data(stream_id, announced))
        until_s = time.monotonic() + SWEPT_WITHIN_S
        heard = b""
        connection.settimeout(0.05)
        while time.monotonic() < until_s and not _has_ended(heard):
            connection.sendall(h2_frames.data(stream_id, b"\0"))
            try:
                heard += connection.recv(65536)
            except TimeoutError:
                continue
        assert _has_ended(heard)
        cut(connection)


def _has_ended(heard: bytes) -> bool:
    return any(
        isinstance(one, HeadersFrame) and "END_STREAM" in one.flags for one in frames_of(heard)
    )


def _drip(connection: socket.socket, pieces: Iterable[int]) -> None:
    """One byte every twentieth of a second, until the server has enough."""
    until_s = time.monotonic() + SWEPT_WITHIN_S
    try:
        for byte in pieces:
            connection.sendall(bytes([byte]))
            assert time.monotonic() < until_s, "it drips for ever"
            time.sleep(0.05)
    except ConnectionError:
        return


@pytest.mark.parametrize("window", ["of the stream", "of the connection"])
def test_windows_that_stay_shut(strict: ServerProcess, window: str) -> None:
    """Answers that may not be sent wait within the limit, and not for ever."""
    calls = CallFrames()
    first = opening({INITIAL_WINDOW_SIZE: 0 if window == "of the stream" else 2**31 - 1})
    with Neighbour(strict), dial(strict.grpc) as connection:
        connection.sendall(first + b"".join(calls.call(BLOB)[1] for _ in range(8)))
        was_cut, heard = _listen(connection, SWEPT_WITHIN_S)
        assert was_cut
        told = sum(len(one.data) for one in frames_of(heard) if isinstance(one, DataFrame))
        assert told == (0 if window == "of the stream" else 65535)


def test_headers_that_drip_hold_one_connection_and_no_more(strict: ServerProcess) -> None:
    """Headers that never end are worth an idle connection: nothing was ordered yet, and their size is bounded."""
    with endured(strict, grows_bytes=8 * MB):
        slow = [dial(strict.grpc) for _ in range(100)]
        for connection in slow:
            connection.sendall(opening() + HeadersFrame(1, data=b"").serialize())
        for _ in range(20):
            for connection in slow:
                connection.sendall(ContinuationFrame(1, data=b"").serialize())
        assert strict.metric("headrace_inflight_requests") <= 1
        for connection in slow:
            cut(connection)


# ---- connections that come, go and vanish ----------------------------------------------------------


def test_peers_that_close_one_half(server: ServerProcess) -> None:
    """A whole call and then FIN: what is cancelled is cancelled wholly, whatever the peer still reads."""
    with endured(server):
        for message in (IDENTITY, SLOW) * 20:
            with dial(server.grpc) as connection:
                connection.sendall(opening() + CallFrames().call(message)[1])
                connection.shutdown(1)
                was_cut, _ = _listen(connection, SWEPT_WITHIN_S)
                assert was_cut


def _churn(server: ServerProcess, times: int) -> None:
    whole = opening() + CallFrames().call(IDENTITY)[1]
    most = open_files(server) + 64
    for number in range(times):
        with dial(server.grpc) as connection:
            kind = number % 5
            if kind < 2:
                connection.sendall(whole)
                heard = b""
                while not _has_ended(heard):
                    heard += connection.recv(4096)
            else:
                connection.sendall(whole[: (kind - 2) * len(whole) // 3])
            cut(connection)
        if number % 1000 == 999:
            eventually("they are let go", lambda: open_files(server) < most, within_s=10)


def test_ten_thousand_connections_come_and_go(server: ServerProcess) -> None:
    """Some ask and wait, some say nothing, some stop in the middle: none leaves anything behind."""
    with endured(server):
        _churn(server, CHURN)


# ---- chance ----------------------------------------------------------------------------------------


def _damaged(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(24, len(data))
        if chance.random() < 0.5:
            data[at] = chance.randrange(256)
        elif chance.random() < 0.5:
            del data[at]
        else:
            data.insert(at, chance.randrange(256))
    return bytes(data)


def test_calls_with_damaged_bytes(server: ServerProcess) -> None:
    chance = random.Random(7)
    calls = CallFrames()
    good = opening() + b"".join(calls.call(IDENTITY)[1] for _ in range(5))
    with endured(server):
        for number in range(400):
            with dial(server.grpc) as connection:
                data = (
                    PREFACE + chance.randbytes(200) if number % 4 == 0 else _damaged(good, chance)
                )
                try:
                    connection.sendall(data)
                    connection.shutdown(1)
                    connection.recv(4096)
                except ConnectionError:
                    continue
