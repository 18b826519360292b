"""What a store's address may look like, and how it is shown where a password must not be seen.

Decides whether an address can be used at all; it must never connect, and no complaint of its may hold a password.
redis-py reads the same addresses, so nothing here gives a part another meaning than it has there.
"""

from __future__ import annotations

import os
import re
from typing import Literal, NoReturn, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
MAX_URL_CHARS = 4096
MAX_HOSTS = 64
MAX_SOCKET_PATH_BYTES = 107
"""What Linux keeps of a Unix socket's path, less the zero at its end."""

Kind: TypeAlias = Literal["server", "unix", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_SHAPES: dict[Kind, str] = {
    "server": "redis://[user:password@]host[:6379][/db]",
    "unix": "unix:///absolute/path.sock[?db=0]",
    "sentinel": "redis+sentinel://[user:password@]host[:26379],…/service[/db]",
    "cluster": "redis+cluster://[user:password@]host[:6379],…",
}
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")
_SECRET_OPTION = re.compile(r"([?&][^=&]*pass[^=&]*=)[^&]*", re.IGNORECASE)


class StoreUrlError(Exception):
    """An address that cannot be used; the message is for the operator and holds no password."""


class StoreAddress(msgspec.Struct, frozen=True):
    """The parts of an address, with percent signs undone."""

    kind: Kind
    """One server over TCP or over a Unix socket, servers found through Sentinel, or a cluster."""
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    """Where to connect; several for Sentinel and Cluster, none for a Unix socket."""
    path: str = ""
    """The Unix socket."""
    service: str = ""
    """What Sentinel calls the group of servers."""
    db: int = 0
    username: str = ""
    password: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """What else stood after the question mark, in order."""

    def __repr__(self) -> str:
        """Tracebacks show it: without the secrets."""
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"StoreAddress({self.kind}, {where}, tls={self.tls}, db={self.db})"


def parse_store_url(url: str) -> StoreAddress:
    """The parts of ``url``; raises ``StoreUrlError`` with what would be valid."""
    if len(url) > MAX_URL_CHARS:
        raise StoreUrlError(f"the store's address has more than {MAX_URL_CHARS} characters")
    if _UNSEEN.search(url):
        _refuse(url, "has a blank or a control character; write it as %20 and so on")
    try:
        parts = urlsplit(url)
    except ValueError as error:  # brackets that do not match; its words name no secret
        _refuse(url, f"cannot be read: {error}")
    if parts.scheme not in _SCHEMES:
        _refuse(url, f"must begin with one of {', '.join(f'{one}://' for one in _SCHEMES)}")
    if parts.fragment:
        _refuse(url, "has a '#'; write it as %23")
    kind, tls = _SCHEMES[parts.scheme]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    user, password, authority = _credentials(parts)
    path, service, db_in_path, hosts = _place(url, kind, parts, authority)
    found = options.pop("db", db_in_path)
    db = _number(url, kind, found, "database", 0, 2**31 - 1) if found else 0
    if kind == "cluster" and db:
        _refuse(url, "names a database; a cluster has only database 0")
    return StoreAddress(
        kind=kind,
        tls=tls,
        hosts=hosts,
        path=path,
        service=service,
        db=db,
        username=options.pop("username", user),
        password=options.pop("password", password),
        options=tuple(options.items()),
    )


def without_password(url: str) -> str:
    """The address for logs and errors. Of one that is malformed rather too much is hidden than too little."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return _SECRET_OPTION.sub(r"\1***", url) if "@" not in url else "***"
    if "@" in rest and not rest.startswith("/"):
        credentials, _, place = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        rest = f"{user}:***@{place}" if colon else f"***@{place}"
    return scheme + mark + _SECRET_OPTION.sub(r"\1***", rest)


def unix_url(path: str | os.PathLike[str], db: int = 0) -> str:
    """The address of a server on a Unix socket; signs of the path that mean something in a URL are escaped."""
    return f"unix://{quote(os.fsencode(path))}?db={db}"


def _place(
    url: str, kind: Kind, parts: SplitResult, authority: str
) -> tuple[str, str, str, tuple[tuple[str, int], ...]]:
    """Socket path, service, database as it was written, and hosts."""
    if kind == "unix":
        return _socket_path(url, parts.path, authority), "", "", ()
    steps = [unquote(step) for step in parts.path.split("/") if step]
    service = ""
    if kind == "sentinel":
        if not steps:
            _refuse(url, f"names no service; write {_SHAPES[kind]}")
        service = steps.pop(0)
    if len(steps) > 1:
        _refuse(url, f"has too many parts after the host; write {_SHAPES[kind]}")
    hosts = authority.split(",")
    if len(hosts) > (1 if kind == "server" else MAX_HOSTS):
        _refuse(url, f"names too many hosts; write {_SHAPES[kind]}")
    default = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    return "", service, "".join(steps), tuple(_host(url, kind, one, default) for one in hosts)


def _credentials(parts: SplitResult) -> tuple[str, str, str]:
    credentials, _, authority = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return unquote(user), unquote(password), authority


def _socket_path(url: str, quoted: str, authority: str) -> str:
    path = unquote(quoted)
    if authority or not path.startswith("/") or path.endswith("/") or "\0" in path:
        _refuse(url, f"names no socket by an absolute path; write {_SHAPES['unix']}")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        _refuse(url, f"names a socket by more than {MAX_SOCKET_PATH_BYTES} bytes")
    return path


def _host(url: str, kind: Kind, text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        name, bracket, after = text[1:].partition("]")
        colon, port = after[:1], after[1:]
        if not bracket or colon not in ("", ":"):
            _refuse(url, f"has a host that cannot be read; write {_SHAPES[kind]}")
    else:
        name, colon, port = text.partition(":")
    if not name:
        _refuse(url, f"names no host; write {_SHAPES[kind]}")
    return name, _number(url, kind, port, "port", 1, 65535) if colon else default_port


def _number(url: str, kind: Kind, text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        # The text itself is not repeated: behind a password with an unescaped '@' or '/' it may be part of it.
        _refuse(url, f"has a {what} that is no number from {least}; write {_SHAPES[kind]}")
    return int(text)


def _refuse(url: str, why: str) -> NoReturn:
    raise StoreUrlError(f"the store's address '{without_password(url)}' {why}")
