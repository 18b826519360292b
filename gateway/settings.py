"""Everything an operator can set for a gateway process, with the one place where each default stands.

Frozen sections, filled once by ``foundation.settings`` and handed to those who need them, section by section. Nothing
here may read a file or a variable. Units stand last in the names.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from foundation.store import StoreSettings
from foundation.store_url import without_password
from gateway.core.admission import AdmissionLimits
from rollout.settings import RolloutSettings

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
Bytes: TypeAlias = Annotated[int, Meta(ge=1)]
WindowBytes: TypeAlias = Annotated[int, Meta(ge=65535, le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86400)]


class ServerSettings(msgspec.Struct, frozen=True):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """The address of all three ports; 0.0.0.0 for every IPv4 interface, :: for IPv6 as well."""
    http_host: str = ""
    """The REST port's own address; empty: ``host``. So for the next two."""
    grpc_host: str = ""
    """The gRPC port's."""
    admin_host: str = ""
    """The admin port's."""
    http_port: Port = 8000
    """0 picks a free port and prints it; so for the others."""
    grpc_port: Port = 8001
    """gRPC."""
    admin_port: Port = 8002
    """Metrics, status and health; keep it away from callers."""
    http_unix_socket: str = ""
    """Path of a Unix socket that serves REST as well, without TLS; empty: none."""
    grpc_unix_socket: str = ""
    """The same for gRPC."""
    unix_socket_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "660"
    """Permissions of both, in octal: who may write may call."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes that share the data ports; above 1 a supervisor keeps them running."""

    def host_of(self, port: str) -> str:
        """The address of "http", "grpc" or "admin"."""
        own = {"http": self.http_host, "grpc": self.grpc_host, "admin": self.admin_host}
        return own[port] or self.host

    @property
    def unix_mode(self) -> int:
        """``unix_socket_mode`` as the number that it is."""
        return int(self.unix_socket_mode, 8)


class TlsSettings(msgspec.Struct, frozen=True):
    """TLS on the REST and the gRPC port."""

    cert_file: str = ""
    """The server's certificate, then those that lead to its CA, in PEM; empty: no TLS. Read again when it changes."""
    key_file: str = ""
    """Its key, not encrypted; empty: it stands in ``cert_file``."""
    client_ca_file: str = ""
    """With it, clients must show a certificate that one of these CAs has signed. Read at the start only."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Older clients are refused."""
    handshake_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """How long a client may take to agree on keys."""
    admin: bool = False
    """The admin port, too."""


class RepositorySettings(msgspec.Struct, frozen=True):
    """Which models are served."""

    models: str = "models"
    """The folder with ``<model>/<version>/model.onnx``."""
    control: Literal["none", "explicit", "poll"] = "none"
    """Who changes what is served: nobody, callers of load and unload, or what lies in the folder."""
    poll_interval_s: Annotated[float, Meta(ge=0.1, le=86400)] = 5.0
    """How often the folder is looked at with control = "poll"."""
    startup_models: str = ""
    """With control = "explicit": what is loaded at the start, separated by commas; "*" for everything."""
    intra_op_threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads that one model run may use; 0: the cores, shared out among the workers."""


class HttpLimits(msgspec.Struct, frozen=True):
    """The walls of the HTTP port."""

    max_body_bytes: Bytes = 64 * 1024 * 1024
    """Of a request, and of what a compressed one expands to."""
    max_header_bytes: Bytes = 64 * 1024
    """Request line and headers together."""
    max_connections: Count = 16384
    """Open at the same time; one more is refused."""
    keep_alive_s: Seconds = 75.0
    """An idle connection is closed after this."""
    head_timeout_s: Seconds = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: Seconds = 120.0
    """From the first byte of a request to the last of its body."""
    write_stall_timeout_s: Seconds = 30.0
    """A peer that does not read its answers is cut off after this."""


class GrpcLimits(msgspec.Struct, frozen=True):
    """The walls of the gRPC port."""

    server: Literal["nghttp2", "grpcio"] = "nghttp2"
    """Who speaks HTTP/2: our own front, or the slower reference on grpcio (extra ``grpcio``)."""
    max_message_bytes: Bytes = 64 * 1024 * 1024
    """Of a request, and of what a compressed one expands to."""
    max_connections: Count = 16384
    """Open at the same time; one more is refused."""
    max_concurrent_streams: Count = 1024
    """Calls at once on one connection."""
    max_stream_requests: Count = 256
    """Requests of one ModelStreamInfer call that wait for their answers; further ones are not read before."""
    stream_window_bytes: WindowBytes = 1024 * 1024
    """Bytes that one call may have on the way to us, and that a stream may leave unread before it is held back."""
    connection_window_bytes: WindowBytes = 16 * 1024 * 1024
    """The same for all calls of a connection."""
    max_header_list_bytes: Bytes = 16 * 1024
    """Of one call, decoded."""
    max_header_count: Count = 128
    """Of one call."""
    max_unread_bytes: Bytes = 64 * 1024 * 1024
    """A peer that has more than this unread, and asks for more, is cut off."""
    reset_burst: Annotated[int, Meta(ge=0)] = 5000
    """Calls that a peer may cancel in one go …"""
    reset_per_s: Annotated[float, Meta(ge=0)] = 200.0
    """… and per second, plus ``resets_per_answer`` for each call that it let us answer."""
    resets_per_answer: Annotated[int, Meta(ge=0)] = 4
    """Above all three together the connection is closed: it only makes work and takes it back."""
    keepalive_time_s: Seconds = 60.0
    """Silence after which the peer is asked whether it is there …"""
    keepalive_timeout_s: Seconds = 20.0
    """… and how long it has to say so."""
    preface_timeout_s: Seconds = 10.0
    """From the connection to HTTP/2's opening bytes."""
    message_timeout_s: Seconds = 120.0
    """From a call's headers to the last byte of its message."""
    write_stall_timeout_s: Seconds = 30.0
    """A peer that does not read its answers is cut off after this."""


class DrainSettings(msgspec.Struct, frozen=True):
    """How the gateway stops."""

    delay_s: Seconds = 1.0
    """Not ready, but still accepting, for this long after SIGTERM: load balancers need time to notice."""
    timeout_s: Seconds = 30.0
    """After this, calls that are still running are cut off."""


class TelemetrySettings(msgspec.Struct, frozen=True):
    """What the gateway tells."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is not worth a line."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """auto: text on a terminal, JSON lines elsewhere."""
    access_log: bool = False
    """One line for each infer call; costs some microseconds a call."""
    metrics: bool = True
    """False: nothing is measured in the lanes, and statistics stay empty."""
    otlp_endpoint: str = ""
    """The OpenTelemetry collector that gets traces, for example http://localhost:4318; empty: no tracing."""
    service_name: str = "headrace"
    """The name under which traces are filed."""
    trace_sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Share of calls that are traced among those that bring no ``traceparent``."""
    trace_max_per_s: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    """Most traces a second and worker, whoever asked for them: each costs about 0.25 ms of CPU time."""


class AccessSettings(msgspec.Struct, frozen=True):
    """Who may ask."""

    api_keys_file: str = ""
    """The keys that callers must present, made by ``headrace key create``; empty: everybody may ask."""


class FeatureSettings(msgspec.Struct, frozen=True):
    """Online features; the store itself is in ``[store]``."""

    manifest: str = ""
    """The manifest that ``headrace features apply`` wrote, or its folder; empty: no features, and no store."""
    layout: Literal["packed", "feast"] = "packed"
    """How rows lie in the store: our own packed rows, or Feast's hashes, which are only read."""
    feast_project: str = ""
    """What the project is called in Feast; empty: as in the manifest."""
    feast_views: str = ""
    """Views that Feast calls otherwise: OURS=THEIRS, with commas between pairs."""
    connect_timeout_ms: Annotated[float, Meta(ge=1, le=60_000)] = 100.0
    """To reach the store, TLS included; it is tried again for ever, at most a second apart."""
    read_timeout_ms: Annotated[float, Meta(ge=1, le=60_000)] = 1000.0
    """A store that is silent for this long is taken for gone. Requests wait for ``lookup_budget_ms`` of their model."""
    near_cache_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    """Copies of rows that one worker keeps, for as long as their view's ``cache_ttl`` says."""
    negative_cache_bytes: Annotated[int, Meta(ge=0)] = 4 * 1024 * 1024
    """The same for "there is no such row"."""
    max_reads_in_flight: Count = 4
    """Reads of up to 500 rows on the way at once; rows asked for meanwhile go with the next one."""
    max_pending_keys: Count = 50_000
    """Rows asked for and not answered; beyond them requests take what is at hand."""
    breaker_failures: Count = 3
    """Reads in a row that failed, or came too late, after which the store is not asked for …"""
    breaker_open_s: Annotated[float, Meta(ge=0.01, le=10)] = 1.0
    """… this long; doubled up to 10 s while it stays away."""
    push: bool = False
    """Whether callers of the data ports may push rows; where API keys are asked for, those that were granted it."""
    max_push_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Rows of one push."""
    max_push_bytes: Bytes = 1024 * 1024
    """Of one push, and of what a compressed one expands to; below what the port takes."""
    max_pushes_in_flight: Count = 8
    """Pushes that a worker has inside; one more is refused, and may come again."""
    push_timeout_ms: Annotated[float, Meta(ge=10, le=60_000)] = 2000.0
    """How long one push may take, its turn included."""


class GatewaySettings(msgspec.Struct, frozen=True):
    """All sections of ``headrace.toml``."""

    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    repository: RepositorySettings = RepositorySettings()
    admission: AdmissionLimits = AdmissionLimits()
    http: HttpLimits = HttpLimits()
    grpc: GrpcLimits = GrpcLimits()
    access: AccessSettings = AccessSettings()
    store: StoreSettings = StoreSettings()
    features: FeatureSettings = FeatureSettings()
    rollout: RolloutSettings = RolloutSettings()
    drain: DrainSettings = DrainSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def needs_store(self) -> bool:
        """Whether anything is kept in the store."""
        return bool(self.features.manifest) or self.rollout.enabled

    @property
    def shown(self) -> dict[str, Any]:
        """Plain values for ``/status``, without the store's password."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        found["store"]["redis_url"] = without_password(self.store.redis_url)
        return found

    @property
    def intra_op_threads(self) -> int:
        """Threads that one model run may use on this machine."""
        cores = len(os.sched_getaffinity(0))
        return self.repository.intra_op_threads or max(1, cores // self.server.workers)
