"""``headrace token``: what it prints, what it leaves in the file, and how it complains."""

from __future__ import annotations

import json
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from foundation.tokens import Role, TokenRing, read_tokens
from headrace.__main__ import app


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def token(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["token", *arguments])


def test_create_prints_the_token_alone_and_once(nowhere: Path) -> None:
    done = token("create", "anna", "--role", "operator", "--file", "t.toml")
    assert done.exit_code == 0
    presented = done.stdout.strip()
    assert re.fullmatch(r"hrt_[a-z0-9]+_[A-Za-z0-9_-]{43,}", presented)
    file = nowhere / "t.toml"
    [entry] = read_tokens(file)
    assert TokenRing([entry]).admit(presented.encode(), Role.OPERATOR, datetime.now(UTC)) == entry
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = presented.split("_", 2)[2]
    for other in (done.stderr, file.read_text(), token("list", "--file", "t.toml").output):
        assert secret not in other
    assert "cannot be shown again" in done.stderr


@pytest.mark.parametrize(
    ("given", "lasts"), [("90d", timedelta(days=90)), ("12h", timedelta(hours=12))]
)
def test_it_may_end_some_time_from_now(given: str, lasts: timedelta, nowhere: Path) -> None:
    before = datetime.now(UTC)
    token("create", "anna", "--role", "viewer", "--file", "t.toml", "--expires", given)
    [entry] = read_tokens(nowhere / "t.toml")
    assert entry.expires is not None
    assert abs(entry.expires - before - lasts) < timedelta(minutes=2)


def test_list_shows_roles_and_what_has_expired(nowhere: Path) -> None:
    token("create", "anna", "--role", "approver", "--file", "t.toml", "--expires", "2999-06-30")
    shown = token("list", "--file", "t.toml").stdout
    assert "approver; until 2999-06-30" in shown
    assert "EXPIRED" not in shown
    [one] = json.loads(token("list", "--json", "--file", "t.toml").stdout)
    assert (one["name"], one["role"]) == ("anna", "approver")
    assert "hash" not in one
    file = nowhere / "t.toml"
    file.write_text(file.read_text().replace("2999", "2001"))
    assert "EXPIRED" in token("list", "--file", "t.toml").stdout


def test_revoke_by_name_and_by_id(nowhere: Path) -> None:
    for name in ("a", "b", "c"):
        token("create", name, "--role", "viewer", "--file", "t.toml")
    file = nowhere / "t.toml"
    assert token("revoke", "a", "--file", "t.toml").stdout.startswith("revoked 'a'")
    token("revoke", read_tokens(file)[0].id, "--file", "t.toml")
    assert [one.name for one in read_tokens(file)] == ["c"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "a", "--role", "viewer"), "say which tokens file with --file"),
        (("create", "a b", "--role", "viewer", "--file", "t.toml"), "not a usable token"),
        (("create", "a", "--role", "viewer", "--file", "t", "--expires", "soon"), "90d"),
        (("create", "a", "--role", "viewer", "--file", "t", "--expires", "0d"), "expired already"),
        (("create", "a", "--role", "viewer", "--file", "t", "--expires", "99999999d"), "neither"),
        (("list",), "say which tokens file with --file"),
        (("list", "--file", "t.toml"), "headrace token create NAME --role viewer --file t.toml"),
        (("revoke", "a", "--file", "t.toml"), "headrace token create NAME"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    arguments: tuple[str, ...], complaint: str, nowhere: Path
) -> None:
    done = token(*arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize("role", [(), ("--role", "admin")])
def test_a_role_is_one_of_three(role: tuple[str, ...], nowhere: Path) -> None:
    done = token("create", "a", "--file", "t.toml", *role)
    assert done.exit_code == 2
    for word in ("--role", "viewer", "operator", "approver"):
        assert word in done.stderr
    assert list(nowhere.iterdir()) == []


def test_help_shows_what_to_try() -> None:
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", token("create", "--help").stdout)
    for words in (
        "headrace token create anna --role operator --expires 90d --file tokens.toml",
        "viewer: may look; operator: may also change; approver: may also approve",
        "authorization: Bearer TOKEN",
    ):
        assert words in text
    for words in ("create", "list", "revoke", "headrace key"):
        assert words in token("--help").stdout
