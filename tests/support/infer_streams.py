"""Requests and answers of ``ModelStreamInfer``, as bytes on a stream."""

from __future__ import annotations

from protos.inference import ModelStreamInferResponse
from tests.support.raw_h2 import SERVICE, RawGrpc, frame, infer_message

STREAM = SERVICE + "ModelStreamInfer"
ROW = bytes(range(16))
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
