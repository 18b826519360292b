"""Asks a running gateway whether it takes calls: what a container's health check and an operator's script want.

It decides what counts as ready: an answer of 200 at the admin port within the time. It must never go through a proxy,
nor import the runtime: it runs every few seconds beside a busy server.
"""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from gateway.settings import GatewaySettings

_PATH = "/v2/health/ready"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where one connects instead


def admin_url(settings: GatewaySettings) -> str:
    """The admin port of a server with these settings, as this machine reaches it."""
    has_tls = settings.tls.admin and bool(settings.tls.cert_file)
    host = settings.server.host_of("admin")
    reachable = _EVERYWHERE.get(host, host)
    authority = f"[{reachable}]" if ":" in reachable else reachable
    return f"http{'s' * has_tls}://{authority}:{settings.server.admin_port}"


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
