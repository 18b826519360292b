"""Decides how a running bench speaks to the person who waits for it.

One line per step, flushed at once. It must never be called inside a measured interval.
"""

import sys
import time

_STARTED = time.monotonic()


def say(line: str) -> None:
    """Prints one progress line with the seconds since the bench began."""
    sys.stdout.write(f"[{time.monotonic() - _STARTED:6.1f}s] {line}\n")
    sys.stdout.flush()


def show(text: str) -> None:
    """Prints a block as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()
