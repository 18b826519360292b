"""gRPC calls with many messages: reads them one by one, answers in order, and lets nobody flood anybody.

A peer that sends faster than it is answered, or does not read its answers, is held back by HTTP/2's flow control: its
messages stay uncut, and its window stays shut, until there is room again. It must never write to the socket; the
connection asks it to speak once for each turn of the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.edge import grpc_wire
from gateway.edge.grpc_cutter import MessageCutter
from gateway.edge.grpc_exchange import Exchange
from gateway.edge.http_body import RESERVE_FROM_BYTES, inflate
from gateway.edge.status import as_headrace_error
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import NO_DEADLINE_S

if TYPE_CHECKING:
    from gateway.edge.grpc_connection import GrpcConnection


class MessageStream(Exchange):
    """A call with any number of messages in each direction. Subclasses say what becomes of a message."""

    __slots__ = (
        "_connection",
        "_cutter",
        "_encoding",
        "_is_leaving",
        "_is_quiet",
        "_is_shut",
        "_out",
        "_partial_since_s",
        "_pending",
        "_reserved_bytes",
        "_timer",
        "answered",
        "begun",
        "complete",
        "deadline_s",
        "headers",
        "held",
        "holder",
        "opened_s",
        "stream_id",
        "trace_headers",
    )

    def __init__(self, connection: GrpcConnection, stream_id: int) -> None:
        self.stream_id = stream_id
        self.opened_s = connection.front.clock()
        self.deadline_s = NO_DEADLINE_S
        self.complete = False
        self.answered = False
        self.begun = False
        """The answer's headers are out."""
        self.held = False
        """There is no room for more: what arrives stays uncut."""
        self._connection = connection
        self.holder = None
        self._encoding = ""
        self._reserved_bytes = 0
        self._cutter = MessageCutter(connection.front.limits.max_message_bytes)
        self._partial_since_s = math.inf
        self._pending: deque[Any] = deque()
        """Messages that were read and have no answer yet; each can be cancelled."""
        self._out: list[bytes] = []
        self._is_shut = False
        self._is_leaving = False
        self._is_quiet = False
        """Nothing was asked between two looks of the sweeper."""
        self._timer: asyncio.TimerHandle | None = None

    # -- what the peer says -----------------------------------------------------------------------

    def open(self, headers: dict[bytes, bytes]) -> None:
        super().open(headers)
        if self.deadline_s < NO_DEADLINE_S:
            wait_s = self.deadline_s - self._connection.front.clock()
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_deadline)

    def _choose(self, path: bytes, headers: dict[bytes, bytes]) -> None:
        """The path has chosen this class."""

    def receive(self, data: bytes) -> None:
        self._is_quiet = False
        self._cutter.add(data)
        if not self.held:
            self._cut()
        self._account()

    def _cut(self) -> None:
        """Take the messages that are whole, as long as there is room for their answers."""
        cutter, pending, choked = self._cutter, self._pending, self._connection.streams.choked
        max_requests = self._connection.front.limits.max_stream_requests
        was_partial = self._partial_since_s < math.inf
        while cutter.size_bytes:
            if len(pending) + len(self._out) >= max_requests or self in choked:
                self._hold()
                return
            framed = cutter.cut()
            if framed is None:
                if not was_partial:
                    self._partial_since_s = self._connection.front.clock()
                break
            was_partial = False
            self._take(*framed)
            if self.answered:
                return
        else:
            self._partial_since_s = math.inf
        if self.complete:
            self._heard_all()

    def _account(self) -> None:
        """Bytes that wait count with admission, beyond what every stream may have."""
        held_bytes = self._cutter.size_bytes
        more_bytes = (held_bytes if held_bytes > RESERVE_FROM_BYTES else 0) - self._reserved_bytes
        if more_bytes > 0:
            self._reserve(more_bytes)
        elif more_bytes:
            self._connection.front.admission.release_bytes(-more_bytes)
            self._reserved_bytes += more_bytes

    def _hold(self) -> None:
        self.held = True
        self._partial_since_s = math.inf
        if not self._is_shut:
            self._is_shut = True
            self._connection.streams.shut_window(self)

    def resume(self) -> None:
        """Some answers are out: read on, as far as there is room now."""
        self.held = False
        try:
            self._cut()
            self._account()
        except HeadraceError as error:
            self.fail(error)
        if self._is_shut and not self.held and not self.answered:
            self._is_shut = False
            self._connection.streams.open_window(self)

    def message_is_complete(self) -> None:
        self.complete = True
        if not self.held and not self.answered:
            self._heard_all()

    def _heard_all(self) -> None:
        if self._cutter.size_bytes:
            self.fail(invalid("the call ended before its message was complete"))
        else:
            self._end_if_done()

    def _end_if_done(self) -> None:
        """Everything is said and answered: an OK status."""
        if self.complete and not self._pending and not self._cutter.size_bytes:
            self._end(None)

    def _take(self, flag: int, message: bytes) -> None:
        """One message of the peer."""
        raise NotImplementedError

    def _plain(self, flag: int, message: bytes) -> bytes:
        """A small message as it was before it was compressed."""
        return inflate(message, self._encoding, RESERVE_FROM_BYTES) if flag else message

    # -- what we say ------------------------------------------------------------------------------

    def speak(self) -> None:
        """Hand what is to be said to the connection, in one piece."""
        out = self._out
        if out:
            self._out = []
            framed = out[0] if len(out) == 1 else b"".join(out)
            self._connection.streams.say(self, framed, len(out))

    def _end(self, error: HeadraceError | None) -> None:
        self.speak()
        self._connection.streams.end(self, error)
        self._cancel_pending()

    def _on_deadline(self) -> None:
        self.fail(
            HeadraceError(ErrorCode.DEADLINE_EXCEEDED, "the stream was not done by its deadline")
        )

    def fail(self, error: BaseException) -> None:
        ours = as_headrace_error(error)
        if not self.answered:
            self._end(ours)

    def abandon(self) -> None:
        self.answered = True
        self.forget()
        self._cancel_pending()

    def forget(self) -> None:
        self._cutter.clear()
        self._out = []
        self._connection.streams.choked.discard(self)
        self._unreserve()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_pending(self) -> None:
        pending, self._pending = self._pending, deque()
        for one in pending:
            one.cancel()

    def sweep(self, now: float) -> None:
        if self.answered:
            self._connection.streams.refuse_the_rest(self)
        elif now - self._partial_since_s > self._connection.front.limits.message_timeout_s:
            self.fail(self._late())
        elif self._is_leaving and not self._pending and not self._out:
            # A peer that asks nothing does not notice that we leave; it would keep us until the drain's limit.
            if self._is_quiet:
                self.fail(HeadraceError(ErrorCode.NOT_READY, "the server is shutting down"))
            self._is_quiet = True

    def leave(self) -> None:
        self._is_leaving = True


class Conversation(MessageStream):
    """Every message is answered at once by a plain function."""

    __slots__ = ("_reply",)

    def __init__(
        self, reply: Callable[[bytes], bytes], connection: GrpcConnection, stream_id: int
    ) -> None:
        super().__init__(connection, stream_id)
        self._reply = reply

    def _take(self, flag: int, message: bytes) -> None:
        self._check_flag(flag)
        plain = self._plain(flag, message)
        try:
            reply = self._reply(plain)
        except Exception as error:  # noqa: BLE001  the status table words it; the connection lives on
            self.fail(error)
            return
        self._out.append(grpc_wire.frame(reply))
        self._connection.streams.will_speak(self)
