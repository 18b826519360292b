"""One HTTP/2 connection that carries gRPC: bytes in, calls through the service, bytes out.

libnghttp2 (by ``ngh2``) decides what the bytes mean; this module turns its events into calls and their outcomes into
frames. RST_STREAM cancels, ``grpc-timeout`` becomes a deadline, GOAWAY drains. It must never wait, and one call's
failure never touches another call on the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ngh2
from ngh2.events import (
    ConnectionClosed,
    DataReceived,
    Event,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from gateway.edge import grpc_wire
from gateway.edge.grpc_call import GrpcCall
from gateway.edge.grpc_exchange import Exchange
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.grpc_methods import INFER_PATH
from gateway.edge.grpc_stream_writer import StreamWriter
from gateway.edge.listeners import LAST_WORDS_S
from gateway.edge.tls import HTTP_2, speaks
from gateway.errors import HeadraceError, invalid

ENHANCE_YOUR_CALM = 0x0B
LEAST_FIELD_BYTES = 32
"""What any header field counts at least (RFC 9113, section 10.5.1)."""
NO_LIMIT = (1_000_000, 1_000_000)
"""ngh2's own reset limit answers a storm of client deadlines with GOAWAY; ``_count_reset`` bounds resets instead."""


class GrpcConnection(asyncio.Protocol):
    """The protocol object of one accepted socket."""

    def __init__(self, front: GrpcFront) -> None:
        limits = front.limits
        self.front = front
        self.calls: dict[int, Exchange] = {}
        self._h2 = ngh2.Connection(
            ngh2.Role.SERVER,
            ngh2.Configuration(
                stream_reset_rate_limit=NO_LIMIT,
                max_inbound_header_list_size=limits.max_header_list_bytes,
                # Too many fields fail their call, in ``_on_request``; here they would fail the connection.
                max_inbound_header_count=limits.max_header_list_bytes // LEAST_FIELD_BYTES,
            ),
        )
        self.streams = StreamWriter(self, self._h2)
        self._transport: asyncio.Transport | None = None
        self._receiving = False
        self._dirty = False
        self._write_paused = False
        self._closing = False
        self._leaving = False
        self._refusing = False
        self._greeted = False
        self._resets = 0
        self._answers = 0
        self._offered_bytes = self._taken_bytes = 0
        self._opened_s = self._heard_s = self._progress_s = front.clock()
        self._touched = True
        self._pinged = False

    # -- connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        front = self.front
        if len(front.connections) >= front.limits.max_connections or not speaks(transport, HTTP_2):
            transport.abort()
            return
        front.connections.add(self)
        limits = front.limits
        self._h2.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
            }
        )
        self._h2.set_local_window_size(limits.connection_window_bytes)
        self.flush()
        if front.refusing:  # its handshake took until now
            self.refuse_new_streams()

    def connection_lost(self, exc: Exception | None) -> None:
        self.front.connections.discard(self)
        self._transport = None
        for call in list(self.calls.values()):
            call.abandon()
        self.calls.clear()

    def pause_writing(self) -> None:
        """The peer does not read: answers wait in libnghttp2, and no new calls are read."""
        self._write_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._write_paused = False
        if self._transport is not None:
            self._transport.resume_reading()
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            return
        self._touched = True
        h2 = self._h2
        self._receiving = True
        try:
            h2.receive_data(data)
            for event in h2.events():
                handler = _HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event)
        except ngh2.DenialOfServiceError:
            self._cut(ENHANCE_YOUR_CALM)
        except ngh2.NGH2Error:
            self._closing = True  # libnghttp2 has queued a GOAWAY that says why
        finally:
            self._receiving = False
        self.flush()
        if not self._closing and not h2.want_read:
            self._leave()  # a GOAWAY has gone out or come in, and no call is under way

    def flush(self) -> None:
        """Write everything that libnghttp2 has ready."""
        self._dirty = False
        transport = self._transport
        if transport is None:
            return
        streams = self.streams
        spoken = streams.speak() if streams.speaking else None
        if not self._write_paused:
            self.write_out()
        if spoken or streams.choked:
            streams.listen(spoken or [])
        if self._closing or (self._refusing and not self.calls and not self._h2.want_write):
            self._leave()

    def _leave(self) -> None:
        """Close in a moment: closing on bytes of the peer would reset the connection, and take our last words along."""
        if self._transport is not None and not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._transport.close)

    def _cut(self, error_code: int) -> None:
        """Close a connection on which libnghttp2 refuses to say another word: the GOAWAY is ours."""
        self._closing = True
        if self._transport is not None:
            self._transport.write(grpc_wire.goaway(error_code))
            self._leave()
        for call in list(self.calls.values()):
            call.abandon()
        self.calls.clear()

    def write_out(self) -> None:
        """Write, now, what libnghttp2 has ready."""
        try:
            data = self._h2.data_to_send()
        except ngh2.NGH2Error:
            return  # it was cut
        if data and self._transport is not None:
            self._touched = True
            self._transport.write(data)

    def answer_is_queued(self) -> None:
        """Have it written at the end of this turn of the loop."""
        if not self._receiving and not self._dirty:
            self._dirty = True
            self.front.flush_soon(self)

    # -- events -----------------------------------------------------------------------------------

    def _on_request(self, event: RequestReceived) -> None:
        headers = dict(event.headers)
        path = headers.get(b":path", b"")
        kind = GrpcCall if path == INFER_PATH else self.front.streams.get(path, GrpcCall)
        call = kind(self, event.stream_id)
        self.calls[event.stream_id] = call
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self._end(call, grpc_wire.NOT_GRPC_HEADERS)
            return
        try:
            if len(event.headers) > self.front.limits.max_header_count:
                raise invalid(f"more than {self.front.limits.max_header_count} header fields")
            call.open(headers)
        except HeadraceError as error:
            self.answer_error(call, error)
            return
        if event.end_stream:
            call.message_is_complete()

    def _on_data(self, event: DataReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is None or call.answered:
            return
        try:
            call.receive(event.data)
        except HeadraceError as error:
            call.fail(error)
            return
        if event.end_stream:
            call.message_is_complete()

    def _on_trailers(self, event: TrailersReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None and not call.answered:
            call.message_is_complete()

    def _on_reset(self, event: StreamReset) -> None:
        self._resets += 1
        call = self.calls.pop(event.stream_id, None)
        if call is not None:
            call.abandon()
        limits = self.front.limits
        allowed = limits.reset_burst + limits.resets_per_answer * self._answers
        if self._resets > allowed:
            age_s = self.front.clock() - self._opened_s
            if self._resets > allowed + age_s * limits.reset_per_s:
                self._h2.terminate_connection(ENHANCE_YOUR_CALM)
                self._closing = True

    def _on_closed(self, event: StreamClosed) -> None:
        call = self.calls.pop(event.stream_id, None)
        if call is not None:
            call.abandon()

    def _on_settings(self, event: SettingsReceived) -> None:
        self._greeted = True

    def _on_connection_closed(self, event: ConnectionClosed) -> None:
        self._closing = True

    # -- answers ----------------------------------------------------------------------------------

    def answer(self, call: GrpcCall, message: bytes) -> None:
        """Headers, the message and an OK status."""
        call.answered = True
        if not self.count_answers(1, len(message)):
            return
        h2, stream_id = self._h2, call.stream_id
        self.calls.pop(stream_id, None)
        try:
            h2.send_response(stream_id, grpc_wire.OK_HEADERS)
            h2.send_data(stream_id, grpc_wire.frame(message))
            h2.send_trailers(stream_id, grpc_wire.OK_TRAILERS)
        except ngh2.NGH2Error:
            return  # the stream went away between two events of one read
        self.answer_is_queued()

    def answer_error(self, call: Exchange, error: HeadraceError) -> None:
        """A status without a message."""
        self._end(call, grpc_wire.error_headers(error))

    def _end(self, call: Exchange, headers: grpc_wire.Headers) -> None:
        call.answered = True
        call.forget()
        self.calls.pop(call.stream_id, None)
        try:
            self._h2.send_response(call.stream_id, headers, end_stream=True)
            if not call.complete:
                # The rest of the request is not wanted: say so, instead of receiving it (RFC 9113, section 8.1).
                # First out with the answer: a reset throws away what libnghttp2 has not serialized yet.
                self.write_out()
                self._h2.reset_stream(call.stream_id, 0)
        except ngh2.NGH2Error:
            return
        self.answer_is_queued()

    def count_answers(self, messages: int, size_bytes: int) -> bool:
        """Count what is about to be said. False, and the end, for a peer that asks for more with so much unread."""
        self._answers += messages
        self._offered_bytes += size_bytes
        if self._h2.queued_body_size() > self.front.limits.max_unread_bytes:
            self.abort()
            return False
        return True

    # -- time and shutdown ------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called about once a second: ask silent peers, cut stalled ones."""
        limits = self.front.limits
        transport = self._transport
        if transport is None:
            return
        if self._touched:
            self._touched = self._pinged = False
            self._heard_s = now
        silent_s = now - self._heard_s
        unread_bytes = self._h2.queued_body_size() + transport.get_write_buffer_size()
        taken_bytes = self._offered_bytes - unread_bytes
        if not unread_bytes or taken_bytes > self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._progress_s = now
        elif now - self._progress_s > limits.write_stall_timeout_s:
            transport.abort()
            return
        if not self._greeted and now - self._opened_s > limits.preface_timeout_s:
            transport.abort()
            return
        if self._pinged and silent_s > limits.keepalive_time_s + limits.keepalive_timeout_s:
            transport.abort()
            return
        if not self._pinged and silent_s > limits.keepalive_time_s:
            self._say(self._h2.ping)
            self._touched = False  # our own ping is no sign of life
            self._pinged = True
        for call in list(self.calls.values()):
            call.sweep(now)

    def announce_shutdown(self) -> None:
        """GOAWAY with the highest id: nothing is refused yet, but the peer should go elsewhere."""
        self._say(self._h2.send_shutdown_notice)

    def refuse_new_streams(self) -> None:
        """The final GOAWAY; closes as soon as the last call is answered."""
        self._refusing = True
        for call in list(self.calls.values()):
            call.leave()
        self._say(self._h2.send_goaway)

    def _say(self, frame: Callable[[], None]) -> None:
        try:
            frame()
        except ngh2.NGH2Error:
            self._closing = True  # the peer has said goodbye before us
        self.flush()

    def abort(self) -> None:
        """Cut the connection; its calls are cancelled."""
        if self._transport is not None:
            self._transport.abort()


_HANDLERS: dict[type[Event], Callable[[GrpcConnection, Any], None]] = {
    RequestReceived: GrpcConnection._on_request,
    DataReceived: GrpcConnection._on_data,
    TrailersReceived: GrpcConnection._on_trailers,
    StreamReset: GrpcConnection._on_reset,
    StreamClosed: GrpcConnection._on_closed,
    SettingsReceived: GrpcConnection._on_settings,
    ConnectionClosed: GrpcConnection._on_connection_closed,
}
