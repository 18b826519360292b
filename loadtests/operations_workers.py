"""Decides how two workers are compared with one: the same closed loop, as many cores as workers, and one for the load.

Where the machine has no core left for the load generator, the figures are told and nothing is judged: generator and
server would take each other's time. It must never call such a ratio the product's.
"""

import resource
import time
from collections.abc import Iterable

import msgspec

from loadtests import closed_loop, models, probe
from loadtests.rows import ClosedRow
from loadtests.server_process import running
from loadtests.servers import Protocol
from loadtests.workbench import Workbench

WORKERS = 2
_LOADS: dict[Protocol, ClosedRow] = {
    "http": ClosedRow("workers-http", "headrace", "http", 64, 1),
    "grpc": ClosedRow("workers-grpc", "headrace", "grpc", 16, 8),
}
_WARM_UP_S = 1.0


class WorkersFigures(msgspec.Struct, frozen=True):
    """One number of workers under load."""

    per_second: float
    server_cores: float
    """CPU seconds of the server's processes for a second of wall time."""
    generator_cores: float


class WorkersSample(msgspec.Struct, frozen=True):
    """One round on one front."""

    row: str
    round: int
    one: WorkersFigures
    several: WorkersFigures
    measurable: bool
    cores: int

    @property
    def ratio(self) -> float:
        """The promise is about this one."""
        return self.several.per_second / self.one.per_second

    @property
    def summary(self) -> str:
        """One line of progress, and the whole answer where nothing can be judged."""
        both = ", ".join(
            f"{count}: {figures.per_second:,.0f}/s with {figures.server_cores:.2f} cores for the server and "
            f"{figures.generator_cores:.2f} for the generator"
            for count, figures in ((1, self.one), (WORKERS, self.several))
        )
        return f"{self.ratio:.2f} × on {self.cores} cores ({both})"


def placement(usable: Iterable[int], load_core: int) -> tuple[str, str, bool]:
    """Cores for one worker, for several, and whether the generator has one of its own.

    As `taskset` takes them.
    """
    free = sorted(set(usable) - {load_core})
    if len(free) >= WORKERS:
        return str(free[0]), ",".join(map(str, free[:WORKERS])), True
    return (str(free[0]) if free else str(load_core)), ",".join(map(str, sorted(usable))), False


def measure(
    bench: Workbench,
    row: str,
    protocol: Protocol,
    round_number: int,
    seconds: float,
    usable: set[int],
) -> WorkersSample:
    """The figures of one round; raises `BenchError` when there are none."""
    alone, together, measurable = placement(usable, bench.load_core)
    return WorkersSample(
        row=row,
        round=round_number,
        one=_figures(bench, protocol, 1, alone, seconds),
        several=_figures(bench, protocol, WORKERS, together, seconds),
        measurable=measurable,
        cores=len(usable),
    )


def _figures(
    bench: Workbench, protocol: Protocol, workers: int, cores: str, seconds: float
) -> WorkersFigures:
    command = [*bench.servers.command("headrace"), f"--workers={workers}"]
    with running("headrace", command, cores, bench.logs) as server:
        load = _LOADS[protocol]
        address, expected = server.address(protocol), bench.answers[models.TINY]
        size = len(probe.check(protocol, address, models.TINY, expected).body)
        closed_loop.saturate(bench, server, load, models.TINY, _WARM_UP_S, size)
        used_s, generator_s, began_s = server.cpu_seconds(), _children_s(), time.perf_counter()
        result = closed_loop.saturate(bench, server, load, models.TINY, seconds, size)
        wall_s = time.perf_counter() - began_s
        return WorkersFigures(
            per_second=result.per_second,
            server_cores=(server.cpu_seconds() - used_s) / wall_s,
            generator_cores=(_children_s() - generator_s) / wall_s,
        )


def _children_s() -> float:
    """CPU time of the load generators that have ended."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime
