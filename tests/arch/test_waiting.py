"""Unit, contract and simulation tests live in invented time: none waits on the real clock."""

from __future__ import annotations

import ast

from tests.arch.checkout import modules, tree


def test_no_quick_test_sleeps() -> None:
    sleeping = [
        f"{path}:{node.lineno}"
        for path in modules("tests/unit", "tests/contract", "tests/sim")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]
    assert not sleeping, f"move the invented clock instead: {sleeping}"
