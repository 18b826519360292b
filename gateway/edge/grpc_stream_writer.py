"""What the streams of one gRPC connection say, and which of them are not listened to for now.

Decides when a peer reads a stream's answers too slowly. It must never write to the socket by itself: the connection
does, once for each turn of the loop.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import ngh2

from gateway.edge import grpc_wire
from gateway.errors import HeadraceError

if TYPE_CHECKING:
    from gateway.edge.grpc_connection import GrpcConnection
    from gateway.edge.grpc_stream import MessageStream


class StreamWriter:
    """The streams' side of a connection."""

    __slots__ = ("_connection", "_h2", "choked", "speaking")

    def __init__(self, connection: GrpcConnection, h2: ngh2.Connection) -> None:
        self.speaking: list[MessageStream] = []
        """Those that have something to say."""
        self.choked: set[MessageStream] = set()
        """Those whose answers are not read."""
        # The connection holds us: were we to hold it, each that closed would wait for the garbage collector.
        self._connection: GrpcConnection = weakref.proxy(connection)
        self._h2 = h2

    def will_speak(self, stream: MessageStream) -> None:
        """The stream has something to say at the end of this turn of the loop."""
        self.speaking.append(stream)
        self._connection.answer_is_queued()

    def speak(self) -> list[MessageStream]:
        """Everyone's turn to speak, before the connection writes. Those who did may have room for more."""
        speaking, self.speaking = self.speaking, []
        for stream in speaking:
            stream.speak()
        return speaking

    def listen(self, spoken: list[MessageStream]) -> None:
        """Listen again to those that have room for more, after the connection wrote."""
        for stream in spoken:
            if stream.held:
                stream.resume()
        for stream in list(self.choked):
            if not self._is_choked(stream):
                self.choked.discard(stream)
                stream.resume()

    def say(self, stream: MessageStream, framed: bytes, messages: int) -> None:
        """Some messages of a stream, as one piece."""
        if not self._connection.count_answers(messages, len(framed)):
            return
        try:
            if not stream.begun:
                stream.begun = True
                self._h2.send_response(stream.stream_id, grpc_wire.OK_HEADERS)
            self._h2.send_data(stream.stream_id, framed)
        except ngh2.NGH2Error:
            return  # the stream went away between two events of one read
        self._connection.answer_is_queued()
        if self._is_choked(stream):
            self.choked.add(stream)

    def _is_choked(self, stream: MessageStream) -> bool:
        """Whether more of the stream's answers are unread than its peer may have bytes on the way to us."""
        unread_bytes = self._h2.queued_body_size(stream.stream_id)
        return unread_bytes > self._connection.front.limits.stream_window_bytes

    def shut_window(self, stream: MessageStream) -> None:
        """Let the peer send no more on this stream than its window still allows."""
        self._set_window(stream, 0)

    def open_window(self, stream: MessageStream) -> None:
        """Let the peer send again."""
        self._set_window(stream, self._connection.front.limits.stream_window_bytes)

    def _set_window(self, stream: MessageStream, size_bytes: int) -> None:
        if not stream.complete:
            with suppress(ngh2.NGH2Error):  # it may go away between two events of one read
                self._h2.set_local_window_size(size_bytes, stream_id=stream.stream_id)
            self._connection.answer_is_queued()

    def end(self, stream: MessageStream, error: HeadraceError | None) -> None:
        """The stream's status. What was said before it still goes out, as fast as the peer reads."""
        stream.answered = True
        stream.forget()
        trailers = grpc_wire.OK_TRAILERS if error is None else grpc_wire.error_trailers(error)
        try:
            if stream.begun:
                self._h2.send_trailers(stream.stream_id, trailers)
            else:
                headers = [*grpc_wire.OK_HEADERS, *trailers]
                self._h2.send_response(stream.stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            return
        self._connection.answer_is_queued()
        if stream.complete:
            self._connection.calls.pop(stream.stream_id, None)
        else:
            self.refuse_the_rest(stream)

    def refuse_the_rest(self, stream: MessageStream) -> None:
        """Stop a peer that still sends on a stream that has its status, once it has read that.

        A reset throws away what libnghttp2 has not serialized yet.
        """
        self._connection.write_out()
        if stream.begun and not self._is_serialized(stream.stream_id):
            return  # the next sweep looks again
        self._connection.calls.pop(stream.stream_id, None)
        with suppress(ngh2.NGH2Error):
            self._h2.reset_stream(stream.stream_id, 0)
        self._connection.answer_is_queued()

    def _is_serialized(self, stream_id: int) -> bool:
        """Whether libnghttp2 has let go of all that was said: with a shut window it keeps even the status."""
        h2 = self._h2
        return not h2.queued_body_size(stream_id) and (
            min(h2.remote_window_size, h2.stream_remote_window_size(stream_id)) > 0
        )
