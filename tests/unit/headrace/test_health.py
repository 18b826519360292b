"""``headrace health`` against an admin port that answers what it is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.settings import GatewaySettings, ServerSettings, TlsSettings
from headrace.__main__ import app
from headrace.health import admin_url, complaint
from tests.unit.headrace.conftest import Admin


def health(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["health", *arguments], env=environment)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_ready_server_is_exit_code_0(admin: Admin) -> None:
    result = health("--url", admin.url)
    assert (result.exit_code, result.stdout) == (0, "ready\n")
    assert admin.paths == ["/v2/health/ready"]


def test_a_draining_server_is_exit_code_1_with_its_reason(admin: Admin) -> None:
    admin.status, admin.body = 400, b'{"error": "the server is shutting down"}'
    result = health("--url", admin.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "400" in result.stderr
    assert "shutting down" in result.stderr


def test_the_port_comes_from_the_variables_that_serve_reads(admin: Admin) -> None:
    assert health(HEADRACE_SERVER_ADMIN_PORT=str(admin.server_port)).exit_code == 0
    assert admin.paths == ["/v2/health/ready"]


def test_the_port_comes_from_the_file_that_serve_reads(admin: Admin) -> None:
    Path("headrace.toml").write_text(
        f'[server]\nhost = "0.0.0.0"\nadmin_port = {admin.server_port}\n'
    )
    assert health().exit_code == 0
    Path("headrace.toml").write_text("[server]\nadmin_prot = 1\n")
    assert health().exit_code == 2


def test_another_path_can_be_asked(admin: Admin) -> None:
    assert complaint(f"{admin.url}/v2/health/live", 5.0) == ""
    assert admin.paths == ["/v2/health/live"]


def test_nobody_there_is_exit_code_1() -> None:
    result = health("--url", f"http://127.0.0.1:{closed_port()}")
    assert result.exit_code == 1
    assert "no answer from http://127.0.0.1:" in result.stderr


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = complaint(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.1)
    assert "timed out" in said


@pytest.mark.parametrize("url", ["ftp://here", "here:8002", "http://", "http://here:port"])
def test_a_wrong_address_is_explained(url: str) -> None:
    result = health("--url", url)
    assert result.exit_code == 1
    assert f"{url} cannot be asked" in result.stderr


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("fd00::7", "[fd00::7]"),
        ("10.1.2.3", "10.1.2.3"),
    ],
)
def test_a_server_that_listens_everywhere_is_asked_over_loopback(host: str, asked: str) -> None:
    assert admin_url(GatewaySettings(server=ServerSettings(host=host))) == f"http://{asked}:8002"
    own = ServerSettings(host="10.9.9.9", admin_host=host, admin_port=8012)
    assert admin_url(GatewaySettings(server=own)) == f"http://{asked}:8012"


@pytest.mark.parametrize(
    ("tls", "scheme"),
    [
        (TlsSettings(cert_file="server.pem"), "http"),
        (TlsSettings(admin=True), "http"),
        (TlsSettings(cert_file="server.pem", admin=True), "https"),
    ],
)
def test_tls_is_spoken_where_the_admin_port_has_it(tls: TlsSettings, scheme: str) -> None:
    assert admin_url(GatewaySettings(tls=tls)) == f"{scheme}://127.0.0.1:8002"
