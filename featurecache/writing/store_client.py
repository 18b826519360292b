"""Blocking clients of the store, for commands and loaders: from an address to redis-py, from its errors to sentences.

Decides timeouts and which errors may go away by themselves. A gateway never imports this: it asks through
``opening.py``. It must never show a password.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  redis-py's own, no built-in
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  likewise
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedSSLConnection

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address
from foundation.store_url import StoreAddress, StoreUrlError, parse_store_url, without_password

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 30.0
"""A disk that is slow to sync holds up every write."""

Client: TypeAlias = redis.Redis

_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,  # and ASK, which is one
    NoScriptError,
    ReadOnlyError,  # after a failover the old master is one for a moment
    TimeoutError,
    TryAgainError,
)
CLIENT_NAME = "headrace-loader"


class _NamedConnection(SSLConnection):
    """TLS with a server whose certificate names another host than the address."""

    def __init__(self, *, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        address, self.host = self.host, self._server_name  # redis-py asks for no other name
        try:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        finally:
            self.host = address


class _NamedManagedConnection(SentinelManagedSSLConnection, _NamedConnection):
    """The same, to a master that the sentinels name."""


class StoreClients:
    """Who can be asked at one address. Connects when first used; ``close`` lets go of everything."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        client_name: str = CLIENT_NAME,
    ) -> None:
        """``client_name``: as the store lists its clients, unless the address has another.

        Raises ``SourceError`` when the address cannot be used.
        """
        try:
            self._address = parse_store_url(url)
        except StoreUrlError as error:
            raise SourceError(str(error)) from None
        self.name = without_password(url)
        self.is_cluster = self._address.kind == "cluster"
        self._options = _options(self._address) | {
            "socket_connect_timeout": connect_timeout_s,
            "socket_timeout": reply_timeout_s,
            "client_name": self._address.client_name or client_name,
        }
        self._nodes: dict[Address, Client] = {}
        self._server: Client | None = None

    def server(self) -> Client:
        """The only server, or the master that the sentinels name; of a cluster any node that was named."""
        if self._server is None:
            self._server = self._open()
        return self._server

    def seeds(self) -> list[Client]:
        """The nodes of a cluster that the address names."""
        return [self.node(Address(host, port)) for host, port in self._address.hosts]

    def node(self, address: Address) -> Client:
        """One node of a cluster."""
        client = self._nodes.get(address)
        if client is None:
            client = self._client(self._options, host=address.host, port=address.port)
            self._nodes[address] = client
        return client

    def _open(self) -> Client:
        address = self._address
        if address.kind == "unix":
            return redis.Redis(unix_socket_path=address.path, db=address.db, **self._options)
        if address.kind == "sentinel":
            asking = self._options | {
                "username": address.sentinel_user or None,
                "password": address.sentinel_password or None,
            }
            sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
            sentinel.sentinels = [
                self._client(asking, host=host, port=port) for host, port in address.hosts
            ]
            options = self._options | {"db": address.db}
            if address.server_name:
                named = {"connection_class": _NamedManagedConnection}
                options |= named | {"server_name": address.server_name}
                del options["ssl"]
            found: Client = sentinel.master_for(address.service, **options)
            return found
        host, port = address.hosts[0]
        return self._client(self._options, host=host, port=port, db=address.db)

    def _client(self, options: dict[str, Any], **place: Any) -> Client:
        server_name = self._address.server_name
        if not server_name:
            return redis.Redis(**options, **place)
        options = {word: value for word, value in options.items() if word != "ssl"} | place
        pool = ConnectionPool(_NamedConnection, server_name=server_name, **options)
        return redis.Redis.from_pool(pool)

    def close(self) -> None:
        """Close every connection."""
        for client in (self._server, *self._nodes.values()):
            if client is not None:
                client.close()
        self._server, self._nodes = None, {}

    def __enter__(self) -> StoreClients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _options(address: StoreAddress) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),  # who may be asked again is decided by the callers
        **address.login_words(),
    }


def may_pass(error: RedisError) -> bool:
    """Whether the same command may succeed a moment later, here or on another node."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, _PASSING) or str(error).startswith(("LOADING", "BUSY ", "CLUSTERDOWN"))


def source_error(error: RedisError, name: str) -> SourceError:
    """What happened and what to do, for the store called ``name``."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AuthenticationError | AuthorizationError) or "NOAUTH" in text:
        return SourceError(
            f"{name} does not let us in ({text}); check user and password in its address"
        )
    if isinstance(error, NoPermissionError) or "NOPERM" in text:
        return SourceError(
            f"{name}: this user may not do that ({text}); on hr:* it needs CLIENT SETNAME and, to look, GET, MGET "
            "and PTTL; to push, EVALSHA, SCRIPT LOAD, MGET, MSET, SET, GETRANGE and STRLEN; to load, also GET and DEL"
        )
    if isinstance(error, OutOfMemoryError) or "OOM" in text:
        return SourceError(
            f"{name} is full; give it more memory (maxmemory, or [store] max_memory_bytes of a private store), or "
            "shorten the retention of views"
        )
    if isinstance(error, ReadOnlyError) or "READONLY" in text:
        return SourceError(
            f"{name} is a replica and takes no writes; name the master, or its sentinels"
        )
    if isinstance(error, BusyLoadingError) or "LOADING" in text:
        return SourceError(f"{name} is still reading its data back; try again in a moment")
    if isinstance(error, TimeoutError):
        return SourceError(f"{name} does not answer ({text})")
    if isinstance(error, ConnectionError):
        return SourceError(
            f"{name} cannot be reached ({text}); is it running, and is the address right?"
        )
    if isinstance(error, ResponseError) and "cluster support disabled" in text:
        return SourceError(f"{name} is no cluster; say redis:// instead of redis+cluster://")
    if isinstance(error, MovedError):
        return SourceError(f"{name} is a node of a cluster ({text}); say redis+cluster:// instead")
    return SourceError(f"{name} refused: {text}")
