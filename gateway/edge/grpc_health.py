"""``grpc.health.v1``: the health of the server and of each model, as load balancers and orchestrators ask for it.

Decides what a name stands for: nothing or the inference service for the server, anything else for a model. A model of a
server that shuts down is not serving, either. It must never keep a state of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge import grpc_wire
from gateway.edge.server_info import ServerInfo
from gateway.errors import ErrorCode, HeadraceError
from protos.health import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

if TYPE_CHECKING:
    from gateway.edge.grpc_methods import Method

SERVICE = "/grpc.health.v1.Health/"
WATCH_PATH = f"{SERVICE}Watch".encode()

_OF_SERVER = ("", "inference.GRPCInferenceService")


class Health:
    """Answers from what the server knows of itself."""

    def __init__(self, info: ServerInfo) -> None:
        self._info = info

    def methods(self) -> dict[bytes, Method]:
        """The unary calls, by path."""
        return {f"{SERVICE}Check".encode(): self.check, f"{SERVICE}List".encode(): self.list}

    def check(self, message: bytes) -> bytes:
        """A ``HealthCheckRequest`` to a ``HealthCheckResponse``; NOT_FOUND for an unknown name."""
        service = service_of(message)
        status = self.status(service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise HeadraceError(ErrorCode.NOT_FOUND, f"no service or model is called {service!r}")
        return HealthCheckResponse(status=status).SerializeToString()

    def list(self, message: bytes) -> bytes:
        """A ``HealthListRequest`` to a ``HealthListResponse``: everything that has a name."""
        grpc_wire.parse(HealthListRequest, message)
        reply = HealthListResponse()
        for service in (*_OF_SERVER, *self._info.models()):
            reply.statuses[service].status = self.status(service)
        return reply.SerializeToString()

    def status(self, service: str) -> int:
        """The ``ServingStatus`` of a name."""
        is_ready = self._info.ready()[0]
        if service not in _OF_SERVER:
            refusal = self._info.refusal(service, "")
            if refusal is not None:
                if refusal.code is ErrorCode.NOT_FOUND:
                    return HealthCheckResponse.SERVICE_UNKNOWN
                return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING


def service_of(message: bytes) -> str:
    """The name in a ``HealthCheckRequest``."""
    return grpc_wire.parse(HealthCheckRequest, message).service
