"""``Watch`` of ``grpc.health.v1``: a stream on which the server says how something is, and again when that changes.

Looks once a second, with the sweep of its connection. It must never hold up a shutdown: then it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge import grpc_wire
from gateway.edge.grpc_health import Health, service_of
from gateway.edge.grpc_stream import MessageStream
from gateway.errors import ErrorCode, HeadraceError, invalid
from protos.health import HealthCheckResponse

if TYPE_CHECKING:
    from gateway.edge.grpc_connection import GrpcConnection


class Watch(MessageStream):
    """One ``Watch`` call: looks once a second, and tells what has changed."""

    __slots__ = ("_health", "_service", "_told")

    def __init__(self, health: Health, connection: GrpcConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self._health = health
        self._service: str | None = None
        self._told = -1

    def _take(self, flag: int, message: bytes) -> None:
        self._check_flag(flag)
        if self._service is not None:
            raise invalid("a Watch takes exactly one message")
        self._service = service_of(self._plain(flag, message))
        self._tell()

    def _end_if_done(self) -> None:
        if self._service is None:
            self.fail(invalid("a Watch takes exactly one message"))

    def _tell(self) -> None:
        assert self._service is not None
        status = self._health.status(self._service)
        if status != self._told:
            self._told = status
            self._out.append(
                grpc_wire.frame(HealthCheckResponse(status=status).SerializeToString())
            )
            self._connection.streams.will_speak(self)

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self.answered:
            return
        if self._service is not None:
            self._tell()
        elif now - self.opened_s > self._connection.front.limits.message_timeout_s:
            self.fail(self._late())

    def leave(self) -> None:
        self.fail(HeadraceError(ErrorCode.NOT_READY, "the server is shutting down"))
