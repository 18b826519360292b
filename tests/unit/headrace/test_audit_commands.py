"""``headrace audit``: what it prints of sound and of broken logs, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from foundation.audit import AuditLog, AuditRecord
from headrace.__main__ import app


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def records(nowhere: Path) -> list[AuditRecord]:
    """Five, in ``audit.jsonl`` here."""
    log = AuditLog(nowhere / "audit.jsonl")
    return [
        log.append(
            author="anna", role="operator", action="rollout.step", target="fraud", reason=f"go {at}"
        )
        for at in range(5)
    ]


def audit(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments])


def test_verify_prints_the_head(records: list[AuditRecord]) -> None:
    done = audit("verify")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "audit.jsonl: 5 records, sound; keep the head elsewhere to see a cut end",
        f"head: {records[-1].hash}",
    ]
    assert audit("verify", "audit.jsonl", "--expect-head", records[2].hash.upper()).exit_code == 0


def test_verify_names_the_first_broken_line(nowhere: Path, records: list[AuditRecord]) -> None:
    file = nowhere / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b"go 2", b"no 2").replace(b"go 3", b"no 3"))
    done = audit("verify", "audit.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "headrace: audit.jsonl: line 3 was changed: its hash is not that of what it says; "
        "the 2 records before it are sound\n"
    )
    scripted = audit("verify", "--json")
    assert scripted.exit_code == 1
    told = json.loads(scripted.stdout)
    assert (told["records"], told["head"], told["finding"]["line"]) == (2, records[1].hash, 3)


def test_verify_sees_a_cut_end_with_a_head_that_was_kept(
    nowhere: Path, records: list[AuditRecord]
) -> None:
    file = nowhere / "audit.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))
    assert audit("verify").exit_code == 0
    done = audit("verify", "--expect-head", records[4].hash)
    assert done.exit_code == 1
    assert "lines were cut off the end, or written anew" in done.stderr


def test_verify_tells_of_a_torn_end_and_later_of_the_torn_line(
    nowhere: Path, records: list[AuditRecord]
) -> None:
    file = nowhere / "audit.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    done = audit("verify")
    assert done.exit_code == 0
    assert "line 5 has no end" in done.stderr
    assert f"head: {records[3].hash}" in done.stdout
    AuditLog(file).append(author="anna", role="", action="rollout.step", target="fraud")
    after = audit("verify")
    assert (after.exit_code, after.stderr) == (0, "")
    assert "a crash tore a line 1 times, as records say: lines 5" in after.stdout
    assert "audit.torn_line" in audit("show").stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("verify",), "audit.jsonl: no such file"),
        (("verify", "other.jsonl"), "other.jsonl: no such file"),
        (("verify", "."), "not a regular file"),
        (("verify", "--expect-head", "abc"), "give the 64 hex digits that verify prints"),
        (("show",), "audit.jsonl: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], complaint: str, nowhere: Path) -> None:
    done = audit(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(nowhere.iterdir()) == []


def test_show_the_last_ones(records: list[AuditRecord]) -> None:
    done = audit("show", "--last", "2")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert re.fullmatch(
        r" +4  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  anna \(operator\)  rollout\.step  fraud: go 3",
        first,
    )
    assert second.endswith("go 4")
    scripted = audit("show", "audit.jsonl", "--last", "3", "--json").stdout.splitlines()
    assert [json.loads(line)["hash"] for line in scripted] == [one.hash for one in records[2:]]
    assert len(audit("show").stdout.splitlines()) == 5


def test_show_steers_no_terminal(nowhere: Path) -> None:
    AuditLog(nowhere / "audit.jsonl").append(
        author="anna", role="", action="a", target="t", reason="\x1b[2J\x9b1m\nline\u202e é"
    )
    [line] = audit("show").stdout.splitlines()
    assert line.endswith(r"\x1b[2J\x9b1m\nline\u202e é")


def test_show_tells_of_broken_lines(nowhere: Path, records: list[AuditRecord]) -> None:
    file = nowhere / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b"go 2", b"no 2"))
    done = audit("show")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == len(records) - 1
    assert "was changed" in done.stderr
    assert "headrace audit verify audit.jsonl" in done.stderr


@pytest.mark.parametrize("last", ["0", "10001", "many"])
def test_show_shows_so_many(records: list[AuditRecord], last: str) -> None:
    assert audit("show", "--last", last).exit_code == 2


def test_help_says_what_the_file_alone_cannot_show() -> None:
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", audit("verify", "--help").stdout)
    for words in (
        "headrace audit verify audit.jsonl --expect-head HASH",
        "that whole lines were cut off its end",
        "Keep the head that this prints on another machine",
        "Exit code 0: sound. 1: broken. 2: it could not be read.",
    ):
        assert words in text
