"""``ModelStreamInfer``: predictions on one stream, answered in the order of their requests.

Every message is a call of its own through the service, with its own deadline, admission and batch. Decides how an
error travels: in the stream, which goes on, or as the stream's end for a peer that asked for this with the metadata
``triton_grpc_error: true``. No asyncio task for a message, and no second encoding of an answer.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from gateway.core.call import Call
from gateway.edge import grpc_wire
from gateway.edge.call_traces import STREAM_METHOD, note_decoded, note_error
from gateway.edge.grpc_access import ended
from gateway.edge.grpc_stream import MessageStream
from gateway.edge.http_body import inflate, inflate_small
from gateway.edge.proto_codec import decode_infer, encode_prediction
from gateway.edge.proto_reply import length_prefix
from gateway.edge.status import GRPC_STATUS, as_headrace_error
from gateway.errors import HeadraceError
from gateway.messages import Prediction, PredictRequest, Trace
from protos.inference import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

if TYPE_CHECKING:
    from gateway.core.quota import Quota
    from gateway.edge.grpc_connection import GrpcConnection

_WANTS_FINAL = "triton_enable_empty_final_response"
_WANTS_FINAL_KEY = _WANTS_FINAL.encode()
_WANTS_FINAL_WITHIN_BYTES = 16 * 1024
"""Parameters stand before tensors in a message, and tensors are long."""
_IS_FINAL = ModelInferResponse(
    parameters={"triton_final_response": InferParameter(bool_param=True)}
).SerializeToString()


class InferStream(MessageStream):
    """One ``ModelStreamInfer`` call."""

    __slots__ = ("_ends_on_error",)

    def __init__(self, connection: GrpcConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._ends_on_error = False

    def _choose(self, path: bytes, headers: dict[bytes, bytes]) -> None:
        self._ends_on_error = headers.get(b"triton_grpc_error") == b"true"

    def _take(self, flag: int, message: bytes) -> None:
        self._check_flag(flag)
        call = StreamedCall(self, self._connection)
        self._pending.append(call)
        if flag:
            call.expand(message, self._encoding)
        else:
            call.serve(message)

    def answer_ready(self) -> None:
        """Put out the replies that are known, in the order of their requests."""
        pending = self._pending
        if self.answered or not pending or pending[0].reply is None:
            return
        while pending and pending[0].reply is not None:
            call = pending.popleft()
            if self._ends_on_error and call.error is not None:
                self.fail(call.error)  # what is ready is said first
                return
            self._out.append(call.reply)
        self._connection.streams.will_speak(self)
        self._end_if_done()


class StreamedCall(Call[Prediction]):
    """One message of an infer stream."""

    __slots__ = (
        "_connection",
        "_is_final_wanted",
        "_quota",
        "_request",
        "_stream",
        "_trace",
        "error",
        "reply",
    )

    def __init__(self, stream: InferStream, connection: GrpcConnection) -> None:
        super().__init__()
        self.reply: bytes | None = None
        self.error: HeadraceError | None = None
        self._stream = stream
        self._connection = connection
        self._request: PredictRequest | None = None
        self._quota: Quota | None = None
        self._trace: Trace | None = None
        self._is_final_wanted = False

    def expand(self, message: bytes, encoding: str) -> None:
        """Serve a compressed message; a large one is expanded on a thread first."""
        limit_bytes = self._connection.front.limits.max_message_bytes
        try:
            expanded = inflate_small(message, encoding, limit_bytes)
        except HeadraceError as error:
            self._fail(error)
            return
        if expanded is not None:
            self.serve(expanded)
            return
        loop = asyncio.get_running_loop()
        expanding = loop.run_in_executor(None, inflate, message, encoding, limit_bytes)
        expanding.add_done_callback(self._on_expanded)

    def _on_expanded(self, expanding: asyncio.Future[bytes]) -> None:
        error = expanding.exception()
        if self._stream.answered:
            return  # the peer did not wait for it
        if error is not None:
            self._fail(error)
        else:
            self.serve(expanding.result())

    def serve(self, message: bytes) -> None:
        """Send the request through the service."""
        stream, front = self._stream, self._connection.front
        received_s = front.clock()
        if front.traces is not None:
            self._trace = front.traces.begin(STREAM_METHOD, *stream.trace_headers, received_s)
        try:
            find = front.find
            if stream.holder is not None:
                self._quota = stream.holder.enter(received_s)
                find = stream.holder.guard(find)
            request = decode_infer(message, received_s, find, stream.headers)
        except Exception as error:  # noqa: BLE001  the status table words it; the stream lives on
            self._fail(error, _id_of(message))
            return
        if stream.deadline_s < request.deadline_s:
            request.deadline_s = stream.deadline_s
        if message.find(_WANTS_FINAL_KEY, 0, _WANTS_FINAL_WITHIN_BYTES) >= 0:
            self._is_final_wanted = _wants_final(message)
        if self._trace is not None:
            note_decoded(self._trace, request, front.clock())
        self._request = request
        self.start(front.service(request))

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        """Keep the answer until those before it are known."""
        request = self._request
        assert request is not None
        if error is not None:
            self._fail(error, request.request_id)
            return
        assert result is not None
        try:
            message = encode_prediction(request, result)
        except Exception as failure:  # noqa: BLE001  the status table words it; the stream lives on
            self._fail(failure, request.request_id)
            return
        front = self._connection.front
        front.metrics.calls["grpc", "ok"] += 1
        holder = self._stream.holder
        if holder is not None:
            ended(front, holder, self._quota, "ok")
        trace = self._trace
        if front.access_log:
            front.log(request, None, trace, result.servable.version, holder)
        self._request = None
        if self._is_final_wanted:
            message += _IS_FINAL
        self.reply = _before(len(message)) + message
        self._stream.answer_ready()
        if trace is not None and front.traces is not None:
            trace.version = result.servable.version
            front.traces.end(trace, 0)

    def _fail(self, error: BaseException, request_id: str = "") -> None:
        self.error = ours = as_headrace_error(error)
        front = self._connection.front
        front.metrics.calls["grpc", ours.code.value] += 1
        holder = self._stream.holder
        if holder is not None:
            ended(front, holder, self._quota, ours.code.value)
        if front.access_log:
            front.log(self._request, ours, self._trace, holder=holder)
        self._request = None
        failed = ModelStreamInferResponse(
            error_message=ours.message, infer_response=ModelInferResponse(id=request_id)
        )
        self.reply = grpc_wire.frame(failed.SerializeToString())
        self._stream.answer_ready()
        if self._trace is not None and front.traces is not None:
            note_error(self._trace, ours)
            front.traces.end(self._trace, GRPC_STATUS[ours.code])


@lru_cache(maxsize=1024)
def _before(length_bytes: int) -> bytes:
    """What stands before a ``ModelInferResponse`` on the wire: gRPC's prefix, and the tag of ``infer_response``."""
    field = b"\x12" + length_prefix(length_bytes)
    return b"\0" + (len(field) + length_bytes).to_bytes(4, "big") + field


def _id_of(message: bytes) -> str:
    """The id of a request that may be broken; empty where none can be read."""
    try:
        return ModelInferRequest.FromString(message).id
    except DecodeError:
        return ""


def _wants_final(message: bytes) -> bool:
    """The caller asks for a mark on the last response of each request: here, on every response."""
    parameters = ModelInferRequest.FromString(message).parameters
    return _WANTS_FINAL in parameters and parameters[_WANTS_FINAL].bool_param
