"""Decides whom the time on both cores went to while a load ran.

The server's own share makes the CPU per request. What neither the server nor the load used tells
how busy the machine was with other things, and so how far latencies can be trusted. It must
never look while the load runs: once before it and once after.
"""

import resource
import time
from dataclasses import dataclass

from loadtests import process_tree
from loadtests.server_process import ServerProcess

# Above this share of a core, others disturb a measurement.
DISTURBED = 0.10


@dataclass(frozen=True, slots=True)
class CoreUse:
    """What one load took."""

    server_s: float
    # Others and the host on the more disturbed of the two cores, as a share of the wall time.
    foreign_share: float


class CoreMeter:
    """Runs from its construction to `read`."""

    def __init__(self, server: ServerProcess, server_core: int, load_core: int) -> None:
        self._server = server
        self._cores = (server_core, load_core)
        self._used = [process_tree.core_time(core).used for core in self._cores]
        self._load = _load_generators()
        self._clock = time.perf_counter()
        self._cpu = server.cpu_seconds()

    def read(self) -> CoreUse:
        """The use since the construction; the load generator has ended by now."""
        server_s = self._server.cpu_seconds() - self._cpu
        wall = time.perf_counter() - self._clock
        known = (server_s, _load_generators() - self._load)
        used = (
            process_tree.core_time(core).used - before
            for core, before in zip(self._cores, self._used, strict=True)
        )
        foreign = max(all_of_it - ours for all_of_it, ours in zip(used, known, strict=True))
        return CoreUse(server_s, max(0.0, foreign / wall))


def _load_generators() -> float:
    """CPU of this process, which reads their results, and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    uses = [resource.getrusage(kind) for kind in kinds]
    return sum(use.ru_utime + use.ru_stime for use in uses)
