"""Connections to the store of rollouts: from an address to redis-py's asyncio client, from its errors to sentences.

Decides what a client may take and hold. It must never show a password, and never ask twice by itself: whether a call is
made again is for whoever made it.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError

from foundation.store_url import StoreAddress, StoreUrlError, parse_store_url

MAX_CONNECTIONS = 32
CLIENT_NAME = "headrace-rollout"

Client: TypeAlias = Redis

_WORDS = (
    ("NOAUTH", "does not let us in ({}); check user and password in its address"),
    ("NOPERM", "does not let this user do that ({}); let it read and write hr:*"),
    ("OUTOFMEMORY", "is full ({}); give it more memory"),
    ("MAXMEMORY", "is full ({}); give it more memory"),
    ("READONLY", "is a replica ({}); name the master, or its sentinels"),
    ("LOADING", "is still reading its data back; try again in a moment"),
    ("MOVED", "is a node of a cluster ({}); name a single server, or its sentinels"),
)


def open_client(url: str, timeout_s: float) -> tuple[Client, str]:
    """A client that connects when it is first used, and the address without credentials.

    Raises ``StoreUrlError`` when the address cannot be used.
    """
    address = check_address(url)
    options = _options(address, timeout_s)
    if address.kind == "unix":
        del options["socket_keepalive"]
        return Redis(unix_socket_path=address.path, **options), address.name
    if address.kind == "sentinel":
        return _through_sentinels(address, options), address.name
    host, port = address.hosts[0]
    return Redis(host=host, port=port, **options), address.name


def check_address(url: str) -> StoreAddress:
    """What the address says; raises ``StoreUrlError`` where rollouts cannot be kept there."""
    address = parse_store_url(url)
    if address.kind == "cluster":
        raise StoreUrlError(
            f"{address.name}: rollouts cannot be kept in a cluster yet; name a single server, or "
            "one that sentinels watch"
        )
    if address.server_name:
        raise StoreUrlError(
            f"{address.name}: rollouts take no server_name=; name the host as its certificate does"
        )
    return address


def sentence(error: BaseException, name: str) -> str:
    """What happened and what to do, for the store called ``name``."""
    if isinstance(error, StoreUrlError):
        return str(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AuthenticationError | AuthorizationError):
        return f"{name} does not let us in ({text}); check user and password in its address"
    if isinstance(error, TimeoutError | asyncio.TimeoutError) or "Timeout" in text:
        return f"{name} does not answer in time; see whether it runs and is not overloaded"
    # redis-py takes the first word of some errors away, and makes it the class.
    said = f"{type(error).__name__} {text}".upper()
    for word, meaning in _WORDS:
        if word in said:
            return f"{name} {meaning.format(text)}"
    if isinstance(error, OSError) or "onnect" in type(error).__name__ + text:
        return f"{name} cannot be reached ({text}); is it running, and is the address right?"
    return f"{name} refused: {text}"


def _options(address: StoreAddress, timeout_s: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "max_connections": MAX_CONNECTIONS,
        "db": address.db,
        "client_name": address.client_name or CLIENT_NAME,
        **address.login_words(),
    }


def _through_sentinels(address: StoreAddress, options: dict[str, Any]) -> Client:
    asking = options | {
        "username": address.sentinel_user or None,
        "password": address.sentinel_password or None,
        "db": 0,
    }
    sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
    sentinel.sentinels = [Redis(host=host, port=port, **asking) for host, port in address.hosts]
    master: Client = sentinel.master_for(address.service, **options)
    return master


FAILURES = (RedisError, OSError, TimeoutError, asyncio.TimeoutError, StoreUrlError)
"""Whatever a call may fail with that is no fault of this program."""
