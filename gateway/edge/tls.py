"""TLS of the data ports: certificates read, checked, put into contexts, and read again when the files change.

Decides whether files can be served with, and says in one sentence why not. A pair of certificate and key is read
once into memory and used from there, so that what was checked is what is served, even while somebody replaces the
files. It must never keep a key anywhere but in memory, and a bad new pair never replaces a good old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.edge.listeners import ListenError
from gateway.settings import TlsSettings

logger = logging.getLogger("headrace")

HTTP_1 = "http/1.1"
HTTP_2 = "h2"
"""What the ports offer by ALPN (RFC 7301)."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int], ...]


class TlsError(ListenError):
    """Files that TLS cannot be spoken with, in words for the person who named them."""


class Pair(NamedTuple):
    """A certificate chain and its key, as PEM."""

    certificate: bytes
    key: bytes


class Tls:
    """What the ports show and ask for. Raises ``TlsError`` when made from files that cannot be used."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        if not settings.cert_file:
            raise TlsError(
                "tls.cert_file is missing; name the server's certificate, or no TLS files at all"
            )
        self._stamp = self._look()
        self.pair = self._read_pair()
        self.client_ca = _read(settings.client_ca_file) if settings.client_ca_file else None
        self._contexts: list[ssl.SSLContext] = []
        self._make(HTTP_1)  # a mistake shows now, not when the ports open

    @property
    def handshake_timeout_s(self) -> float:
        """How long a peer may take to agree on keys."""
        return self._settings.handshake_timeout_s

    def context(self, protocol: str) -> ssl.SSLContext:
        """A context for one port; later pairs are put into it. ``protocol`` is what it offers by ALPN."""
        made = self._make(protocol)
        self._contexts.append(made)
        return made

    def reload_if_changed(self) -> bool:
        """Serve new connections with what the files hold now; True when that is a new pair."""
        try:
            stamp = self._look()
        except TlsError:
            return False  # between the removal of the old files and the arrival of the new
        if stamp == self._stamp:
            return False
        self._stamp = stamp  # also of a bad pair: it is told once, not once a second
        try:
            pair = self._read_pair()
            if pair == self.pair:
                return False
            self._put(pair, _bare_context())
        except TlsError as error:
            logger.warning("the new TLS files are not used, the old ones still are: %s", error)
            return False
        for context in self._contexts:
            self._put(pair, context)
        self.pair = pair
        logger.info("new connections get the new certificate in %s", self._settings.cert_file)
        return True

    def _make(self, protocol: str) -> ssl.SSLContext:
        context = _bare_context()
        context.minimum_version = _VERSIONS[self._settings.min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION  # HTTP/2 forbids it (RFC 9113, section 9.2.1)
        context.set_alpn_protocols([protocol])
        self._put(self.pair, context)
        if self.client_ca is not None:
            _trust(context, self.client_ca, self._settings.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _files(self) -> tuple[str, str]:
        return self._settings.cert_file, self._settings.key_file or self._settings.cert_file

    def _look(self) -> _Stamp:
        return tuple(_stamp(file) for file in self._files())

    def _read_pair(self) -> Pair:
        return Pair(*map(_read, self._files()))

    def _put(self, pair: Pair, context: ssl.SSLContext) -> None:
        cert_file, key_file = self._files()
        _trust(
            _bare_context(), pair.certificate, cert_file
        )  # OpenSSL does not say which of the two is wrong

        def ask() -> str:
            raise TlsError(
                f"the key in {key_file} is encrypted; decrypt it first: openssl pkey -in {key_file} -out plain.pem"
            )

        try:
            with _in_memory(pair.certificate) as certificate, _in_memory(pair.key) as key:
                context.load_cert_chain(certificate, key, ask)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"the key in {key_file} does not belong to the certificate in {cert_file}"
            elif b"PRIVATE KEY-----" not in pair.key:
                why = f"{key_file} holds no private key in PEM format"
            else:
                why = f"{cert_file} and {key_file} cannot be served with: {error.reason or error}"
            raise TlsError(why) from None


def load(settings: TlsSettings) -> Tls | None:
    """TLS as the settings want it; None when they name no file."""
    if settings.cert_file or settings.key_file or settings.client_ca_file:
        return Tls(settings)
    return None


def speaks(transport: asyncio.BaseTransport, protocol: str) -> bool:
    """Whether the peer has agreed to speak ``protocol``; without TLS nobody asks it."""
    agreed = transport.get_extra_info("ssl_object")
    return agreed is None or agreed.selected_alpn_protocol() == protocol


def _bare_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _trust(context: ssl.SSLContext, certificates: bytes, file: str) -> None:
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise TlsError(f"{file} holds no certificate in PEM format") from None


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {file}: {error.strerror or error}") from None


def _stamp(file: str) -> tuple[int, int, int]:
    try:
        found = Path(file).stat()
    except OSError as error:
        raise TlsError(f"cannot read {file}: {error.strerror or error}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path that reads as ``content``: OpenSSL takes a chain from files only."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
