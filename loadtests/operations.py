"""Decides how the operations bench runs: swaps, deaths, workers, streams and telemetry, as one table.

`python -m loadtests.operations --help` tells the rest. It must never be quiet about a row that failed or a promise that
is not kept, nor run two servers at once.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from loadtests import (
    machine,
    operations_kill,
    operations_report,
    operations_stream,
    operations_swap,
    operations_workers,
    quiet,
    telemetry_cost,
)
from loadtests.command import FAILED, NOT_KEPT, guarded
from loadtests.failures import BenchError
from loadtests.operations_kill import KillSample
from loadtests.operations_stream import StreamSample
from loadtests.operations_swap import SwapSample
from loadtests.operations_verdict import FRONTS, NAMES, STREAM, TELEMETRY, Results, judge
from loadtests.operations_workers import WorkersSample
from loadtests.options import add_place
from loadtests.progress import say, show
from loadtests.report import verdict_table
from loadtests.rows import select, turned
from loadtests.servers import find_headrace
from loadtests.workbench import Workbench, claim_cores, prepare

_RESULTS = Path(__file__).with_name("results")
_EPILOG = """rows:
{rows}

exit status:
  0 all promises kept that can be measured here    1 a row failed, or the bench could not run
  2 a wrong argument                               3 a promise is not kept

examples:
  python -m loadtests.operations
  python -m loadtests.operations --rows 'swap-*' stream --rounds 1 --seconds 2
"""
_Sample = TypeVar("_Sample", SwapSample, KillSample, WorkersSample, StreamSample)

TELEMETRY_S = 2.0
"""Of load for each of its many variants; `python -m loadtests.telemetry_cost` looks longer."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.operations",
        description="Measures what an operator does under load: swapping versions, losing a worker, adding one; "
        "and streams and telemetry beside calls without them.",
        epilog=_EPILOG.format(rows="\n".join(f"  {name}" for name in NAMES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help="names or patterns (all rows)"
    )
    made.add_argument("--rounds", type=int, default=3, help="interleaved rounds (%(default)s)")
    made.add_argument(
        "--seconds", type=float, default=2.0, help="of each phase of a row (%(default)s)"
    )
    made.add_argument(
        "--patience", type=float, default=0.0, help="wait so long for idle cores (%(default)s)"
    )
    add_place(made)
    made.add_argument("--output", type=Path, metavar="FILE.md", help="instead of results/")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        sys.stderr.write("operations: at least one round, and one second for each phase\n")
        return 2
    return guarded("operations", lambda: _bench(options))


def _bench(options: argparse.Namespace) -> int:
    names, usable = select(options.rows, NAMES), os.sched_getaffinity(0)
    server_core, load_core = options.server_core, options.load_core
    claim_cores(server_core, load_core)
    setting = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": f"`{shlex.join(['python', '-m', 'loadtests.operations', *sys.argv[1:]])}`",
        "git revision": machine.revision(),
        "rounds": str(options.rounds),
        "seconds of each phase": f"{options.seconds:g}",
        "placed on": f"server core {server_core}, load core {load_core}, where a row says nothing else",
        **machine.describe(),
    }
    headrace = find_headrace(options.headrace)
    if headrace is None:
        raise BenchError("headrace is not installed: run `make setup`")
    bench = prepare(options.work.resolve(), headrace, server_core, load_core)
    results = Operations(bench, names, options, usable).run()
    verdicts = judge(results, names)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    page = options.output or _RESULTS / f"{day}-operations.md"
    raw = operations_report.write(page, setting, results, verdicts)
    show(f"\n{verdict_table(verdicts)}\n\n{operations_report.busy_note(results)}\n")
    say(f"written: {os.path.relpath(page)} and {os.path.relpath(raw)}")
    for row, why in results.failed.items():
        sys.stderr.write(f"operations: row {row} FAILED: {why}\n")
    if results.failed:
        return FAILED
    return NOT_KEPT if any(one.status == "short" for one in verdicts) else 0


class Operations:
    """One bench from its first round to its last."""

    def __init__(
        self, bench: Workbench, names: list[str], options: argparse.Namespace, usable: set[int]
    ) -> None:
        self._bench = bench
        self._names = names
        self._rounds: int = options.rounds
        self._seconds: float = options.seconds
        self._patience_s: float = options.patience
        self._usable = usable
        self.results = Results()

    def run(self) -> Results:
        """Measures all that was asked for; the order turns with each round."""
        rows = [name for name in self._names if name != TELEMETRY]
        for number in range(1, self._rounds + 1):
            for row in turned(rows, number):
                self._row(row, number)
        if TELEMETRY in self._names:
            self._attempt(TELEMETRY, TELEMETRY, self._telemetry)
        return self.results

    def _row(self, row: str, number: int) -> None:
        results, label = self.results, f"round {number}/{self._rounds} {row}"
        if row == STREAM:
            stream = partial(operations_stream.measure, self._bench, row, number, self._seconds)
            self._keep(row, label, stream, results.stream)
        for front in FRONTS:
            one = (self._bench, row, front, number, self._seconds)
            if row == f"swap-{front}":
                self._keep(row, label, partial(operations_swap.measure, *one), results.swap)
            elif row == f"kill-{front}":
                self._keep(row, label, partial(operations_kill.measure, *one), results.kill)
            elif row == f"workers-{front}" and self._is_worth_a_round(number):
                workers = partial(operations_workers.measure, *one, self._usable)
                self._keep(row, label, workers, results.workers)

    def _is_worth_a_round(self, number: int) -> bool:
        """Figures that nobody may judge are taken once."""
        return number == 1 or operations_workers.placement(self._usable, self._bench.load_core)[2]

    def _keep(
        self, row: str, label: str, measure: Callable[[], _Sample], kept: list[_Sample]
    ) -> None:
        def keep() -> str:
            kept.append(measure())
            return kept[-1].summary

        self._attempt(row, label, keep)

    def _attempt(self, row: str, label: str, measure: Callable[[], str]) -> None:
        """One measurement; a row that failed once is not tried again, and the others go on."""
        if row in self.results.failed:
            return
        cores = (self._bench.server_core, self._bench.load_core)
        if self._patience_s and not quiet.wait(cores, self._patience_s):
            say(f"{label}: still busy after {self._patience_s:g} s, measuring anyway")
        try:
            say(f"{label}: {measure()}")
        except (BenchError, OSError) as problem:
            self.results.failed[row] = str(problem) or type(problem).__name__
            say(f"{label}: FAILED, {self.results.failed[row]}")

    def _telemetry(self) -> str:
        samples = telemetry_cost.measure(
            self._bench, self._rounds, min(self._seconds, TELEMETRY_S), self._patience_s
        )
        self.results.telemetry = telemetry_cost.judge(samples)
        least = min(one.throughput for one in self.results.telemetry)
        return f"at least {least:.1%} of the throughput is left"


if __name__ == "__main__":
    sys.exit(main())
