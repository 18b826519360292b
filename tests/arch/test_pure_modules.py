"""Decisions are plain: ``now`` comes in, values go out.

The pure modules import the standard library's data tools, numpy, msgspec and each other. They reach
no clock, no dice, no loop, no file and no screen, so a test can replay any day of theirs. Where
``time`` and ``random`` are not imported, nothing of theirs can be called; numpy's dice need a look.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.checkout import ROOT, imported_modules, modules, tree

PURE = (
    "featurecache/columns.py",
    "featurecache/errors.py",
    "featurecache/status.py",
    "featurecache/lookups/breaker.py",
    "featurecache/lookups/lookup_limits.py",
    "featurecache/lookups/lookup_waiting.py",
    "featurecache/lookups/near_cache.py",
    "featurecache/manifests/checking.py",
    "featurecache/manifests/evolution.py",
    "featurecache/manifests/manifest.py",
    "featurecache/manifests/needs.py",
    "featurecache/rows/codec.py",
    "featurecache/rows/keys.py",
    "featurecache/rows/schema.py",
    "featurecache/joining/assembly.py",
    "featurecache/joining/glance.py",
    "featurecache/joining/planning.py",
    "featurecache/joining/report.py",
    "featurecache/joining/resolve.py",
    "featurecache/joining/view_use.py",
    "rollout/checking.py",
    "rollout/comparison.py",
    "rollout/comparison_noise.py",
    "rollout/comparison_numbers.py",
    "rollout/comparison_plan.py",
    "rollout/comparison_rules.py",
    "rollout/comparison_slices.py",
    "rollout/comparison_stats.py",
    "rollout/controller.py",
    "rollout/evidence.py",
    "rollout/plan.py",
    "rollout/ports.py",
    "rollout/sequential.py",
    "rollout/shadow_report.py",
    "rollout/shared_documents.py",
    "rollout/split.py",
    "rollout/store_scripts.py",
    "rollout/transitions.py",
    "gateway/core",
    "gateway/errors.py",
    "gateway/messages.py",
    "gateway/ports.py",
    "backends/signature.py",
)
ALLOWED = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "contextlib",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "msgspec",
    "numpy",
    "operator",
    "re",
    "struct",
    "typing",
    "xxhash",
    "zlib",
}
FORBIDDEN_CALLS = {"__import__", "eval", "exec", "input", "open", "print"}

PURE_MODULES = modules(*PURE)


@pytest.mark.parametrize("place", PURE)
def test_the_pure_modules_are_where_this_test_looks(place: str) -> None:
    assert (ROOT / place).exists()


@pytest.mark.parametrize("path", PURE_MODULES, ids=str)
def test_imports_only_data_tools_and_pure_modules(path: Path) -> None:
    ours = {_dotted(module) for module in PURE_MODULES}
    foreign = {
        name
        for name in imported_modules(path)
        if name.partition(".")[0] not in ALLOWED and name not in ours
    }
    assert not foreign, f"{path} is pure and may not import {sorted(foreign)}"


@pytest.mark.parametrize("path", PURE_MODULES, ids=str)
def test_reaches_no_clock_no_dice_and_no_outside(path: Path) -> None:
    reached = [f"{path}:{line} {what}" for line, what in _impurities(tree(path))]
    assert not reached, f"pass it in as an argument: {reached}"


@pytest.mark.parametrize("path", modules("gateway/core"), ids=str)
def test_decisions_are_not_coroutines(path: Path) -> None:
    awaiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    lines = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, awaiting)]
    assert not lines, f"{path} awaits in lines {lines}: decide here, await in the shell"


def _impurities(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield node.lineno, f"{name}()"
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"):
                yield node.lineno, "numpy.random"
            case ast.ImportFrom(module="numpy.random"):
                yield node.lineno, "numpy.random"
            case ast.ImportFrom(module="numpy", names=names):
                if any(alias.name == "random" for alias in names):
                    yield node.lineno, "numpy.random"


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")
