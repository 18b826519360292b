"""What every gRPC call has, whatever its shape: a stream of HTTP/2, a head, a deadline and an end.

Decides what a call's headers mean. ``grpc_call.py`` holds the calls of one message, ``grpc_stream.py`` the streams. It
must never write to the socket; the connection does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge import grpc_wire
from gateway.edge.grpc_access import holder_of
from gateway.edge.grpc_methods import INFER_PATH
from gateway.errors import ErrorCode, HeadraceError

if TYPE_CHECKING:
    from gateway.edge.access import KeyHolder
    from gateway.edge.grpc_connection import GrpcConnection


class Exchange:
    """A call from its headers to its trailers. Subclasses own the slots that are named here."""

    if not TYPE_CHECKING:  # the subclass owns the storage, which a type checker cannot follow
        __slots__ = ()

    stream_id: int
    opened_s: float
    deadline_s: float
    complete: bool
    """The peer has said everything."""
    answered: bool
    """Nothing more will be said to the peer."""
    _connection: GrpcConnection
    _encoding: str
    """Of messages that are marked as compressed: "gzip", "deflate", or "" for none."""
    holder: KeyHolder | None
    """Whose API key came along; None where keys are not asked for."""
    _reserved_bytes: int
    headers: dict[bytes, bytes]
    """The call's metadata, of which a servable may want some."""
    trace_headers: tuple[bytes, bytes]
    """``traceparent`` and ``tracestate``; only where there are traces."""

    def open(self, headers: dict[bytes, bytes]) -> None:
        """Read the call's headers; raises for what can never be answered."""
        self.headers = headers
        path = headers.get(b":path", b"")
        front = self._connection.front
        if front.access is not None:
            self.holder = holder_of(front, path, headers)
        if path != INFER_PATH:
            self._choose(path, headers)
        if front.traces is not None:
            parent, state = headers.get(b"traceparent", b""), headers.get(b"tracestate", b"")
            self.trace_headers = (parent, state)
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            self.deadline_s = self.opened_s + grpc_wire.parse_timeout_s(timeout)
        offered = headers.get(b"grpc-encoding")
        if offered is not None:
            self._encoding = grpc_wire.encoding_of(offered)

    def _choose(self, path: bytes, headers: dict[bytes, bytes]) -> None:
        """Find out what is asked for, where it is not one prediction."""
        raise NotImplementedError

    def _check_flag(self, flag: int) -> None:
        """Raises for a message that says it is compressed in a call that does not say how."""
        if flag > 1 or (flag and not self._encoding):
            raise grpc_wire.unknown_compression()

    def receive(self, data: bytes) -> None:
        """Take a piece of what the peer says; raises as soon as it is clear that it cannot be taken."""
        raise NotImplementedError

    def message_is_complete(self) -> None:
        """The peer has said everything."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """The call ends with an error."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The stream is gone: nothing can be answered any more; what runs is cancelled."""
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of the received bytes."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Called about once a second."""
        raise NotImplementedError

    def leave(self) -> None:
        """The server takes no more calls: a call that would never end by itself ends now."""

    def _reserve(self, size_bytes: int) -> None:
        """Count received bytes with admission; raises when the process holds too many."""
        if not self._connection.front.admission.reserve_bytes(size_bytes):
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                "the gateway holds too many bytes of requests; try again later",
                retry_after_s=1.0,
            )
        self._reserved_bytes += size_bytes

    def _unreserve(self) -> None:
        if self._reserved_bytes:
            self._connection.front.admission.release_bytes(self._reserved_bytes)
            self._reserved_bytes = 0

    def _late(self) -> HeadraceError:
        limit_s = self._connection.front.limits.message_timeout_s
        return HeadraceError(
            ErrorCode.DEADLINE_EXCEEDED, f"the message was not complete after {limit_s:g} s"
        )
