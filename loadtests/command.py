"""Decides what a command ends with: its own exit status, or that of a mistake, a kill or Ctrl-C.

It must never end a command without unwinding it: servers are stopped by the code that started them.
"""

import signal
import sys
from collections.abc import Callable

from loadtests.failures import BenchError

FAILED, NOT_KEPT = 1, 3
"""Something could not be measured; a promise is not kept."""
_INTERRUPTED, _KILLED = 130, 143


def guarded(name: str, work: Callable[[], int]) -> int:
    """The exit status of the work, whichever way it ends; `name` stands before a complaint."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_KILLED))
    try:
        return work()
    except BenchError as problem:
        sys.stderr.write(f"{name}: {problem}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted, nothing was written\n")
        return _INTERRUPTED
