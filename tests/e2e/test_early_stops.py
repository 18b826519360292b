"""Instances that never get to serve, or stop while they load."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.raw_http import RawHttp, ask_once, floats_json, get, post_infer, request
from tests.support.served_models import SNAIL_TURNS, write_slow, write_stress_models
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

WITHIN_S = 30.0
GOOD = post_infer("identity", floats_json())


@contextmanager
def launched(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server that the test itself stops; killed where it does not."""
    try:
        yield server.launch()
    finally:
        server.process.kill()
        server.process.wait()
        server.forget()


@pytest.mark.parametrize("count", [1, 2])
def test_an_unusable_folder_is_told_once(tmp_path: Path, count: int) -> None:
    with launched(ServerProcess(tmp_path / "none", {"server.workers": count})) as server:
        assert server.wait() == 2
        assert server.output.count("does not exist") == 1, server.output


def _write_long_load(folder: Path) -> None:
    write_slow(folder, "long", turns=10 * SNAIL_TURNS)
    settings = folder / "long" / "model.toml"
    settings.write_text(settings.read_text().replace("enabled = false", "runs = 1"))


def test_who_waits_for_the_models_may_ask_the_admin_port(tmp_path: Path) -> None:
    _write_long_load(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    admin = ("127.0.0.1", port)
    options = ["--http-port", "0", "--grpc-port", "0", "--admin-port", str(port)]

    def answers() -> bool:
        try:
            return ask_once(admin, get("/v2/health/live")).status == 200
        except ConnectionRefusedError:
            return False

    with launched(ServerProcess(tmp_path, {"server.workers": 2}, options)) as server:
        eventually("the admin port answers", answers, within_s=WITHIN_S)
        waiting = ask_once(admin, get("/v2/health/ready"))
        assert waiting.status == 400
        assert "loading" in waiting.json["error"]
        status = ask_once(admin, get("/status")).json
        assert [one["serving"] for one in status["workers"]] == [False, False]
        assert ask_once(admin, get("/metrics")).status == 200
        load = request("POST", "/v2/repository/models/long/load", [], b"")
        assert ask_once(admin, load).status == 403
        pids = [one["pid"] for one in status["workers"]]
        server.terminate()
        assert server.wait() == 0
        assert "stopped while loading" in server.output
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)


@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_does_not_wait_for_a_load(tmp_path: Path, count: int) -> None:
    write_stress_models(tmp_path)
    _write_long_load(tmp_path)
    settings = {
        "server.workers": count,
        "repository.control": "explicit",
        "repository.startup_models": "identity, nobody",
        "drain.timeout_s": 0.5,
    }
    with launched(ServerProcess(tmp_path, settings)) as server:
        server.await_ready()
        assert "nobody REFUSED: it is not in the model repository" in server.output
        with RawHttp(server.http) as caller:
            caller.send(request("POST", "/v2/repository/models/long/load", [], b""))
            eventually("it loads", lambda: _burns(server), within_s=WITHIN_S)
            assert ask_once(server.http, GOOD).status == 200
            server.terminate()
            assert server.wait() == 0
        assert "Traceback" not in server.output


def _burns(server: ServerProcess) -> bool:
    """Whether some thread is at the load, which is the only thing that takes time here."""
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    return any(one.cpu_percent(0.1) > 20 for one in family)
