"""``headrace models`` against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import StartServer
from tests.support import models
from tests.support.served_models import plus
from tests.support.server_process import CHECKOUT, ServerProcess


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", "models", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer) -> ServerProcess:
    models.write_model(tmp_path, "adder", plus(1.0))
    return start_server(tmp_path, repository__control="explicit")


def test_models_are_listed_loaded_and_unloaded(server: ServerProcess) -> None:
    url = "http://{}:{}".format(*server.admin)
    assert headrace("list", "--url", url).stdout.split() == [
        "adder", "1", "UNAVAILABLE", "not", "loaded"
    ]  # fmt: skip
    assert headrace("load", "adder", "--url", url).returncode == 0
    listed = headrace("list", "--json", "--url", url)
    assert json.loads(listed.stdout) == [
        {"name": "adder", "version": "1", "state": "READY", "reason": ""}
    ]
    unloaded = headrace("unload", "adder", "--url", url)
    assert unloaded.returncode == 0
    assert "headrace models load adder" in unloaded.stdout


def test_what_goes_wrong_is_one_sentence(server: ServerProcess) -> None:
    url = "http://{}:{}".format(*server.admin)
    for arguments, why in (
        (("load", "nobody", "--url", url), "unknown model 'nobody'"),
        (("list", "--url", "http://127.0.0.1:1"), "no answer"),
        (("list", "--url", "127.0.0.1:1"), "cannot be asked"),
    ):
        failed = headrace(*arguments)
        assert failed.returncode == 1
        assert failed.stderr.startswith("headrace: ")
        assert why in failed.stderr
        assert failed.stderr.count("\n") == 1
