"""Decides whom the time on the server's core went to while a load ran.

The server's own share makes the CPU per request. What is left over tells how busy the machine was
with other things, and so how far latencies can be trusted. It must never read while it should
be still: it looks once before the load and once after.
"""

import time
from dataclasses import dataclass

from loadtests import process_tree
from loadtests.server_process import ServerProcess


@dataclass(frozen=True, slots=True)
class CoreUse:
    """What one load took."""

    server_s: float
    # Others and the host, as a share of the wall time.
    foreign_share: float


class CoreMeter:
    """Runs from its construction to `read`."""

    def __init__(self, server: ServerProcess, core: int) -> None:
        self._server = server
        self._core = core
        self._core_before = process_tree.core_time(core)
        self._clock = time.perf_counter()
        self._cpu = server.cpu_seconds()

    def read(self) -> CoreUse:
        """The use since the construction."""
        server_s = self._server.cpu_seconds() - self._cpu
        wall = time.perf_counter() - self._clock
        before, after = self._core_before, process_tree.core_time(self._core)
        foreign = after.busy + after.stolen - before.busy - before.stolen - server_s
        return CoreUse(server_s, max(0.0, foreign / wall))
