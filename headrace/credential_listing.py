"""How keys and tokens are shown to people and scripts: the same lines for both.

It must never show a secret, nor the hash of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
import typer

from foundation.access import ApiKey
from foundation.tokens import Token

CredentialT = TypeVar("CredentialT", ApiKey, Token)


def show(
    word: str,
    listed: Sequence[CredentialT],
    target: Path,
    described: Callable[[CredentialT], str],
    *,
    as_json: bool,
) -> None:
    """``word``: "key" or "token"; ``described``: what its holder may."""
    if as_json:
        shown = [msgspec.to_builtins(one) for one in listed]
        for entry in shown:
            del entry["hash"]
        typer.echo(msgspec.json.encode(shown).decode())
        return
    now = datetime.now(UTC)
    for one in listed:
        state = "  EXPIRED" if one.is_expired(now) else ""
        typer.echo(f"{one.name:24} {one.id}  {described(one)}{state}")
    typer.echo(f"{len(listed)} {word}{'s' * (len(listed) != 1)} in {target}", err=True)
