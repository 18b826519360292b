"""What all commands do alike: find their settings, and end with one line that says what is wrong.

Decides that ``headrace.toml`` in the working folder is read where no file is named, which variable is a person's and no
setting, and what the exit codes mean. It must never start anything, nor print to standard output: that is for scripts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import typer

from foundation.settings import Sections, SettingsError, load
from gateway.settings import GatewaySettings

TOKEN_VARIABLE = "HEADRACE_TOKEN"  # noqa: S105 - its name, not what is in it
"""An operator's token, for the commands that ask an admin port; no server's setting."""


def settings_here(config: Path | None = None, options: Sections | None = None) -> GatewaySettings:
    """File, variables and options together; what is wrong with them ends the command."""
    default_file = Path("headrace.toml")
    file = config or (default_file if default_file.is_file() else None)
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    try:
        return load(GatewaySettings, file=file, environment=environment, overrides=options or {})
    except SettingsError as error:
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """The command or its settings are wrong: exit code 2, nothing was done."""
    _end(problem, 2)


def fail(problem: str) -> NoReturn:
    """The command is right, but a server says no, or does not answer: exit code 1."""
    _end(problem, 1)


def _end(problem: str, exit_code: int) -> NoReturn:
    typer.echo(f"headrace: {problem}", err=True)
    raise typer.Exit(exit_code)
