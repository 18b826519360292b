"""Operators' tokens: who may look at rollouts, change them, and approve what others ask for.

A token is ``hrt_<id>_<secret>``; ``foundation/credentials.py`` makes, keeps and compares it, as it does with API keys.
The prefix differs from theirs, so that neither is taken for the other. This module decides what the roles are, their
order, and who is turned away. It must never print, log or store a secret: it is handed out once, by ``new_token``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from pathlib import Path

from foundation.credentials import AccessError, Credential, CredentialKind, CredentialRing

__all__ = [
    "AccessError",
    "Role",
    "Token",
    "TokenError",
    "TokenRing",
    "add_token",
    "new_token",
    "read_tokens",
    "remove_token",
]

PREFIX = "hrt_"
MAX_TOKENS = 1000

_FILE_HEAD = """\
# Operators' tokens of Headrace. Made by "headrace token create", taken away by "headrace token revoke". It holds no
# secrets, only their hashes.
"""


@functools.total_ordering
class Role(Enum):
    """What a holder may do. Each role may all that the ones before it may: viewer < operator < approver."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"

    @property
    def rank(self) -> int:
        """Its place in the order, from 0."""
        return list(Role).index(self)

    def __lt__(self, other: object) -> bool:
        return self.rank < other.rank if isinstance(other, Role) else NotImplemented


class Token(Credential, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One entry of the tokens file."""

    role: Role


class TokenError(Exception):
    """The holder may not do this; the message is for the caller and tells no secret.

    ``is_known`` is False where nobody's token was presented, or one whose time is over (HTTP 401), and True where the
    holder is known and the role is too low (HTTP 403).
    """

    def __init__(self, message: str, *, is_known: bool) -> None:
        super().__init__(message)
        self.is_known = is_known


class TokenRing(CredentialRing[Token]):
    """Tells whose token was presented, and whether that is enough."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        super().__init__(tokens, PREFIX)

    def admit(self, presented: bytes, needed: Role, now: datetime) -> Token:
        """The holder's entry, if its role is at least ``needed`` at ``now``; raises ``TokenError`` otherwise."""
        token = self.find(presented)
        if token is None:
            raise TokenError(
                "this is nobody's token; ask for one made by: headrace token create",
                is_known=False,
            )
        if token.is_expired(now):
            raise TokenError(
                f"the token of '{token.name}' has expired; ask for a new one", is_known=False
            )
        if token.role < needed:
            raise TokenError(
                f"'{token.name}' is {_with_article(token.role)}, and this needs {_with_article(needed)}",
                is_known=True,
            )
        return token


_TOKENS = CredentialKind(
    Token,
    noun="token",
    prefix=PREFIX,
    max_entries=MAX_TOKENS,
    how_to_make="headrace token create NAME --role viewer",
    head=_FILE_HEAD,
)


def new_token(
    name: str, role: Role, *, now: datetime, expires: datetime | None = None
) -> tuple[Token, str]:
    """A new entry, and the token itself, which is nowhere kept. Raises ``AccessError`` for what makes no sense."""

    def make(token_id: str, digest: str, created: datetime) -> Token:
        return Token(
            name=name, id=token_id, hash=digest, created=created, expires=expires, role=role
        )

    return _TOKENS.mint(make, now)


def read_tokens(file: Path) -> list[Token]:
    """All entries of the file; raises ``AccessError`` with what to change."""
    return _TOKENS.read(file)


def add_token(file: Path, token: Token) -> None:
    """Append the entry; a file that is not there is made, readable by its owner only."""
    _TOKENS.add(file, token)


def remove_token(file: Path, name_or_id: str) -> Token:
    """Take the entry out of the file and give it back. The rest of the file stays as it was written."""
    return _TOKENS.remove(file, name_or_id)


def _with_article(role: Role) -> str:
    return f"{'a' if role is Role.VIEWER else 'an'} {role.value}"
