"""Sockets that the process listens on, and the uvicorn protocols behind some of them.

Decides how a port is claimed and what a person reads when it cannot be. It must never know what is served there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import uvicorn
from uvicorn.server import ServerState

from foundation.closing_ports import accept_all

BACKLOG = 2048
LOOP_TURN_S = 0.02
LAST_WORDS_S = 0.1
"""From our goodbye to the end of a connection, and from the closing of a port to that of its silent connections."""

TLS_GOODBYE_S = 1.0
"""How long a peer may take to answer the end of TLS; many never do."""

MakeProtocol = Callable[[], asyncio.Protocol]


class ListenError(Exception):
    """A port that cannot be had, in words for the person who asked for it."""


class Listener(NamedTuple):
    """A socket that listens, and what its connections are wrapped in."""

    claimed: socket.socket
    tls: ssl.SSLContext | None = None
    handshake_timeout_s: float = 10.0
    """Only with TLS."""

    async def serve(self, make_protocol: MakeProtocol) -> asyncio.AbstractServer:
        """Accept connections, each with a protocol object of its own."""
        loop = asyncio.get_running_loop()
        is_path = self.claimed.family == socket.AF_UNIX
        create: Any = loop.create_unix_server if is_path else loop.create_server
        server: asyncio.AbstractServer = await create(
            make_protocol, sock=self.claimed, backlog=BACKLOG, **self._wrapping()
        )
        return server

    async def adopt(self, accepted: socket.socket, make_protocol: MakeProtocol) -> None:
        """Serve a connection that was accepted by hand; one whose handshake fails just ends."""
        is_path = accepted.family == socket.AF_UNIX
        wrapping = {} if is_path else self._wrapping()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                make_protocol, accepted, **wrapping
            )

    def _wrapping(self) -> dict[str, Any]:
        if self.tls is None:
            return {}
        return {
            "ssl": self.tls,
            "ssl_handshake_timeout": self.handshake_timeout_s,
            "ssl_shutdown_timeout": TLS_GOODBYE_S,
        }


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket that nobody serves yet; port 0 picks a free one.

    Two sockets can be bound to one port until the first listens, and uvloop hides that the second one then fails.
    """
    claimed = _bind(host, port, option)
    try:
        claimed.listen(BACKLOG)
    except OSError as error:
        claimed.close()
        raise _not_bound(host, port, option, error) from None
    return claimed


def claim_shared(host: str, port: int, option: str, count: int) -> list[socket.socket]:
    """``count`` sockets that share one port and do not listen yet, one for each worker; port 0 picks a free one.

    With ``SO_REUSEPORT`` the kernel deals connections out among them. It would also let a second instance of the same
    user join unseen and take half of the calls: a socket without the option is refused where somebody listens, so one
    asks first. An instance that is still loading does not listen yet: the first socket of the list is its mark, a
    name in the kernel's list of Unix sockets that only one can have. Keep it open as long as the others.
    """
    if port:
        _bind(host, port, option).close()
    first = _bind(host, port, option, shared=True)
    claimed = [first]
    port = first.getsockname()[1]
    try:
        claimed.insert(0, _mark(first, option))
        while len(claimed) <= count:
            claimed.append(_bind(host, port, option, shared=True))
    except ListenError:
        for one in claimed:
            one.close()
        raise
    return claimed


def _mark(claimed: socket.socket, option: str) -> socket.socket:
    host, port = claimed.getsockname()[:2]
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0headrace/tcp/{host}:{port}")
    except OSError as error:
        mark.close()
        raise _not_bound(host, port, option, error) from None
    return mark


def _bind(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        claimed = socket.socket(family, kind, proto)
    except OSError as error:
        raise ListenError(f"cannot listen on '{host}': {error.strerror or error}") from None
    try:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        claimed.bind(address)
        claimed.setblocking(False)
    except OSError as error:
        claimed.close()
        raise _not_bound(host, port, option, error) from None
    return claimed


def _not_bound(host: str, port: int, option: str, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(
            f"port {port} on {host} is taken; stop what listens there or choose another with {option}"
        )
    return ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}")


def address_of(claimed: socket.socket) -> str:
    """``host:port`` as a client would write it, ``unix:path`` for a Unix socket."""
    if claimed.family == socket.AF_UNIX:
        return f"unix:{claimed.getsockname()}"
    return host_and_port(*claimed.getsockname()[:2])


def host_and_port(host: str, port: int) -> str:
    """The two as a client would write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes have arrived that the loop has not read; closing now would reset the connection."""
    watch = select.poll()
    watch.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(watch.poll(0))


class HttpServer:
    """uvicorn's protocol on sockets of ours, without its main loop and signal handlers."""

    def __init__(
        self,
        app: Any,
        listeners: Sequence[Listener],
        *,
        protocol: Any,
        keep_alive_s: float,
    ) -> None:
        self._listeners = listeners
        self._servers: list[asyncio.AbstractServer] = []
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # who asks is known from the connection; anybody can write a header
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(keep_alive_s),
        )

    @property
    def connections(self) -> set[Any]:
        """The open connections' protocol objects."""
        return self._state.connections

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self._config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self._config, server_state=self._state, app_state={}
        )
        return protocol

    async def start(self) -> None:
        """Accept connections."""
        self._config.load()
        for listener in self._listeners:
            self._servers.append(await listener.serve(self._protocol))

    async def adopt(self, accepted: socket.socket) -> None:
        """Serve a connection that somebody else has accepted on our first socket."""
        await self._listeners[0].adopt(accepted, self._protocol)

    async def stop(
        self,
        timeout_s: float,
        *,
        hand_over: bool = False,
        on_closed: Callable[[], None] = lambda: None,
        force: asyncio.Event | None = None,
    ) -> bool:
        """Close the port, let running requests finish, cut what is left after the timeout; False when there was any.

        ``hand_over`` leaves those who wait to be accepted to the one who also holds the socket. ``on_closed`` is
        called once nobody is accepted any more; ``force`` ends the waiting.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + timeout_s
        late: list[Coroutine[Any, Any, None]] = []
        for listener, server in zip(self._listeners, self._servers, strict=False):
            if not hand_over:
                late += [
                    listener.adopt(one, self._protocol) for one in accept_all(listener.claimed)
                ]
            server.close()
            listener.claimed.close()
        on_closed()
        handshakes = asyncio.gather(*late)
        # What connected or spoke up to now is read, and its answer closes; then come those that say nothing.
        await asyncio.sleep(min(LAST_WORDS_S, timeout_s))
        told: set[Any] = set()
        while self.connections or self._state.tasks or not handshakes.done():
            for connection in self.connections - told:  # also those whose handshake took until now
                told.add(connection)
                connection.shutdown()
            if loop.time() > give_up_s or (force is not None and force.is_set()):
                handshakes.cancel()
                return await self._cut()
            await asyncio.sleep(LOOP_TURN_S)
        return True

    async def _cut(self) -> bool:
        """Cut what is left; True when that was nothing but handshakes."""
        left = list(self.connections)
        clean = not (left or self._state.tasks)
        for connection in left:
            connection.transport.abort()
        await asyncio.sleep(LOOP_TURN_S)
        return clean
