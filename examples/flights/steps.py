"""How the example speaks to the person who waits: what it does, what came out, how long it took.

Decides the look of one progress line. It must never decide what is worth saying.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TITLE_WIDTH = 46
_FINDING_WIDTH = 38


@contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Print ``title`` at once, and at the end the findings in the list and the seconds it took."""
    _write(f"  {title + ' ':.<{_TITLE_WIDTH}} ")
    findings: list[str] = []
    started = time.perf_counter()
    try:
        yield findings
    except BaseException:
        _write("failed\n")
        raise
    seconds = time.perf_counter() - started
    _write(f"{', '.join(findings):{_FINDING_WIDTH}} {seconds:5.1f} s\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
