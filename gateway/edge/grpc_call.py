"""One gRPC call of one message: collects its message, sends it through the service, and answers on its stream.

Decides when a message is too large, wrongly framed or wrongly compressed. It must never write to the socket; the
connection does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from gateway.core.call import Call
from gateway.edge import grpc_wire
from gateway.edge.call_traces import INFER_METHOD, note_decoded, note_error
from gateway.edge.grpc_access import ended, guarded
from gateway.edge.grpc_exchange import Exchange
from gateway.edge.grpc_methods import Method
from gateway.edge.http_body import RESERVE_FROM_BYTES, inflate, inflate_small
from gateway.edge.proto_codec import decode_infer, encode_prediction
from gateway.edge.status import GRPC_STATUS, as_headrace_error
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest, Trace

if TYPE_CHECKING:
    from gateway.core.quota import Quota
    from gateway.edge.grpc_connection import GrpcConnection


class GrpcCall(Exchange, Call[Prediction]):
    """A unary call from its headers to its trailers."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_encoding",
        "_length_bytes",
        "_method",
        "_quota",
        "_request",
        "_reserved_bytes",
        "_size_bytes",
        "_task",
        "_trace",
        "answered",
        "complete",
        "deadline_s",
        "headers",
        "holder",
        "opened_s",
        "stream_id",
        "trace_headers",
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
        self.holder = None
        self._quota: Quota | None = None
        self._encoding = ""
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._length_bytes = -1
        self._reserved_bytes = 0
        self._request: PredictRequest | None = None
        self._trace: Trace | None = None
        self._task: asyncio.Task[bytes] | None = None

    # -- the message ------------------------------------------------------------------------------

    def _choose(self, path: bytes, headers: dict[bytes, bytes]) -> None:
        self._method = self._connection.front.methods.get(path)
        if self._method is None:
            raise HeadraceError(
                ErrorCode.UNIMPLEMENTED, f"no such method: {path[:256].decode('latin-1')}"
            )
        if self.holder is not None:
            self._method = guarded(self.holder, path, self._method)

    def receive(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size_bytes += len(data)
        if self._length_bytes < 0 and self._size_bytes >= grpc_wire.PREFIX_BYTES:
            if len(self._chunks) > 1:
                self._chunks = [b"".join(self._chunks)]
            self._length_bytes = grpc_wire.message_length(
                self._chunks[0], 0, self._connection.front.limits.max_message_bytes
            )
        if self._length_bytes >= 0:
            if self._size_bytes > self._length_bytes + grpc_wire.PREFIX_BYTES:
                raise invalid("a unary call takes exactly one message")
            if self._length_bytes > RESERVE_FROM_BYTES:
                self._reserve(len(data))

    def _framed(self) -> bytes:
        """The one message of the call, with its prefix."""
        framed = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if self._length_bytes < 0 or len(framed) != self._length_bytes + grpc_wire.PREFIX_BYTES:
            raise invalid("the call ended before its message was complete")
        return framed

    # -- the call ---------------------------------------------------------------------------------

    def message_is_complete(self) -> None:
        self.complete = True
        limit_bytes = self._connection.front.limits.max_message_bytes
        try:
            framed = self._framed()
            self.forget()
            message = framed[grpc_wire.PREFIX_BYTES :]
            if framed[0] == 0:
                self._serve(message)
                return
            self._check_flag(framed[0])
            expanded = inflate_small(message, self._encoding, limit_bytes)
            if expanded is None:
                loop = asyncio.get_running_loop()
                expanding = loop.run_in_executor(
                    None, inflate, message, self._encoding, limit_bytes
                )
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
                reply = self._method(message)
                if isinstance(reply, bytes):
                    self._connection.answer(self, reply)
                else:
                    self._task = asyncio.ensure_future(self._in_time(reply))
                    self._task.add_done_callback(self._on_reply)
                return
            received_s, find = front.clock(), front.find
            if self.holder is not None:
                self._quota = self.holder.enter(received_s)
                find = self.holder.guard(find)
            if front.traces is not None:
                self._trace = front.traces.begin(INFER_METHOD, *self.trace_headers, received_s)
            request = decode_infer(message, received_s, find, self.headers)
            if self._trace is not None:
                note_decoded(self._trace, request, front.clock())
            if self.deadline_s < request.deadline_s:
                request.deadline_s = self.deadline_s
        except Exception as error:  # noqa: BLE001  the status table words it; the connection lives on
            self.fail(error)
            return
        self._request = request
        self.start(front.service(request))

    async def _in_time(self, reply: Awaitable[bytes]) -> bytes:
        """A reply that takes a while, cut short by the caller's deadline."""
        wait_s = self.deadline_s - self._connection.front.clock()
        patience = asyncio.timeout(wait_s if wait_s < NO_DEADLINE_S else None)
        try:
            async with patience:
                return await reply
        except TimeoutError:
            if not patience.expired():
                raise
            raise HeadraceError(
                ErrorCode.DEADLINE_EXCEEDED, "the call's deadline passed before it was done"
            ) from None

    def _on_reply(self, task: asyncio.Task[bytes]) -> None:
        self._task = None
        if task.cancelled():
            return  # the stream is gone
        error = task.exception()
        if error is not None:
            self.fail(error)
        elif not self.answered:
            self._connection.answer(self, task.result())

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
        if self.holder is not None:
            ended(front, self.holder, self._quota, "ok")
        trace = self._trace
        if front.access_log:
            front.log(self._request, None, trace, result.servable.version, self.holder)
        self._request = None
        if not self.answered:
            self._connection.answer(self, message)
        if trace is not None and front.traces is not None:
            trace.version = result.servable.version
            front.traces.end(trace, 0)

    def fail(self, error: BaseException) -> None:
        """The call ends with an error: count it, and tell the peer."""
        ours = as_headrace_error(error)
        front = self._connection.front
        if self._method is None:
            front.metrics.calls["grpc", ours.code.value] += 1
            if self.holder is not None:
                ended(front, self.holder, self._quota, ours.code.value)
            if front.access_log:
                front.log(self._request, ours, self._trace, holder=self.holder)
        self._request = None
        if not self.answered:
            self._connection.answer_error(self, ours)
        if self._trace is not None and front.traces is not None:
            note_error(self._trace, ours)
            front.traces.end(self._trace, GRPC_STATUS[ours.code])
            self._trace = None

    def abandon(self) -> None:
        self.answered = True
        self.forget()
        self.cancel()
        if self._task is not None:
            self._task.cancel()

    def forget(self) -> None:
        self._chunks = []
        self._unreserve()

    def sweep(self, now: float) -> None:
        if (
            not self.complete
            and now - self.opened_s > self._connection.front.limits.message_timeout_s
        ):
            self.fail(self._late())
