"""``headrace token``: makes, lists and revokes operators' tokens. Thin: ``foundation/tokens.py`` knows how.

A token is shown once, by ``create``, on standard output and alone in its line, so that it can be piped. Nothing here
may keep it or show it again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from foundation.tokens import (
    AccessError,
    Role,
    Token,
    add_token,
    new_token,
    read_tokens,
    remove_token,
)
from headrace import credential_listing, expiry
from headrace.command_line import refuse

app = typer.Typer(
    help="Make, list and revoke the tokens with which people change what is rolled out. Callers of models have keys "
    "instead: headrace key.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None,
    typer.Option(show_default=False, help="Tokens file, such as tokens.toml; always needed."),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who holds it, such as anna: the audit log says it.")],
    role: Annotated[
        Role,
        typer.Option(
            help="viewer: may look; operator: may also change; approver: may also approve."
        ),
    ],
    file: File = None,
    expires: Annotated[str | None, typer.Option(help=expiry.HELP)] = None,
) -> None:
    """Make a token, add it to the file and print it: this is the only time that it can be seen.

    Try it:  headrace token create anna --role operator --expires 90d --file tokens.toml

    Each role may all that the ones before it may: viewer, operator, approver. One token for each person: the audit log
    names its holder beside every change. It is sent as "authorization: Bearer TOKEN".
    """
    target = _file(file)
    now = datetime.now(UTC)
    try:
        token, presented = new_token(
            name,
            role,
            now=now,
            expires=None if expires is None else expiry.moment(expires, now),
        )
        add_token(target, token)
    except AccessError as error:
        refuse(str(error))
    typer.echo(presented)
    typer.echo(f"added '{name}' (id {token.id}) to {target}: {_described(token)}", err=True)
    typer.echo(
        "keep the token now, it cannot be shown again; to see all tokens: "
        f"headrace token list --file {target}",
        err=True,
    )


@app.command("list")
def list_tokens(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show who has tokens, and their roles. The tokens themselves are nowhere kept.

    Try it:  headrace token list --file tokens.toml
    """
    target = _file(file)
    try:
        tokens = read_tokens(target)
    except AccessError as error:
        refuse(str(error))
    credential_listing.show("token", tokens, target, _described, as_json=as_json)


@app.command()
def revoke(
    name_or_id: Annotated[str, typer.Argument(help="As headrace token list shows it.")],
    file: File = None,
) -> None:
    """Take a token out of the file. What its holder did stays in the audit log.

    Try it:  headrace token revoke anna --file tokens.toml
    """
    target = _file(file)
    try:
        token = remove_token(target, name_or_id)
    except AccessError as error:
        refuse(str(error))
    typer.echo(
        f"revoked '{token.name}' (id {token.id}) in {target}; to see who is left: "
        f"headrace token list --file {target}"
    )


def _file(given: Path | None) -> Path:
    if given is None:
        refuse("say which tokens file with --file, such as --file tokens.toml")
    return given


def _described(token: Token) -> str:
    until = "" if token.expires is None else f"; until {token.expires:%Y-%m-%d %H:%M} UTC"
    return f"{token.role.value}{until}"
