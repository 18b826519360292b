"""From the address in the settings to the row source behind it.

Decides which source asks at which kind of address, and with what login; ``foundation.store_url`` decides what an
address may say, but for ``memory://``, which is no store and known here only. It must never repeat a password.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable

import msgspec

from featurecache.errors import DefinitionError
from featurecache.sources.cluster_source import ClusterSource
from featurecache.sources.dialing import Address, Login
from featurecache.sources.memory_source import MemorySource
from featurecache.sources.ports import RowSource
from featurecache.sources.redis_source import RedisSource
from featurecache.sources.sentinel import SentinelResolver
from featurecache.sources.source_limits import SourceLimits
from foundation.store_url import StoreAddress, StoreUrlError, parse_store_url

MEMORY = "memory://"
CLIENT_NAME = "headrace"


def open_source(
    url: str,
    limits: SourceLimits | None = None,
    *,
    random_unit: Callable[[], float] = random.random,
) -> RowSource:
    """The source behind ``url``, not started yet.

    Raises:
        DefinitionError: The address is none, or a file that it names cannot be read.
    """
    limits = limits or SourceLimits()
    if url.startswith(MEMORY):
        if url != MEMORY:
            raise DefinitionError("the address memory:// has nothing behind it")
        return MemorySource(limits)
    try:
        address = parse_store_url(url)
    except StoreUrlError as error:
        raise DefinitionError(str(error)) from None
    login = login_of(address)
    hosts = [Address(host, port) for host, port in address.hosts]
    if address.kind == "cluster":
        return ClusterSource(hosts, login, limits, name=address.name, random_unit=random_unit)
    where: Address | SentinelResolver = Address(path=address.path) if address.path else hosts[0]
    if address.kind == "sentinel":
        asking = msgspec.structs.replace(
            login, user=address.sentinel_user, password=address.sentinel_password
        )
        where = SentinelResolver(hosts, address.service, asking, limits)
        login = msgspec.structs.replace(login, must_be_master=True)
    return RedisSource(where, login, limits, name=address.name, random_unit=random_unit)


def login_of(address: StoreAddress) -> Login:
    """As whom an address logs in."""
    return Login(
        user=address.username,
        password=address.password,
        database=address.db,
        client_name=address.client_name or CLIENT_NAME,
        tls=_tls(address) if address.tls else None,
        server_name=address.server_name,
        mode="cluster" if address.kind == "cluster" else "standalone",
    )


def _tls(address: StoreAddress) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=address.ca or None)
        if address.cert:
            context.load_cert_chain(address.cert, address.key or None)
    except OSError as error:  # ssl's errors among them
        files = ", ".join(filter(None, (address.ca, address.cert, address.key)))
        raise DefinitionError(
            f"a file for TLS to the store cannot be used ({files}): {error.strerror or error}"
        ) from None
    return context
