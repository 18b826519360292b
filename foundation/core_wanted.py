"""How long a thread wanted a core: the time that it ran, and the time that it could have run but others had the core.

CPU time alone does not show a thread that is kept from its core: where threads of one process share a core, none of
them uses all of it. The kernel counts both for each thread, in nanoseconds (``/proc/thread-self/schedstat``, see the
kernel's documentation of scheduler statistics). Where it does not, CPU time has to do. This module must never decide
what is too much.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

SCHEDSTAT = Path("/proc/thread-self/schedstat")
_FIGURES_BYTES = 96
"""Three numbers of 64 bits, and what stands between them."""


class CoreWanted:
    """Seconds that one thread ran or waited for a core; made and asked on that thread. A look costs some 2 µs."""

    def __init__(self, schedstat: Path = SCHEDSTAT) -> None:
        try:
            self._file: int | None = os.open(schedstat, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def __call__(self) -> float:
        """Since some moment in the past."""
        if self._file is None:
            return time.thread_time()
        try:
            ran_ns, waited_ns, _ = map(int, os.pread(self._file, _FIGURES_BYTES, 0).split())
        except (OSError, ValueError):
            self.close()
            return time.thread_time()
        return (ran_ns + waited_ns) * 1e-9

    def close(self) -> None:
        """From now on, CPU time."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def wanted_clocks(cores: float) -> tuple[Callable[[], float], ...]:
    """Of the calling thread, and of the whole process on so many cores: CPU seconds of all its threads over those."""
    return CoreWanted(), lambda: time.process_time() / cores


def cores_of_one(processes: int) -> float:
    """What each of some like processes has of the cores that they may run on, at least one."""
    return max(1.0, len(os.sched_getaffinity(0)) / processes)
