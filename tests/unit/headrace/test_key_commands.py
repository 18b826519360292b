"""``headrace key``: what it prints, what it leaves in the file, and how it complains."""

from __future__ import annotations

import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from foundation.access import KeyRing, read_keys
from headrace.__main__ import app


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def key(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["key", *arguments], env=environment)


def test_create_prints_the_key_alone_and_once(nowhere: Path) -> None:
    done = key("create", "checkout", "--file", "keys.toml")
    assert done.exit_code == 0
    presented = done.stdout.strip()
    assert re.fullmatch(r"hr_[a-z0-9]+_[A-Za-z0-9_-]{43,}", presented)
    file = nowhere / "keys.toml"
    [entry] = read_keys(file)
    assert KeyRing([entry]).find(presented.encode()) == entry
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = presented.split("_", 2)[2]
    for other in (done.stderr, file.read_text(), key("list", "--file", "keys.toml").output):
        assert secret not in other
    assert "cannot be shown again" in done.stderr


def test_create_with_every_option(nowhere: Path) -> None:
    key(
        *("create", "a", "--file", "keys.toml", "--requests-per-s", "2.5", "--burst", "10"),
        *("--max-concurrent", "3", "--model", "fraud*", "--model", "v?", "--expires", "2999-06-30"),
    )
    [entry] = read_keys(nowhere / "keys.toml")
    assert (entry.requests_per_s, entry.burst_requests) == (2.5, 10)
    assert entry.max_concurrent_requests == 3
    assert entry.models == ("fraud*", "v?")
    assert entry.expires == datetime(2999, 6, 30, 23, 59, 59, tzinfo=UTC)
    shown = key("list", "--file", "keys.toml").stdout
    for words in (
        "2.5 calls/s, 10 in one go",
        "3 at once",
        "models fraud*, v?",
        "until 2999-06-30",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("given", "hour"), [("2999-06-30T12:00", 12), ("2999-06-30T12:00:00+02:00", 10)]
)
def test_a_moment_is_in_utc_unless_it_says_otherwise(given: str, hour: int, nowhere: Path) -> None:
    key("create", "a", "--file", "keys.toml", "--expires", given)
    [entry] = read_keys(nowhere / "keys.toml")
    assert entry.expires == datetime(2999, 6, 30, hour, tzinfo=UTC)


def test_the_settings_say_which_file(nowhere: Path) -> None:
    (nowhere / "headrace.toml").write_text('[access]\napi_keys_file = "ours.toml"\n')
    assert key("create", "a").exit_code == 0
    assert [one.name for one in read_keys(nowhere / "ours.toml")] == ["a"]
    assert key("create", "b", HEADRACE_ACCESS_API_KEYS_FILE="theirs.toml").exit_code == 0
    assert [one.name for one in read_keys(nowhere / "theirs.toml")] == ["b"]


def test_list_for_scripts() -> None:
    key("create", "a", "--file", "keys.toml", "--requests-per-s", "5")
    [one] = json.loads(key("list", "--json", "--file", "keys.toml").stdout)
    assert (one["name"], one["requests_per_s"]) == ("a", 5.0)
    assert "hash" not in one


def test_list_says_what_has_expired(nowhere: Path) -> None:
    key("create", "a", "--file", "keys.toml", "--expires", "2999-01-01")
    file = nowhere / "keys.toml"
    assert "EXPIRED" not in key("list", "--file", "keys.toml").stdout
    file.write_text(file.read_text().replace("2999", "2001"))
    assert "EXPIRED" in key("list", "--file", "keys.toml").stdout


def test_revoke_by_name_and_by_id(nowhere: Path) -> None:
    for name in ("a", "b", "c"):
        key("create", name, "--file", "keys.toml")
    file = nowhere / "keys.toml"
    by_name = key("revoke", "a", "--file", "keys.toml")
    assert (by_name.exit_code, by_name.stdout[:11]) == (0, "revoked 'a'")
    key("revoke", read_keys(file)[0].id, "--file", "keys.toml")
    assert [one.name for one in read_keys(file)] == ["c"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "a"), "say which file with --file, or set api_keys_file in [access]"),
        (("create", "a b", "--file", "k.toml"), "not a usable key"),
        (("create", "a", "--file", "k.toml", "--burst", "5"), "without requests_per_s"),
        (("create", "a", "--file", "k.toml", "--expires", "soon"), "--expires 'soon' is neither"),
        (("create", "a", "--file", "k.toml", "--expires", "2001-01-01"), "expired already"),
        (("list", "--file", "k.toml"), "headrace key create NAME --file k.toml"),
        (("revoke", "a", "--file", "k.toml"), "headrace key create NAME --file k.toml"),
        (("create", "a", "--file", "no/k.toml"), "No such file or directory"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    arguments: tuple[str, ...], complaint: str, nowhere: Path
) -> None:
    done = key(*arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize("words", ["create", "list", "revoke"])
def test_help_lists_the_commands(words: str) -> None:
    assert words in key("--help").stdout


def test_help_for_create_shows_what_to_try() -> None:
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", key("create", "--help").stdout)
    for words in (
        "headrace key create checkout --file keys.toml --requests-per-s 50 --model 'fraud*'",
        "authorization: Bearer KEY",
        "--max-concurrent",
        "--expires",
    ):
        assert words in text


def test_a_key_pushes_nothing_unless_it_says_so(nowhere: Path) -> None:
    key("create", "plain", "--file", "k.toml")
    made = key("create", "loader", "--file", "k.toml", "--push", "airport_*", "--push", "fares")
    assert "pushes airport_*, fares" in made.stderr
    plain, loader = read_keys(nowhere / "k.toml")
    assert (plain.push, loader.push) == ((), ("airport_*", "fares"))
    assert "pushes airport_*, fares" in key("list", "--file", "k.toml").stdout
