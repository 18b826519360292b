"""Decides the order of a bench: rounds outside, rows inside, servers started fresh in between.

Interleaving spreads a slow minute of the machine over all servers instead of one. A row that
fails is noted and the others go on. It must never run two servers at once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from loadtests import (
    closed_loop,
    cold_start,
    core_meter,
    models,
    open_loop,
    pipeline_row,
    quiet,
    rows,
)
from loadtests.failures import BenchError
from loadtests.measured import ClosedSample, OpenSample, Results
from loadtests.progress import say
from loadtests.server_process import ServerProcess, running
from loadtests.servers import Kind
from loadtests.workbench import Workbench

_Sample = TypeVar("_Sample", ClosedSample, OpenSample)

_NOT_INSTALLED = "headrace is not installed"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a person asked for."""

    names: list[str]
    rounds: int
    seconds: float
    open_seconds: float
    arrivals: str
    patience_s: float
    attempts: int


HEAVY_CHECKS = 8


class Campaign:
    """One bench from its first round to its last."""

    def __init__(self, bench: Workbench, plan: Plan) -> None:
        self._bench = bench
        self._plan = plan
        self.results = Results()

    def run(self) -> Results:
        """Measures all that was asked for."""
        closed = [row for row in rows.CLOSED if self._wanted(row.name, row.server)]
        overload = [row for row in rows.OPEN if self._wanted(row.name, row.server)]
        if overload:
            self._check_heavy()
        for number in range(1, self._plan.rounds + 1):
            for row in rows.turned(closed, number):
                self._closed(row, number)
            for open_row in rows.turned(overload, number):
                self._open(open_row, number)
        if self._wanted(rows.COLD_START, "headrace"):
            self._cold_starts()
        if rows.PIPELINE in self._plan.names:
            self._pipeline()
        return self.results

    def _wanted(self, name: str, server: Kind) -> bool:
        if name not in self._plan.names:
            return False
        if not self._bench.servers.has(server):
            self.results.skipped[name] = _NOT_INSTALLED
            say(f"{name}: skipped, {_NOT_INSTALLED}")
            return False
        return True

    def _attempt(
        self,
        row: rows.ClosedRow | rows.OpenRow,
        number: int,
        measure: Callable[[ServerProcess], _Sample],
        kept: list[_Sample],
    ) -> None:
        """Keeps the least disturbed of some attempts: chosen by disturbance, never by result."""
        if row.name in self.results.failed:
            return
        label, tried = f"round {number}/{self._plan.rounds} {row.name}", list[_Sample]()
        for _ in range(self._plan.attempts):
            self._settle(label)
            try:
                with self._server(row.server) as server:
                    tried.append(measure(server))
            except BenchError as problem:
                self.results.failed[row.name] = str(problem)
                say(f"{label}: FAILED, {problem}")
                return
            say(f"{label}: {tried[-1].summary}")
            if tried[-1].foreign_core <= core_meter.DISTURBED:
                break
        tried.sort(key=lambda sample: sample.foreign_core)
        kept.append(tried[0])
        self.results.set_aside += tried[1:]

    def _server(self, kind: Kind) -> AbstractContextManager[ServerProcess]:
        bench = self._bench
        return running(kind, bench.servers.command(kind), bench.server_core, bench.logs)

    def _settle(self, label: str) -> None:
        cores, patience = (self._bench.server_core, self._bench.load_core), self._plan.patience_s
        if patience and not quiet.wait(cores, patience):
            say(f"{label}: the machine is still busy after {patience:g} s, measuring anyway")

    def _closed(self, row: rows.ClosedRow, number: int) -> None:
        def measure(server: ServerProcess) -> ClosedSample:
            return closed_loop.measure(self._bench, server, row, number, self._plan.seconds)

        self._attempt(row, number, measure, self.results.closed)

    def _open(self, row: rows.OpenRow, number: int) -> None:
        plan = self._plan

        def measure(server: ServerProcess) -> OpenSample:
            seconds, arrivals = plan.open_seconds, plan.arrivals
            return open_loop.measure(self._bench, server, row, number, seconds, arrivals)

        self._attempt(row, number, measure, self.results.open_loop)

    def _check_heavy(self) -> None:
        path = models.model_path(self._bench.servers.repository, models.HEAVY)
        tried = [
            models.row_cost_ms(path) for _ in range(HEAVY_CHECKS)
        ]  # neighbours only slow it down
        costs = {size: min(one[size] for one in tried) for size in tried[0]}
        self.results.heavy_row_ms = costs
        say("heavy model, ms per row: " + ", ".join(f"{n}: {c:.2f}" for n, c in costs.items()))
        models.check_heavy(costs)

    def _cold_starts(self) -> None:
        for number in range(1, cold_start.STARTS + 1):
            self._settle(rows.COLD_START)
            try:
                seconds = cold_start.measure(self._bench, "headrace")
            except BenchError as problem:
                self.results.failed[rows.COLD_START] = str(problem)
                say(f"{rows.COLD_START}: FAILED, {problem}")
                return
            self.results.cold_start_s.append(seconds)
            say(f"{rows.COLD_START} {number}/{cold_start.STARTS}: {seconds:.2f} s")

    def _pipeline(self) -> None:
        if not pipeline_row.available():
            self.results.skipped[rows.PIPELINE] = "pipeline row not available"
            say("pipeline row not available")
            return
        plan = self._plan
        self._settle(rows.PIPELINE)
        try:
            figures = pipeline_row.measure(plan.rounds, plan.seconds, self._bench.server_core)
        except BenchError as problem:
            self.results.failed[rows.PIPELINE] = str(problem)
            say(f"{rows.PIPELINE}: FAILED, {problem}")
            return
        self.results.pipeline_us = figures
        say(f"{rows.PIPELINE}: {figures[pipeline_row.TOTAL]:.1f} µs per request")
