"""gRPC over libnghttp2: what the connections of the gRPC port share.

Holds the service, the limits and the set of connections, and flushes every connection that got answers in one turn
of the loop with one write. ``grpc_connection.py`` speaks the protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.core.admission import Admission
from gateway.edge.call_traces import CallTraces, hex_id
from gateway.edge.grpc_methods import Method
from gateway.errors import HeadraceError
from gateway.messages import PredictRequest, Trace
from gateway.ports import Catalog, Clock, CountedServable, FrontMeters, Service
from gateway.settings import GrpcLimits

if TYPE_CHECKING:
    from gateway.edge.access import Access, KeyHolder
    from gateway.edge.grpc_connection import GrpcConnection
    from gateway.edge.grpc_exchange import Exchange

MakeStream = Callable[["GrpcConnection", int], "Exchange"]
"""(connection, stream id) → a call with more than one message."""

access_logger = logging.getLogger("headrace.access")


class GrpcFront:
    """The shared state of the gRPC port."""

    def __init__(
        self,
        service: Service[PredictRequest],
        catalog: Catalog,
        methods: Mapping[bytes, Method],
        streams: Mapping[bytes, MakeStream],
        admission: Admission,
        metrics: FrontMeters,
        clock: Clock,
        limits: GrpcLimits,
        *,
        access_log: bool = False,
        traces: CallTraces | None = None,
        access: Access | None = None,
    ) -> None:
        self.service = service
        self.find: Callable[[str, str], CountedServable] = catalog.find
        self.methods = methods
        self.streams = streams
        self.admission = admission
        self.metrics = metrics
        self.clock = clock
        self.limits = limits
        self.access_log = access_log
        self.traces = traces
        self.access = access
        self.refusing = False
        self.connections: set[GrpcConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._dirty: list[GrpcConnection] = []

    def flush_soon(self, connection: GrpcConnection) -> None:
        """Write what the connection has to say at the end of this turn of the loop."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def log(
        self,
        request: PredictRequest | None,
        error: HeadraceError | None,
        trace: Trace | None = None,
        version: str = "",
        holder: KeyHolder | None = None,
    ) -> None:
        """One access log line; ``version`` is the one that answered."""
        access_logger.info(
            "infer",
            extra={
                "protocol": "grpc",
                "key": holder.name if holder else None,
                "model": request.model if request else "",
                "version": version or (request.version if request else ""),
                "request_id": request.request_id if request else "",
                "status": error.code.name if error else "OK",
                "duration_us": int((self.clock() - request.received_s) * 1e6) if request else None,
                "trace_id": hex_id(trace),
            },
        )

    def drain(self) -> None:
        """Tell every peer to take new calls elsewhere; calls under way are finished."""
        for connection in list(self.connections):
            connection.announce_shutdown()

    def refuse_new_streams(self) -> None:
        """The last word: calls that the peer opens from now on were never accepted."""
        self.refusing = True
        for connection in list(self.connections):
            connection.refuse_new_streams()

    def abort(self) -> None:
        """Cut what is left."""
        for connection in list(self.connections):
            connection.abort()
