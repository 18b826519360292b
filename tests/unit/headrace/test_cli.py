"""The command line, up to where a server would start."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.settings import GatewaySettings
from headrace import __version__
from headrace.__main__ import app


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, a wide terminal without colours, and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


class Started:
    """Stands for the gateway: keeps what it would have been started with."""

    def __init__(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        self.runs: list[tuple[GatewaySettings, str]] = []

    def run(self, settings: GatewaySettings, version: str, say: Callable[[str], None]) -> int:
        self.runs.append((settings, version))
        say("ready")
        return self.exit_code

    @property
    def settings(self) -> GatewaySettings:
        [(settings, _)] = self.runs
        return settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    gateway = Started()
    module = ModuleType("gateway.__main__")
    module.run = gateway.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway.__main__", module)
    return gateway


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def squeezed(text: str) -> str:
    """Without the boxes and line breaks of the terminal."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


# -- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_the_product_does_and_lists_its_commands(option: str) -> None:
    result = call(option)
    assert result.exit_code == 0
    assert "Serve machine-learning models over the Open Inference Protocol." in result.stdout
    assert "serve" in result.stdout


def test_without_a_command_there_is_help() -> None:
    result = call()
    assert "Usage:" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_the_version_is_one_line() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"headrace {__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        "Serve a folder of ONNX models over REST and gRPC until SIGTERM.",
        "curl http://127.0.0.1:8000/v2/models/<model>",
        "HEADRACE_DRAIN_DELAY_S=5",
        "--models",
        "--http-port",
        "--grpc-port",
        "--admin-port",
        "--host",
        "--access-log",
        "--config",
        "Settings file. [default: headrace.toml here, if there is one]",
    ],
)
def test_help_for_serve_names_every_option_and_what_to_try(words: str) -> None:
    result = call("serve", "--help")
    assert result.exit_code == 0
    assert words in squeezed(result.stdout)


@pytest.mark.parametrize(
    ("option", "section", "key"),
    [
        ("models", "repository", "models"),
        ("http-port", "server", "http_port"),
        ("grpc-port", "server", "grpc_port"),
        ("admin-port", "server", "admin_port"),
        ("host", "server", "host"),
    ],
)
def test_the_defaults_in_help_are_the_defaults(option: str, section: str, key: str) -> None:
    default = getattr(getattr(GatewaySettings(), section), key)
    text = squeezed(call("serve", "--help").stdout)
    assert re.search(rf"--{option} .*?\[default: (.*?)\]", text)[1] == str(default)  # type: ignore[index]


# -- settings -------------------------------------------------------------------------------------


def test_without_options_a_server_starts_as_declared(started: Started) -> None:
    result = call("serve")
    assert (result.exit_code, result.stdout) == (0, "ready\n")
    assert started.runs == [(GatewaySettings(), __version__)]


def test_options_become_settings(started: Started, tmp_path: Path) -> None:
    call(
        *("serve", "--models", str(tmp_path), "--host", "0.0.0.0", "--http-port", "0"),
        *("--grpc-port", "1", "--admin-port", "65535", "--access-log"),
    )
    server = started.settings.server
    assert (server.host, server.http_port, server.grpc_port) == ("0.0.0.0", 0, 1)
    assert server.admin_port == 65535
    assert started.settings.repository.models == str(tmp_path)
    assert started.settings.telemetry.access_log


def test_options_win_over_variables_and_variables_over_the_file(
    started: Started, nowhere: Path
) -> None:
    (nowhere / "any.toml").write_text(
        "[server]\nhttp_port = 1\ngrpc_port = 1\nadmin_port = 1\n[telemetry]\naccess_log = true\n"
    )
    call(
        *("serve", "--config", "any.toml", "--http-port", "3", "--no-access-log"),
        HEADRACE_SERVER_HTTP_PORT="2",
        HEADRACE_SERVER_GRPC_PORT="2",
    )
    server = started.settings.server
    assert (server.http_port, server.grpc_port, server.admin_port) == (3, 2, 1)
    assert not started.settings.telemetry.access_log


def test_a_settings_file_in_this_folder_is_read_unasked(started: Started, nowhere: Path) -> None:
    (nowhere / "headrace.toml").write_text("[drain]\ndelay_s = 9\n")
    call("serve")
    assert started.settings.drain.delay_s == 9.0


def test_a_named_file_replaces_the_one_in_this_folder(started: Started, nowhere: Path) -> None:
    (nowhere / "headrace.toml").write_text("[drain]\ndelay_s = 9\n")
    (nowhere / "other.toml").write_text("")
    call("serve", "--config", "other.toml")
    assert started.settings.drain.delay_s == GatewaySettings().drain.delay_s


@pytest.mark.parametrize("exit_code", [0, 2])
def test_the_gateways_exit_code_is_the_commands(
    exit_code: int, started: Started, nowhere: Path
) -> None:
    started.exit_code = exit_code
    assert call("serve").exit_code == exit_code


# -- mistakes: exit code 2, and one line that says what to change ----------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[server\n", "headrace: bad.toml: not valid TOML: "),
        ("[sever]\n", "headrace: bad.toml: unknown section [sever]; did you mean 'server'?"),
        ("[server]\nport = 1\n", "headrace: bad.toml: unknown key 'port' in [server]"),
        ('[server]\nhttp_port = "x"\n', "headrace: bad.toml: Expected `int`, got `str`"),
        ("[server]\nhttp_port = 65536\n", "headrace: bad.toml: Expected `int` <= 65535"),
    ],
)
def test_a_bad_settings_file(content: str, complaint: str, started: Started, nowhere: Path) -> None:
    (nowhere / "bad.toml").write_text(content)
    fails_with(complaint, call("serve", "--config", "bad.toml"), started)


def test_a_missing_settings_file(started: Started) -> None:
    result = call("serve", "--config", "none.toml")
    fails_with("headrace: none.toml: No such file or directory", result, started)


def test_a_bad_variable(started: Started) -> None:
    result = call("serve", HEADRACE_DRAIN_DELAY_S="soon")
    fails_with("headrace: HEADRACE_DRAIN_DELAY_S: Expected `float`", result, started)


def test_an_unknown_variable(started: Started) -> None:
    result = call("serve", HEADRACE_SERVER_PROT="1")
    fails_with("headrace: unknown variable HEADRACE_SERVER_PROT", result, started)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--http-port", "65536"),
        ("serve", "--http-port", "x"),
        ("serve", "--nope"),
        ("go",),
    ],
)
def test_a_bad_option_starts_nothing(arguments: tuple[Any, ...], started: Started) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert arguments[-1] in result.stderr or arguments[-2] in result.stderr
    assert started.runs == []


def fails_with(complaint: str, result: Result, started: Started) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith(complaint)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert started.runs == []
