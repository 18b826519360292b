"""Words that may not stand in the project: promises nobody keeps, and paths of one machine."""

from __future__ import annotations

import re

import pytest

from tests.arch.checkout import ROOT, files

TEXTS = {
    "", ".cfg", ".ini", ".json", ".lua", ".md", ".proto", ".py", ".pyi",
    ".sh", ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip

FORBIDDEN = {
    "a promise; do it, or open an issue": re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b"),
    "a path of one machine": re.compile(r"(?<![\w.*-])/(home|root|work|Users)" r"/[\w.]"),
}


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_no_forbidden_word(reason: str) -> None:
    found = []
    for path in files():
        if path.suffix not in TEXTS or path.name == "LICENSE":
            continue
        for number, line in enumerate((ROOT / path).read_text("utf-8").splitlines(), start=1):
            if FORBIDDEN[reason].search(line):
                found.append(f"{path}:{number}: {line.strip()}")
    assert not found, f"{reason}:\n" + "\n".join(found)
