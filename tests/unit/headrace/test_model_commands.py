"""``headrace models``: which server it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.__main__ import app
from tests.unit.headrace.conftest import Admin

INDEX = b'[{"name": "m", "version": "3", "state": "READY", "reason": ""}]'


def models(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments], env=environment)


@pytest.mark.parametrize("command", [("list",), ("load", "m"), ("unload", "m")])
def test_the_server_is_the_one_of_the_variables_that_serve_reads(
    command: tuple[str, ...], admin: Admin
) -> None:
    admin.body = INDEX
    assert models(*command, HEADRACE_SERVER_ADMIN_PORT=str(admin.server_port)).exit_code == 0
    assert len(admin.paths) == 1


def test_the_server_is_the_one_of_the_file_that_serve_reads(admin: Admin) -> None:
    admin.body = INDEX
    Path("headrace.toml").write_text(
        f'[server]\nhost = "0.0.0.0"\nadmin_port = {admin.server_port}\n'
    )
    listed = models("list")
    assert (listed.exit_code, listed.stdout) == (0, "m  3  READY\n")
    assert admin.paths == ["/v2/repository/index"]


def test_settings_that_are_wrong_end_the_command(admin: Admin) -> None:
    Path("headrace.toml").write_text("[server]\nadmin_prot = 1\n")
    refused = models("list")
    assert refused.exit_code == 2
    assert "unknown key 'admin_prot' in [server]" in refused.stderr
    assert models("list", "--url", admin.url).exit_code == 1, "the body is no list of models"
    assert admin.paths == ["/v2/repository/index"]


def test_a_server_without_models_says_so(admin: Admin) -> None:
    admin.body = b"[]"
    assert models("list", "--url", admin.url).stdout == "nothing: the repository is empty\n"


def test_help_says_where_the_address_comes_from() -> None:
    help_text = (
        CliRunner()
        .invoke(
            app,
            ["models", "list", "--help"],
            env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        )
        .stdout
    )
    assert "[default: from headrace.toml or the variables]" in help_text
