"""Starts and stops that are not polite: odd ports, a terminal that has gone, and a model that does not end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import identity, slow_matmul, write_model
from tests.support.raw_http import RawHttp, floats_json, post_infer
from tests.support.server_process import CHECKOUT, ServerProcess
from tests.support.waiting import eventually


def _serve(models: Path, *options: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    ports = dict.fromkeys(("--http-port", "--grpc-port", "--admin-port"), "0")
    ports |= dict(zip(options[::2], options[1::2], strict=True))
    command = [sys.executable, "-m", "headrace", "serve", "--models", str(models)]
    command += [part for pair in ports.items() for part in pair]
    environment = os.environ | {"HEADRACE_DRAIN_DELAY_S": "0"}
    return subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=stdout, stderr=subprocess.PIPE
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_model(tmp_path, "identity", identity())
    return tmp_path


def test_one_port_for_two_fronts_is_refused(small: Path) -> None:
    with ServerProcess(small) as first:
        free = first.http[1]
    process = _serve(small, "--http-port", str(free), "--grpc-port", str(free))
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"port {free} on 127.0.0.1 is taken".encode() in complaint


def test_a_reader_of_the_output_that_leaves_does_not_spoil_the_stop(small: Path) -> None:
    reading, writing = os.pipe()
    process = _serve(small, stdout=writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        while not lines.readline().startswith(b"ready"):
            assert process.poll() is None
    process.terminate()
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Error" not in complaint, complaint


def test_a_second_signal_ends_the_process_beneath_a_running_batch(tmp_path: Path) -> None:
    write_model(tmp_path, "endless", slow_matmul(400, 1024), toml="[warmup]\nenabled = false\n")
    server = ServerProcess(tmp_path).start()
    with RawHttp(server.http) as connection:
        connection.send(post_infer("endless", floats_json(2000, 1024)))
        eventually("the batch runs", lambda: server.metric("headrace_inflight_requests") == 1)
        server.terminate()
        eventually("the server stops", lambda: "stopping" in server.output)
        server.terminate()
        assert server.wait(5.0) == 0, server.output
    assert "some calls were cut off" in server.output
    assert "terminate called" not in server.output
    server.forget()


def test_a_model_that_was_never_timed_does_not_run_on_the_loop(tmp_path: Path) -> None:
    write_model(tmp_path, "cold", identity(), toml="[warmup]\nenabled = false\n")
    with ServerProcess(tmp_path) as server:
        with RawHttp(server.http) as connection:
            assert connection.ask(post_infer("cold", floats_json())).status == 200
        assert server.metric("headrace_batches_total", execution="worker") == 1


def test_a_signal_ends_a_load_between_two_models(tmp_path: Path) -> None:
    for number in range(8):
        write_model(tmp_path, f"slow{number}", slow_matmul(30, 1024))
    server = ServerProcess(tmp_path).launch()
    eventually("the first model is loaded", lambda: "slow0/1 loaded" in server.output)
    server.terminate()
    assert server.wait(10.0) == 0
    assert "stopped while loading" in server.output
    assert "slow7/1 loaded" not in server.output
    server.forget()


def test_the_status_page_survives_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"models\xff")
    write_model(odd, "identity", identity())
    (odd / "empty").mkdir()
    with ServerProcess(odd) as server:
        assert server.status()["settings"]["repository"]["models"].endswith("\udcff")
