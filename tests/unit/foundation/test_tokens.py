from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from foundation.access import KeyRing, new_key
from foundation.tokens import (
    AccessError,
    Role,
    Token,
    TokenError,
    TokenRing,
    add_token,
    new_token,
    read_tokens,
    remove_token,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HASH = "sha256:" + "0" * 64


def made(name: str = "anna", role: Role = Role.OPERATOR, **more: Any) -> tuple[Token, str]:
    return new_token(name, role, now=NOW, **more)


def test_roles_are_in_their_order_and_not_in_that_of_the_alphabet() -> None:
    assert [role.value for role in Role] == ["viewer", "operator", "approver"]
    for lower, higher in pairwise(Role):
        assert lower < higher
        assert higher > lower
        assert lower <= lower
        assert not higher <= lower


def test_a_role_is_not_compared_with_a_word() -> None:
    with pytest.raises(TypeError):
        _ = Role.VIEWER < "operator"  # type: ignore[operator]


def test_a_token_names_its_entry_and_keeps_its_secret_to_itself() -> None:
    token, presented = made()
    prefix, token_id, secret = presented.split("_", 2)
    assert (prefix, token_id, token.role) == ("hrt", token.id, Role.OPERATOR)
    assert len(secret) >= 43, "32 bytes of randomness, in base64"
    assert secret not in repr(token)


@pytest.mark.parametrize("held", Role)
@pytest.mark.parametrize("needed", Role)
def test_a_role_may_all_that_the_ones_before_it_may(held: Role, needed: Role) -> None:
    token, presented = made(role=held)
    ring = TokenRing([token])
    if list(Role).index(held) >= list(Role).index(needed):
        assert ring.admit(presented.encode(), needed, NOW) == token
    else:
        with pytest.raises(
            TokenError, match=f"'anna' is an? {held.value}, and this needs"
        ) as raised:
            ring.admit(presented.encode(), needed, NOW)
        assert raised.value.is_known


def test_nobodys_tokens_are_refused_without_their_secrets() -> None:
    (token, presented), (_, other) = made(), made()
    key, presented_key = new_key("anna", now=NOW)
    secret = presented.split("_", 2)[2]
    for wrong in (
        other,
        presented_key,
        presented[:-1],
        f"hr_{token.id}_{secret}",
        secret,
        "",
        "hrt__",
    ):
        with pytest.raises(TokenError, match="nobody's token") as raised:
            TokenRing([token]).admit(wrong.encode(), Role.VIEWER, NOW)
        assert not raised.value.is_known
        assert secret not in str(raised.value)
    assert KeyRing([key]).find(presented.encode()) is None


def test_a_token_ends() -> None:
    token, presented = made(expires=NOW + timedelta(days=90))
    ring = TokenRing([token])
    ring.admit(presented.encode(), Role.VIEWER, NOW + timedelta(days=90, seconds=-1))
    with pytest.raises(TokenError, match="'anna' has expired") as raised:
        ring.admit(presented.encode(), Role.VIEWER, NOW + timedelta(days=90))
    assert not raised.value.is_known


def test_what_is_added_is_read_again_and_goes_when_revoked(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    tokens = [
        made(role.value, role, expires=NOW + timedelta(days=days))[0]
        for days, role in enumerate(Role, start=1)
    ]
    for token in tokens:
        add_token(file, token)
    assert read_tokens(file) == tokens
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert remove_token(file, "operator") == tokens[1]
    assert remove_token(file, tokens[0].id) == tokens[0]
    assert read_tokens(file) == tokens[2:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"[[token]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\n", "missing required field `role`"),
        (f"[[token]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\nrole = 'admin'\n", "admin"),
        (f"[[key]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\n", "unknown field `key`"),
        (
            f"[[token]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\nrole = 'viewer'\n" * 2,
            "two tokens have the name 'a'",
        ),
    ],
)
def test_a_broken_file_says_what_to_change(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(content)
    with pytest.raises(AccessError, match=words):
        read_tokens(file)


def test_complaints_are_about_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    with pytest.raises(AccessError, match="headrace token create NAME --role viewer --file"):
        read_tokens(file)
    add_token(file, made()[0])
    with pytest.raises(AccessError, match="there is a token named 'anna' already"):
        add_token(file, made()[0])
    with pytest.raises(AccessError, match="no token has the name or id 'b'; there are: anna"):
        remove_token(file, "b")
    with pytest.raises(AccessError, match="not a usable token"):
        made("two words")
    with pytest.raises(AccessError, match="expired already"):
        made(expires=NOW)
