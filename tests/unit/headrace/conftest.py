"""An admin port that answers what it is told, for the commands that ask one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from headrace import rollout_watching
from tests.support.rollout_admin_port import RolloutAdminPort
from tests.support.rollout_calls import READY


class Admin(HTTPServer):
    """Answers everything with one status and body; remembers the paths."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Admin

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # a proxy must not be asked
    server = Admin()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plain_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, a wide terminal without colours, no token, and no pauses between looks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rollout_watching, "INTERVAL_S", 0.0)
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def port(plain_terminal: Path) -> Iterator[RolloutAdminPort]:
    """The rollouts of an admin port, with two versions of model flights."""
    with RolloutAdminPort(plain_terminal, dict(READY)) as served:
        yield served
