"""``headrace models``: what a running server serves, and changing it, through its admin port.

Decides how the answer is printed. It must never touch the repository itself: the server does.
"""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Annotated, Any
from urllib.parse import quote

import typer

from headrace.command_line import fail, settings_here
from headrace.health import admin_url, connect

INDEX_TIMEOUT_S = 15.0
CHANGE_TIMEOUT_S = 3600.0

app = typer.Typer(
    help="What a running server serves; load and unload (needs repository.control = explicit).",
    no_args_is_help=True,
)

Url = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Admin address, such as http://127.0.0.1:8002. \\[default: from headrace.toml or the variables]",
    ),
]
Model = Annotated[str, typer.Argument(help="The model's name: its folder in the repository.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


@app.command("list")
def list_models(url: Url = None, as_json: AsJson = False) -> None:
    """Every known version with its state, and why it is not served."""
    server = _server(url)
    body = _ask(server, "/v2/repository/index", INDEX_TIMEOUT_S)
    try:
        index = json.loads(body)
    except ValueError:
        fail(f"{server} answers something that is no list of models (--url names the server)")
    if as_json:
        typer.echo(json.dumps(index, indent=2))
        return
    rows = [(one["name"], one["version"], one["state"], one["reason"]) for one in index]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[3]]).rstrip())
    if not rows:
        typer.echo("nothing: the repository is empty")


@app.command()
def load(model: Model, url: Url = None) -> None:
    """Load or reload a model; returns when its new version answers."""
    _ask(_server(url), f"/v2/repository/models/{_quoted(model)}/load", CHANGE_TIMEOUT_S)
    typer.echo(f"{model} is loaded; see: headrace models list")


@app.command()
def unload(model: Model, url: Url = None) -> None:
    """Stop serving a model; returns when its last caller has left."""
    _ask(_server(url), f"/v2/repository/models/{_quoted(model)}/unload", CHANGE_TIMEOUT_S)
    typer.echo(f"{model} is unloaded; again: headrace models load {model}")


def _server(url: str | None) -> str:
    return admin_url(settings_here()) if url is None else url


def _quoted(model: str) -> str:
    return quote(model, safe="", errors="surrogateescape")  # a folder's name need not be UTF-8


def _ask(url: str, path: str, timeout_s: float) -> bytes:
    """The body of a 200; anything else ends the command with what the server said."""
    try:
        connection = connect(url, timeout_s)
    except ValueError as error:
        fail(f"{url} cannot be asked: {error}")
    try:
        connection.request("POST", path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as error:
        why = str(error) or type(error).__name__
        fail(f"no answer from {url}: {why} (--url names the server)")
    finally:
        connection.close()
    if answer.status != 200:
        fail(_error_of(body) or f"{url} answers {answer.status}")
    return body


def _error_of(body: bytes) -> str:
    try:
        document: Any = json.loads(body)
        return str(document["error"])
    except (ValueError, KeyError, TypeError):
        return ""
