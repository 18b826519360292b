"""Callers that lose interest over gRPC: one member of a batch, a whole connection, thousands by their deadline."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest

from tests.e2e.conftest import StartServer
from tests.support.lanes import (
    cancelled_requests,
    lane,
    occupied,
    slow_message,
    wait_until_idle,
    wait_until_queued,
    wait_until_running,
)
from tests.support.raw_h2 import INFER, RawGrpc, frame, infer_message
from tests.support.served_models import slow_answer, slow_row
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("neighbour")

STORM = 2000
BURST = 500


def _assert_right(connection: RawGrpc, stream: int, first: float) -> None:
    answer = connection.outcome(stream).reply.raw_output_contents[0]
    assert answer == slow_answer(slow_row(first)).tobytes()


def test_while_the_batch_runs(server: ServerProcess, connection: RawGrpc) -> None:
    """One member of a running batch is reset: the others get exactly their own rows."""
    before = cancelled_requests(server)
    with occupied(server):
        streams = [connection.start(slow_message(100.0 * number)) for number in range(4)]
        wait_until_queued(server, 4)
    wait_until_running(server)
    connection.cancel(streams[1])
    for number in (0, 2, 3):
        _assert_right(connection, streams[number], 100.0 * number)
    eventually("the one that left is counted", lambda: cancelled_requests(server) == before + 1)


def test_while_it_waits(server: ServerProcess, connection: RawGrpc) -> None:
    before = cancelled_requests(server)
    with occupied(server):
        streams = [connection.start(slow_message(100.0 * number)) for number in range(5)]
        wait_until_queued(server, 5)
        connection.cancel(streams[0])
        connection.cancel(streams[4])
        wait_until_queued(server, 3)
    assert cancelled_requests(server) == before + 2
    for number in (1, 2, 3):
        _assert_right(connection, streams[number], 100.0 * number)


def test_before_the_message_is_whole(server: ServerProcess, connection: RawGrpc) -> None:
    for size in (0, 3, 20):
        stream = connection.open()
        connection.send(stream, frame(slow_message(1.0))[:size], end_stream=False)
        connection.cancel(stream)
    _assert_right(connection, connection.start(slow_message(7.0)), 7.0)
    assert server.metric("headrace_inflight_bytes") < 4096


def test_after_the_answer(connection: RawGrpc) -> None:
    message = infer_message("identity", bytes(16), [1, 4])
    for _ in range(50):
        stream = connection.start(message)
        connection.cancel(stream)
    assert connection.ask(message).status == 0


def test_a_connection_that_goes_away_takes_its_calls(server: ServerProcess) -> None:
    before = cancelled_requests(server)
    with occupied(server), RawGrpc(server.grpc) as gone, RawGrpc(server.grpc) as stays:
        for number in range(20):
            gone.start(slow_message(float(number)))
        stream = stays.start(slow_message(5.0))
        wait_until_queued(server, 21)
        gone.close()
        wait_until_queued(server, 1)
        _assert_right(stays, stream, 5.0)
    assert cancelled_requests(server) == before + 20
    assert server.metric("headrace_inflight_requests") <= 1


@pytest.mark.parametrize("by", ["deadline", "cancel"])
def test_a_storm_leaves_the_channel_whole(server: ServerProcess, by: str) -> None:
    """Two thousand calls are given up on one channel; libnghttp2 would by default answer that with GOAWAY."""
    wait_until_idle(server)
    quick = infer_message("identity", bytes(16), [1, 4])
    ends = _Ends()
    with grpc.insecure_channel("{}:{}".format(*server.grpc)) as channel:
        infer: Any = channel.unary_unary(INFER)
        states: list[grpc.ChannelConnectivity] = []
        assert infer(quick, timeout=5)
        channel.subscribe(states.append)
        for burst in range(1, STORM // BURST + 1):
            calls = [
                infer.future(
                    slow_message(float(number % 7)),
                    timeout=200 if by == "cancel" else 0.01 + number % 50 / 1000,
                )
                for number in range(BURST)
            ]
            for call in calls:
                call.add_done_callback(ends.add)
            if by == "cancel":
                eventually("most are inside", lambda: _queued(server) > BURST // 2)
                for call in calls:
                    call.cancel()
            eventually("they gave up", lambda: ends.total == burst * BURST, within_s=10)  # noqa: B023
        assert ends.codes <= (
            {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
            if by == "cancel"
            else {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        )
        assert infer(quick, timeout=5)
        assert infer(slow_message(1.0), timeout=10)
        assert set(states) <= {grpc.ChannelConnectivity.READY}, "the server sent a GOAWAY"
    wait_until_idle(server)
    assert server.metric("headrace_inflight_requests") <= 1


def _queued(server: ServerProcess) -> int:
    found: int = lane(server, "slow")["queued_requests"]
    return found


class _Ends:
    """Ends of calls, counted from grpc's own threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0
        self.codes: set[grpc.StatusCode] = set()

    def add(self, call: grpc.Call) -> None:
        with self._lock:
            self.total += 1
            self.codes.add(call.code())


def test_resets_are_allowed_to_who_lets_us_answer(start_server: StartServer) -> None:
    """The limit counts resets against work: a busy channel may cancel as often as its calls end well."""
    server = start_server(grpc__reset_burst=100, grpc__reset_per_s=0.001, grpc__resets_per_answer=1)
    message = infer_message("identity", bytes(16), [1, 4])
    with RawGrpc(server.grpc) as connection:
        for _ in range(400):
            assert connection.ask(message).status == 0
            stream = connection.open()
            connection.cancel(stream)
        assert connection.goaway is None


def test_a_cancelled_call_holds_no_place(server: ServerProcess, connection: RawGrpc) -> None:
    """A thousand streams may be open at once; those given up do not count."""
    with occupied(server):
        for _ in range(4):
            streams = [connection.open() for _ in range(1000)]
            for stream in streams:
                connection.cancel(stream)
        began_s = time.monotonic()
        assert connection.ask(infer_message("identity", bytes(16), [1, 4])).status == 0
        assert time.monotonic() - began_s < 2
