"""``ModelStreamInfer`` on our front, with a service that answers when the test says so."""

from __future__ import annotations

import gzip

import pytest

from gateway.errors import ErrorCode, HeadraceError
from protos.inference import ModelInferRequest
from tests.support.grpc_in_thread import GrpcInThread
from tests.support.infer_streams import ROW, STREAM, STRICT, answers, ask, asks, ids, read, wrong
from tests.support.raw_h2 import (
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    RawGrpc,
    frame,
    infer_message,
)

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
