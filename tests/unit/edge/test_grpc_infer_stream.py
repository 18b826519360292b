"""``ModelStreamInfer`` on our front, with a service that answers when the test says so."""

from __future__ import annotations

import gc
import gzip
from collections.abc import Iterator

import pytest

from gateway.edge.grpc_infer_stream import InferStream, StreamedCall
from gateway.errors import ErrorCode, HeadraceError
from gateway.settings import GrpcLimits
from protos.inference import ModelInferRequest, ModelStreamInferResponse
from tests.support.grpc_in_thread import GrpcInThread
from tests.support.raw_h2 import (
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    SERVICE,
    UNAVAILABLE,
    UNIMPLEMENTED,
    RawGrpc,
    frame,
    infer_message,
)from tests.support.waiting import eventually

STREAM = SERVICE + "ModelStreamInfer"
ROW = bytes(range(16))
INTERNAL = 13
RESOURCE_EXHAUSTED = 8
STRICT = [("triton_grpc_error", "true")]


def ask(request_id: str, *, timeout_us: int | None = None) -> bytes:
    message = infer_message("identity", ROW, [1, 4], request_id=request_id, timeout_us=timeout_us)
    return frame(message)


def asks(count: int, first: int = 0) -> bytes:
    return b"".join(ask(str(number)) for number in range(first, first + count))


def wrong(request_id: str) -> bytes:
    return frame(infer_message("identity", ROW, [1, 4], name="z", request_id=request_id))


def answers(body: bytes) -> list[ModelStreamInferResponse]:
    found = []
    while body:
        assert body[0] == 0
        end = 5 + int.from_bytes(body[1:5], "big")
        assert end <= len(body)
        found.append(ModelStreamInferResponse.FromString(body[5:end]))
        body = body[end:]
    return found


def ids(body: bytes) -> list[str]:
    return [one.infer_response.id for one in answers(body)]


def read(connection: RawGrpc, stream: int, count: int) -> list[ModelStreamInferResponse]:
    """The first so many answers of a stream that goes on."""
    while len(whole := _whole(connection.peek(stream).body)) < count:
        assert not connection.peek(stream).ended, connection.peek(stream)
        connection.pump()
    return whole


def _whole(body: bytes) -> list[ModelStreamInferResponse]:
    end = 0
    while len(body) - end >= 5 and len(body) - end >= (
        size := 5 + int.from_bytes(body[end + 1 : end + 5], "big")
    ):
        end += size
    return answers(body[:end])


def alive() -> int:
    """Streams and their calls that anybody still holds."""
    return sum(type(one) in (InferStream, StreamedCall) for one in gc.get_objects())


@pytest.fixture
def front() -> Iterator[GrpcInThread]:
    with GrpcInThread(GrpcLimits(max_stream_requests=8, max_message_bytes=1024 * 1024)) as running:
        yield running


@pytest.fixture
def connection(front: GrpcInThread) -> Iterator[RawGrpc]:
    with RawGrpc(front.address) as one:
        yield one


# -- answers --------------------------------------------------------------------------------------


def test_every_request_has_its_answer(front: GrpcInThread, connection: RawGrpc) -> None:
    stream = connection.open(STREAM)
    connection.send(stream, asks(100))
    outcome = connection.outcome(stream)
    assert outcome.status == OK
    assert ids(outcome.body) == [str(number) for number in range(100)]
    one = answers(outcome.body)[7]
    assert one.error_message == ""
    assert one.infer_response.raw_output_contents == [ROW]
    assert front.counted == {"ok": 100}


def test_the_answer_comes_before_the_next_request(connection: RawGrpc) -> None:
    stream = connection.open(STREAM)
    for number in range(3):
        connection.send(stream, ask(str(number)), end_stream=False)
        assert read(connection, stream, number + 1)[-1].infer_response.id == str(number)
    connection.send(stream, b"")
    assert connection.outcome(stream).status == OK


@pytest.mark.parametrize("sliced", [1, 7, 64, 1000])
def test_messages_may_be_split_and_joined(connection: RawGrpc, sliced: int) -> None:
    wire = asks(6)
    stream = connection.open(STREAM)
    for at in range(0, len(wire), sliced):
        connection.send(stream, wire[at : at + sliced], end_stream=False)
    connection.send(stream, b"")
    assert ids(connection.outcome(stream).body) == list("012345")


def test_answers_go_out_in_the_order_of_the_requests(
    front: GrpcInThread, connection: RawGrpc
) -> None:
    front.holds = True
    stream = connection.open(STREAM)
    connection.send(stream, asks(4))
    front.until_held(4)
    for number in (2, 0, 3, 1):
        front.settle(number)
    outcome = connection.outcome(stream)
    assert ids(outcome.body) == list("0123")
    assert outcome.status == OK


def test_a_stream_may_say_nothing(connection: RawGrpc) -> None:
    stream = connection.open(STREAM, end_stream=True)
    outcome = connection.outcome(stream)
    assert (outcome.status, outcome.body) == (OK, b"")


@pytest.mark.parametrize("asked", [True, False, None])
def test_the_last_response_is_marked_for_who_asks(connection: RawGrpc, asked: bool | None) -> None:
    request = ModelInferRequest.FromString(infer_message("identity", ROW, [1, 4]))
    if asked is not None:
        request.parameters["triton_enable_empty_final_response"].bool_param = asked
    stream = connection.open(STREAM)
    connection.send(stream, frame(request.SerializeToString()))
    (only,) = answers(connection.outcome(stream).body)
    marked = only.infer_response.parameters
    assert ("triton_final_response" in marked) == bool(asked)
    if asked:
        assert marked["triton_final_response"].bool_param
    assert only.infer_response.raw_output_contents == [ROW]


# -- errors ---------------------------------------------------------------------------------------


def test_an_error_is_said_in_the_stream_which_goes_on(
    front: GrpcInThread, connection: RawGrpc
) -> None:
    stream = connection.open(STREAM)
    connection.send(stream, ask("a") + wrong("b") + frame(b"\xff\xff") + ask("c"))
    outcome = connection.outcome(stream)
    assert outcome.status == OK
    found = answers(outcome.body)
    assert [one.infer_response.id for one in found] == ["a", "b", "", "c"]
    assert [bool(one.error_message) for one in found] == [False, True, True, False]
    assert "'z'" in found[1].error_message
    assert front.counted == {"ok": 2, "invalid_argument": 2}


def test_an_error_of_the_model_keeps_its_place(front: GrpcInThread, connection: RawGrpc) -> None:
    front.holds = True
    stream = connection.open(STREAM)
    connection.send(stream, asks(3))
    front.until_held(3)
    front.settle(1, HeadraceError(ErrorCode.OVERLOADED, "too much"))
    front.settle(2)
    front.settle(0)
    found = answers(connection.outcome(stream).body)
    assert [(one.infer_response.id, one.error_message) for one in found] == [
        ("0", ""),
        ("1", "too much"),
        ("2", ""),
    ]


def test_with_triton_grpc_error_the_stream_ends(front: GrpcInThread, connection: RawGrpc) -> None:
    """What was asked before the error is answered; what came after it is not."""
    front.holds = True
    stream = connection.open(STREAM, STRICT)
    connection.send(stream, asks(4), end_stream=False)
    front.until_held(4)
    front.settle(1, HeadraceError(ErrorCode.OVERLOADED, "too much", retry_after_s=2.0))
    front.settle(2)
    front.settle(0)
    outcome = connection.outcome(stream)
    assert (outcome.status, outcome.message) == (UNAVAILABLE, "too much")
    assert ids(outcome.body) == ["0"]
    front.until("the last one is cancelled", lambda: front.held[3].cancelled)
    assert outcome.headers["grpc-retry-pushback-ms"] == "2000"
    assert front.open_calls == []


def test_without_an_answer_the_status_comes_alone(connection: RawGrpc) -> None:
    stream = connection.open(STREAM, STRICT)
    connection.send(stream, wrong("a"), end_stream=False)
    outcome = connection.outcome(stream)
    assert (outcome.status, outcome.body) == (INVALID_ARGUMENT, b"")
    assert connection.ask(infer_message("identity", ROW, [1, 4])).status == OK


def test_a_message_that_is_cut_short(connection: RawGrpc) -> None:
    stream = connection.open(STREAM)
    connection.send(stream, ask("a") + ask("b")[:-1])
    outcome = connection.outcome(stream)
    assert outcome.status == INVALID_ARGUMENT
    assert "complete" in outcome.message
    assert ids(outcome.body) == ["a"]


def test_a_message_that_is_too_large(front: GrpcInThread, connection: RawGrpc) -> None:
    front.holds = True
    stream = connection.open(STREAM)
    connection.send(stream, ask("a") + frame(b"", length=1024 * 1024 + 1), end_stream=False)
    outcome = connection.outcome(stream)
    assert outcome.status == RESOURCE_EXHAUSTED
    assert "1048576" in outcome.message
    front.until("what was inside is cancelled", lambda: front.held[0].cancelled)


def test_an_unknown_encoding(connection: RawGrpc) -> None:
    stream = connection.open(STREAM, [("grpc-encoding", "br")])
    assert connection.outcome(stream).status == UNIMPLEMENTED


# -- compression ----------------------------------------------------------------------------------


def test_each_message_may_be_compressed(connection: RawGrpc) -> None:
    small = gzip.compress(ask("small")[5:])
    rows = 40_000  # expands beyond what the loop does itself
    wide = infer_message("identity", bytes(16 * rows), [rows, 4], request_id="wide")
    large = gzip.compress(wide, compresslevel=0)
    stream = connection.open(STREAM, [("grpc-encoding", "gzip")])
    wire = frame(small, flag=1) + frame(large, flag=1) + ask("plain")
    connection.send(stream, wire + frame(b"not gzip", flag=1))
    outcome = connection.outcome(stream)
    found = answers(outcome.body)
    assert [one.infer_response.id for one in found] == ["small", "wide", "plain", ""]
    assert len(found[1].infer_response.raw_output_contents[0]) == 16 * rows
    assert "gzip" in found[3].error_message
    assert outcome.status == OK


def test_a_compressed_message_on_a_plain_stream(connection: RawGrpc) -> None:
    stream = connection.open(STREAM)
    connection.send(stream, frame(gzip.compress(b"x"), flag=1), end_stream=False)
    assert connection.outcome(stream).status == INTERNAL


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
