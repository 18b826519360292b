"""Certificates for tests: one CA, servers and clients that it vouches for, as files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme


class Pair(NamedTuple):
    """A certificate and its key, each in a file of its own."""

    certificate: Path
    key: Path


class Authority:
    """A CA with a folder for what it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def sign(self, name: str, *hosts: str) -> Pair:
        """A certificate for these hosts and addresses; those of loopback when none is named."""
        made = self._ca.issue_cert(*(hosts or ("127.0.0.1", "::1", "localhost")))
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(pair.key)
        return pair

    def client_context(self, *protocols: str, own: Pair | None = None) -> ssl.SSLContext:
        """What a client needs that trusts this CA, and shows a certificate of its ``own`` if it has one."""
        context = ssl.create_default_context(cafile=self.file)
        if protocols:
            context.set_alpn_protocols(protocols)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context
