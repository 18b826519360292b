"""Everything an operator can set for a gateway process, with the one place where each default stands.

Frozen sections, filled once by ``foundation.settings`` and handed to those who need them, section by section. Nothing
here may read a file or a variable. Units stand last in the names.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from gateway.core.admission import AdmissionLimits


class ServerSettings(msgspec.Struct, frozen=True):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    """0 picks a free port and prints it; so for the others."""
    grpc_port: int = 8001
    admin_port: int = 8002


class RepositorySettings(msgspec.Struct, frozen=True):
    """Which models are served."""

    models: str = "models"
    """The folder with ``<model>/<version>/model.onnx``."""
    intra_op_threads: int = 0
    """Threads that one model run may use; 0: one for each core."""

    @property
    def effective_intra_op_threads(self) -> int:
        """What 0 means on this machine."""
        return self.intra_op_threads or max(1, len(os.sched_getaffinity(0)))


class HttpLimits(msgspec.Struct, frozen=True):
    """The walls of the HTTP port."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_connections: int = 16384
    keep_alive_s: float = 75.0
    """An idle connection is closed after this."""
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: float = 120.0
    """From the first byte of a request to the last of its body."""
    write_stall_timeout_s: float = 30.0
    """A peer that does not read its answers is cut off after this."""


class GrpcLimits(msgspec.Struct, frozen=True):
    """The walls of the gRPC port."""

    max_message_bytes: int = 64 * 1024 * 1024
    max_connections: int = 16384
    max_concurrent_streams: int = 1024
    """Calls at once on one connection."""
    stream_window_bytes: int = 1024 * 1024
    connection_window_bytes: int = 16 * 1024 * 1024
    max_header_list_bytes: int = 16 * 1024
    max_header_count: int = 128
    max_unread_bytes: int = 64 * 1024 * 1024
    """Answers that one peer may leave unread before it is cut off."""
    reset_burst: int = 5000
    """Calls that a peer may cancel in one go …"""
    reset_per_s: float = 200.0
    """… and per second, plus ``resets_per_answer`` for each call that it let us answer."""
    resets_per_answer: int = 4
    keepalive_time_s: float = 60.0
    """Silence after which the peer is asked whether it is there …"""
    keepalive_timeout_s: float = 20.0
    """… and how long it has to say so."""
    preface_timeout_s: float = 10.0
    message_timeout_s: float = 120.0
    """From a call's headers to the last byte of its message."""
    write_stall_timeout_s: float = 30.0


class DrainSettings(msgspec.Struct, frozen=True):
    """How the gateway stops."""

    delay_s: float = 1.0
    """Not ready, but still accepting, for this long after SIGTERM: load balancers need time to notice."""
    timeout_s: float = 30.0
    """After this, calls that are still running are cut off."""


class TelemetrySettings(msgspec.Struct, frozen=True):
    """What the gateway tells."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON lines elsewhere."""
    access_log: bool = False
    """One line for each infer call; costs some microseconds a call."""


class GatewaySettings(msgspec.Struct, frozen=True):
    """All sections of ``headrace.toml``."""

    server: ServerSettings = ServerSettings()
    repository: RepositorySettings = RepositorySettings()
    admission: AdmissionLimits = AdmissionLimits()
    http: HttpLimits = HttpLimits()
    grpc: GrpcLimits = GrpcLimits()
    drain: DrainSettings = DrainSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
