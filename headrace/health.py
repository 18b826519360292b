"""Asks a running gateway whether it takes calls: what a container's health check and an operator's script want.

It decides what counts as ready: an answer of 200 at the admin port within the time. It must never go through a proxy,
nor import the runtime: it runs every few seconds beside a busy server.
"""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

_PATH = "/v2/health/ready"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where one connects instead


def admin_url(host: str, port: int, *, tls: bool = False) -> str:
    """Where the readiness of a server is asked that listens on ``host`` (an address, IPv6 too) and ``port``."""
    reachable = _EVERYWHERE.get(host, host)
    return f"http{'s' * tls}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}{_PATH}"


def connect(url: str, timeout_s: float) -> HTTPConnection:
    """A connection to an admin port, not opened yet. ``ValueError`` for what is no address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it does not begin with http:// or https:// and a host")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    # Whose certificate it is does not matter: it is the operator's own server, and loopback is in few of them.
    context = ssl._create_unverified_context()  # noqa: S323
    return HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)


def complaint(url: str, timeout_s: float) -> str:
    """Why the gateway at ``url`` is not ready; nothing when it is. A URL without a path asks for readiness."""
    try:
        connection = connect(url, timeout_s)
    except ValueError as error:
        return f"{url} cannot be asked: {error}"
    try:
        connection.request("GET", urlsplit(url).path.rstrip("/") or _PATH)
        answer = connection.getresponse()
        said = answer.read(500).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return f"no answer from {url}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{url} answers {answer.status} {said}".rstrip()
