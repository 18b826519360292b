"""One gRPC call: collects its message, sends it through the service, and answers on its stream.

Decides when a message is too large, wrongly framed or wrongly compressed. It must never write to the socket; the
connection does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.call import Call
from gateway.edge import grpc_wire
from gateway.edge.grpc_methods import INFER_PATH, Method
from gateway.edge.http_body import RESERVE_FROM_BYTES, inflate, inflate_small
from gateway.edge.proto_codec import decode_infer, encode_prediction
from gateway.edge.status import as_headrace_error
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest

if TYPE_CHECKING:
    from gateway.edge.grpc_connection import GrpcConnection


class GrpcCall(Call[Prediction]):
    """A unary call from its headers to its trailers."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_encoding",
        "_length_bytes",
        "_method",
        "_request",
        "_reserved_bytes",
        "_size_bytes",
        "answered",
        "complete",
        "deadline_s",
        "opened_s",
        "stream_id",
    )

    def __init__(self, connection: GrpcConnection, stream_id: int) -> None:
        super().__init__()
        self.stream_id = stream_id
        self.opened_s = connection.front.clock()
        self.deadline_s = NO_DEADLINE_S
        self.complete = False
        self.answered = False
        self._connection = connection
        self._method: Method | None = None
        self._encoding = b""
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._length_bytes = -1
        self._reserved_bytes = 0
        self._request: PredictRequest | None = None

    # -- the message ------------------------------------------------------------------------------

    def open(self, headers: dict[bytes, bytes]) -> None:
        """Read the call's headers; raises for what can never be answered."""
        path = headers.get(b":path", b"")
        if path != INFER_PATH:
            self._method = self._connection.front.methods.get(path)
            if self._method is None:
                raise HeadraceError(
                    ErrorCode.UNIMPLEMENTED, f"no such method: {path[:256].decode('latin-1')}"
                )
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            self.deadline_s = self.opened_s + grpc_wire.parse_timeout_s(timeout)
        self._encoding = headers.get(b"grpc-encoding", b"")
        if self._encoding not in (b"", b"identity", b"gzip"):
            raise HeadraceError(
                ErrorCode.UNIMPLEMENTED,
                f"grpc-encoding '{self._encoding[:32].decode('latin-1')}' is not supported; use gzip or identity",
            )

    def receive(self, data: bytes) -> None:
        """Collect a piece of the message; raises as soon as it is clear that it cannot be taken."""
        self._chunks.append(data)
        self._size_bytes += len(data)
        if self._length_bytes < 0 and self._size_bytes >= grpc_wire.PREFIX_BYTES:
            if len(self._chunks) > 1:
                self._chunks = [b"".join(self._chunks)]
            self._length_bytes = int.from_bytes(self._chunks[0][1:5], "big")
            limit_bytes = self._connection.front.limits.max_message_bytes
            if self._length_bytes > limit_bytes:
                raise invalid(
                    f"the message has {self._length_bytes} bytes; this server takes at most {limit_bytes}"
                )
        if self._length_bytes >= 0:
            if self._size_bytes > self._length_bytes + grpc_wire.PREFIX_BYTES:
                raise invalid("a unary call takes exactly one message")
            if self._length_bytes > RESERVE_FROM_BYTES:
                self._reserve(len(data))

    def _reserve(self, size_bytes: int) -> None:
        if not self._connection.front.admission.reserve_bytes(size_bytes):
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                "the gateway holds too many bytes of requests; try again later",
                retry_after_s=1.0,
            )
        self._reserved_bytes += size_bytes

    def _framed(self) -> bytes:
        """The one message of the call, with its prefix."""
        framed = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if self._length_bytes < 0 or len(framed) != self._length_bytes + grpc_wire.PREFIX_BYTES:
            raise invalid("the call ended before its message was complete")
        return framed

    # -- the call ---------------------------------------------------------------------------------

    def message_is_complete(self) -> None:
        """The peer has said everything: answer."""
        self.complete = True
        limit_bytes = self._connection.front.limits.max_message_bytes
        try:
            framed = self._framed()
            self.forget()
            message = framed[grpc_wire.PREFIX_BYTES :]
            if framed[0] == 0:
                self._serve(message)
                return
            if framed[0] != 1 or self._encoding != b"gzip":
                raise invalid(
                    "the message is marked as compressed, but grpc-encoding does not say how"
                )
            expanded = inflate_small(message, "gzip", limit_bytes)
            if expanded is None:
                loop = asyncio.get_running_loop()
                expanding = loop.run_in_executor(None, inflate, message, "gzip", limit_bytes)
                expanding.add_done_callback(self._on_expanded)
                return
            message = expanded
        except HeadraceError as error:
            self.fail(error)
            return
        self._serve(message)

    def _on_expanded(self, expanding: asyncio.Future[bytes]) -> None:
        """A large compressed message comes back from the thread that expanded it."""
        error = expanding.exception()
        if self.answered:
            return  # the peer did not wait for it
        if error is not None:
            self.fail(error)
        else:
            self._serve(expanding.result())

    def _serve(self, message: bytes) -> None:
        front = self._connection.front
        try:
            if self._method is not None:
                self._connection.answer(self, self._method(message))
                return
            request = decode_infer(message, front.clock(), front.find)
            if self.deadline_s < request.deadline_s:
                request.deadline_s = self.deadline_s
        except Exception as error:  # noqa: BLE001  the status table words it; the connection lives on
            self.fail(error)
            return
        self._request = request
        self.start(front.service(request))

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        """Answer on the stream, unless the peer has gone."""
        if error is not None:
            self.fail(error)
            return
        assert result is not None
        assert self._request is not None
        try:
            message = encode_prediction(self._request, result)
        except Exception as failure:  # noqa: BLE001  the status table words it; the connection lives on
            self.fail(failure)
            return
        front = self._connection.front
        front.metrics.calls["grpc", "ok"] += 1
        if front.access_log:
            front.log(self._request, None)
        self._request = None
        if not self.answered:
            self._connection.answer(self, message)

    def fail(self, error: BaseException) -> None:
        """The call ends with an error: count it, and tell the peer."""
        ours = as_headrace_error(error)
        front = self._connection.front
        if self._method is None:
            front.metrics.calls["grpc", ours.code.value] += 1
            if front.access_log:
                front.log(self._request, ours)
        self._request = None
        if not self.answered:
            self._connection.answer_error(self, ours)

    def abandon(self) -> None:
        """The stream is gone: nothing can be answered any more; what runs is cancelled."""
        self.answered = True
        self.forget()
        self.cancel()

    def forget(self) -> None:
        """Let go of the received bytes."""
        self._chunks = []
        if self._reserved_bytes:
            self._connection.front.admission.release_bytes(self._reserved_bytes)
            self._reserved_bytes = 0
