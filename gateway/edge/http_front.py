"""What the connections of the HTTP port share, and the bytes of a reply.

Used by both ways through the port, the fast lane and the ASGI route, so that they answer alike. It decides how an
outcome looks on the wire; it must never read a socket.
"""

from __future__ import annotations

import http
import logging
import zlib
from typing import TYPE_CHECKING

import msgspec

from gateway.core.admission import Admission
from gateway.edge.call_traces import INFER_ROUTE, CallTraces, hex_id, note_error
from gateway.edge.infer_head import HeadMemory, InferPlan
from gateway.edge.json_codec import OutputEncoding, encode_error, encode_prediction
from gateway.edge.status import HTTP_STATUS, as_headrace_error, retry_after_header_s
from gateway.errors import ErrorCode
from gateway.messages import Assignment, Prediction, PredictRequest, Trace
from gateway.ports import Catalog, Clock, FrontMeters, Service
from gateway.settings import HttpLimits

if TYPE_CHECKING:
    from gateway.edge.access import Access

access_logger = logging.getLogger("headrace.access")

COMPRESS_FROM_BYTES = 1024
"""Smaller bodies gain nothing."""
COMPRESS_UP_TO_BYTES = 256 * 1024
"""Larger bodies would hold the event loop for milliseconds; they go out as they are."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}


class Reply(msgspec.Struct):
    """An answer ready for either way out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    marks: tuple[bytes, bytes, bytes] | None = None
    """With a plan in force: the version that answered, its arm and the prediction's id, which are headers too."""

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """For who writes them one by one; the body's length last."""
        marks = [] if self.marks is None else list(zip(_MARKS, self.marks, strict=True))
        length = (b"content-length", str(len(self.body)).encode())
        return [*self.headers, *marks, length]


class HttpFront:
    """The shared state of the HTTP port."""

    def __init__(
        self,
        service: Service[PredictRequest],
        catalog: Catalog,
        admission: Admission,
        metrics: FrontMeters,
        clock: Clock,
        limits: HttpLimits,
        *,
        access_log: bool = False,
        traces: CallTraces | None = None,
        access: Access | None = None,
    ) -> None:
        self.service = service
        self.catalog = catalog
        self.admission = admission
        self.metrics = metrics
        self.clock = clock
        self.limits = limits
        self.access_log = access_log
        self.traces = traces
        self.access = access
        self.find_holder = None if access is None else access.plain_holder
        self.draining = False
        self.heads = HeadMemory()

    def reply(
        self,
        plan: InferPlan,
        request: PredictRequest | None,
        encoding: OutputEncoding | None,
        prediction: Prediction | None,
        error: BaseException | None,
        trace: Trace | None = None,
    ) -> Reply:
        """The answer to one infer call, whatever became of it; what became of it is noted in its trace."""
        if (
            error is None
            and prediction is not None
            and request is not None
            and encoding is not None
        ):
            try:
                body, json_length = encode_prediction(request, prediction, encoding)
            except Exception as failure:  # noqa: BLE001  an output that JSON cannot carry, for one
                return self._error_reply(plan, request, failure, trace)
            self.metrics.calls["http", "ok"] += 1
            if plan.holder is not None:
                self.metrics.key_calls[plan.holder.name, "ok"] += 1
            if trace is not None:
                trace.version = prediction.servable.version
            if self.access_log:
                self._log(plan, prediction.servable.version, request, 200, trace)
            headers = _head_of(json_length)
            if plan.compression and COMPRESS_FROM_BYTES <= len(body) <= COMPRESS_UP_TO_BYTES:
                body = compress(body, plan.compression)
                headers = [*headers, (b"content-encoding", plan.compression.encode())]
            if prediction.assignment is None:
                return Reply(200, headers, body)
            return Reply(200, headers, body, _marks_of(prediction, prediction.assignment))
        assert error is not None
        return self._error_reply(plan, request, error, trace)

    def _error_reply(
        self,
        plan: InferPlan,
        request: PredictRequest | None,
        error: BaseException,
        trace: Trace | None,
    ) -> Reply:
        ours = as_headrace_error(error)
        self.metrics.calls["http", ours.code.value] += 1
        if plan.holder is not None:
            self.metrics.key_calls[plan.holder.name, ours.code.value] += 1
        reply = error_reply(ours)
        if trace is not None:
            note_error(trace, ours)
        if self.access_log:
            self._log(plan, plan.version, request, reply.status, trace)
        return reply

    def begin_trace(self, plan: InferPlan, received_s: float) -> Trace | None:
        """A trace to fill in, if this call is picked; ask only where there are traces."""
        assert self.traces is not None
        return self.traces.begin(INFER_ROUTE, plan.traceparent, plan.tracestate, received_s)

    def _log(
        self,
        plan: InferPlan,
        version: str,
        request: PredictRequest | None,
        status: int,
        trace: Trace | None,
    ) -> None:
        access_logger.info(
            "infer",
            extra={
                "protocol": "http",
                "key": plan.holder.name if plan.holder else None,
                "model": plan.model,
                "version": version,
                "request_id": request.request_id if request else "",
                "status": status,
                "duration_us": int((self.clock() - request.received_s) * 1e6) if request else None,
                "trace_id": hex_id(trace),
            },
        )


_JSON_HEAD = [(b"content-type", b"application/json")]


def _head_of(json_length: int | None) -> list[tuple[bytes, bytes]]:
    if json_length is None:
        return _JSON_HEAD
    return [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(json_length).encode()),
    ]


_MARKS = (b"x-headrace-version", b"x-headrace-arm", b"x-headrace-prediction-id")
_MARK_LINES = b"%b: %%b\r\n%b: %%b\r\n%b: %%b\r\n" % _MARKS


def _marks_of(prediction: Prediction, assignment: Assignment) -> tuple[bytes, bytes, bytes]:
    """What the reply's parameters say, for who does not read bodies."""
    return (
        assignment.version.encode(),
        assignment.arm.encode(),
        prediction.prediction_id.encode(),
    )


def error_reply(error: BaseException, status: int | None = None) -> Reply:
    """``{"error": …}`` with its own or another status, and ``Retry-After`` where trying again makes sense."""
    ours = as_headrace_error(error)
    headers = list(_JSON_HEAD)
    retry_after = retry_after_header_s(ours)
    if retry_after is not None:
        headers.append((b"retry-after", retry_after.encode()))
    if ours.code is ErrorCode.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(status or HTTP_STATUS[ours.code], headers, encode_error(ours.message))


def compress(body: bytes, encoding: str) -> bytes:
    """``body`` as gzip (RFC 1952) or deflate (RFC 1950), at the quickest level."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return packer.compress(body) + packer.flush()


_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in http.HTTPStatus
}


_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_PLAIN_OK = _OK + b"content-length: %d\r\n\r\n%b"
_MARKED_OK = _OK + _MARK_LINES + b"content-length: %d\r\n\r\n%b"


def serialize(reply: Reply, *, close: bool) -> bytes:
    """The reply as bytes for one write."""
    body = reply.body
    if reply.headers is _JSON_HEAD and reply.status == 200 and not close:
        if reply.marks is None:
            return _PLAIN_OK % (len(body), body)
        return _MARKED_OK % (*reply.marks, len(body), body)
    pieces = [_STATUS_LINES[reply.status]]
    for name, value in reply.headers:
        pieces += (name, b": ", value, b"\r\n")
    if reply.marks is not None:
        pieces.append(_MARK_LINES % reply.marks)
    pieces.append(
        b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if close
        else b"content-length: %d\r\n\r\n" % len(body)
    )
    pieces.append(body)
    return b"".join(pieces)
