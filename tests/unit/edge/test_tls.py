"""Certificates: what cannot be served with is said in one sentence; good new files replace old ones."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from gateway.edge.tls import HTTP_1, HTTP_2, Tls, TlsError, load
from gateway.settings import TlsSettings
from tests.support.certificates import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> Pair:
    """A pair of one's own, to be spoilt."""
    signed = authority.sign("server")
    return Pair(
        Path(shutil.copy(signed.certificate, tmp_path)), Path(shutil.copy(signed.key, tmp_path))
    )


def settings(pair: Pair, **more: str) -> TlsSettings:
    return TlsSettings(cert_file=str(pair.certificate), key_file=str(pair.key), **more)  # type: ignore[arg-type]


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for end in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ours, theirs


def shown(server: ssl.SSLContext, authority: Authority) -> int:
    """The serial number of the certificate that a new connection gets to see."""
    _, theirs = shake(server, authority.client_context())
    certificate = theirs.getpeercert()
    assert certificate
    return int(str(certificate["serialNumber"]), 16)


# ---- what is served --------------------------------------------------------------------------------


def test_no_files_mean_no_tls() -> None:
    assert load(TlsSettings()) is None


@pytest.mark.parametrize("protocol", [HTTP_1, HTTP_2])
def test_each_port_offers_its_own_protocol(pair: Pair, authority: Authority, protocol: str) -> None:
    context = Tls(settings(pair)).context(protocol)
    ours, theirs = shake(context, authority.client_context(HTTP_2, HTTP_1))
    assert ours.selected_alpn_protocol() == theirs.selected_alpn_protocol() == protocol


def test_key_and_certificate_may_share_a_file(pair: Pair, authority: Authority) -> None:
    both = pair.certificate.with_name("both.pem")
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    context = Tls(TlsSettings(cert_file=str(both))).context(HTTP_1)
    assert shake(context, authority.client_context())[1].version() == "TLSv1.3"


def test_the_oldest_version_is_a_setting(pair: Pair, authority: Authority) -> None:
    old = authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake(Tls(settings(pair)).context(HTTP_1), old)[1].version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        shake(Tls(settings(pair, min_version="1.3")).context(HTTP_1), old)


def test_clients_must_show_a_certificate_that_the_ca_has_signed(
    pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    context = Tls(settings(pair, client_ca_file=str(authority.file))).context(HTTP_1)
    known = authority.client_context(own=authority.sign("client"))
    assert shake(context, known)[0].getpeercert()
    stranger = Authority(tmp_path / "strangers").sign("stranger")
    for client in (authority.client_context(), authority.client_context(own=stranger)):
        with pytest.raises(ssl.SSLError):
            shake(context, client)


# ---- what cannot be served with --------------------------------------------------------------------


def test_a_key_without_a_certificate_is_refused(pair: Pair) -> None:
    with pytest.raises(TlsError, match=r"tls\.cert_file is missing"):
        load(TlsSettings(key_file=str(pair.key)))
    with pytest.raises(TlsError, match=r"tls\.cert_file is missing"):
        load(TlsSettings(client_ca_file="ca.pem"))


def test_a_missing_file_is_named(pair: Pair) -> None:
    pair.key.unlink()
    with pytest.raises(TlsError, match=f"cannot read {pair.key}: No such file or directory"):
        Tls(settings(pair))


def test_files_that_are_something_else_are_named(pair: Pair) -> None:
    good = pair.certificate.read_bytes()
    pair.certificate.write_bytes(b"hello")
    with pytest.raises(TlsError, match=f"{pair.certificate} holds no certificate in PEM format"):
        Tls(settings(pair))
    pair.certificate.write_bytes(good)
    with pytest.raises(TlsError, match=f"{pair.certificate} holds no private key in PEM format"):
        Tls(TlsSettings(cert_file=str(pair.certificate)))
    pair.key.write_bytes(b"hello")
    with pytest.raises(TlsError, match=f"{pair.key} holds no private key in PEM format"):
        Tls(settings(pair))
    with pytest.raises(TlsError, match=f"{pair.key} holds no certificate in PEM format"):
        Tls(TlsSettings(cert_file=str(pair.key)))


def test_a_client_ca_file_without_certificates_is_named(pair: Pair, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    with pytest.raises(TlsError, match=f"{empty} holds no certificate in PEM format"):
        Tls(settings(pair, client_ca_file=str(empty)))


def test_the_key_of_another_certificate_is_refused(pair: Pair, authority: Authority) -> None:
    other = authority.sign("other")
    mixed = Pair(pair.certificate, other.key)
    with pytest.raises(TlsError, match=f"the key in {other.key} does not belong to the certifi"):
        Tls(settings(mixed))


def test_an_encrypted_key_is_refused_without_asking_the_terminal(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsError, match=f"the key in {pair.key} is encrypted; decrypt it first"):
        Tls(settings(pair))


# ---- new files -------------------------------------------------------------------------------------


def replace(pair: Pair, new: Pair) -> None:
    """As tools do it: a new file under the old name, whatever the clock's resolution."""
    for old, fresh in zip(pair, new, strict=True):
        copy = old.with_suffix(".new")
        shutil.copy(fresh, copy)
        os.replace(copy, old)


def test_new_connections_get_the_new_certificate(pair: Pair, authority: Authority) -> None:
    tls = Tls(settings(pair))
    contexts = [tls.context(HTTP_1), tls.context(HTTP_2)]
    before = [shown(context, authority) for context in contexts]
    assert not tls.reload_if_changed()
    replace(pair, authority.sign("newer"))
    assert tls.reload_if_changed()
    after = [shown(context, authority) for context in contexts]
    assert after[0] == after[1] != before[0] == before[1]
    assert tls.pair.certificate == pair.certificate.read_bytes()
    assert not tls.reload_if_changed()


def test_a_bad_new_pair_is_told_once_and_changes_nothing(
    pair: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(settings(pair))
    context = tls.context(HTTP_1)
    before = shown(context, authority)
    newer = authority.sign("newer")
    replace(pair, Pair(newer.certificate, pair.key))  # half of it is there
    with caplog.at_level(logging.WARNING):
        assert not tls.reload_if_changed()
        assert not tls.reload_if_changed()
    (told,) = caplog.records
    assert told.message.startswith(
        "the new TLS files are not used, the old ones still are: the key"
    )
    assert shown(context, authority) == before
    replace(pair, newer)
    assert tls.reload_if_changed()
    assert shown(context, authority) != before


def test_files_that_are_gone_for_a_moment_change_nothing(pair: Pair, authority: Authority) -> None:
    tls = Tls(settings(pair))
    context = tls.context(HTTP_1)
    before = shown(context, authority)
    pair.key.unlink()
    assert not tls.reload_if_changed()
    assert shown(context, authority) == before
