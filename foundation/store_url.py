"""What a store's address may look like, and how it is shown where a password must not be seen.

The one grammar of addresses, whoever connects: ``memory://`` alone is none of a store, and known to
``featurecache.sources.opening`` only.

- ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]``
- ``unix://[[USER]:PASSWORD@]/PATH``
- ``redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB]``
- ``redis+cluster://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]``

``rediss://`` and so on for TLS. After a ``?`` may come ``db``, ``username``, ``password`` and ``client_name``; for
sentinels ``sentinel_user`` and ``sentinel_password``; with TLS ``ca``, ``cert``, ``key`` (files) and ``server_name``.

Decides whether an address can be used at all; it must never connect, never pass over a word that it does not know, and
no complaint of its may hold a password. redis-py reads the same addresses, so nothing here gives a part another meaning
than it has there.
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
    "unix": "unix://[user:password@]/absolute/path.sock[?db=0]",
    "sentinel": "redis+sentinel://[user:password@]host[:26379],…/service[/db]",
    "cluster": "redis+cluster://[user:password@]host[:6379],…",
}
_WORDS = {"db", "username", "password", "client_name"}
_SENTINEL_WORDS = {"sentinel_user", "sentinel_password"}
_TLS_WORDS = {"ca", "cert", "key", "server_name"}
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
    client_name: str = ""
    """What connections call themselves; "" for the caller's own."""
    sentinel_user: str = ""
    sentinel_password: str = ""
    ca: str = ""
    """A file with the authorities that may vouch for the server; "" for those of the system. Not read here."""
    cert: str = ""
    key: str = ""
    """Files of the client's own certificate."""
    server_name: str = ""
    """To be found in the server's certificate; "" for the host."""

    @property
    def name(self) -> str:
        """Scheme, place and service, for logs: without credentials, and with the ports in it."""
        if self.kind == "unix":
            return f"unix://{self.path}"
        scheme = next(one for one, known in _SCHEMES.items() if known == (self.kind, self.tls))
        hosts = (
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{scheme}://{','.join(hosts)}" + (f"/{self.service}" if self.service else "")

    def login_words(self) -> dict[str, str | bool | None]:
        """Who we are and whom we trust, as redis-py's clients want to be told it."""
        words: dict[str, str | bool | None] = {
            "username": self.username or None,
            "password": self.password or None,
        }
        if self.tls:
            words["ssl"] = True
            files = {"ssl_ca_certs": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key}
            words |= {word: path for word, path in files.items() if path}
        return words

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
    except ValueError:  # its words may repeat the password
        _refuse(url, "cannot be read; check its brackets, and its letters for look-alikes")
    if parts.scheme not in _SCHEMES:
        _refuse(url, f"must begin with one of {', '.join(f'{one}://' for one in _SCHEMES)}")
    if parts.fragment:
        _refuse(url, "has a '#'; write it as %23")
    kind, tls = _SCHEMES[parts.scheme]
    words = _words(url, kind, tls, parts.query)
    user, password, authority = _credentials(url, parts, words)
    path, service, db_in_path, hosts = _place(url, kind, parts, authority)
    found = words.get("db", db_in_path)
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
        username=user,
        password=password,
        **{
            word: text for word, text in words.items() if word not in ("db", "username", "password")
        },
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
    if kind == "server" and len(hosts) > 1:
        _refuse(url, "names too many hosts; several need redis+sentinel:// or redis+cluster://")
    if len(hosts) > MAX_HOSTS:
        _refuse(url, f"names too many hosts; at most {MAX_HOSTS} are possible")
    default = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    return "", service, "".join(steps), tuple(_host(url, kind, one, default) for one in hosts)


def _words(url: str, kind: Kind, tls: bool, query: str) -> dict[str, str]:
    """What comes after the question mark."""
    allowed = set(_WORDS)
    if kind == "sentinel":
        allowed |= _SENTINEL_WORDS
    if tls:
        allowed |= _TLS_WORDS
    if "@" in query:  # a password with a "?" in it: nothing behind it may be repeated
        _refuse(
            url,
            "has an '@' after the '?'; write a '?' in a password as %3F, and such an '@' as %40",
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        _refuse(url, "must have WORD=VALUE pairs after the '?'")
    words = dict(pairs)
    possible = f"after the '?'; possible: {', '.join(sorted(allowed))}"
    if unknown := sorted(words.keys() - allowed):
        _refuse(url, f"cannot be used: {', '.join(unknown)} has no meaning {possible}")
    if len(words) < len(pairs):
        _refuse(url, "cannot be used: a word stands twice after the '?'")
    client_name = words.get("client_name", "")
    if not client_name.isascii() or not client_name.isprintable() or " " in client_name:
        _refuse(url, "cannot be used: client_name may hold printable ASCII without spaces only")
    if "key" in words and "cert" not in words:
        _refuse(url, "cannot be used: key= needs cert= beside it")
    return words


def _credentials(url: str, parts: SplitResult, words: dict[str, str]) -> tuple[str, str, str]:
    """User, password, and what comes after them."""
    credentials, at, authority = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    named, secret = words.get("username", ""), words.get("password", "")
    if (user and named) or (password and secret):
        _refuse(url, "names user or password twice, before the '@' and after the '?'")
    user, password = unquote(user) or named, unquote(password) or secret
    if (at or user) and not password:
        _refuse(url, "has a user without a password; write USER:PASSWORD@")
    return user, password, authority


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
    message = f"the store's address '{without_password(url)}' {why}"
    raise StoreUrlError(message) from None  # what it came from may hold the password
