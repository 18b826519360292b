"""TLS on both data ports: who gets in, what both fronts still do behind it, and how a certificate is replaced."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from protos.inference import ModelInferResponse
from tests.support import models, raw_h2
from tests.support.certificates import Authority, Pair
from tests.support.dialing import dial
from tests.support.raw_h2 import INFER, RawGrpc, infer_message
from tests.support.raw_http import (
    ClosedError,
    RawHttp,
    floats_json,
    get,
    post_infer,
    post_infer_chunked,
)
from tests.support.restless_clients import message
from tests.support.served_models import SLOW_TURNS, SLOW_WIDTH, write_slow
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

HANDSHAKE_TIMEOUT_S = 1.0
ROW = np.arange(4, dtype=np.float32).reshape(1, -1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("server")


@pytest.fixture(scope="module")
def http_tls(authority: Authority) -> ssl.SSLContext:
    return authority.client_context("http/1.1")


@pytest.fixture(scope="module")
def grpc_tls(authority: Authority) -> ssl.SSLContext:
    return authority.client_context("h2")


def settings(pair: Pair, **more: object) -> dict[str, object]:
    return {
        "tls.cert_file": pair.certificate,
        "tls.key_file": pair.key,
        "tls.handshake_timeout_s": HANDSHAKE_TIMEOUT_S,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


@pytest.fixture(scope="module")
def server(stress_models: Path, pair: Pair) -> Iterator[ServerProcess]:
    with ServerProcess(stress_models, settings(pair, http__max_body_bytes=10_000_000)) as running:
        yield running


def url(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


# ---- who gets in -----------------------------------------------------------------------------------


def test_the_clients_of_triton_get_in_on_both_ports(
    server: ServerProcess, authority: Authority, http_tls: ssl.SSLContext
) -> None:
    assert f"https://{url(server.http)}\n" in server.output
    before = server.metric("headrace_http_infer_paths_total", path="fast_lane")
    given = tritonclient.http.InferInput("x", [1, 4], "FP32").set_data_from_numpy(ROW)
    with tritonclient.http.InferenceServerClient(
        url(server.http), ssl=True, ssl_context_factory=lambda: http_tls
    ) as client:
        result = client.infer("identity", [given])
        assert np.array_equal(result.as_numpy("y"), ROW)
    assert server.metric("headrace_http_infer_paths_total", path="fast_lane") == before + 1
    given = tritonclient.grpc.InferInput("x", [1, 4], "FP32").set_data_from_numpy(ROW)
    with tritonclient.grpc.InferenceServerClient(
        url(server.grpc), ssl=True, root_certificates=str(authority.file)
    ) as client:
        result = client.infer("identity", [given])
        assert np.array_equal(result.as_numpy("y"), ROW)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_who_does_not_agree_on_http2_is_turned_away_from_the_grpc_port(
    server: ServerProcess, authority: Authority, protocols: tuple[str, ...]
) -> None:
    assert _is_turned_away(server.grpc, authority.client_context(*protocols))
    assert not _is_turned_away(server.grpc, authority.client_context("h2"))


def _is_turned_away(address: tuple[str, int], context: ssl.SSLContext) -> bool:
    """Whether the server ends the connection without a word."""
    try:
        with dial(address, timeout_s=10, tls=context) as connection:
            connection.sendall(get("/v2/health/live"))
            return not connection.recv(1)
    except TimeoutError:
        raise
    except OSError:  # in TLS 1.3 the client may hear of it late
        return True


def test_the_http_port_takes_whoever_asks_for_no_protocol(
    server: ServerProcess, authority: Authority
) -> None:
    with RawHttp(server.http, tls=authority.client_context()) as connection:
        assert connection.ask(post_infer("identity", floats_json())).status == 200


def test_plain_speakers_and_silent_ones_are_cut_off(
    server: ServerProcess, http_tls: ssl.SSLContext
) -> None:
    for address in (server.http, server.grpc):
        with RawHttp(address) as plain, pytest.raises(ClosedError):
            plain.ask(get("/v2/health/live"))
        with socket.create_connection(address, timeout=10) as silent:
            assert silent.recv(1) == b"", "closed after the handshake's time"
    with RawHttp(server.http, tls=http_tls) as connection:
        assert connection.ask(get("/v2/health/live")).status == 200


def test_the_admin_port_stays_as_it_is_unless_asked(
    server: ServerProcess, stress_models: Path, pair: Pair, http_tls: ssl.SSLContext
) -> None:
    assert server.status()["addresses"]["admin"].startswith("http://")
    with ServerProcess(stress_models, settings(pair, tls__admin="true")) as guarded:
        assert f"https://{url(guarded.admin)}\n" in guarded.output
        connection = http.client.HTTPSConnection(*guarded.admin, timeout=10, context=http_tls)
        connection.request("GET", "/status")
        assert connection.getresponse().status == 200
        connection.close()


def test_with_a_client_ca_only_its_clients_get_in(
    stress_models: Path, pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    client = authority.sign("client")
    stranger = Authority(tmp_path / "strangers").sign("stranger")
    more = settings(pair, tls__client_ca_file=authority.file)
    with ServerProcess(stress_models, more) as server:
        known = authority.client_context("http/1.1", own=client)
        with RawHttp(server.http, tls=known) as connection:
            assert connection.ask(post_infer("identity", floats_json())).status == 200
        known = authority.client_context("h2", own=client)
        with RawGrpc(server.grpc, tls=known) as channel:
            assert channel.ask(message("identity", 4)).status == raw_h2.OK
        for own in (None, stranger):
            assert _is_turned_away(server.http, authority.client_context("http/1.1", own=own))
            assert _is_turned_away(server.grpc, authority.client_context("h2", own=own))


# ---- what both fronts still do ---------------------------------------------------------------------


def test_large_messages_go_both_ways(
    server: ServerProcess, http_tls: ssl.SSLContext, authority: Authority
) -> None:
    wide = np.arange(1_000_000, dtype=np.float32)
    head = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1000000],"parameters":'
        b'{"binary_data_size":4000000}}],"parameters":{"binary_data_output":true}}'
    )
    fields = [("inference-header-content-length", str(len(head)))]
    for make in (post_infer, post_infer_chunked):
        with RawHttp(server.http, tls=http_tls) as connection:
            response = connection.ask(make("wide", head + wide.tobytes(), fields))
            assert response.status == 200
            assert response.body.endswith(wide.tobytes())
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with grpc.secure_channel(
        url(server.grpc), credentials, [("grpc.max_receive_message_length", -1)]
    ) as channel:
        infer = channel.unary_unary(INFER, None, ModelInferResponse.FromString)
        reply = infer(infer_message("wide", wide.tobytes(), [1, wide.size]), timeout=30)
        assert reply.raw_output_contents[0] == wide.tobytes()


def test_a_refused_upload_has_its_answer(server: ServerProcess, http_tls: ssl.SSLContext) -> None:
    """TLS has no half-closed connections; the answer must not depend on one."""
    with RawHttp(server.http, tls=http_tls) as connection:
        head = (
            b"POST /v2/models/wide/infer HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999\r\n\r\n"
        )
        connection.send(head + bytes(1000))
        response = connection.receive()
        assert response.status == 400
        assert "takes at most" in response.error
        assert connection.expect_close() == b""


def test_bytes_that_are_no_http_have_their_answer(
    server: ServerProcess, http_tls: ssl.SSLContext
) -> None:
    with RawHttp(server.http, tls=http_tls) as connection:
        assert connection.ask(b"nonsense\r\n\r\n").status == 400
        assert connection.expect_close() == b""


def test_callers_that_vanish_leave_nothing_behind(
    server: ServerProcess, http_tls: ssl.SSLContext, grpc_tls: ssl.SSLContext
) -> None:
    slow = post_infer("slow", floats_json(width=SLOW_WIDTH))
    for _ in range(3):
        with RawHttp(server.http, tls=http_tls) as connection:
            connection.send(slow)
        with RawGrpc(server.grpc, tls=grpc_tls) as channel:
            channel.start(message("slow", SLOW_WIDTH))
    eventually(
        "nothing is left",
        lambda: (
            not (
                server.metric("headrace_inflight_requests")
                or server.metric("headrace_connections")
                or server.metric("headrace_queue_requests")
            )
        ),
        within_s=20,
    )


def test_a_stop_answers_who_is_inside_and_does_not_wait_for_the_idle(
    tmp_path: Path, pair: Pair, http_tls: ssl.SSLContext, grpc_tls: ssl.SSLContext
) -> None:
    models.write_model(tmp_path, "identity", models.identity())
    write_slow(tmp_path, "snail", turns=10 * SLOW_TURNS)
    with ServerProcess(tmp_path, settings(pair)) as server:
        idle = [RawHttp(server.http, tls=http_tls) for _ in range(3)]
        quiet = RawGrpc(server.grpc, tls=grpc_tls)
        assert idle[0].ask(post_infer("identity", floats_json())).status == 200
        with (
            RawHttp(server.http, tls=http_tls) as connection,
            RawGrpc(server.grpc, tls=grpc_tls) as channel,
        ):
            connection.send(post_infer("snail", floats_json(width=SLOW_WIDTH)))
            stream_id = channel.start(message("snail", SLOW_WIDTH))
            eventually("both are inside", lambda: server.metric("headrace_inflight_requests") == 2)
            began_s = time.monotonic()
            server.terminate()
            response = connection.receive()
            assert response.status == 200
            assert response.closes
            assert channel.outcome(stream_id).status == raw_h2.OK
        assert server.wait() == 0
        assert "some calls were cut off" not in server.output
        assert time.monotonic() - began_s < 60
        for one in (*idle, quiet):
            one.close()


# ---- certificates ----------------------------------------------------------------------------------


def _serial(address: tuple[str, int], context: ssl.SSLContext) -> object:
    with RawHttp(address, tls=context) as connection:
        assert isinstance(connection.socket, ssl.SSLSocket)
        certificate = connection.socket.getpeercert()
        assert certificate
        return certificate["serialNumber"]


def _replace(used: Pair, fresh: Pair) -> None:
    for source, place in zip(fresh, used, strict=True):
        beside = place.with_suffix(".fresh")
        shutil.copy(source, beside)
        os.replace(beside, place)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_certificate_is_shown_to_new_connections_only(
    stress_models: Path,
    authority: Authority,
    http_tls: ssl.SSLContext,
    grpc_tls: ssl.SSLContext,
    tmp_path: Path,
    workers: int,
) -> None:
    first, second = authority.sign("first"), authority.sign("second")
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    _replace(used, first)
    chosen = settings(used, server__workers=workers, tls__admin="true")
    with ServerProcess(stress_models, chosen) as server:
        ports = {server.http: http_tls, server.grpc: grpc_tls, server.admin: http_tls}
        [before] = {_serial(address, context) for address, context in ports.items()}
        with RawHttp(server.http, tls=http_tls) as old:
            assert old.ask(get("/v2/health/live")).status == 200
            _replace(used, second)
            for address, context in ports.items():
                eventually(
                    "the new certificate is shown",
                    lambda: _serial(address, context) != before,  # noqa: B023  called here only
                    within_s=15,
                    poll_s=0.1,
                )
            assert old.ask(get("/v2/health/live")).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_cannot_be_served_with_end_the_start_before_models_are_loaded(
    stress_models: Path, pair: Pair, authority: Authority, workers: int
) -> None:
    mixed = Pair(pair.certificate, authority.sign("other").key)
    server = ServerProcess(stress_models, settings(mixed, server__workers=workers)).launch()
    assert server.wait() == 2
    assert f"headrace: the key in {mixed.key} does not belong to the certificate" in server.output
    assert "loaded" not in server.output
    assert "Traceback" not in server.output
    server.forget()


def test_options_name_the_files(stress_models: Path, pair: Pair, http_tls: ssl.SSLContext) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--admin-port", "0"]
    files = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    with ServerProcess(stress_models, options=[*ports, *files]) as server:
        assert not _is_turned_away(server.http, http_tls)
