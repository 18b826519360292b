"""Decides how the rollouts bench runs: routing, changes of weights and copies, as one table with verdicts.

`python -m loadtests.rollouts --help` tells the rest. It must never be quiet about a row that failed or a promise that
is not kept.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtests import (
    machine,
    quiet,
    rollouts_changes,
    rollouts_report,
    rollouts_shadows,
    rollouts_wire,
)
from loadtests.command import FAILED, NOT_KEPT, guarded
from loadtests.failures import BenchError
from loadtests.options import add_place
from loadtests.progress import say, show
from loadtests.report import verdict_table
from loadtests.rollouts_stage import ROUTED, Admin, gateways, proposal, write_repository
from loadtests.rollouts_verdict import (
    CHANGES,
    NAMES,
    SATURATION,
    SHADOW_ONE,
    SHADOW_TWO,
    STACK,
    WIRES,
    Results,
    judge,
)
from loadtests.rows import select, turned
from loadtests.server_process import ServerProcess
from loadtests.servers import find_headrace
from loadtests.workbench import Workbench, claim_cores, prepare

_RESULTS = Path(__file__).with_name("results")
MOST_CHANGES = 100
CHANGES_A_ROUND = 10
_EPILOG = """rows:
{rows}

exit status:
  0 all promises kept that could be measured    1 a row failed, or the bench could not run
  2 a wrong argument                            3 a promise is not kept

examples:
  python -m loadtests.rollouts --save
  python -m loadtests.rollouts --rounds 2 --seconds 1
  python -m loadtests.rollouts --rows 'change-*' --changes 20
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.rollouts",
        description="Measures what routing by a plan costs, how soon a change of weights is in force on four "
        "processes, and what copies cost those who are answered. Takes about ten minutes.",
        epilog=_EPILOG.format(rows="\n".join(f"  {name}" for name in NAMES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help="names or patterns (all rows)"
    )
    made.add_argument("--rounds", type=int, default=12, help="interleaved rounds (%(default)s)")
    made.add_argument("--seconds", type=float, default=2.0, help="of each load (%(default)s)")
    made.add_argument(
        "--changes",
        type=int,
        default=0,
        help=f"of weights ({CHANGES_A_ROUND} a round, at most {MOST_CHANGES})",
    )
    made.add_argument(
        "--patience", type=float, default=0.0, help="wait so long for idle cores (%(default)s)"
    )
    add_place(made)
    made.add_argument("--save", action="store_true", help="write results/<date>-rollouts.md")
    made.add_argument("--output", type=Path, metavar="FILE.md", help="write there instead")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1 or not 0 <= options.changes <= MOST_CHANGES:
        sys.stderr.write(
            "rollouts: at least one round, and one second for each load; "
            f"at most {MOST_CHANGES} changes\n"
        )
        return 2
    return guarded("rollouts", lambda: _bench(options, arguments))


def _bench(options: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    names, usable = select(options.rows, NAMES), os.sched_getaffinity(0)
    server_core, load_core = options.server_core, options.load_core
    claim_cores(server_core, load_core)
    told = sys.argv[1:] if arguments is None else arguments
    setting = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": f"`{shlex.join(['python', '-m', 'loadtests.rollouts', *told])}`",
        "git revision": machine.revision(),
        "rounds": f"{options.rounds} of {options.seconds:g} s a load",
        "placed on": f"server core {server_core}, load core {load_core}, the store beside the load; "
        f"{SHADOW_TWO}: the server on both; four processes: core {server_core}",
        **machine.describe(),
    }
    headrace = find_headrace(options.headrace)
    if headrace is None:
        raise BenchError("headrace is not installed: run `make setup`")
    bench = prepare(options.work.resolve(), headrace, server_core, load_core)
    changes = options.changes or min(MOST_CHANGES, CHANGES_A_ROUND * options.rounds)
    plan = Measures(options.rounds, options.seconds, changes, options.patience)
    both = ",".join(str(one) for one in sorted({server_core, load_core} & usable))
    results = Rollouts(bench, names, plan, both).run()
    verdicts = judge(results, names)
    show(f"\n{verdict_table(verdicts)}\n")
    for part in (rollouts_report.busy_note(results), *rollouts_report.tables(results)):
        show(f"\n{part}")
    if options.save or options.output:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        page = options.output or _RESULTS / f"{day}-rollouts.md"
        raw = rollouts_report.write(page, setting, results, verdicts)
        say(f"written: {os.path.relpath(page)} and {os.path.relpath(raw)}")
    for row, why in results.failed.items():
        sys.stderr.write(f"rollouts: row {row} FAILED: {why}\n")
    if results.failed:
        return FAILED
    return NOT_KEPT if any(one.status == "short" for one in verdicts) else 0


class Measures:
    """How often and how long."""

    def __init__(self, rounds: int, seconds: float, changes: int, patience_s: float) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.changes = changes
        self.patience_s = patience_s


class Rollouts:
    """One bench from its first row to its last: rows that share a gateway are interleaved."""

    def __init__(self, bench: Workbench, names: list[str], plan: Measures, both: str) -> None:
        self._bench = bench
        self._names = names
        self._plan = plan
        self._both_cores = both
        self._repository = write_repository(bench)
        self.results = Results()

    def run(self) -> Results:
        """Measures all that was asked for."""
        self._routing()
        for row in CHANGES:
            if row in self._names:
                self._attempt(row, row, lambda of=row: self._change(of))  # type: ignore[misc]
        self._copies([SHADOW_ONE, SATURATION], str(self._bench.server_core))
        self._copies([SHADOW_TWO], self._both_cores)
        return self.results

    def _attempt(self, row: str, label: str, measure: Callable[[], None]) -> None:
        """One measurement; a row that failed once is not tried again, and the others go on."""
        if row in self.results.failed:
            return
        cores = (self._bench.server_core, self._bench.load_core)
        if self._plan.patience_s and not quiet.wait(cores, self._plan.patience_s):
            say(f"{label}: still busy after {self._plan.patience_s:g} s, measuring anyway")
        try:
            measure()
        except (BenchError, OSError) as problem:
            self.results.failed[row] = str(problem) or type(problem).__name__
            say(f"{label}: FAILED, {self.results.failed[row]}")

    # -- routing ----------------------------------------------------------------------------------

    def _routing(self) -> None:
        rows = [name for name in self._names if name in (STACK, *WIRES)]
        if not rows:
            return
        with gateways(
            self._bench,
            self._repository,
            instances=1,
            workers=1,
            cores=self._bench.server_core,
            control=False,
        ) as [gateway]:
            admin = Admin.of(gateway)
            revision = admin.put(ROUTED, proposal("bench", [rollouts_wire.PLAN_PERCENT]))
            admin.await_force(ROUTED, revision, 1)
            admin.close()
            for number in range(1, self._plan.rounds + 1):
                for row in turned(rows, number):
                    label = f"round {number}/{self._plan.rounds} {row}"
                    self._attempt(row, label, self._route(gateway, row, number, label))

    def _route(
        self, gateway: ServerProcess, row: str, number: int, label: str
    ) -> Callable[[], None]:
        results, seconds = self.results, self._plan.seconds

        def stack() -> None:
            sample = rollouts_wire.stack(self._bench, number, seconds)
            results.stack.append(sample)
            figures = ", ".join(f"{case} {us:.2f}" for case, us in sample.cpu_us.items())
            say(f"{label}: CPU µs a request: {figures}")

        def wire() -> None:
            for one in rollouts_wire.measure(self._bench, gateway, row, number, seconds):
                results.wire.append(one)
                say(f"{label} {one.variant}: {one.per_second:,.0f}/s, CPU {one.cpu_us:.1f} µs")

        return stack if row == STACK else wire

    # -- changes ----------------------------------------------------------------------------------

    def _change(self, row: str) -> None:
        sample = rollouts_changes.measure(
            self._bench, self._repository, row, self._plan.changes, str(self._bench.server_core)
        )
        self.results.changes.append(sample)
        slowest = max(sample.beats_s)
        say(
            f"{row}: {len(sample.beats_s)} changes, in force after at most {slowest:.3f} s, "
            f"{sample.failed} of {sample.calls:,} calls failed, {sample.flips} users went back"
        )

    # -- copies -----------------------------------------------------------------------------------

    def _copies(self, wanted: list[str], cores: str) -> None:
        rows = [row for row in wanted if row in self._names]
        if not rows:
            return
        with gateways(
            self._bench, self._repository, instances=1, workers=1, cores=cores, control=False
        ) as [gateway]:
            try:
                highest = rollouts_shadows.capacity(self._bench, gateway)
                rate, cores_used = rollouts_shadows.easy_rate(self._bench, gateway, highest)
            except (BenchError, OSError) as problem:
                self.results.failed.update(dict.fromkeys(rows, str(problem)))
                return
            say(
                f"{', '.join(rows)}: {highest:,.0f} calls/s at most, {rate:,.0f} use {cores_used:.0%} of a core"
            )
            for number in range(1, self._plan.rounds + 1):
                for row in turned(rows, number):
                    label = f"round {number}/{self._plan.rounds} {row}"
                    self._attempt(row, label, self._copy(gateway, row, number, label, rate))

    def _copy(
        self, gateway: ServerProcess, row: str, number: int, label: str, rate: float
    ) -> Callable[[], None]:
        bench, results, seconds = self._bench, self.results, self._plan.seconds

        def ease() -> None:
            one = rollouts_shadows.at_ease(bench, gateway, row, number, seconds, rate)
            results.shadows.append(one)
            say(
                f"{label}: {rate:,.0f}/s, p99 {one.p99_ms[0]:.2f} → {one.p99_ms[1]:.2f} ms "
                f"({one.ratio:.3f} ×), {one.copies:,.0f} copies, {one.shed:,.0f} shed"
            )

        def full() -> None:
            one = rollouts_shadows.saturated(bench, gateway, number, seconds)
            results.saturation.append(one)
            say(
                f"{label}: {one.per_second[0]:,.0f} → {one.per_second[1]:,.0f}/s ({one.ratio:.3f} ×), "
                f"{one.shed_share:.1%} of copies shed, {one.errors} errors"
            )

        return full if row == SATURATION else ease


if __name__ == "__main__":
    sys.exit(main())
