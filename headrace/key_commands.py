"""``headrace key``: makes, lists and revokes API keys. Thin: ``foundation/access.py`` knows how.

A key is shown once, by ``create``, on standard output and alone in its line, so that it can be piped. Nothing here may
keep it or show it again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from foundation.access import AccessError, ApiKey, add_key, new_key, read_keys, remove_key
from headrace import credential_listing, expiry
from headrace.command_line import refuse, settings_here

app = typer.Typer(
    help="Make, list and revoke the API keys that callers of the data ports present.",
    no_args_is_help=True,
)

File = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        help="Keys file. \\[default: access.api_keys_file of headrace.toml or the variables]",
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For people, logs and metrics, such as checkout.")],
    file: File = None,
    requests_per_s: Annotated[
        float | None, typer.Option(help="Infer calls per second, on average.")
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(help="Calls in one go after a pause. \\[default: what a second allows]"),
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Infer calls at once.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that the key is for; * and ? stand for letters. May be repeated."
        ),
    ] = None,
    push: Annotated[
        list[str] | None,
        typer.Option(
            help="A feature view whose rows the key may push; * and ? stand for letters. May be repeated. "
            "\\[default: none]"
        ),
    ] = None,
    expires: Annotated[str | None, typer.Option(help=expiry.HELP)] = None,
) -> None:
    """Make a key, add it to the file and print it: this is the only time that it can be seen.

    Try it:  headrace key create checkout --file keys.toml --requests-per-s 50 --model 'fraud*'

    A running gateway takes it within two seconds. Callers send it as "authorization: Bearer KEY" or "x-api-key: KEY",
    over gRPC as metadata of the same names.
    """
    target = _file(file)
    now = datetime.now(UTC)
    try:
        key, presented = new_key(
            name,
            now=now,
            requests_per_s=requests_per_s,
            burst_requests=burst,
            max_concurrent_requests=max_concurrent,
            models=tuple(model or ()),
            push=tuple(push or ()),
            expires=None if expires is None else expiry.moment(expires, now),
        )
        add_key(target, key)
    except AccessError as error:
        refuse(str(error))
    typer.echo(presented)
    typer.echo(f"added '{name}' (id {key.id}) to {target}: {_limits(key)}", err=True)
    typer.echo(
        "keep the key now, it cannot be shown again; to see all keys: headrace key list", err=True
    )


@app.command("list")
def list_keys(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show who has keys and what they may. The keys themselves are nowhere kept."""
    target = _file(file)
    try:
        keys = read_keys(target)
    except AccessError as error:
        refuse(str(error))
    credential_listing.show("key", keys, target, _limits, as_json=as_json)


@app.command()
def revoke(
    name_or_id: Annotated[str, typer.Argument(help="As headrace key list shows it.")],
    file: File = None,
) -> None:
    """Take a key out of the file. A running gateway refuses it within two seconds."""
    target = _file(file)
    try:
        key = remove_key(target, name_or_id)
    except AccessError as error:
        refuse(str(error))
    typer.echo(
        f"revoked '{key.name}' (id {key.id}) in {target}; to see who is left: headrace key list"
    )


def _file(given: Path | None) -> Path:
    if given is not None:
        return given
    configured = settings_here().access.api_keys_file
    if not configured:
        refuse("say which file with --file, or set api_keys_file in [access] of headrace.toml")
    return Path(configured)


def _limits(key: ApiKey) -> str:
    parts: list[str] = []
    if key.requests_per_s is not None:
        burst = f", {key.burst_requests} in one go" if key.burst_requests else ""
        parts.append(f"{key.requests_per_s:g} calls/s{burst}")
    if key.max_concurrent_requests is not None:
        parts.append(f"{key.max_concurrent_requests} at once")
    if key.models:
        parts.append(f"models {', '.join(key.models)}")
    if key.push:
        parts.append(f"pushes {', '.join(key.push)}")
    if key.expires is not None:
        parts.append(f"until {key.expires:%Y-%m-%d %H:%M} UTC")
    return "; ".join(parts) or "no limits"
