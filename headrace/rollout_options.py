"""What the commands of ``headrace rollout`` have in common: their options, who asks, and how a refusal ends them.

Decides where the token comes from, which is never the command line itself, and which name stands in a history where no
tokens are asked for. It must never show a token.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer

from headrace.command_line import TOKEN_VARIABLE, refuse, settings_here
from headrace.health import admin_url
from headrace.rollout_asking import NoAnswerError, RefusedError, RolloutAdmin
from headrace.rollout_refusals import Told, refused, unanswered
from rollout.plan import Plan
from rollout.transitions import MAX_AUTHOR_CHARACTERS

MAX_TOKEN_BYTES = 1024
INTERRUPTED = 130

Model = Annotated[str, typer.Argument(help="The model's name: its folder in the repository.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        "--url",
        show_default=False,
        help="Admin address, such as http://127.0.0.1:8002. \\[default: from headrace.toml or the variables]",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        help="File with your token and nothing else. \\[default: the variable HEADRACE_TOKEN, else none]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
Reason = Annotated[
    str | None,
    typer.Option(show_default=False, help="Why; it is kept in the history and the audit log."),
]

Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Follow it until it ends. Exit code 0: promoted. 3: rolled back or aborted. 4: it holds, for a person.",
    ),
]


class Asking:
    """What a command has read before it is refused something."""

    def __init__(self, admin: RolloutAdmin, model: str | None) -> None:
        self.admin = admin
        self.model = model
        self.read: Plan | None = None


@contextmanager
def asking(url: str | None, token_file: Path | None, model: str | None = None) -> Iterator[Asking]:
    """The admin port, in use until the end of the block; what it refuses ends the command with exit code 1."""
    server = admin_url(settings_here()) if url is None else url
    if "@" in urlsplit(server).netloc:
        refuse(
            "--admin-url has a password in it: take it out, and set HEADRACE_TOKEN or --token-file"
        )
    admin = RolloutAdmin(server, token=_token(token_file), author=_author())
    if admin.shows_token:
        note(f"the token can be read on its way to {server}: use https:// or a tunnel")
    use = Asking(admin, model)
    try:
        yield use
    except NoAnswerError as error:
        _end(unanswered(error, server, model))
    except RefusedError as error:
        _end(refused(error, model, use.read))
    except KeyboardInterrupt:
        note("interrupted; what was asked for goes on: headrace rollout status")
        raise typer.Exit(INTERRUPTED) from None


def reason_for(what: str, given: str | None) -> str:
    """As given, or asked for at a terminal; without one the command ends."""
    if given is None and sys.stdin.isatty() and sys.stderr.isatty():
        given = typer.prompt(f"why {what}", err=True)
    if given is None or not given.strip():
        refuse(f'say why: --reason "…" (to {what} takes a reason, which is kept in its history)')
    return given.strip()


def note(line: str) -> None:
    """What people should know, and scripts need not."""
    typer.echo(f"headrace: {line}", err=True)


def say_next(command: str) -> None:
    """What one probably wants to do now."""
    typer.echo(f"next: {command}", err=True)


def _end(told: Told) -> NoReturn:
    note(told.sentence)
    for line in told.more:
        typer.echo(f"  {line}", err=True)
    say_next(told.next)
    raise typer.Exit(1)


def _token(file: Path | None) -> str:
    where, text = f"the variable {TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE, "")
    if file is not None:
        where = str(file)
        try:
            with file.open("rb") as opened:
                text = opened.read(MAX_TOKEN_BYTES + 1).decode("ascii", "replace")
        except OSError as error:
            refuse(f"--token-file {file}: {error.strerror or error}")
        if not text.strip():
            refuse(
                f"--token-file {file} is empty: write the token into it, as token create printed it"
            )
    token = text.strip()
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= one <= "~" for one in token):
        refuse(f"{where} holds no token: it must be one word, as headrace token create printed it")
    return token


def _author() -> str:
    """Who works here; nobody checks it, and a port that asks for tokens does not look at it."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        name = f"uid {os.getuid()}"
    shown = "".join(one if " " <= one <= "~" else "?" for one in name)
    return shown[:MAX_AUTHOR_CHARACTERS]
