"""From the address in the settings to the row source behind it.

Decides what an address may say:

- ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]``, ``rediss://…`` for TLS
- ``unix://[USER[:PASSWORD]@]/PATH[?database=N]``
- ``redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DATABASE]``, ``rediss+sentinel://…``
- ``redis+cluster://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]``, ``rediss+cluster://…``
- ``memory://``

With ``?client_name=NAME``; for sentinels ``sentinel_user`` and ``sentinel_password``; with TLS ``ca``, ``cert`` and
``key`` (files) and ``server_name``. It must never ignore a word that it does not know, and never repeat a password.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from featurecache.cluster_source import ClusterSource
from featurecache.dialing import Address, Login
from featurecache.errors import DefinitionError
from featurecache.memory_source import MemorySource
from featurecache.ports import RowSource
from featurecache.redis_source import RedisSource
from featurecache.sentinel import SentinelResolver
from featurecache.source_limits import SourceLimits

REDIS_PORT = 6379
SENTINEL_PORT = 26379
MAX_DATABASE = 1_000_000

_SCHEMES = {
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel",
    "redis+cluster", "rediss+cluster", "memory",
}  # fmt: skip
_TLS_WORDS = {"ca", "cert", "key", "server_name"}


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
    parts = _split(url)
    kind = parts.scheme.removeprefix("rediss+").removeprefix("redis+")
    words = _words(parts, kind)
    if kind == "memory":
        if parts.netloc or parts.path.strip("/"):
            raise DefinitionError("the address memory:// has nothing behind it")
        return MemorySource(limits)
    login = _login(parts, words)
    if kind == "unix":
        return _unix(parts, words, login, limits, random_unit)
    if kind == "sentinel":
        return _sentinel(parts, words, login, limits, random_unit)
    if kind == "cluster":
        if parts.path.strip("/"):
            raise DefinitionError("a cluster has no databases: leave out what follows the hosts")
        seeds = _addresses(parts, REDIS_PORT)
        name = f"{parts.scheme}://{','.join(map(str, seeds))}"
        return ClusterSource(seeds, login, limits, name=name, random_unit=random_unit)
    address, *more = _addresses(parts, REDIS_PORT)
    if more:
        raise DefinitionError("several hosts need redis+sentinel:// or redis+cluster://")
    login = msgspec.structs.replace(login, database=_database(parts.path.strip("/")))
    name = f"{parts.scheme}://{address}"
    return RedisSource(address, login, limits, name=name, random_unit=random_unit)


def _unix(
    parts: SplitResult,
    words: dict[str, str],
    login: Login,
    limits: SourceLimits,
    random_unit: Callable[[], float],
) -> RowSource:
    path = unquote(parts.path)
    if not path or parts.netloc.rpartition("@")[2]:
        raise DefinitionError("a Unix socket is named by its whole path: unix:///run/valkey.sock")
    login = msgspec.structs.replace(
        login, database=_database(words.get("database") or words.get("db", ""))
    )
    source = Address(path=path)
    return RedisSource(source, login, limits, name=f"unix://{path}", random_unit=random_unit)


def _sentinel(
    parts: SplitResult,
    words: dict[str, str],
    login: Login,
    limits: SourceLimits,
    random_unit: Callable[[], float],
) -> RowSource:
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise DefinitionError("name the master: redis+sentinel://HOST:PORT,HOST:PORT/MASTER")
    sentinels = _addresses(parts, SENTINEL_PORT)
    asking = msgspec.structs.replace(
        login,
        user=words.get("sentinel_user", ""),
        password=words.get("sentinel_password", ""),
    )
    login = msgspec.structs.replace(login, database=_database(database), must_be_master=True)
    resolver = SentinelResolver(sentinels, unquote(master), asking, limits)
    name = f"{parts.scheme}://{','.join(map(str, sentinels))}/{master}"
    return RedisSource(resolver, login, limits, name=name, random_unit=random_unit)


# -- parts of an address ----------------------------------------------------------------------------


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its words repeat the address, password and all
        raise DefinitionError("the store's address cannot be read; check its brackets") from None
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in sorted(_SCHEMES))
        raise DefinitionError(f"the store's address must begin with one of {known}")
    if parts.fragment:
        raise DefinitionError("a # in the store's address must be written %23")
    return parts


def _words(parts: SplitResult, kind: str) -> dict[str, str]:
    allowed = set() if kind == "memory" else {"client_name"}
    if parts.scheme.startswith("rediss"):
        allowed |= _TLS_WORDS
    if kind == "sentinel":
        allowed |= {"sentinel_user", "sentinel_password"}
    if kind == "unix":
        allowed |= {"database", "db"}
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise DefinitionError("after the ? of the store's address come WORD=VALUE pairs") from None
    words = dict(pairs)
    unknown = sorted(words.keys() - allowed)
    if unknown or len(words) < len(pairs):
        what = f"{', '.join(unknown)} has no meaning" if unknown else "a word stands twice"
        raise DefinitionError(
            f"in the store's address {what} after the ?; possible: {', '.join(sorted(allowed))}"
        )
    return words


def _login(parts: SplitResult, words: dict[str, str]) -> Login:
    credentials, at, _hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    if at and not password:
        raise DefinitionError(
            "in the store's address a user without password; write USER:PASSWORD@"
        )
    client_name = words.get("client_name", "headrace")
    if not client_name.isascii() or not client_name.isprintable() or " " in client_name:
        raise DefinitionError("client_name may hold printable ASCII without spaces only")
    return Login(
        user=unquote(user),
        password=unquote(password),
        client_name=client_name,
        tls=_tls(words) if parts.scheme.startswith("rediss") else None,
        server_name=words.get("server_name", ""),
        mode="cluster" if parts.scheme.endswith("+cluster") else "standalone",
    )


def _tls(words: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=words.get("ca"))
        if "cert" in words:
            context.load_cert_chain(words["cert"], words.get("key"))
        elif "key" in words:
            raise DefinitionError("in the store's address key= needs cert= beside it")
    except OSError as error:  # ssl's errors among them
        files = ", ".join(words[word] for word in ("ca", "cert", "key") if word in words)
        raise DefinitionError(
            f"a file for TLS to the store cannot be used ({files}): {error.strerror or error}"
        ) from None
    return context


def _addresses(parts: SplitResult, default_port: int) -> list[Address]:
    hosts = parts.netloc.rpartition("@")[2]
    found = []
    for one in hosts.split(","):
        try:
            split = urlsplit(f"//{one}")
            host, port = split.hostname, split.port
        except ValueError:
            host, port = None, None
        if not host:
            raise DefinitionError(f"in the store's address {one!r} is no HOST or HOST:PORT")
        found.append(Address(host, default_port if port is None else port))
    return found


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or int(text) > MAX_DATABASE:
        raise DefinitionError(f"in the store's address {text!r} is no number of a database")
    return int(text)
