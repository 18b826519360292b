"""From an address to a connection that may be asked: socket, TLS, protocol, login, database, tracking.

Decides what is spoken: RESP3 where the server knows it, else RESP2 without tracking. Refuses servers that cannot be
what the address said, with a sentence. It must never leave a half-open connection behind, and never show a password.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import msgspec

from featurecache.errors import SourceError
from featurecache.sources.resp import Lost, PushReceived, ReplyError, RespConnection
from featurecache.sources.source_limits import SourceLimits


class Address(msgspec.Struct, frozen=True):
    """Where one server listens: ``path`` of a Unix socket, or host and port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What is said and asked on every new connection."""

    user: str = ""
    password: str = ""
    database: int = 0
    client_name: str = "headrace"
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """To be found in the server's certificate; the host when empty."""
    track: bool = True
    """Whether to ask for invalidations."""
    mode: str = "standalone"
    """What the server must be: ``standalone``, ``cluster`` or ``sentinel``."""
    must_be_master: bool = False

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, database={self.database})"


class Session(msgspec.Struct, frozen=True):
    """A connection that was let in."""

    connection: RespConnection
    tracks: bool
    protocol: int


async def dial(
    address: Address,
    login: Login,
    limits: SourceLimits,
    name: str,
    *,
    on_push: PushReceived,
    on_lost: Lost,
) -> Session:
    """Connect and log in; ``on_lost`` is called for every connection that was opened.

    Raises:
        SourceError: There is no connection, within the connect timeout and one read timeout.
    """
    loop = asyncio.get_running_loop()
    connection = RespConnection(loop, limits, name, on_push=on_push, on_lost=on_lost)
    try:
        async with asyncio.timeout(limits.connect_timeout_s):
            await _open(loop, connection, address, login)
    except TimeoutError:
        raise _failed(
            connection, f"{name}: no connection within {limits.connect_timeout_s * 1e3:g} ms"
        ) from None
    # ValueError: a name that no resolver takes. OverflowError: a port that a sentinel or a node made up.
    except (OSError, OverflowError, ValueError) as error:
        raise _failed(connection, f"{name}: {_plain(error)}") from error
    except asyncio.CancelledError:
        connection.abort(SourceError(f"{name}: closed"))
        raise
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            return await _shake_hands(connection, login, name)
    except TimeoutError:
        late_ms = limits.read_timeout_s * 1e3
        raise _failed(connection, f"{name}: no reply to the login within {late_ms:g} ms") from None
    except SourceError as error:
        connection.abort(error)
        raise
    except asyncio.CancelledError:
        connection.abort(SourceError(f"{name}: closed"))
        raise


async def _open(
    loop: asyncio.AbstractEventLoop, connection: RespConnection, address: Address, login: Login
) -> None:
    if address.path:
        await loop.create_unix_connection(lambda: connection, address.path)
        return
    server_name = (login.server_name or address.host) if login.tls is not None else None
    await loop.create_connection(
        lambda: connection, address.host, address.port, ssl=login.tls, server_hostname=server_name
    )


async def _shake_hands(connection: RespConnection, login: Login, name: str) -> Session:
    hello = [b"HELLO", b"3"]
    if login.password:
        hello += [b"AUTH", (login.user or "default").encode(), login.password.encode()]
    hello += [b"SETNAME", login.client_name.encode()]
    reply = await connection.ask(*hello)
    if isinstance(reply, ReplyError) and _knows_no_hello(str(reply)):
        return await _shake_hands_resp2(connection, login, name)
    _insist(reply, name, "log in")
    facts = _facts(reply)
    mode = facts.get("mode", "standalone")
    if mode != login.mode:
        raise SourceError(f"{name}: {_OTHER_MODE.get(mode, f'the server says that it is {mode}')}")
    if login.must_be_master and facts.get("role") != "master":
        raise SourceError(f"{name}: the server is no master (any more)")
    if login.database:
        await _select(connection, login, name)
    tracks = False
    if login.track:
        commands = [(b"CLIENT", b"TRACKING", b"ON", b"OPTIN"), (b"CLIENT", b"CACHING", b"YES")]
        tracks = await connection.ask_all(commands) == [b"OK", b"OK"]
    return Session(connection, tracks, 3)


async def _shake_hands_resp2(connection: RespConnection, login: Login, name: str) -> Session:
    """Servers before 6.0, and some that only speak like one."""
    if login.password:
        user = [login.user.encode()] if login.user else []
        _insist(await connection.ask(b"AUTH", *user, login.password.encode()), name, "log in")
    await connection.ask(b"CLIENT", b"SETNAME", login.client_name.encode())  # nice to have
    if login.database:
        await _select(connection, login, name)
    if login.must_be_master:
        role = _insist(await connection.ask(b"ROLE"), name, "tell its role")
        if not isinstance(role, list) or role[:1] != [b"master"]:
            raise SourceError(f"{name}: the server is no master (any more)")
    return Session(connection, False, 2)


async def _select(connection: RespConnection, login: Login, name: str) -> None:
    database = login.database
    reply = await connection.ask(b"SELECT", b"%d" % database)
    _insist(reply, name, f"take database {database}")


_OTHER_MODE = {
    "cluster": "the server is a node of a cluster; say redis+cluster:// instead",
    "standalone": "the server is no node of a cluster; say redis:// instead",
    "sentinel": "the server is a sentinel; say redis+sentinel://HOST:PORT/MASTER instead",
}


def _knows_no_hello(refusal: str) -> bool:
    return refusal.startswith(("ERR unknown command", "NOPROTO"))


def _facts(reply: Any) -> dict[str, str]:
    """What a server says of itself, as far as it is text."""
    if not isinstance(reply, dict):
        return {}
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in reply.items()
        if isinstance(key, bytes) and isinstance(value, bytes)
    }


def _insist(reply: Any, name: str, what: str) -> Any:
    if isinstance(reply, ReplyError):
        raise SourceError(f"{name}: the server refused to {what}: {reply}")
    return reply


def _failed(connection: RespConnection, sentence: str) -> SourceError:
    error = SourceError(sentence)
    connection.abort(error)
    return error


def _plain(error: OSError | OverflowError | ValueError) -> str:
    """asyncio wraps the reason into words of its own; the reason is what helps."""
    if not isinstance(error, OSError):
        return f"not an address: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with this server: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
