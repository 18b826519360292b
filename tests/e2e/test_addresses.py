"""Where the gateway listens: an address for each port, IPv6, and Unix sockets beside the ports."""

from __future__ import annotations

import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from protos.inference import ModelInferResponse
from tests.support import raw_h2
from tests.support.certificates import Authority
from tests.support.lanes import wait_until_running
from tests.support.models import identity, write_model
from tests.support.raw_h2 import INFER, RawGrpc
from tests.support.raw_http import RawHttp, floats_json, get, infer_path, post_infer
from tests.support.restless_clients import message, row
from tests.support.served_models import SLOW_WIDTH, write_slow
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "identity", identity())
    write_slow(root, "slow")
    return root


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="headrace") as name:
        yield Path(name)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# ---- addresses -------------------------------------------------------------------------------------


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
def test_each_port_has_an_address_of_its_own(models: Path) -> None:
    hosts = {"server.host": "127.0.0.2", "server.http_host": "::1", "server.grpc_host": "127.0.0.3"}
    with ServerProcess(models, hosts) as server:
        assert [server.http[0], server.grpc[0], server.admin[0]] == [
            "::1",
            "127.0.0.3",
            "127.0.0.2",
        ]
        assert server.status()["addresses"]["http"] == f"http://[::1]:{server.http[1]}"
        with RawHttp(server.http) as connection:
            assert connection.ask(post_infer("identity", floats_json())).status == 200
        with RawGrpc(server.grpc) as channel:
            assert channel.ask(message("identity", 4)).status == raw_h2.OK


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
@pytest.mark.parametrize("front", ["nghttp2", "grpcio"])
def test_everything_over_ipv6(models: Path, front: str) -> None:
    with ServerProcess(models, {"server.host": "::1", "grpc.server": front}) as server:
        assert {server.http[0], server.grpc[0], server.admin[0]} == {"::1"}
        with grpc.insecure_channel(f"[::1]:{server.grpc[1]}") as channel:
            infer = channel.unary_unary(INFER, None, ModelInferResponse.FromString)
            assert infer(message("identity", 4), timeout=30).raw_output_contents[0] == row(4)
        with httpx.Client(trust_env=False) as client:
            base = f"http://[::1]:{server.http[1]}"
            assert client.post(base + infer_path("identity"), content=floats_json()).is_success


def test_an_address_of_nobody_here_is_named(models: Path) -> None:
    server = ServerProcess(models, {"server.grpc_host": "192.0.2.1"}).launch()
    assert server.wait() == 2
    assert (
        "headrace: cannot listen on 192.0.2.1:0: Cannot assign requested address" in server.output
    )
    server.forget()


# ---- Unix sockets ----------------------------------------------------------------------------------


def _sockets(folder: Path) -> dict[str, object]:
    return {
        "server.http_unix_socket": folder / "http.sock",
        "server.grpc_unix_socket": folder / "grpc.sock",
    }


def _ask_both(folder: Path) -> None:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(folder / "http.sock")), base_url="http://gateway"
    ) as client:
        reply = client.post(infer_path("identity"), content=floats_json()).json()
        assert reply["outputs"][0]["data"] == [0.0, 1.0, 2.0, 3.0]
        assert client.get("/v2/health/ready").json() == {"ready": True}
    with grpc.insecure_channel(f"unix:{folder / 'grpc.sock'}") as channel:
        infer = channel.unary_unary(INFER, None, ModelInferResponse.FromString)
        assert infer(message("identity", 4), timeout=30).raw_output_contents[0] == row(4)


@pytest.mark.parametrize("front", ["nghttp2", "grpcio"])
def test_both_protocols_are_served_on_paths_too(models: Path, folder: Path, front: str) -> None:
    more = {**_sockets(folder), "server.unix_socket_mode": "600", "grpc.server": front}
    with ServerProcess(models, more) as server:
        assert server.status()["addresses"]["http_unix"] == f"unix:{folder / 'http.sock'}"
        assert f"grpc_unix unix:{folder / 'grpc.sock'}\n" in server.output
        _ask_both(folder)
        with RawHttp(server.http) as connection:
            assert connection.ask(get("/v2/health/ready")).status == 200
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(folder.iterdir()), "the paths are given back"


@pytest.mark.parametrize("front", ["nghttp2", "grpcio"])
def test_a_killed_server_leaves_paths_that_the_next_one_takes_over(
    models: Path, folder: Path, front: str
) -> None:
    more = {**_sockets(folder), "grpc.server": front}
    killed = ServerProcess(models, more).start()
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    killed.forget()
    assert len(list(folder.iterdir())) == 2
    with ServerProcess(models, more):
        _ask_both(folder)
        second = ServerProcess(models, more).launch()
        assert second.wait() == 2
        assert "is served by another process; stop it or choose another path" in second.output
        second.forget()
        _ask_both(folder)


def test_paths_need_no_tls(models: Path, folder: Path) -> None:
    pair = Authority(folder / "ca").sign("server")
    more = {**_sockets(folder), "tls.cert_file": pair.certificate, "tls.key_file": pair.key}
    with ServerProcess(models, more):
        _ask_both(folder)


def test_calls_on_paths_are_answered_while_the_server_stops(models: Path, folder: Path) -> None:
    with (
        ServerProcess(models, _sockets(folder)) as server,
        RawHttp(str(folder / "http.sock")) as connection,
        RawGrpc(str(folder / "grpc.sock")) as channel,
    ):
        connection.send(post_infer("slow", floats_json(width=SLOW_WIDTH)))
        stream_id = channel.start(message("slow", SLOW_WIDTH))
        wait_until_running(server)
        server.terminate()
        assert connection.receive().status == 200
        assert channel.outcome(stream_id).status == raw_h2.OK


def test_workers_share_the_paths(models: Path, folder: Path) -> None:
    with ServerProcess(models, {**_sockets(folder), "server.workers": 2}):
        for _ in range(4):
            _ask_both(folder)
    assert not list(folder.iterdir())
