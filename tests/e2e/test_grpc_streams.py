"""Streams on a real process: given up by thousands, read too slowly, and still open when the server stops."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import repeat
from typing import Any

import grpc
import pytest
from h2.exceptions import StreamClosedError

from tests.e2e.conftest import StartServer
from tests.support.infer_streams import STREAM, answers, read
from tests.support.lanes import (
    cancelled_requests,
    occupied,
    slow_message,
    wait_until_idle,
    wait_until_queued,
)
from tests.support.raw_h2 import (
    DEADLINE_EXCEEDED,
    OK,
    SERVICE,
    UNAVAILABLE,
    RawGrpc,
    frame,
    infer_message,
)
from tests.support.served_models import slow_answer, slow_row
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

STORM = 2000
BURST = 500
MOST_OPEN = 1000
QUICK = infer_message("identity", bytes(16), [1, 4])


def test_messages_of_a_stream_share_a_batch(server: ServerProcess, connection: RawGrpc) -> None:
    with occupied(server):
        stream = connection.open(STREAM)
        connection.send(stream, b"".join(frame(slow_message(10.0 * number)) for number in range(6)))
        wait_until_queued(server, 6)
    outcome = connection.outcome(stream)
    assert outcome.status == OK
    found = [one.infer_response.raw_output_contents[0] for one in answers(outcome.body)]
    assert found == [slow_answer(slow_row(10.0 * number)).tobytes() for number in range(6)]


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_what_waits_goes_with_its_stream(server: ServerProcess, how: str) -> None:
    before = cancelled_requests(server)
    with occupied(server), RawGrpc(server.grpc) as gone, RawGrpc(server.grpc) as stays:
        stream = gone.open(STREAM)
        gone.send(stream, frame(slow_message(1.0)) * 20, end_stream=False)
        other = stays.start(slow_message(5.0))
        wait_until_queued(server, 21)
        if how == "reset":
            gone.cancel(stream)
        else:
            gone.close()
        wait_until_queued(server, 1)
        assert stays.outcome(other).status == OK
    assert cancelled_requests(server) == before + 20
    assert server.metric("headrace_inflight_requests") == 0


class _Ends:
    """Ends of calls, counted from grpc's own threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0
        self.codes: set[grpc.StatusCode] = set()

    def watch(self, call: Any) -> None:
        def ended() -> None:
            with self._lock:
                self.total += 1
                self.codes.add(call.code())

        if not call.add_callback(ended):
            ended()


@pytest.mark.parametrize("by", ["deadline", "cancel"])
def test_a_storm_of_streams_leaves_the_channel_whole(server: ServerProcess, by: str) -> None:
    """Two thousand streams are given up on one channel, each with requests inside."""
    wait_until_idle(server)
    ends = _Ends()
    with RawGrpc(server.grpc) as connection:
        timeouts = [("grpc-timeout", f"{10 + number % 50}m") for number in range(STORM)]
        for burst in range(0, STORM, BURST):
            streams = []
            for number in range(burst, burst + BURST):
                while connection.h2.open_outbound_streams >= MOST_OPEN:
                    connection.pump()  # ended, and not yet reset
                stream = connection.open(STREAM, [timeouts[number]] if by == "deadline" else [])
                with suppress(StreamClosedError):  # its deadline may pass before it has begun
                    connection.send(stream, frame(slow_message(1.0)) * 2, end_stream=False)
                streams.append(stream)
            for stream in streams:
                if by == "cancel":
                    connection.cancel(stream)
                else:
                    assert connection.outcome(stream).status == DEADLINE_EXCEEDED
        assert connection.goaway is None
        assert connection.ask(QUICK).status == OK
    with grpc.insecure_channel("{}:{}".format(*server.grpc)) as channel:
        call: Any = channel.stream_stream(STREAM)
        for number in range(100):
            ends.watch(call(repeat(slow_message(1.0), 2), timeout=0.01 + number / 1000))
        eventually("they gave up", lambda: ends.total == 100, within_s=20)
        assert ends.codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
        assert len(list(call(iter([QUICK, QUICK]), timeout=20))) == 2
    wait_until_idle(server)
    assert server.metric("headrace_inflight_requests") == 0
    assert server.metric("headrace_inflight_bytes") == 0


def test_a_stream_that_is_not_read_costs_little(server: ServerProcess) -> None:
    """Its peer may not send on, so neither side's memory grows; others are served."""
    rows = 4096
    message = frame(infer_message("identity", bytes(16 * rows), [rows, 4]))
    with RawGrpc(server.grpc, window=0, grants=False) as mute, RawGrpc(server.grpc) as other:
        stream = mute.open(STREAM)
        assert other.ask(QUICK).status == OK
        before = server.rss_bytes
        sent = 0
        while mute.h2.local_flow_control_window(stream) >= len(message) and sent < 2000:
            mute.send(stream, message, end_stream=False)
            mute.ask(b"", SERVICE + "NoSuchMethod")  # reads what the server grants
            sent += 1
        assert sent < 200, "it may send for ever"
        assert server.rss_bytes - before < 64 * 1024 * 1024
        assert other.ask(QUICK).status == OK
    eventually("nothing is held", lambda: server.metric("headrace_inflight_bytes") == 0)


def _answered_once(connection: RawGrpc) -> int:
    """A stream that has had its first answer and is still open."""
    stream = connection.open(STREAM)
    connection.send(stream, frame(QUICK), end_stream=False)
    read(connection, stream, 1)
    return stream


def test_an_open_stream_is_finished_before_the_server_stops(start_server: StartServer) -> None:
    server = start_server(drain__delay_s=0.1)
    with RawGrpc(server.grpc) as connection:
        stream = _answered_once(connection)
        server.terminate()
        while connection.last_stream_id == 2**31 - 1:
            connection.pump()  # until the final GOAWAY
        connection.send(stream, frame(QUICK))
        outcome = connection.outcome(stream)
        assert outcome.status == OK
        first, second = answers(outcome.body)
        assert first == second
        connection.pump_until_closed()
    assert server.wait() == 0
    server.forget()


def test_a_stream_on_which_nothing_is_asked_does_not_hold_up_the_stop(
    start_server: StartServer,
) -> None:
    server = start_server(drain__delay_s=0.1, drain__timeout_s=600)
    with RawGrpc(server.grpc) as connection:
        stream = _answered_once(connection)
        server.terminate()
        outcome = connection.outcome(stream)
        assert outcome.status == UNAVAILABLE
        assert outcome.body, "what was answered has arrived"
        connection.pump_until_closed()
    assert server.wait() == 0
    server.forget()


def test_a_stream_that_never_ends_is_cut(start_server: StartServer) -> None:
    server = start_server(drain__delay_s=0.1, drain__timeout_s=0.5)
    with RawGrpc(server.grpc) as connection:
        _answered_once(connection)
        server.terminate()
        connection.pump_until_closed()
    server.wait()
    server.forget()
