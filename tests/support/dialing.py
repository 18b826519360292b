"""Connections of tests: to a port or to a path, plain or with TLS."""

from __future__ import annotations

import socket
import ssl

Target = tuple[str, int] | str
"""A host and a port, or the path of a Unix socket."""


def dial(target: Target, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connected socket; with ``tls`` after its handshake."""
    if isinstance(target, str):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(timeout_s)
        plain.connect(target)
        return plain
    plain = socket.create_connection(target, timeout=timeout_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=target[0])
    except BaseException:
        plain.close()
        raise
