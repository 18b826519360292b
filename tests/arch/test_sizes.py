"""A module fits into a head, a function on a screen or two, and a name says what is inside."""

from __future__ import annotations

import ast

from tests.arch.checkout import ROOT, modules, shipped_packages, tree

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70
NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "misc", "util", "utils"}


def test_no_module_is_too_long() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in modules()}
    too_long = {str(path): lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES}
    assert not too_long, f"over {MAX_MODULE_LINES} lines, split by question: {too_long}"


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{path}:{node.lineno} {node.name} ({lines})"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not too_long, f"over {MAX_FUNCTION_LINES} lines: {too_long}"


def test_no_name_says_nothing() -> None:
    empty = [
        str(path)
        for path in modules()
        if NAMES_THAT_SAY_NOTHING & {part.removesuffix(".py") for part in path.parts}
    ]
    assert not empty, f"name the concept instead: {empty}"


def test_every_shipped_module_opens_with_its_purpose() -> None:
    silent = [
        str(path) for path in modules(*shipped_packages()) if ast.get_docstring(tree(path)) is None
    ]
    assert not silent, f"no docstring: {silent}"
