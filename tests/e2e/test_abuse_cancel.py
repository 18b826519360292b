"""Callers that lose interest by the thousand leave nothing behind: no place, no byte, no object.

``test_grpc_cancellation.py`` shows that the channel survives a storm; here the same is done often enough to see a leak.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.floods import MB, cut, dial, endured
from tests.support.h2_frames import CallFrames, data, opening, reset
from tests.support.infer_streams import STREAM
from tests.support.lanes import lane, occupied, wait_until_idle, wait_until_queued
from tests.support.raw_h2 import INFER, frame, infer_message
from tests.support.raw_http import RawHttp, floats_json, post_infer, post_infer_chunked
from tests.support.served_models import SLOW_WIDTH
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

ROW = np.zeros((1, SLOW_WIDTH), np.float32)
SLOW = infer_message("slow", ROW.tobytes(), [1, SLOW_WIDTH])
QUICK = infer_message("identity", bytes(16), [1, 4])
ROUNDS = 6
AT_ONCE = 800
STREAMED = 4
LEAK_BYTES = 1300
"""A forgotten call is larger than this, with its request and its ticket."""


def _grown(server: ServerProcess, storm: Any) -> int:
    """Resident bytes that the later storms took, after the first had their memory."""
    storm()
    storm()
    before = server.rss_bytes
    for _ in range(ROUNDS):
        storm()
    return server.rss_bytes - before


def _unary(calls: CallFrames) -> tuple[int, bytes]:
    return calls.call(frame(SLOW))


def _stream(calls: CallFrames) -> tuple[int, bytes]:
    """A stream with several requests inside that has not come to its end."""
    stream_id, head = calls.headers()
    return stream_id, head + data(stream_id, frame(SLOW) * STREAMED)


@pytest.mark.parametrize(
    ("path", "make", "at_once", "each"),
    [(INFER, _unary, AT_ONCE, 1), (STREAM, _stream, AT_ONCE // STREAMED, STREAMED)],
    ids=["calls", "streams"],
)
def test_cancelled_calls_leave_nothing(
    server: ServerProcess,
    path: str,
    make: Callable[[CallFrames], tuple[int, bytes]],
    at_once: int,
    each: int,
) -> None:
    def storm() -> None:
        calls = CallFrames(path)
        made = [make(calls) for _ in range(at_once)]
        with occupied(server), dial(server.grpc) as connection:
            connection.sendall(opening() + b"".join(call for _, call in made))
            eventually(
                "most are inside",
                lambda: lane(server, "slow")["queued_requests"] > at_once * each // 2,
            )
            connection.sendall(b"".join(reset(stream_id) for stream_id, _ in made))
            wait_until_queued(server, 0)
            cut(connection)

    with endured(server):
        assert _grown(server, storm) < ROUNDS * AT_ONCE * LEAK_BYTES
    wait_until_idle(server)


@pytest.mark.parametrize("make", [post_infer, post_infer_chunked], ids=["lane", "asgi"])
def test_callers_that_hang_up_leave_nothing(server: ServerProcess, make: Any) -> None:
    request = make("slow", floats_json(width=SLOW_WIDTH))
    at_once = AT_ONCE // 2

    def storm() -> None:
        with occupied(server):
            callers = [dial(server.http) for _ in range(at_once)]
            for caller in callers:
                caller.sendall(request)
            eventually(
                "most are inside",
                lambda: lane(server, "slow")["queued_requests"] > at_once // 2,
            )
            for caller in callers:
                cut(caller)
            wait_until_queued(server, 0)
        with RawHttp(server.http) as connection:
            assert connection.ask(post_infer("identity", floats_json())).status == 200

    with endured(server):
        assert _grown(server, storm) < ROUNDS * at_once * 2 * LEAK_BYTES
    wait_until_idle(server)


def test_thousands_of_deadlines_on_one_channel(server: ServerProcess) -> None:
    """grpcio's own client, five thousand deadlines of some milliseconds: calls before, between and after succeed."""
    waiting = threading.Semaphore(0)
    codes: set[grpc.StatusCode] = set()

    def ended(call: Any) -> None:
        codes.add(call.code())
        waiting.release()

    with (
        endured(server, grows_bytes=32 * MB),
        grpc.insecure_channel("{}:{}".format(*server.grpc)) as channel,
    ):
        infer: Any = channel.unary_unary(INFER)
        for _ in range(10):
            for number in range(500):
                call = infer.future(SLOW, timeout=0.002 + number % 20 / 1000)
                call.add_done_callback(ended)
            for _ in range(500):
                assert waiting.acquire(timeout=15), "a call without an end"
            assert infer(QUICK, timeout=10)
        assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}, codes
        assert infer(SLOW, timeout=20)
    wait_until_idle(server)


def test_thousands_of_deadlines_on_a_few_connections(server: ServerProcess) -> None:
    """The same over HTTP: each connection is of use again after each deadline."""
    late = post_infer("slow", floats_json(width=SLOW_WIDTH, parameters={"timeout": 3000}))
    good = post_infer("identity", floats_json())
    with endured(server), ExitStack() as opened:
        callers = [opened.enter_context(RawHttp(server.http)) for _ in range(100)]
        for _ in range(20):
            for caller in callers:
                caller.send(late + good)
            for caller in callers:
                assert caller.receive().status in (200, 503, 504)
                assert caller.receive().status == 200
    eventually("the lane is empty", lambda: lane(server, "slow")["queued_requests"] == 0)
    wait_until_idle(server)
