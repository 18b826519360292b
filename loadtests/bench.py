"""Decides what happens between a typed command and its exit status.

`python -m loadtests.bench --help` tells the rest. It must never be quiet about a row that
failed, nor write a result of a bench that did not run to its end.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from loadtests import machine, report, rows, verdict
from loadtests.campaign import Campaign, Plan
from loadtests.command import FAILED, NOT_KEPT, guarded
from loadtests.options import parser
from loadtests.progress import say, show
from loadtests.servers import find_headrace
from loadtests.workbench import claim_cores, prepare

_RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.list:
        show("\n".join(rows.NAMES))
        return 0
    return guarded("bench", lambda: _bench(options))


def _bench(options: argparse.Namespace) -> int:
    plan = Plan(
        names=rows.select(options.rows),
        rounds=options.rounds,
        seconds=options.seconds,
        open_seconds=options.open_seconds,
        arrivals=options.arrivals,
        patience_s=options.patience,
        attempts=options.attempts,
    )
    cores = claim_cores(options.server_core, options.load_core)
    setting = _setting(plan, cores)
    headrace = find_headrace(options.headrace)
    bench = prepare(options.work.resolve(), headrace, options.server_core, options.load_core)
    say(f"{len(plan.names)} rows, {plan.rounds} rounds. {cores}")
    results = Campaign(bench, plan).run()
    day = time.strftime("%Y-%m-%d", time.gmtime())
    page = options.output or _RESULTS / f"{day}-{options.what}.md"
    raw = report.write(page, setting, results)
    verdicts = verdict.judge(results)
    show("\n" + report.verdict_table(verdict.baselines(results)))
    show("\n" + report.verdict_table(verdicts) + "\n\n" + report.busy_note(results) + "\n")
    say(f"written: {os.path.relpath(page)} and {os.path.relpath(raw)}")
    for row, why in results.failed.items():
        sys.stderr.write(f"bench: row {row} FAILED: {why}\n")
    if results.failed:
        return FAILED
    return NOT_KEPT if options.strict and not verdict.kept(verdicts) else 0


def _setting(plan: Plan, cores: str) -> report.Setting:
    return report.Setting(
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=shlex.join(["python", "-m", "loadtests.bench", *sys.argv[1:]]),
        revision=machine.revision(),
        cores=cores,
        machine=machine.describe(),
        packages=machine.package_versions(),
        rounds=plan.rounds,
        seconds=plan.seconds,
        open_seconds=plan.open_seconds,
        arrivals=plan.arrivals,
    )


if __name__ == "__main__":
    sys.exit(main())
