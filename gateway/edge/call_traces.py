"""What a front notes in the traces of its calls: where they came from, what they became, how they ended.

The same for both protocols, so that their traces read alike. It is asked only where traces are wanted; it must never
touch a call that was not picked.
"""

from __future__ import annotations

from gateway.errors import HeadraceError
from gateway.messages import PredictRequest, Trace
from gateway.ports import Clock, Tracer

INFER_ROUTE = "/v2/models/{model}/infer"
INFER_METHOD = "inference.GRPCInferenceService/ModelInfer"
STREAM_METHOD = "inference.GRPCInferenceService/ModelStreamInfer"


class CallTraces:
    """The traces of one front's calls. ``protocol`` is "http" or "grpc"."""

    def __init__(self, protocol: str, tracer: Tracer, clock: Clock) -> None:
        self._protocol = protocol
        self._begin = tracer.begin
        self._end = tracer.end
        self._clock = clock

    def begin(
        self, method: str, traceparent: bytes, tracestate: bytes, received_s: float
    ) -> Trace | None:
        """A trace to fill in, if this call is picked. ``method`` is its route, or gRPC's service and method."""
        trace = self._begin(self._protocol, traceparent, tracestate, received_s)
        if trace is not None:
            trace.method = method
        return trace

    def end(self, trace: Trace, status: int) -> None:
        """The reply was written, or nobody was left to read it; ``status`` as on the wire."""
        trace.status, trace.written_s = status, self._clock()
        self._end(trace)


def note_decoded(trace: Trace, request: PredictRequest, now: float) -> None:
    """The call has become a request, which carries the trace from here on."""
    trace.decoded_s = now
    trace.model, trace.version = request.model, request.version
    trace.rows, trace.request_id = request.rows, request.request_id
    request.trace = trace


def note_error(trace: Trace, error: HeadraceError) -> None:
    """The call ends with an error."""
    trace.outcome, trace.message = error.code.value, error.message


def hex_id(trace: Trace | None) -> str | None:
    """The trace's id as logs show it; None without a trace."""
    return None if trace is None else f"{trace.trace_id:032x}"
