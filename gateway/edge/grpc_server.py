"""The gRPC port on libnghttp2: from listeners to the connections of ``GrpcFront``, and how both end.

``grpc_reference.py`` offers the same on grpcio. It must never look into a call.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from gateway.edge.grpc_connection import GrpcConnection
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.listeners import LOOP_TURN_S, Listener


class GrpcServer:
    """Our own front on its sockets."""

    def __init__(self, front: GrpcFront, listeners: Sequence[Listener]) -> None:
        self._front = front
        self._listeners = listeners
        self._servers: list[asyncio.AbstractServer] = []

    @property
    def connections(self) -> set[GrpcConnection]:
        """The open connections."""
        return self._front.connections

    @property
    def idle(self) -> bool:
        """Whether everybody has gone."""
        return not self._front.connections

    def _protocol(self) -> GrpcConnection:
        return GrpcConnection(self._front)

    async def start(self) -> None:
        """Accept connections."""
        for listener in self._listeners:
            self._servers.append(await listener.serve(self._protocol))

    async def adopt(self, accepted: socket.socket) -> None:
        """Serve a connection that somebody else has accepted on our first socket."""
        await self._listeners[0].adopt(accepted, self._protocol)

    def drain(self) -> None:
        """Ask every peer to take new calls elsewhere; they are still taken."""
        self._front.drain()

    async def stop_accepting(self, timeout_s: float) -> None:
        """Close the ports and refuse new calls; those inside go on until ``abort``, whatever ``timeout_s`` says."""
        # A closing listener resets what it has not accepted; the loop accepts all of a backlog in one turn.
        await asyncio.sleep(LOOP_TURN_S)
        for server in self._servers:
            server.close()
        self._front.refuse_new_streams()

    async def abort(self) -> None:
        """Cut what is left."""
        self._front.abort()
