"""The data ports of one process: REST and gRPC sockets, the servers on them, and how they close.

Decides which sockets there are, what they are wrapped in, and the order in which they open and close. It must never
know what is behind the fronts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gateway.edge import http_access
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.grpc_server import GrpcServer
from gateway.edge.http_front import HttpFront
from gateway.edge.listeners import HttpServer, Listener, ListenError, address_of, listen
from gateway.edge.tls import HTTP_1, HTTP_2, Tls
from gateway.edge.unix_sockets import give_back, listen_on_path
from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from gateway.edge.grpc_reference import ReferenceServer

HTTP, GRPC = "http", "grpc"
UNIX = "_unix"
"""``http_unix`` and ``grpc_unix`` are the Unix sockets beside the two ports."""


def claim(settings: GatewaySettings) -> dict[str, socket.socket]:
    """Listening sockets of a process that has the ports for itself. Raises ``ListenError``.

    grpcio takes no sockets: with it, those of gRPC are missing here, and ``DataPorts`` claims them.
    """
    server = settings.server
    claimed: dict[str, socket.socket] = {}
    try:
        if settings.grpc.server == "nghttp2":
            claimed[GRPC] = listen(server.host_of(GRPC), server.grpc_port, "--grpc-port")
        claimed[HTTP] = listen(server.host_of(HTTP), server.http_port, "--http-port")
        claimed |= claim_paths(settings)
    except BaseException:
        for one in claimed.values():
            one.close()
        raise
    return claimed


def claim_paths(settings: GatewaySettings) -> dict[str, socket.socket]:
    """The Unix sockets, which several workers share. Whoever claims them gives the paths back in the end."""
    claimed: dict[str, socket.socket] = {}
    try:
        for name, path in _paths(settings).items():
            if name == HTTP + UNIX or settings.grpc.server == "nghttp2":
                setting = f"server.{name}_socket"
                claimed[name] = listen_on_path(path, settings.server.unix_mode, setting)
    except BaseException:
        give_back_paths(settings, claimed)
        raise
    return claimed


def give_back_paths(settings: GatewaySettings, claimed: Mapping[str, socket.socket]) -> None:
    """Nobody finds the Unix sockets among ``claimed`` any more; connections that are under way go on."""
    for name, path in _paths(settings).items():
        if name in claimed:
            give_back(path)


def check_grpcio(settings: GatewaySettings) -> None:
    """Raises ``ListenError`` when grpcio is asked for and is not there, or cannot do what is asked of it."""
    if settings.grpc.server != "grpcio":
        return
    if find_spec("grpc") is None:
        raise ListenError(
            "grpc.server = 'grpcio' needs the package grpcio; install it with the extra 'grpcio'"
        )
    if settings.server.workers > 1 and settings.server.grpc_unix_socket:
        raise ListenError(
            "with grpc.server = 'grpcio', several workers cannot share server.grpc_unix_socket; "
            "use one worker, or leave the socket out"
        )


def _paths(settings: GatewaySettings) -> dict[str, str]:
    server = settings.server
    paths = {HTTP + UNIX: server.http_unix_socket, GRPC + UNIX: server.grpc_unix_socket}
    return {name: path for name, path in paths.items() if path}


def _wrap(claimed: socket.socket, tls: Tls | None, protocol: str) -> Listener:
    if tls is None:
        return Listener(claimed)
    return Listener(claimed, tls.context(protocol), tls.handshake_timeout_s)


def admin_server(
    app: Any, claimed: socket.socket, settings: GatewaySettings, tls: Tls | None
) -> tuple[str, HttpServer]:
    """(address, server) of the admin port, which takes TLS only where that is asked for."""
    shown = tls if settings.tls.admin else None
    server = HttpServer(
        app,
        [_wrap(claimed, shown, HTTP_1)],
        protocol="httptools",
        keep_alive_s=settings.http.keep_alive_s,
    )
    return f"{'https' if shown else 'http'}://{address_of(claimed)}", server


class DataPorts:
    """Both servers. ``open`` and ``close`` are called once."""

    def __init__(
        self,
        http: HttpFront,
        grpc: GrpcFront,
        http_app: Any,
        listeners: Mapping[str, socket.socket],
        settings: GatewaySettings,
        tls: Tls | None,
    ) -> None:
        self._http = http
        self._settings = settings
        self._listeners = listeners
        self._tls = tls
        self._grpc: GrpcServer | ReferenceServer
        self.addresses = {HTTP: f"{'https' if tls else 'http'}://{address_of(listeners[HTTP])}"}
        if settings.grpc.server == "grpcio":
            self._grpc = reference = self._reference(grpc)
            self.addresses[GRPC] = reference.address
        else:
            self._grpc = GrpcServer(grpc, self._wrapped(GRPC, HTTP_2))
            self.addresses[GRPC] = address_of(listeners[GRPC])
        self.addresses |= {name: f"unix:{path}" for name, path in _paths(settings).items()}
        self._http_server = HttpServer(
            http_app,
            self._wrapped(HTTP, HTTP_1),
            protocol=http_access.bind(http),
            keep_alive_s=http.limits.keep_alive_s,
        )

    def _wrapped(self, name: str, protocol: str) -> list[Listener]:
        """The port with TLS, if there is any, and the Unix socket without: its file's permissions guard it."""
        port, path = self._listeners[name], self._listeners.get(name + UNIX)
        found = [_wrap(port, self._tls, protocol)]
        return found if path is None else [*found, Listener(path)]

    def _reference(self, front: GrpcFront) -> ReferenceServer:
        from gateway.edge.grpc_reference import ReferenceServer  # an extra, and slow to import

        server = self._settings.server
        host, port = server.host_of(GRPC), server.grpc_port
        seat = self._listeners.get(GRPC)
        if seat is not None:  # bound, and never to listen: it says which port the workers share
            host, port = seat.getsockname()[:2]
        return ReferenceServer(
            front,
            host,
            port,
            tls=self._tls,
            shares_port=seat is not None,
            path=server.grpc_unix_socket,
            path_mode=server.unix_mode,
        )

    async def open(self) -> None:
        """Accept connections."""
        await self._grpc.start()
        await self._http_server.start()

    async def adopt(self, protocol: str, accepted: socket.socket) -> None:
        """Serve a connection that another process has accepted."""
        with contextlib.suppress(OSError):  # it may have gone meanwhile
            accepted.setblocking(False)
            if protocol == HTTP:
                await self._http_server.adopt(accepted)
            else:
                await self._grpc.adopt(accepted)

    @property
    def http_connections(self) -> set[Any]:
        """Open REST connections."""
        return self._http_server.connections

    @property
    def grpc_connections(self) -> Collection[Any]:
        """Open gRPC connections, as far as they can be seen."""
        return self._grpc.connections

    @property
    def grpc_idle(self) -> bool:
        """Whether gRPC's last caller has gone, or has its answer."""
        return self._grpc.idle

    def announce_shutdown(self) -> None:
        """Ask every caller to go elsewhere with the next call; calls are still taken."""
        self._http.draining = True
        self._grpc.drain()

    def give_back_paths(self) -> None:
        """Nobody finds the Unix sockets any more: for the process that has claimed them."""
        give_back_paths(self._settings, self._listeners)

    async def stop_accepting(self, timeout_s: float) -> None:
        """Close the gRPC port; calls that are inside go on, on grpcio for at most ``timeout_s``."""
        await self._grpc.stop_accepting(timeout_s)

    async def stop_http(
        self,
        timeout_s: float,
        *,
        hand_over: bool,
        on_closed: Callable[[], None],
        force: asyncio.Event | None,
    ) -> bool:
        """Close the REST port and wait for its answers; False when some had to be cut off."""
        return await self._http_server.stop(
            timeout_s, hand_over=hand_over, on_closed=on_closed, force=force
        )

    async def abort(self) -> None:
        """Cut what is left."""
        await self._grpc.abort()
