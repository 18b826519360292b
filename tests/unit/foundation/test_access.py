from __future__ import annotations

import hashlib
import hmac
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation import credentials
from foundation.access import (
    MAX_FILE_BYTES,
    MAX_KEYS,
    AccessError,
    ApiKey,
    KeyRing,
    add_key,
    new_key,
    read_keys,
    remove_key,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def made(name: str = "checkout", **limits: Any) -> tuple[ApiKey, str]:
    return new_key(name, now=NOW, **limits)


# -- a new key ------------------------------------------------------------------------------------


def test_a_key_names_its_entry_and_keeps_its_secret_to_itself() -> None:
    key, presented = made()
    prefix, key_id, secret = presented.split("_", 2)
    assert (prefix, key_id) == ("hr", key.id)
    assert len(secret) >= 43, "32 bytes of randomness, in base64"
    assert key.hash == "sha256:" + hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(key)


def test_keys_differ() -> None:
    assert len({made()[1] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("", {}, "name"),
        ("two words", {}, "name"),
        ("a" * 65, {}, "name"),
        ("ok", {"requests_per_s": 0}, "requests_per_s"),
        ("ok", {"requests_per_s": -1.0}, "requests_per_s"),
        ("ok", {"requests_per_s": float("nan")}, "requests_per_s"),
        ("ok", {"burst_requests": 5}, "without requests_per_s"),
        ("ok", {"burst_requests": 0, "requests_per_s": 1}, "burst_requests"),
        ("ok", {"max_concurrent_requests": 0}, "max_concurrent_requests"),
        ("ok", {"models": ("a b",)}, "models"),
        ("ok", {"models": ('"',)}, "models"),
        ("ok", {"push": ("a b",)}, "push"),
        ("ok", {"expires": NOW}, "expired already"),
    ],
)
def test_a_wish_that_makes_no_sense(name: str, limits: dict[str, Any], words: str) -> None:
    with pytest.raises(AccessError, match=words):
        made(name, **limits)


# -- whose key is it ------------------------------------------------------------------------------


def test_the_ring_knows_its_keys_and_no_others() -> None:
    (first, first_key), (second, second_key) = made("a"), made("b")
    ring = KeyRing([first, second])
    assert ring.find(first_key.encode()) == first
    assert ring.find(second_key.encode()) == second
    secret = second_key.split("_", 2)[2]
    for wrong in (
        made("a")[1],
        f"hr_{first.id}_{secret}",
        f"hr_{first.id}_",
        f"hr_{first.id}",
        f"{second.id}_{secret}",
        f"HR_{second.id}_{secret}",
        second_key + "x",
        second_key[:-1],
        " " + second_key,
        second.hash,
        "",
        "hr__",
    ):
        assert ring.find(wrong.encode()) is None, wrong


@given(st.binary(max_size=200))
def test_any_bytes_are_just_not_a_key(presented: bytes) -> None:
    assert KeyRing([made()[0]]).find(presented) is None


def test_an_empty_ring_knows_nobody() -> None:
    assert KeyRing([]).find(b"hr_abcd_") is None


def test_every_answer_compares_whole_digests_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What time could tell: whether the id exists, and how much of the secret was right."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    key, presented = made()
    ring = KeyRing([key])
    for candidate in (presented, presented[:-1], "hr_nobody_secret", "nonsense", ""):
        ring.find(candidate.encode())
    assert compared == [(32, 32)] * 5


# -- the file -------------------------------------------------------------------------------------

FULL = {
    "requests_per_s": 2.5,
    "burst_requests": 10,
    "max_concurrent_requests": 4,
    "models": ("fraud*", "[ab]?"),
    "push": ("airport_*",),
    "expires": NOW + timedelta(days=30),
}


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys = [made("plain")[0], made("full", **FULL)[0]]
    for key in keys:
        add_key(file, key)
    assert read_keys(file) == keys
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["keys.toml"]


def test_the_file_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key, presented = made()
    add_key(file, key)
    assert presented.split("_", 2)[2] not in file.read_text()


def test_an_existing_file_keeps_its_mode_and_what_else_it_says(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("# ours, see the wiki")
    file.chmod(0o640)
    add_key(file, made()[0])
    assert file.read_text().startswith("# ours, see the wiki\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "keys.toml"
    add_key(target, made("a")[0])
    link = tmp_path / "keys.toml"
    link.symlink_to(target)
    add_key(link, made("b")[0])
    assert link.is_symlink()
    assert [key.name for key in read_keys(target)] == ["a", "b"]


def test_a_name_is_given_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, made("a")[0])
    before = file.read_bytes()
    with pytest.raises(AccessError, match="there is a key named 'a' already"):
        add_key(file, made("a")[0])
    assert file.read_bytes() == before


def test_a_revoked_key_goes_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    a, b, c = made("a")[0], made("b", **FULL)[0], made("c")[0]
    for key in (a, b, c):
        add_key(file, key)
    file.write_text(file.read_text().replace('[[key]]\nname = "c"', '# of c\n[[key]]\nname = "c"'))
    assert remove_key(file, "b") == b
    assert read_keys(file) == [a, c]
    assert "# of c\n[[key]]" in file.read_text()
    assert remove_key(file, c.id) == c
    assert remove_key(file, "a") == a
    assert read_keys(file) == []
    add_key(file, a)
    assert read_keys(file) == [a]


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, made("a")[0])
    with pytest.raises(AccessError, match="no key has the name or id 'b'; there are: a"):
        remove_key(file, "b")


def test_one_change_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with credentials.locked(file), pytest.raises(AccessError, match="somebody else is changing it"):
        add_key(file, made()[0])
    add_key(file, made()[0])


def test_a_file_in_an_unusual_form_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    a = made("a")[0]
    content = f'key = [{{name = "a", id = "{a.id}", hash = "{a.hash}"}}]\n'
    file.write_text(content)
    assert [key.name for key in read_keys(file)] == ["a"]
    with pytest.raises(AccessError, match="by hand"):
        remove_key(file, "a")
    with pytest.raises(AccessError, match=r"keys\.toml"):
        add_key(file, made("b")[0])
    assert file.read_text() == content


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[key", "not valid TOML"),
        ("[[keys]]\n", "unknown field `keys`"),
        ("[[key]]\nname = 'a'\n", "missing required field `id`"),
        (f"[[key]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\nrate = 1\n", "unknown field `rate`"),
        ("[[key]]\nname = 'a'\nid = 'abcd'\nhash = 'plain'\n", "hash"),
        (f"[[key]]\nname = 'a'\nid = 'A_B'\nhash = '{HASH}'\n", "id"),
        (
            f"[[key]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\nexpires = 2027-01-01T00:00:00\n",
            "timezone",
        ),
        (
            f"[[key]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\nburst_requests = 2\n",
            "without requests_per_s",
        ),
        (
            f"[[key]]\nname = 'a'\nid = 'abcd'\nhash = '{HASH}'\n" * 2,
            "two keys have the name 'a'",
        ),
        (
            "".join(f"[[key]]\nname = '{n}'\nid = 'abcd'\nhash = '{HASH}'\n" for n in "ab"),
            "two keys have the id 'abcd'",
        ),
        ("#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_a_broken_file_says_what_to_change(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(content)
    with pytest.raises(AccessError, match=words) as raised:
        read_keys(file)
    assert str(raised.value).startswith(str(file))
    assert "0000" not in str(raised.value)


def test_more_keys_than_can_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    one = "[[key]]\nname = 'k{0}'\nid = 'id{0:05}'\nhash = '" + HASH + "'\n"
    file.write_text("".join(one.format(at) for at in range(MAX_KEYS + 1)))
    with pytest.raises(AccessError, match=str(MAX_KEYS)):
        read_keys(file)


def test_not_text(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(AccessError, match="not UTF-8"):
        read_keys(file)


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="headrace key create NAME --file"):
        read_keys(tmp_path / "none.toml")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="No such file or directory"):
        add_key(tmp_path / "none" / "keys.toml", made()[0])
