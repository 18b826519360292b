"""Decides whether to wait for a quieter machine before a row, and for how long at most.

A row measured while others use the cores has true CPU figures and wrong latencies. It must never
wait beyond its patience, nor pretend that the machine was quiet when it was not.
"""

import time

from loadtests import process_tree

_LOOK_S = 0.5
# More than a kernel and an idle desktop need, less than any program at work.
_BUSY = 0.10


def wait(cores: tuple[int, ...], patience_s: float) -> bool:
    """Whether all cores were quiet in the last look; looks until then or until patience ends."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before = [process_tree.core_time(core).used for core in cores]
        time.sleep(_LOOK_S)
        after = [process_tree.core_time(core).used for core in cores]
        if all(b - a < _BUSY * _LOOK_S for a, b in zip(before, after, strict=True)):
            return True
    return False
