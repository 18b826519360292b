"""Ended traces as OpenTelemetry spans, on their way to a collector over OTLP/HTTP.

Spans are made after the fact, from times that hops have noted, and queued for the SDK's own thread; its queue is
bounded and drops the oldest. The only module that imports OpenTelemetry: ``tracing.py`` imports it where it is wanted.
It must never block the loop.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.errors import ErrorCode
from gateway.messages import Trace

QUEUE_SPANS = 2048
"""Some hundred traces; a collector that takes no more loses the oldest."""
BATCH_SPANS = 128
"""In one post. Encoding them holds the interpreter for some milliseconds: more would show in latencies."""
EVERY_MS = 1000.0
EXPORT_TIMEOUT_S = 5.0

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_OUR_FAULT = frozenset(
    code.value
    for code in (
        ErrorCode.UNIMPLEMENTED,
        ErrorCode.NOT_READY,
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.INTERNAL,
    )
)
"""Outcomes that are the server's errors, as OpenTelemetry's conventions see it."""

Attributes = dict[str, str | int | float]


class OtlpSpans:
    """Sends ended traces; fills the port ``Spans``."""

    def __init__(self, url: str, service_name: str, version: str, wall_offset_s: float) -> None:
        self._resource = Resource.create(
            {
                SERVICE_NAME: service_name,
                SERVICE_VERSION: version,
                SERVICE_INSTANCE_ID: f"{os.uname().nodename}-{os.getpid()}",
            }
        )
        self._scope = InstrumentationScope("headrace", version)
        self._wall_offset_s = wall_offset_s
        self._random_bits = random.Random().getrandbits
        # A collector that is away is tried again and again: a line for each batch that was lost is enough.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S),
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=EVERY_MS,
            max_export_batch_size=BATCH_SPANS,
        )

    def emit(self, trace: Trace) -> None:
        """Queue the spans of a trace: the call, and the stages that it went through."""
        state = TraceState.from_header([trace.state]) if trace.state else None
        context = self._context(trace.trace_id, state)
        parent = None
        if trace.parent_id:
            parent = SpanContext(trace.trace_id, trace.parent_id, True, _SAMPLED, state)
        times = (
            ("decode", trace.received_s, trace.decoded_s),
            ("admit", trace.decoded_s, trace.queued_s),
            ("queue", trace.queued_s, trace.started_s),
            ("run", trace.started_s, trace.ran_s),
            ("answer", trace.ran_s, trace.written_s),
        )
        emit = self._processor.on_end
        for name, began_s, ended_s in times:
            if not began_s:
                break
            emit(
                self._span(
                    name,
                    self._context(trace.trace_id, state),
                    context,
                    began_s,
                    ended_s or trace.written_s,
                    _batch(trace) if name == "run" else {},
                )
            )
        emit(
            self._span(
                "infer",
                context,
                parent,
                trace.received_s,
                trace.written_s,
                _call(trace),
                kind=SpanKind.SERVER,
                status=_status(trace),
            )
        )

    def _context(self, trace_id: int, state: TraceState | None) -> SpanContext:
        return SpanContext(trace_id, self._random_bits(64) or 1, False, _SAMPLED, state)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        began_s: float,
        ended_s: float,
        attributes: Mapping[str, str | int | float],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        # Made directly: a span of the SDK's tracer would cost five times as much for the same record.
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status,
            start_time=int((began_s + self._wall_offset_s) * 1e9),
            end_time=int((ended_s + self._wall_offset_s) * 1e9),
            instrumentation_scope=self._scope,
        )

    def close(self, within_s: float) -> bool:
        """Send what is left. A collector that does not answer is left behind with its thread."""
        ending = threading.Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        ending.start()
        ending.join(within_s)
        return not ending.is_alive()


def _call(trace: Trace) -> Attributes:
    found: Attributes = {
        "headrace.model": trace.model,
        "headrace.model_version": trace.version,
        "headrace.rows": trace.rows,
        "headrace.outcome": trace.outcome,
    }
    if trace.protocol == "grpc":
        found["rpc.system"] = "grpc"
        found["rpc.service"], _, found["rpc.method"] = trace.method.partition("/")
        found["rpc.grpc.status_code"] = trace.status
    else:
        found["http.request.method"] = "POST"
        found["http.route"] = trace.method
        found["http.response.status_code"] = trace.status
    if trace.request_id:
        found["headrace.request_id"] = trace.request_id
    if trace.outcome != "ok":
        found["error.type"] = trace.outcome
    if trace.started_s:
        found["headrace.queue_age_us"] = int((trace.started_s - trace.queued_s) * 1e6)
        found.update(_batch(trace))
    return found


def _batch(trace: Trace) -> Attributes:
    return {
        "headrace.batch.rows": trace.batch_rows,
        "headrace.batch.reason": trace.batch_reason,
        "headrace.batch.execution": trace.execution,
    }


def _status(trace: Trace) -> Status:
    if trace.outcome in _OUR_FAULT:
        return Status(StatusCode.ERROR, trace.message)
    return _UNSET
