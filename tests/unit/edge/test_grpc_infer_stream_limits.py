"""How far the peer of a ``ModelStreamInfer`` may go, and how its streams end."""

from __future__ import annotations

import gc

import pytest

from gateway.edge.grpc_infer_stream import InferStream, StreamedCall
from gateway.settings import GrpcLimits
from tests.support.grpc_in_thread import GrpcInThread
from tests.support.infer_streams import ROW, STREAM, answers, ask, asks, ids, read
from tests.support.raw_h2 import (
    DEADLINE_EXCEEDED,
    OK,
    SERVICE,
    RawGrpc,
    frame,
    infer_message,
)
from tests.support.waiting import eventually


def alive() -> int:
    """Streams and their calls that anybody still holds."""
    return sum(type(one) in (InferStream, StreamedCall) for one in gc.get_objects())


# -- limits ---------------------------------------------------------------------------------------


def test_only_so_many_requests_of_a_stream_are_inside(
    front: GrpcInThread, connection: RawGrpc
) -> None:
    front.holds = True
    stream = connection.open(STREAM)
    connection.send(stream, asks(30))
    for number in range(30):
        front.until_held(min(30, number + 8))
        assert len(front.held) - number <= 8
        front.settle(number)
    outcome = connection.outcome(stream)
    assert ids(outcome.body) == [str(number) for number in range(30)]
    assert outcome.status == OK


def test_who_is_not_answered_may_not_send_on() -> None:
    """The window of a stream that waits is not opened again, so the peer has to wait, too; then it goes on."""
    limits = GrpcLimits(max_stream_requests=2, stream_window_bytes=65535)
    with GrpcInThread(limits) as front, RawGrpc(front.address) as connection:
        front.holds = True
        stream = connection.open(STREAM)
        assert connection.ask(b"", SERVICE + "ServerLive").status == OK  # our settings have arrived
        wire = asks(2000)
        sent = 0
        while window := min(connection.h2.local_flow_control_window(stream), 16384):
            connection.send(stream, wire[sent : sent + window], end_stream=False)
            sent += window
            assert connection.ask(b"", SERVICE + "ServerLive").status == OK
            assert sent < 70_000
        assert len(front.held) == 2
        assert front.admission.bytes_inside < 70_000
        front.holds = False
        front.settle(0)
        front.settle(1)
        connection.send(stream, wire[sent:])
        assert ids(connection.outcome(stream).body) == [str(number) for number in range(2000)]
        assert front.admission.bytes_inside == 0


def test_who_does_not_read_is_not_listened_to() -> None:
    limits = GrpcLimits(stream_window_bytes=65535)
    rows = 500
    message = frame(infer_message("identity", bytes(16 * rows), [rows, 4]))
    with (
        GrpcInThread(limits) as front,
        RawGrpc(front.address, window=1000, grants=False) as connection,
    ):
        stream = connection.open(STREAM)
        assert connection.ask(b"", SERVICE + "ServerLive").status == OK
        sent = 0
        while connection.h2.local_flow_control_window(stream) >= len(message):
            connection.send(stream, message, end_stream=False)
            sent += 1
            assert connection.ask(b"", SERVICE + "ServerLive").status == OK
            assert sent < 100
        assert front.counted["ok"] < sent, "it went on without being read"
        connection.h2.increment_flow_control_window(2**30, stream)
        connection.h2.increment_flow_control_window(2**30)
        connection.send(stream, message)
        outcome = connection.outcome(stream)
        assert outcome.status == OK
        assert len(answers(outcome.body)) == sent + 1


def test_a_flood_of_empty_messages_is_answered_in_turns(
    front: GrpcInThread, connection: RawGrpc
) -> None:
    stream = connection.open(STREAM)
    other = connection.open()
    connection.send(stream, frame(b"") * 3000, end_stream=False)
    connection.send(other, frame(infer_message("identity", ROW, [1, 4])))
    connection.send(stream, b"")
    assert connection.outcome(other).status == OK
    found = answers(connection.outcome(stream).body)
    assert len(found) == 3000
    assert all(one.error_message for one in found)


# -- ends -----------------------------------------------------------------------------------------


def test_the_deadline_of_a_stream_ends_it(front: GrpcInThread, connection: RawGrpc) -> None:
    front.holds = True
    stream = connection.open(STREAM, [("grpc-timeout", "200m")])
    connection.send(stream, ask("a") + ask("b", timeout_us=10**9), end_stream=False)
    outcome = connection.outcome(stream)
    assert outcome.status == DEADLINE_EXCEEDED
    front.until("both are cancelled", lambda: all(one.cancelled for one in front.held))
    assert len({one.request.deadline_s for one in front.held}) == 1, "the earlier deadline counts"
    assert front.counted == {"cancelled": 2}


def test_a_status_waits_for_a_shut_window(front: GrpcInThread) -> None:
    """The peer still sends, so it is reset, but not before it could read the status."""
    with RawGrpc(front.address) as probe:
        stream = probe.open(STREAM)
        probe.send(stream, ask("a"))
        size = len(probe.outcome(stream).body)
    with RawGrpc(front.address, window=size, grants=False) as connection:
        stream = connection.open(STREAM, [("grpc-timeout", "300m")])
        connection.send(stream, ask("a"), end_stream=False)
        while len(connection.peek(stream).body) < size:
            connection.pump()
        eventually("the deadline has passed", lambda: front.open_calls[0].answered)
        front.sweep()
        assert not connection.peek(stream).ended
        connection.h2.increment_flow_control_window(1000, stream)
        connection.flush()
        assert connection.ask(b"", SERVICE + "ServerLive").status == OK
        front.sweep()
        assert connection.outcome(stream).status == DEADLINE_EXCEEDED
        assert front.open_calls == []


def test_each_request_has_its_own_deadline(front: GrpcInThread, connection: RawGrpc) -> None:
    front.holds = True
    stream = connection.open(STREAM, [("grpc-timeout", "1H")])
    connection.send(stream, ask("a", timeout_us=5_000_000) + ask("b"))
    front.until_held(2)
    first, second = (one.request.deadline_s - one.request.received_s for one in front.held)
    assert first == pytest.approx(5.0)
    assert 3000 < second < 3600.1
    front.settle(0)
    front.settle(1)
    assert connection.outcome(stream).status == OK


def test_a_cancelled_stream_leaves_nothing(front: GrpcInThread, connection: RawGrpc) -> None:
    front.holds = True
    stream = connection.open(STREAM, [("grpc-timeout", "1H")])
    connection.send(stream, asks(20) + ask("x")[:50], end_stream=False)
    front.until_held(8)
    assert alive() == 9
    connection.cancel(stream)
    front.until("all are cancelled", lambda: all(one.cancelled for one in front.held))
    front.held.clear()
    assert front.open_calls == []
    front.run(gc.collect)
    assert alive() == 0
    assert front.admission.bytes_inside == 0
    assert front.counted == {"cancelled": 8}


def test_a_lost_connection_cancels(front: GrpcInThread) -> None:
    front.holds = True
    with RawGrpc(front.address) as gone:
        stream = gone.open(STREAM)
        gone.send(stream, asks(20), end_stream=False)
        front.until_held(8)
    front.until("all are cancelled", lambda: all(one.cancelled for one in front.held))
    assert len(front.held) == 8, "nothing of the rest was begun"


def test_a_message_that_does_not_go_on(front: GrpcInThread, connection: RawGrpc) -> None:
    """An idle stream may live for ever; one in the middle of a message may not."""
    idle, stalled = connection.open(STREAM), connection.open(STREAM)
    connection.send(idle, ask("a"), end_stream=False)
    connection.send(stalled, ask("b")[:-1], end_stream=False)
    assert connection.ask(b"", SERVICE + "ServerLive").status == OK
    front.sweep(lambda now: now + 119)
    front.sweep(lambda now: now + 121)
    assert connection.outcome(stalled).status == DEADLINE_EXCEEDED
    connection.send(idle, ask("c"))
    assert ids(connection.outcome(idle).body) == ["a", "c"]


def test_a_server_that_leaves_lets_streams_finish(front: GrpcInThread, connection: RawGrpc) -> None:
    stream = connection.open(STREAM)
    connection.send(stream, ask("a"), end_stream=False)
    read(connection, stream, 1)
    front.run(lambda: (front.front.drain(), front.front.refuse_new_streams()))
    connection.send(stream, ask("b"))
    outcome = connection.outcome(stream)
    assert ids(outcome.body) == ["a", "b"]
    assert outcome.status == OK
    connection.pump_until_closed()
    assert connection.goaway == 0
