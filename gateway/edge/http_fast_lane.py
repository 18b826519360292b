"""The short cut for ``POST /v2/models/…/infer`` through uvicorn's own protocol class.

Plain infer requests are answered here without an ASGI scope, task or message: bytes to tensors, tensors to the
service, answer to one write. Whatever is unusual (chunked or compressed bodies, ``Expect``, pipelining, HTTP/1.0,
anything that is not infer) takes uvicorn's normal way to the ASGI application, which answers identically.

A head that llhttp has parsed twice is remembered: a keep-alive client repeats it byte for byte, and equal bytes at a
message boundary parse equally, so the next one costs a dictionary look-up. llhttp alone decides what a head means.

This module must never decode a tensor, choose a status, or wait. It leans on uvicorn's internals; ``tests/arch`` pins
their shape. A lane call plays the part of uvicorn's request cycle, so that its pipelining, shutdown and disconnect
logic see it as one of theirs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.core.call import Call
from gateway.edge.call_traces import note_decoded
from gateway.edge.http_body import RESERVE_FROM_BYTES
from gateway.edge.http_front import HttpFront, Reply, error_reply, serialize
from gateway.edge.http_patience import Patience, Stall, phase_of
from gateway.edge.infer_head import InferPlan, content_length, plan_of_head, without_upgrade
from gateway.edge.json_codec import OutputEncoding, decode_infer
from gateway.edge.listeners import has_unread
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import Prediction, PredictRequest, Trace

LINGER_S = 2.0
"""How long a refused upload may go on being thrown away before the connection is cut."""


class LaneCall(Call[Prediction]):
    """One infer request in the lane. To uvicorn it looks like a request cycle of its own."""

    __slots__ = (
        "_encoding",
        "_plan",
        "_protocol",
        "_request",
        "_trace",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    message_event = asyncio.Event()  # uvicorn sets it on a cycle; nobody waits for it here

    def __init__(self, protocol: FastLaneProtocol, plan: InferPlan) -> None:
        super().__init__()
        self._protocol = protocol
        self._plan = plan
        self._request: PredictRequest | None = None
        self._encoding: OutputEncoding | None = None
        self._trace: Trace | None = None
        self.keep_alive = plan.keep_alive
        self.disconnected = False
        self.response_complete = False

    def serve(self, body: bytes) -> None:
        """Decode and send the request through the service; ``finish`` writes the answer."""
        front, plan = self._protocol.front, self._plan
        received_s = front.clock()
        if front.traces is not None:
            self._trace = front.begin_trace(plan, received_s)
        try:
            servable = front.catalog.find(plan.model, plan.version)
            self._request, self._encoding = decode_infer(
                body, plan.header_length, servable, plan.version, received_s, plan.headers
            )
        except Exception as error:  # noqa: BLE001  the status table words it
            self.finish(None, error)
            return
        if self._trace is not None:
            note_decoded(self._trace, self._request, front.clock())
        self.start(front.service(self._request))

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        """Write the answer, unless nobody is there to read it."""
        front = self._protocol.front
        reply = front.reply(self._plan, self._request, self._encoding, result, error, self._trace)
        self._request = self._encoding = None
        self.response_complete = True
        if not self.disconnected:
            self._protocol.write_reply(self, reply)
        if self._trace is not None and front.traces is not None:
            front.traces.end(self._trace, reply.status)


class FastLaneProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a lane for infer. ``bind`` makes the class that uvicorn instantiates."""

    front: HttpFront
    call_type: type[LaneCall]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plan: InferPlan | None = None  # of the message that is being received in the lane
        self._chunks: list[bytes] = []
        self._missing_bytes = 0  # of a body whose head was remembered: llhttp does not see it
        self._reserved_bytes = 0
        # Of several pipelined requests the one that runs; ``cycle`` is the last one.
        self._running: LaneCall | RequestResponseCycle | None = None
        self._head: bytes | None = None
        self._at_boundary = True
        self._in_headers = False
        self._came_on = False  # a head, body or message, by the bytes that are being parsed
        self._fruitless_bytes = 0
        self._unwanted_bytes = 0  # of a body whose request has its answer already
        self._discarding = False
        self._since_s = 0.0
        self._patience = Patience(self.front.limits, self.front.clock())

    # -- connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.front.limits.max_connections:
            self.refuse(
                HeadraceError(ErrorCode.OVERLOADED, "too many connections", retry_after_s=1.0)
            )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_body()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if isinstance(running, LaneCall):
                running.cancel()

    def pause_writing(self) -> None:
        """The peer does not read: stop reading from it, so that its unread answers stay bounded."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Close now if nothing is under way; otherwise the answer that is under way closes."""
        if self._is_answered_early:
            self._linger()
            return
        if not self._at_boundary or self._missing_bytes or has_unread(self.transport):
            return  # a request is still arriving: its answer will say "connection: close"
        super().shutdown()

    # -- receiving --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._patience.touched = True
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._discarding:
            return
        if self._missing_bytes:
            self._receive_body(data)
            return
        if self._at_boundary and (self.cycle is None or self.cycle.response_complete):
            end = data.find(b"\r\n\r\n")
            if end > 0:
                head = data[:end]
                plan = self.front.heads.plan_of(head)
                if plan is not None:
                    missing_bytes = plan.content_length - len(data) + end + 4
                    if missing_bytes == 0:
                        self._serve(plan, data[end + 4 :])
                        return
                    if missing_bytes > 0:
                        self._plan = plan
                        self._missing_bytes = plan.content_length
                        self._since_s = self.front.clock()
                        self._receive_body(data[end + 4 :])
                        return
                else:
                    self._head = head if head.startswith(b"POST ") else None
                    data = without_upgrade(data, end)
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._came_on = False
        super().data_received(data)
        self._head = None
        if self._came_on or self._discarding:
            self._fruitless_bytes = 0
            return
        # All of it is a head, chunk extensions or trailers without an end: llhttp has no limit for these.
        self._fruitless_bytes += len(data)
        if self._fruitless_bytes > self.front.limits.max_header_bytes:
            self.refuse(invalid("the request's headers are too large"), status=431)

    def _receive_body(self, data: bytes) -> None:
        """Collect a body whose head was remembered."""
        extra = b""
        if len(data) > self._missing_bytes:
            data, extra = data[: self._missing_bytes], data[self._missing_bytes :]
        self._missing_bytes -= len(data)
        if not self._keep_chunk(data) or self._missing_bytes:
            return
        plan = self._plan
        assert plan is not None
        body = b"".join(self._chunks)
        self._forget_body()
        self._serve(plan, body)
        if extra:
            self.data_received(extra)

    def _keep_chunk(self, data: bytes) -> bool:
        """Keep a piece of the body if the process has room for it; otherwise refuse the request."""
        assert self._plan is not None
        if self._plan.content_length > RESERVE_FROM_BYTES:
            if not self.front.admission.reserve_bytes(len(data)):
                self.refuse(
                    HeadraceError(
                        ErrorCode.OVERLOADED,
                        "the gateway holds too many bytes of requests; try again later",
                        retry_after_s=1.0,
                    )
                )
                return False
            self._reserved_bytes += len(data)
        self._chunks.append(data)
        return True

    def _forget_body(self) -> None:
        if self._reserved_bytes:
            self.front.admission.release_bytes(self._reserved_bytes)
            self._reserved_bytes = 0
        self._chunks = []
        self._plan = None
        self._missing_bytes = 0

    # -- llhttp's callbacks -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._at_boundary = False
        self._in_headers = True
        self._unwanted_bytes = 0
        self._since_s = self.front.clock()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._came_on = True
        if self._discarding:
            return
        length_bytes = content_length(self.headers)
        if length_bytes is not None and length_bytes > self.front.limits.max_body_bytes:
            self.refuse(
                HeadraceError(
                    ErrorCode.TOO_LARGE,
                    f"the body has {length_bytes} bytes; this server takes at most "
                    f"{self.front.limits.max_body_bytes} (http.max_body_bytes)",
                )
            )
            return
        self._plan = plan = self._lane_plan()
        if plan is None:
            super().on_headers_complete()
        elif self._head is not None and plan.keep_alive:
            self.front.heads.remember(self._head, plan)
        self.headers = []  # trailers are no headers (RFC 9110, section 6.5.1)
        self._head = None  # a second message in the same bytes did not start at their beginning

    def on_body(self, body: bytes) -> None:
        self._came_on = True
        if self._discarding:
            return
        if self._plan is not None:
            self._keep_chunk(body)
        elif self._is_answered_early:
            # The answer did not need the rest: take it, so that the connection stays of use, but not for ever.
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > self.front.limits.max_body_bytes:
                self._linger()
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._at_boundary = self._came_on = True
        if self._discarding:
            return
        plan = self._plan
        if plan is None:
            super().on_message_complete()
            return
        body = b"".join(self._chunks)
        self._forget_body()
        self._serve(plan, body)

    @property
    def _is_answered_early(self) -> bool:
        """Whether the request whose body is arriving has had its answer; only the ASGI route answers that early."""
        if self._at_boundary or self._in_headers or self._plan is not None:
            return False
        return self.cycle is not None and self.cycle.response_complete

    def _lane_plan(self) -> InferPlan | None:
        """The plan of the request whose headers are complete, if it may take the lane."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined behind a request that runs
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        keep_alive, find_holder = parser.should_keep_alive(), self.front.find_holder
        return plan_of_head(self.url, self.headers, keep_alive=keep_alive, find_holder=find_holder)

    # -- answering --------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _serve(self, plan: InferPlan, body: bytes) -> None:
        self.front.metrics.http_paths["fast_lane"] += 1
        self._running = call = self.call_type(self, plan)
        self.cycle = call  # type: ignore[assignment]  # plays the part: see the module's docstring
        call.serve(body)

    def write_reply(self, call: LaneCall, reply: Reply) -> None:
        """Head and body in one write; then close, go on with a pipelined request, or wait for the next."""
        close = not call.keep_alive or self.front.draining
        self.transport.write(serialize(reply, close=close))
        self.server_state.total_requests += 1
        self._patience.touched = True
        if close:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """llhttp refused the bytes."""
        self.refuse(invalid(f"not a valid HTTP request: {msg}"))

    def refuse(self, error: HeadraceError, *, status: int | None = None) -> None:
        """Answer with an error before the request is whole, and let go of the connection.

        The rest of the upload is thrown away for a moment: closing on unread bytes would reset the connection and
        take the answer with it.
        """
        if self._discarding or self.transport.is_closing():
            return
        if self._is_answered_early:
            self._linger()  # a second answer would look like that of the next request
            return
        self._discarding = True
        self._forget_body()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if isinstance(cycle, LaneCall) or cycle.response_started or self.pipeline:
                self.transport.close()  # an error here would look like the answer of the call that is running
                return
            cycle.disconnected = True  # the application waits for a body that will not come
            cycle.message_event.set()
        self.transport.write(serialize(error_reply(error, status), close=True))
        self._linger()

    def _linger(self) -> None:
        """Close, but throw away what still arrives for a moment."""
        self._discarding = True
        if self.transport.can_write_eof():  # TLS has no half-closed connections
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    # -- the sweeper's view -----------------------------------------------------------------------

    def abort(self) -> None:
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Called about once a second: cut what has stalled."""
        is_arriving = not self._at_boundary or self._missing_bytes > 0
        is_answered = self.cycle is None or self.cycle.response_complete
        stall = self._patience.look(
            phase_of(in_head=self._in_headers, is_arriving=is_arriving, is_answered=is_answered),
            now,
            since_s=self._since_s,
            unread_bytes=self.transport.get_write_buffer_size(),
            write_paused=self.flow.write_paused,
        )
        if stall is Stall.UNREAD:
            self.transport.abort()
        elif stall is Stall.IDLE:
            self.transport.close()
        elif stall is Stall.INCOMPLETE:
            self.refuse(self._patience.too_slow(in_head=self._in_headers), status=408)


def bind(front: HttpFront, call_type: type[LaneCall] = LaneCall) -> type[FastLaneProtocol]:
    """The protocol class for one front, as ``uvicorn.Config(http=…)`` wants it."""
    return type("BoundProtocol", (FastLaneProtocol,), {"front": front, "call_type": call_type})
