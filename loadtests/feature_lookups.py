"""Decides how the bench of feature lookups runs: the fronts, decoding, loading and Feast, as one table with verdicts.

`python -m loadtests.feature_lookups --help` tells the rest. It must never be quiet about a row that failed or a promise
that is not kept.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from loadtests import (
    feature_lookups_data,
    feature_lookups_load,
    feature_lookups_peers,
    feature_lookups_report,
    machine,
    quiet,
)
from loadtests.command import FAILED, NOT_KEPT, guarded
from loadtests.failures import BenchError
from loadtests.feature_lookups_load import Bench
from loadtests.feature_lookups_stage import inside, stage, store, write_parquet
from loadtests.feature_lookups_verdict import (
    DECODE,
    FEAST,
    LOAD,
    LOADS,
    NAMES,
    DecodeSample,
    LoadSample,
    Results,
    judge,
)
from loadtests.options import add_place
from loadtests.progress import say, show
from loadtests.report import verdict_table
from loadtests.rows import select, turned
from loadtests.servers import Protocol, find_headrace
from loadtests.workbench import claim_cores

_RESULTS = Path(__file__).with_name("results")
_EPILOG = """rows:
{rows}

exit status:
  0 all promises kept that could be measured    1 a row failed, or the bench could not run
  2 a wrong argument                            3 a promise is not kept

examples:
  python -m loadtests.feature_lookups
  python -m loadtests.feature_lookups --quick --no-feast
  python -m loadtests.feature_lookups --rows 'grpc-*' decode --rounds 3
"""
LOADED_COLUMNS = 20


class Timed(msgspec.Struct):
    """As `feature_lookups_inside decode` prints it."""

    least_us: float
    median_us: float


class Loaded(msgspec.Struct):
    """As `feature_lookups_inside load` prints it."""

    rows: int
    whole: float
    writing: float
    plain_sets: float
    row_bytes: int
    why_not: str


class Plan(msgspec.Struct, frozen=True):
    """How long and how often."""

    rounds: int
    seconds: float
    peer_rounds: int
    peer_iterations: int
    loaded_rows: int
    fill_s: float


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.feature_lookups",
        description="Measures what looking features up costs, beside values that are sent and beside Feast. "
        "Takes about twenty-five minutes, fifteen without Feast.",
        epilog=_EPILOG.format(rows="\n".join(f"  {name}" for name in NAMES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--rows", nargs="+", default=["*"], metavar="PATTERN", help="names or patterns (all rows)"
    )
    made.add_argument("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    made.add_argument("--seconds", type=float, default=3.0, help="of each load (%(default)s)")
    made.add_argument("--quick", action="store_true", help="one short round: does it work at all?")
    made.add_argument("--no-feast", action="store_true", help="without the row feast")
    made.add_argument(
        "--patience", type=float, default=0.0, help="wait so long for idle cores (%(default)s)"
    )
    add_place(made)
    made.add_argument("--output", type=Path, metavar="FILE.md", help="instead of results/")
    return made


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options come to."""
    if options.quick:
        return Plan(1, 1.0, 1, 10, 100_000, 1.5)
    return Plan(options.rounds, options.seconds, min(3, options.rounds), 60, 500_000, 4.0)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        sys.stderr.write("feature_lookups: at least one round, and one second for each load\n")
        return 2
    return guarded("feature_lookups", lambda: _bench(options))


def _bench(options: argparse.Namespace) -> int:
    names, plan = select(options.rows, NAMES), plan_of(options)
    if options.no_feast:
        names = [name for name in names if name != FEAST]
    cores = claim_cores(options.server_core, options.load_core)
    setting = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": f"`{shlex.join(['python', '-m', 'loadtests.feature_lookups', *sys.argv[1:]])}`",
        "git revision": machine.revision(),
        "rounds": f"{plan.rounds} of {plan.seconds:g} s a load; {plan.peer_rounds} beside Feast",
        "placed on": f"{cores}; the store beside the server",
        **machine.describe(),
        "packages": ", ".join(f"{name} {one}" for name, one in machine.package_versions().items()),
    }
    headrace = find_headrace(options.headrace)
    if headrace is None:
        raise BenchError("headrace is not installed: run `make setup`")
    folder = options.work.resolve()
    with stage(folder, headrace, options.server_core) as standing:
        bench = Bench(standing, options.server_core, options.load_core)
        results = FeatureLookups(bench, folder, names, plan, options.patience).run()
    verdicts = judge(results, names)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    page = options.output or _RESULTS / f"{day}-features.md"
    raw = feature_lookups_report.write(page, setting, results, verdicts)
    show(f"\n{verdict_table(verdicts)}\n\n{feature_lookups_report.busy_note(results)}\n")
    say(f"written: {os.path.relpath(page)} and {os.path.relpath(raw)}")
    for row, why in results.failed.items():
        sys.stderr.write(f"feature_lookups: row {row} FAILED: {why}\n")
    if results.failed:
        return FAILED
    return NOT_KEPT if any(one.status == "short" for one in verdicts) else 0


class FeatureLookups:
    """One bench from its first round to its last."""

    def __init__(
        self, bench: Bench, folder: Path, names: list[str], plan: Plan, patience_s: float
    ) -> None:
        self._bench = bench
        self._folder = folder
        self._names = names
        self._plan = plan
        self._patience_s = patience_s
        self.results = Results()

    def run(self) -> Results:
        """Measures all that was asked for; the order turns with each round."""
        rows = [name for name in self._names if name != FEAST]
        if any(name in LOADS for name in rows):
            feature_lookups_load.fill_copies(self._bench, self._plan.fill_s)
        for number in range(1, self._plan.rounds + 1):
            for row in turned(rows, number):
                label = f"round {number}/{self._plan.rounds} {row}"
                self._attempt(row, label, self._measures(row, number, label))
        if FEAST in self._names:
            self._feast()
        return self.results

    def _measures(self, row: str, number: int, label: str) -> Callable[[], None]:
        if row == DECODE:
            return lambda: self._decode(number, label)
        if row == LOAD:
            return lambda: self._load(number, label)
        return lambda: self._front(row, number, label)

    def _attempt(self, row: str, label: str, measure: Callable[[], None]) -> None:
        """One measurement; a row that failed or was skipped once is not tried again, and the others go on."""
        if row in self.results.failed or row in self.results.skipped:
            return
        cores = (self._bench.server_core, self._bench.load_core)
        if self._patience_s and not quiet.wait(cores, self._patience_s):
            say(f"{label}: still busy after {self._patience_s:g} s, measuring anyway")
        try:
            measure()
        except (BenchError, OSError) as problem:
            self.results.failed[row] = str(problem) or type(problem).__name__
            say(f"{label}: FAILED, {self.results.failed[row]}")

    def _front(self, row: str, number: int, label: str) -> None:
        front, _, entities = row.partition("-")
        protocol: Protocol = "grpc" if front == "grpc" else "http"
        seconds = self._plan.seconds
        for one in feature_lookups_load.measure(
            self._bench, protocol, int(entities), number, seconds
        ):
            self.results.loads.append(one)
            say(f"{label} {one.variant}: {one.summary}")

    def _decode(self, number: int, label: str) -> None:
        manifest, core = self._bench.stage.manifest, self._bench.server_core
        said = inside("decode", core, manifest=manifest, seconds=min(2.0, self._plan.seconds))
        found = msgspec.json.decode(said, type=dict[str, Timed])
        for name, views in (("wide", 1), ("parts", feature_lookups_data.PARTS)):
            one = found[name]
            self.results.decode.append(DecodeSample(number, views, one.least_us, one.median_us))
            say(f"{label}, {views} views: {one.median_us:.0f} µs, at least {one.least_us:.0f} µs")

    def _load(self, number: int, label: str) -> None:
        place = self._folder / "feature-lookups" / "to-load"
        if not place.exists():
            place.mkdir()
            write_parquet(place / "rows.parquet", self._plan.loaded_rows, LOADED_COLUMNS)
        with store(self._bench.server_core) as rows:
            said = inside("load", self._bench.load_core, url=rows.url, data=place)
        one = msgspec.json.decode(said, type=Loaded)
        if one.why_not:
            self.results.skipped[LOAD] = one.why_not
            say(f"{label}: {one.why_not}")
            return
        self.results.load.append(
            LoadSample(number, one.rows, one.whole, one.writing, one.plain_sets, one.row_bytes)
        )
        say(
            f"{label}: {one.whole:,.0f} rows/s, writing alone {one.writing:,.0f}, "
            f"plain SETs {one.plain_sets:,.0f}"
        )

    def _feast(self) -> None:
        if not feature_lookups_peers.feast_python().exists():
            self.results.skipped[FEAST] = "feast is not installed: sh scripts/feast_venv.sh"
            say(f"{FEAST}: skipped, {self.results.skipped[FEAST]}")
            return
        for number in range(1, self._plan.peer_rounds + 1):
            label = f"round {number}/{self._plan.peer_rounds} peers"
            self._attempt(FEAST, label, lambda n=number, of=label: self._peers(n, of))  # type: ignore[misc]

    def _peers(self, number: int, label: str) -> None:
        plan = self._plan
        seconds = min(2.0, plan.seconds)
        for cases, version in feature_lookups_peers.measure(
            self._bench, self._folder, number, plan.peer_iterations, seconds
        ):
            self.results.peers += cases
            if version:
                self.results.facts["Feast"] = version
            for one in cases:
                say(
                    f"{label}: {one.who}, {one.entities} entities, {one.views} views: "
                    f"p50 {one.p50_us:,.0f} µs, p99 {one.p99_us:,.0f} µs"
                )


if __name__ == "__main__":
    sys.exit(main())
