"""gRPC calls that are wrong: each gets its status, and the connection and everybody else go on."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

import h2.exceptions
import numpy as np
import pytest

from protos.inference import ModelInferRequest
from tests.e2e.conftest import StartServer
from tests.support import raw_h2
from tests.support.neighbour import Neighbour, ask_grpc
from tests.support.raw_h2 import (
    INVALID_ARGUMENT,
    SERVICE,
    UNIMPLEMENTED,
    Outcome,
    RawGrpc,
    frame,
    infer_message,
)
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("neighbour")

ROW = np.arange(4, dtype=np.float32)
MESSAGE = infer_message("identity", ROW.tobytes(), [1, 4])
GZIP = [("grpc-encoding", "gzip")]
SMALL_LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def small(start_server: StartServer) -> ServerProcess:
    """A server that takes messages of 64 KiB at most."""
    return start_server(grpc__max_message_bytes=SMALL_LIMIT)


def _send(
    connection: RawGrpc, data: bytes, headers: raw_h2.Fields = (), path: str = raw_h2.INFER
) -> Outcome:
    stream = connection.open(path, headers)
    connection.send(stream, data)
    return connection.outcome(stream)


def _assert_refused(outcome: Outcome, words: str, status: int = INVALID_ARGUMENT) -> None:
    assert outcome.http_status == 200, outcome
    assert outcome.status == status, outcome
    assert words in outcome.message, outcome
    assert not outcome.body


# ---- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "headers", "words"),
    [
        (b"", [], "before its message was complete"),
        (b"\0\0\0", [], "before its message was complete"),
        (frame(MESSAGE)[:-1], [], "before its message was complete"),
        (frame(MESSAGE, length=len(MESSAGE) + 1), [], "before its message was complete"),
        (frame(MESSAGE, length=len(MESSAGE) - 1), [], "exactly one message"),
        (frame(MESSAGE, length=0), [], "exactly one message"),
        (frame(MESSAGE) * 2, [], "exactly one message"),
        (frame(MESSAGE) + b"\0", [], "exactly one message"),
        (frame(MESSAGE, flag=1), GZIP, "not valid gzip"),
        (frame(b"", flag=1), GZIP, "ends too early"),
        (frame(gzip.compress(MESSAGE)[:-3], flag=1), GZIP, "ends too early"),
        (frame(gzip.compress(MESSAGE) + b"!", flag=1), GZIP, "follow the end"),
        (frame(b"\xff" * 50), [], "does not parse"),
        (frame(MESSAGE[:-1]), [], "does not parse"),
    ],
)
def test_broken_message(
    server: ServerProcess, data: bytes, headers: raw_h2.Fields, words: str
) -> None:
    with RawGrpc(server.grpc) as connection:
        _assert_refused(_send(connection, data, headers), words)
        ask_grpc(connection)


@pytest.mark.parametrize(
    ("flag", "headers"),
    [(1, []), (1, [("grpc-encoding", "identity")]), (2, GZIP), (255, [])],
)
def test_a_message_that_is_compressed_nobody_knows_how(
    server: ServerProcess, flag: int, headers: raw_h2.Fields
) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = _send(connection, frame(MESSAGE, flag=flag), headers)
        _assert_refused(outcome, "does not say how", raw_h2.INTERNAL)
        ask_grpc(connection)


def test_no_message_at_all(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        stream = connection.open(end_stream=True)
        _assert_refused(connection.outcome(stream), "before its message was complete")
        ask_grpc(connection)


def test_an_empty_message_means_no_model(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = connection.ask(b"")
        assert outcome.status == raw_h2.NOT_FOUND
        ask_grpc(connection)


def test_a_message_in_pieces(server: ServerProcess) -> None:
    data = frame(MESSAGE)
    with RawGrpc(server.grpc) as connection:
        for size in (1, 3, 7):
            stream = connection.open()
            for start in range(0, len(data), size):
                connection.send(stream, data[start : start + size], end_stream=False)
            connection.send(stream, b"")
            assert connection.outcome(stream).reply.raw_output_contents[0] == ROW.tobytes()


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages(
    server: ServerProcess, name: str, pack: Callable[[bytes], bytes]
) -> None:
    encoding = [("grpc-encoding", name)]
    with RawGrpc(server.grpc) as connection:
        outcome = _send(connection, frame(pack(MESSAGE), flag=1), encoding)
        assert outcome.reply.raw_output_contents[0] == ROW.tobytes()
        outcome = _send(connection, frame(MESSAGE), encoding)
        assert outcome.reply.raw_output_contents[0] == ROW.tobytes(), "not compressed after all"


@pytest.mark.parametrize("length", [SMALL_LIMIT + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_the_message(
    small: ServerProcess, length: int
) -> None:
    with RawGrpc(small.grpc) as connection:
        stream = connection.open()
        connection.send(stream, frame(b"", length=length), end_stream=False)
        words = f"at most {SMALL_LIMIT}"
        _assert_refused(connection.outcome(stream), words, raw_h2.RESOURCE_EXHAUSTED)
        ask_grpc(connection)


def test_a_message_over_the_limit(small: ServerProcess) -> None:
    """The refusal comes while the client still sends, and the connection lives on."""
    message = infer_message("wide", bytes(SMALL_LIMIT), [1, SMALL_LIMIT // 4])
    with RawGrpc(small.grpc) as connection:
        stream = connection.open()
        with suppress(h2.exceptions.StreamClosedError):  # told in the middle of it
            connection.send(stream, frame(message))
        words = f"at most {SMALL_LIMIT}"
        _assert_refused(connection.outcome(stream), words, raw_h2.RESOURCE_EXHAUSTED)
        ask_grpc(connection)


def test_exactly_the_limit_is_taken(small: ServerProcess) -> None:
    width = SMALL_LIMIT // 4 - 100
    without_id = infer_message("wide", bytes(4 * width), [1, width])
    spare = SMALL_LIMIT - len(without_id) - 3  # the id's tag and length
    with RawGrpc(small.grpc) as connection:
        for longer, status in ((0, raw_h2.OK), (1, raw_h2.RESOURCE_EXHAUSTED)):
            request_id = "x" * (spare + longer)
            message = infer_message("wide", bytes(4 * width), [1, width], request_id=request_id)
            assert len(message) == SMALL_LIMIT + longer
            assert connection.ask(message).status == status


def test_a_message_that_expands_over_the_limit(small: ServerProcess) -> None:
    bomb = gzip.compress(bytes(50 * 1024 * 1024), 9)
    assert len(bomb) < SMALL_LIMIT
    before = small.rss_bytes
    with RawGrpc(small.grpc) as connection:
        for _ in range(5):
            outcome = _send(connection, frame(bomb, flag=1), GZIP)
            _assert_refused(outcome, "larger than", raw_h2.RESOURCE_EXHAUSTED)
        ask_grpc(connection)
    assert small.rss_bytes - before < 16 * 1024 * 1024


def test_bombs_do_not_hold_the_loop(server: ServerProcess) -> None:
    bomb = frame(gzip.compress(bytes(100 * 1024 * 1024), 9), flag=1)
    assert len(bomb) < 128 * 1024
    before = server.rss_bytes
    with Neighbour(server, slowest_s=1.0) as neighbour, RawGrpc(server.grpc) as connection:
        for _ in range(10):
            outcome = _send(connection, bomb, GZIP)
            _assert_refused(outcome, "larger than", raw_h2.RESOURCE_EXHAUSTED)
    assert neighbour.answers > 20
    assert server.rss_bytes - before < 160 * 1024 * 1024, "the limit of a message is 64 MiB"


# ---- tensors ---------------------------------------------------------------------------------------


def _with_input(shape: list[int], raw: list[bytes], **more: object) -> bytes:
    one = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape)
    return ModelInferRequest(
        model_name="identity",
        inputs=[one],
        raw_input_contents=raw,
        **more,  # type: ignore[arg-type]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (_with_input([1, 4], [bytes(15)]), "needs 16"),
        (_with_input([1, 4], [b""]), "needs 16"),
        (_with_input([1, 4], [bytes(16)] * 2), "2 entries for 1 inputs"),
        (_with_input([-1, -4], [bytes(16)]), "must not be negative"),
        (_with_input([2**62, 4], [bytes(16)]), "too many elements"),
        (_with_input([4], [bytes(16)]), "has shape [4]"),
        (_with_input([], [bytes(16)]), "has shape []"),
        (_with_input([1, 4], []), "elements of data"),
        (ModelInferRequest(model_name="identity").SerializeToString(), "missing: 'x'"),
    ],
)
def test_wrong_tensor(server: ServerProcess, message: bytes, words: str) -> None:
    with RawGrpc(server.grpc) as connection:
        _assert_refused(connection.ask(message), words)
        ask_grpc(connection)


def test_raw_and_typed_contents_together(server: ServerProcess) -> None:
    message = ModelInferRequest.FromString(MESSAGE)
    message.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    with RawGrpc(server.grpc) as connection:
        _assert_refused(connection.ask(message.SerializeToString()), "contents")


def test_a_shape_alone_allocates_nothing(server: ServerProcess) -> None:
    before = server.rss_bytes
    with RawGrpc(server.grpc) as connection:
        for name in ("wide", "any_text"):
            datatype = "BYTES" if name == "any_text" else "FP32"
            message = infer_message(name, b"", [1, 2**40], datatype=datatype)
            assert connection.ask(message).status == INVALID_ARGUMENT
    assert server.rss_bytes - before < 16 * 1024 * 1024


# ---- calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        SERVICE + "NoSuchMethod",
        SERVICE + "ModelInfer/",
        SERVICE + "modelinfer",
        "/inference.NoSuchService/ModelInfer",
        "/ModelInfer",
        "/",
        SERVICE + "ModelInfer" * 100,
        "/v2/models/identity/infer",
    ],
)
def test_unknown_method(server: ServerProcess, path: str) -> None:
    with RawGrpc(server.grpc) as connection:
        _assert_refused(connection.ask(MESSAGE, path), "no such method", UNIMPLEMENTED)
        ask_grpc(connection)


@pytest.mark.parametrize("name", ["br", "snappy", "GZIP", "gzip,identity", "zlib"])
def test_unknown_compression(server: ServerProcess, name: str) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = connection.ask(MESSAGE, headers=[("grpc-encoding", name)])
        _assert_refused(outcome, "is not supported", UNIMPLEMENTED)
        assert outcome.headers["grpc-accept-encoding"] == "identity,gzip,deflate"
        ask_grpc(connection)


@pytest.mark.parametrize("content_type", ["", "text/html", "application/json", "application/grp"])
def test_wrong_content_type(server: ServerProcess, content_type: str) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = connection.ask(MESSAGE, headers=[("content-type", content_type)])
        assert outcome.http_status == 415, outcome
        assert outcome.status is None
        ask_grpc(connection)


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;a=b"])
def test_other_names_of_the_content_type(server: ServerProcess, content_type: str) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = connection.ask(MESSAGE, headers=[("content-type", content_type)])
        assert outcome.status == raw_h2.OK


@pytest.mark.parametrize(
    "value", ["", "1", "S", "-1S", "1.5S", "1s", "123456789S", "1 S", "S1", "٣S", "1SS", "0x1S"]
)
def test_bad_timeout(server: ServerProcess, value: str) -> None:
    with RawGrpc(server.grpc) as connection:
        outcome = connection.ask(MESSAGE, headers=[("grpc-timeout", value)])
        _assert_refused(outcome, "grpc-timeout")
        ask_grpc(connection)


@pytest.mark.parametrize("value", ["99999999H", "1M", "10S", "60000m", "99999999u"])
def test_good_timeout(server: ServerProcess, value: str) -> None:
    with RawGrpc(server.grpc) as connection:
        assert connection.ask(MESSAGE, headers=[("grpc-timeout", value)]).status == raw_h2.OK


def test_a_timeout_that_has_passed(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        for value in ("0S", "0n", "1n"):
            outcome = connection.ask(MESSAGE, headers=[("grpc-timeout", value)])
            assert outcome.status == raw_h2.DEADLINE_EXCEEDED, outcome


@pytest.mark.parametrize(
    "headers",
    [
        [(f"x-{number}", "v") for number in range(1000)],
        [("x-large", "v" * 30_000)],
        [("x-" + "n" * 30_000, "v")],
        [("x-large", "v" * 3_000)] * 10,
    ],
    ids=["many", "large value", "large name", "in sum"],
)
def test_header_flood(server: ServerProcess, headers: raw_h2.Fields) -> None:
    """The call is refused, or its connection is cut; never is it answered with OK, and memory stays bounded."""
    before = server.rss_bytes
    for _ in range(5):
        with RawGrpc(server.grpc) as connection:
            try:
                outcome = connection.ask(MESSAGE, headers=headers)
            except (raw_h2.ClosedError, h2.exceptions.ProtocolError):
                continue
            assert outcome.status != raw_h2.OK
    assert server.rss_bytes - before < 16 * 1024 * 1024


def test_a_header_flood_does_not_harm_the_other_calls_of_its_channel(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        ask_grpc(connection)
        headers = [(f"x-{number}", "v") for number in range(300)]
        assert connection.ask(MESSAGE, headers=headers).status != raw_h2.OK
        ask_grpc(connection)


def test_get_is_no_call(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        stream = connection.h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/v2"), (":authority", "t")]
        connection.h2.send_headers(stream, fields, end_stream=True)
        connection.expect(stream)
        connection.flush()
        assert connection.outcome(stream).http_status == 415
        ask_grpc(connection)


def test_metadata_that_is_binary_or_odd(server: ServerProcess) -> None:
    headers = [("x-trace-bin", "AAECAw=="), ("user-agent", "grpc-test/1"), ("x-empty", "")]
    with RawGrpc(server.grpc) as connection:
        assert connection.ask(MESSAGE, headers=headers).status == raw_h2.OK


def test_ten_thousand_refusals_on_one_connection(server: ServerProcess) -> None:
    before = server.rss_bytes
    with RawGrpc(server.grpc) as connection:
        began_s = time.monotonic()
        for _ in range(20):
            streams = [connection.open(SERVICE + "Nothing", end_stream=True) for _ in range(50)]
            for stream in streams:
                assert connection.outcome(stream).status == UNIMPLEMENTED
        assert time.monotonic() - began_s < 10
        ask_grpc(connection)
    assert server.rss_bytes - before < 8 * 1024 * 1024
