"""Decides how a soak runs: an hour at half load with every kind of odd client, and memory watched all the time.

`python -m loadtests.soak --help` tells the rest. It must never pass a soak that was cut short, and it leaves no server
behind.
"""

import argparse
import asyncio
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from loadtests import machine, process_tree, soak_load, soak_report
from loadtests.command import FAILED, guarded
from loadtests.failures import BenchError
from loadtests.options import add_place
from loadtests.progress import say, show
from loadtests.server_metrics import samples_of, scrape
from loadtests.server_process import ServerProcess, running
from loadtests.servers import Protocol, find_headrace
from loadtests.soak_clients import OddClients
from loadtests.soak_load import SteadyLoad
from loadtests.soak_verdict import Evidence, Sample, judge
from loadtests.workbench import Workbench, prepare

_RESULTS = Path(__file__).with_name("results")
FRONTS: tuple[Protocol, ...] = ("http", "grpc")
CAPACITY_S = 5.0
EMPTY_WITHIN_S = 15.0
_GAUGES = (
    "headrace_inflight_requests",
    "headrace_inflight_bytes",
    "headrace_queue_requests",
    "headrace_connections",
)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.soak",
        description="Drives both fronts at a share of their capacity for a long time, with odd clients beside.",
        epilog="exit status: 0 all promises kept, 1 a promise broken or the soak could not run",
    )
    made.add_argument("--minutes", type=float, default=60.0, help="how long (%(default)s)")
    made.add_argument("--seconds", type=float, help="instead of minutes: a look whether it works")
    made.add_argument(
        "--share", type=float, default=0.5, help="of the measured capacity (%(default)s)"
    )
    made.add_argument(
        "--growth", type=float, default=0.05, help="of resident memory, allowed (%(default)s)"
    )
    made.add_argument("--workers", type=int, default=1, help="worker processes (%(default)s)")
    add_place(made)
    made.add_argument("--output", type=Path, metavar="FILE.md", help="instead of <date>-soak.md")
    return made


@dataclass(frozen=True, slots=True)
class Plan:
    """What a person asked for, in seconds."""

    duration_s: float
    share: float
    growth: float

    @property
    def settle_s(self) -> float:
        """Before this, memory may grow: five minutes, less in a short soak."""
        return min(300.0, self.duration_s / 4)

    @property
    def sample_s(self) -> float:
        """Between two looks."""
        return min(10.0, self.duration_s / 20)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = parser().parse_args(arguments)
    duration_s = options.seconds or options.minutes * 60
    if duration_s < 10:
        sys.stderr.write("soak: at least 10 seconds, please\n")
        return 2
    plan = Plan(duration_s, options.share, options.growth)
    return guarded("soak", lambda: _soak(options, plan))


def _soak(options: argparse.Namespace, plan: Plan) -> int:
    usable = os.sched_getaffinity(0)
    if not {options.server_core, options.load_core} <= usable:
        raise BenchError(f"this process may use the cores {sorted(usable)} only")
    os.sched_setaffinity(0, {options.load_core})
    bench = prepare(
        options.work.resolve(),
        find_headrace(options.headrace),
        options.server_core,
        options.load_core,
    )
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    command = [*bench.servers.command("headrace"), f"--workers={options.workers}"]
    with running("headrace", command, bench.server_core, bench.logs) as server:
        per_s = _half(bench, server, plan.share)
        evidence, minutes = asyncio.run(_Soak(bench, server, plan, per_s).run())
    findings = judge(evidence, plan.growth)
    setting = {
        "when": began,
        "command": f"`{shlex.join(['python', '-m', 'loadtests.soak', *sys.argv[1:]])}`",
        "git revision": machine.revision(),
        "load": ", ".join(f"{rate:,.0f} {front} calls/s" for front, rate in per_s.items())
        + f" ({plan.share:.0%} of the capacity measured before), and the odd clients",
        "workers": str(options.workers),
        "placed on": f"server core {options.server_core}, load core {options.load_core}",
        **machine.describe(),
    }
    day = time.strftime("%Y-%m-%d", time.gmtime())
    page = options.output or _RESULTS / f"{day}-soak.md"
    soak_report.write(page, plan.duration_s, setting, minutes, findings)
    show("\n" + soak_report.verdict_table(findings) + "\n")
    say(f"written: {os.path.relpath(page)}")
    return 0 if all(finding.kept for finding in findings) else FAILED


def _half(bench: Workbench, server: ServerProcess, share: float) -> dict[Protocol, float]:
    """Calls per second for each front: both together are ``share`` of what the server can do."""
    rates: dict[Protocol, float] = {}
    for protocol in FRONTS:
        on = soak_load.front(bench, server, protocol)
        soak_load.drive(bench.h2load, on, bench.load_core, 1, None)
        _, capacity = soak_load.drive(bench.h2load, on, bench.load_core, CAPACITY_S, None)
        rates[protocol] = capacity * share / len(FRONTS)
        say(f"{protocol}: {capacity:,.0f} calls/s at most, {rates[protocol]:,.0f} from now on")
    return rates


class _Soak:
    """One run over one server."""

    def __init__(
        self, bench: Workbench, server: ServerProcess, plan: Plan, per_s: dict[Protocol, float]
    ) -> None:
        self._server = server
        self._plan = plan
        self._clients = OddClients(server.address("http"), server.address("grpc"))
        self._load = SteadyLoad(bench.h2load, bench.load_core, per_s)
        self._fronts = [soak_load.front(bench, server, protocol) for protocol in FRONTS]
        self._evidence = Evidence(settle_s=plan.settle_s, provoked=self._clients.provoked)
        self._minutes: list[soak_report.Minute] = []
        self._began_s = time.monotonic()

    async def run(self) -> tuple[Evidence, list[soak_report.Minute]]:
        """Loads, looks, ends the load, and looks again."""
        evidence, duration_s = self._evidence, self._plan.duration_s
        before = await asyncio.to_thread(self._outcomes)
        await asyncio.to_thread(self._wait_until_empty)
        evidence.files_before = process_tree.open_files(self._server.pid)
        self._began_s = time.monotonic()
        self._load.start(self._fronts, self._began_s + duration_s)
        await self._clients.start()
        try:
            await self._watch()
        finally:
            await self._clients.stop()
            await asyncio.to_thread(self._load.join)
        evidence.failures = [*self._clients.failures, *self._load.failures]
        evidence.left_inside = await asyncio.to_thread(self._wait_until_empty)
        evidence.files_after = process_tree.open_files(self._server.pid)
        after = await asyncio.to_thread(self._outcomes)
        evidence.outcomes = {name: count - before.get(name, 0) for name, count in after.items()}
        return evidence, self._minutes

    async def _watch(self) -> None:
        plan, step_s = self._plan, self._plan.sample_s
        row_s = max(plan.duration_s / 60, min(60.0, plan.duration_s / 5))
        next_row_s = row_s
        seen: list[Sample] = []
        for number in range(1, int(plan.duration_s / step_s) + 1):
            await asyncio.sleep(max(0.0, self._began_s + number * step_s - time.monotonic()))
            self._server.check_alive()
            seen.append(await asyncio.to_thread(self._look))
            self._evidence.samples.append(seen[-1])
            if seen[-1].at_s >= next_row_s - step_s / 2:
                self._tell(seen)
                next_row_s += row_s
                seen = seen[-1:]

    def _tell(self, seen: list[Sample]) -> None:
        clients, load = self._clients, self._load
        row = soak_report.minute(
            seen,
            answered={front: load.answered[front] for front in FRONTS},
            odd=sum(clients.counts.values()),
            failures=len(clients.failures) + len(load.failures),
            plain_s=sorted(clients.plain_s),
        )
        clients.plain_s.clear()
        self._minutes.append(row)
        say(soak_report.line(row))

    def _look(self) -> Sample:
        pid = self._server.pid
        gauges = self._gauges()
        return Sample(
            at_s=time.monotonic() - self._began_s,
            resident_bytes=process_tree.resident_bytes(pid),
            open_files=process_tree.open_files(pid),
            threads=process_tree.threads(pid),
            inflight_requests=gauges["headrace_inflight_requests"],
            connections=gauges["headrace_connections"],
            cpu_s=process_tree.cpu_seconds(pid),
        )

    def _gauges(self) -> dict[str, float]:
        exposition = self._exposition()
        return {name: sum(samples_of(exposition, name).values()) for name in _GAUGES}

    def _outcomes(self) -> dict[str, float]:
        counted: dict[str, float] = {}
        for labels, value in samples_of(self._exposition(), "headrace_infer_calls_total").items():
            outcome = dict(labels)["outcome"]
            counted[outcome] = counted.get(outcome, 0.0) + value
        return counted

    def _exposition(self) -> str:
        text = scrape(*self._server.address("admin"))
        if not text:
            raise BenchError("the admin port does not tell its metrics any more")
        return text

    def _wait_until_empty(self) -> dict[str, float]:
        """The gauges when they are all zero, or after some seconds as they are."""
        until_s = time.monotonic() + EMPTY_WITHIN_S
        while True:
            gauges = self._gauges()
            if not any(gauges.values()) or time.monotonic() > until_s:
                return gauges
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
