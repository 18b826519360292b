"""Sockets that the process listens on, and the uvicorn servers behind two of them.

Decides how a port is claimed and what a person reads when it cannot be. It must never know what is served there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import select
import socket
import struct
from typing import Any

import uvicorn

BACKLOG = 2048
LOOP_TURN_S = 0.02
SO_ATTACH_FILTER = 26
BPF_RETURN = 0x06
LAST_WORDS_S = 0.1
"""From our goodbye to the end of a connection, and from the closing of a port to that of its silent connections."""


class ListenError(Exception):
    """A port that cannot be had, in words for the person who asked for it."""


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket that nobody serves yet; port 0 picks a free one.

    Two sockets can be bound to one port until the first listens, and uvloop hides that the second one then fails.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        claimed = socket.socket(family, kind, proto)
    except OSError as error:
        raise ListenError(f"cannot listen on '{host}': {error.strerror or error}") from None
    try:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claimed.bind(address)
        claimed.listen(BACKLOG)
        claimed.setblocking(False)
    except OSError as error:
        claimed.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} on {host} is taken; stop what listens there or choose another with {option}"
            ) from None
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return claimed


def address_of(claimed: socket.socket) -> str:
    """``host:port`` as a client would write it."""
    host, port = claimed.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def accept_all(listening: socket.socket) -> list[socket.socket]:
    """Every connection that waits to be accepted, before the listener closes and resets what it has not accepted.

    Between the last ``accept`` and ``close`` more might come: so first the kernel drops new ones at the door, by a
    packet filter of one instruction, "keep 0 bytes". They try again and find the port closed, or its next owner.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    with contextlib.suppress(OSError):  # without filters, a few may be reset
        listening.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
        )
    accepted = []
    while True:
        try:
            accepted.append(listening.accept()[0])
        except OSError:
            return accepted


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes have arrived that the loop has not read; closing now would reset the connection."""
    watch = select.poll()
    watch.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(watch.poll(0))


class HttpServer:
    """One uvicorn server on one socket, driven by us instead of by its own main loop and signal handlers."""

    def __init__(
        self, app: Any, claimed: socket.socket, *, protocol: Any, keep_alive_s: float
    ) -> None:
        self._socket = claimed
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(keep_alive_s),
            )
        )

    @property
    def connections(self) -> set[Any]:
        """The open connections' protocol objects."""
        return self._server.server_state.connections

    def _protocol(self) -> asyncio.Protocol:
        config, server = self._server.config, self._server
        make: Any = config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )
        return protocol

    async def start(self) -> None:
        """Accept connections."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])

    async def stop(self, timeout_s: float) -> bool:
        """Close the port, let running requests finish, cut what is left after the timeout; False when there was any."""
        late = accept_all(self._socket)
        for server in self._server.servers:
            server.close()
        for accepted in late:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)
        # What connected or spoke up to now is read, and its answer closes; then come those that say nothing.
        await asyncio.sleep(min(LAST_WORDS_S, timeout_s))
        try:
            await asyncio.wait_for(self._server.shutdown(sockets=[self._socket]), timeout_s)
        except TimeoutError:
            for connection in list(self.connections):
                connection.transport.abort()
            await asyncio.sleep(LOOP_TURN_S)
            return False
        return True
