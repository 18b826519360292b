"""Every public class of the gateway's core is a word of the glossary.

A class counts as explained where ``docs/glossary.md`` defines it: in a heading, in the first cell
of a table row, or in the bold or code-set term that opens a list item or a paragraph.
"""

from __future__ import annotations

import ast
import re

from tests.arch.checkout import ROOT, modules, tree

GLOSSARY = ROOT / "docs" / "glossary.md"

_DEFINING = (
    re.compile(r"^#+\s+(.+)$"),
    re.compile(r"^\|([^|]+)\|"),
    re.compile(r"^(?:[-*+]\s+)?(?:\*\*|`|__)(.+?)(?:\*\*|`|__)(?:\s|[:.,—–-]|$)"),
)


def test_every_public_class_of_the_core_is_in_the_glossary() -> None:
    defined = _defined_names(GLOSSARY.read_text("utf-8"))
    missing = [
        f"{node.name} ({path}:{node.lineno})"
        for path in modules("gateway/core")
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and node.name not in defined
    ]
    assert not missing, f"explain in docs/glossary.md: {missing}"


def test_names_are_found_where_they_are_defined() -> None:
    text = (
        "## `Batch`\n| Permit, `Bucket` | x Queue |\n- **Lane**: a Thing\n`Term` is one\nsee Other"
    )
    assert _defined_names(text) == {"Batch", "Permit", "Bucket", "Lane", "Term"}


def _defined_names(text: str) -> set[str]:
    names: set[str] = set()
    for line in text.splitlines():
        for pattern in _DEFINING:
            match = pattern.match(line.strip())
            if match:
                names.update(re.findall(r"[A-Za-z_]\w*", match[1]))
    return names
