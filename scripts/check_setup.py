"""Looks for what would break later in a way that is hard to read, and says what to do about it.

Always: ONNX Runtime is there at most once. With the argument ``openmp``: LightGBM will find the
system library that it loads.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version


def problems(needs: list[str]) -> Iterator[str]:
    """What is wrong, each with its repair."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        yield (
            "onnxruntime and onnxruntime-gpu are both in .venv, and overwrite each other's files.\n"
            "  start again with one: rm -rf .venv && make setup    (or make setup GPU=1)"
        )
    if "openmp" in needs and sys.platform == "linux" and not _loads("libgomp.so.1"):
        yield (
            "LightGBM needs the system library libgomp.so.1.\n"
            "  on Debian or Ubuntu: apt-get install libgomp1"
        )


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def main() -> int:
    """Report on stderr; the exit status says whether anything was found."""
    found = list(problems(sys.argv[1:]))
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
