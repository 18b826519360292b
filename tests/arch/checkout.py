"""The checkout as the architecture tests see it: its packages, modules and texts."""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

UNSHIPPED = {"examples", "loadtests", "scripts", "tests"}
"""Folders of Python that run from the checkout and are in no wheel."""

_SKIPPED = {"__pycache__", "build", "dist", "node_modules"}
_HIDDEN_BUT_OURS = {".ci"}


def files() -> Iterator[Path]:
    """Every file of the project, as a path from its root."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if _is_ours(name))
        for name in sorted(names):
            yield Path(folder, name).relative_to(ROOT)


def modules(*tops: str) -> list[Path]:
    """The Python modules under the given top folders or files, or all there are."""
    return [
        path
        for path in files()
        if path.suffix == ".py"
        and (not tops or any(path == Path(top) or Path(top) in path.parents for top in tops))
    ]


def shipped_packages() -> list[str]:
    """The top-level packages that the wheel installs, as found on disk."""
    found = {path.parts[0] for path in modules() if len(path.parts) > 1}
    return sorted(found - UNSHIPPED)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


@cache
def pyproject() -> dict[str, Any]:
    """``pyproject.toml``, read."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Full names of what a module imports, at any depth and under any condition."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def _is_ours(folder: str) -> bool:
    if folder in _HIDDEN_BUT_OURS:
        return True
    return (
        not folder.startswith(".") and folder not in _SKIPPED and not folder.endswith(".egg-info")
    )
