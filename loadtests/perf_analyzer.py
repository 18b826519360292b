"""Decides how perf_analyzer is pointed at the gateway: which rows, over which front, how long.

A real `headrace serve` on one core and the program on another; every row is a command line that
anybody can repeat. It must never change the gateway for the program's sake, nor pass over a row
that failed: the exit status tells.
"""

import argparse
import os
import shlex
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import msgspec

from loadtests import machine, models, perf_analyzer_report, perf_analyzer_tool, protobuf_payload
from loadtests.command import FAILED, guarded
from loadtests.core_meter import CoreMeter
from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator
from loadtests.options import add_place
from loadtests.perf_analyzer_report import Circumstances, Outcome, Trial
from loadtests.perf_analyzer_rows import OPTIONS, Option, Row, rows
from loadtests.progress import say, show
from loadtests.server_process import ServerProcess, running
from loadtests.servers import Catalogue, find_headrace

_PAGE = Path(__file__).parents[1] / "docs" / "perf-analyzer.md"
_PROBE_TIMEOUT_S = 10.0
_ROW_TIMEOUT_S = 300.0
_TRIAL_TIMEOUT_S = 60.0
_ANY_SPREAD = 1000  # percent: whatever the windows say


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return guarded("perf-analyzer", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not {options.server_core, options.load_core} <= os.sched_getaffinity(0):
        raise BenchError(
            f"this process may not use cores {options.server_core} and {options.load_core}"
        )
    tool = perf_analyzer_tool.find(work)
    facts = {
        "perf_analyzer": perf_analyzer_tool.version(tool),
        "git revision": machine.revision(),
        **machine.describe(),
        "cores used": f"server on core {options.server_core}, load on core {options.load_core}",
        "packages": ", ".join(f"{n} {v}" for n, v in machine.package_versions().items()),
    }
    catalogue = Catalogue(models.write_repository(work / "models"), find_headrace(options.headrace))
    command = catalogue.command("headrace")
    with running("perf-analyzer-headrace", command, options.server_core, work / "logs") as server:
        extensions = _extensions(server)
        with_stream = _streams(server)
        outcomes = []
        for row in rows(options.rate, with_stream):
            outcomes.append(_measure(row, server, tool, options, work))
            _tell(outcomes[-1])
        trials = [_try(option, server, tool, options.load_core) for option in OPTIONS]
    if not with_stream:
        why = "not measured: this server does not offer ModelStreamInfer"
        outcomes.append(Outcome("gRPC stream", (), why_not=why))
    circumstances = Circumstances(
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=shlex.join(["python", "-m", "loadtests.perf_analyzer", *sys.argv[1:]]),
        window_ms=options.window_ms,
        facts=facts,
        extensions=extensions,
    )
    page: Path = options.output
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(perf_analyzer_report.page(circumstances, outcomes, trials), "utf-8")
    show("\n" + perf_analyzer_report.figures_table(outcomes) + "\n")
    show(perf_analyzer_report.trials_table(trials) + "\n")
    say(f"written: {os.path.relpath(page)}")
    failed = [outcome for outcome in outcomes if outcome.arguments and not outcome.figures]
    return FAILED if failed or not all(trial.is_as_told for trial in trials) else 0


def _measure(
    row: Row, server: ServerProcess, tool: LoadGenerator, options: argparse.Namespace, work: Path
) -> Outcome:
    host, port = server.address(row.protocol)
    report = work / "perf_analyzer.csv"
    meter = CoreMeter(server, options.server_core, options.load_core)
    steady, why_not, figures = True, "", None
    shown = _arguments(row, f"{host}:<port>", options.window_ms, options.spread, options.trials)
    for spread, trials in ((options.spread, options.trials), (_ANY_SPREAD, 3)):
        report.unlink(missing_ok=True)
        arguments = _arguments(row, f"{host}:{port}", options.window_ms, spread, trials)
        steady = spread == options.spread
        try:
            tool.run([*arguments, "-f", str(report)], options.load_core, _ROW_TIMEOUT_S)
            figures, why_not = perf_analyzer_report.parse(report.read_text()), ""
            break
        except (BenchError, OSError) as problem:
            why_not = str(problem)
            if "Failed to obtain stable measurement" not in why_not:
                break
    others = meter.read().foreign_share
    return Outcome(row.name, shown, figures, steady, others, why_not)


def _try(option: Option, server: ServerProcess, tool: LoadGenerator, core: int) -> Trial:
    host, port = server.address(option.protocol)
    row = Row(option.name, option.protocol, (*option.arguments, "--concurrency-range", "4"))
    refusal = ""
    try:
        tool.run([*_arguments(row, f"{host}:{port}", 300, _ANY_SPREAD, 3)], core, _TRIAL_TIMEOUT_S)
    except BenchError as problem:
        refusal = str(problem)
    return Trial(
        option.name, option.protocol, shlex.join(option.arguments), option.is_offered, refusal
    )


def _arguments(row: Row, address: str, window_ms: int, spread: int, trials: int) -> tuple[str, ...]:
    kind = ("-m", models.TINY, "-i", row.protocol, "-u", address, *row.arguments)
    steadiness = ("-p", str(window_ms), "-s", str(spread), "-r", str(trials))
    return (*kind, *steadiness)


def _tell(outcome: Outcome) -> None:
    if outcome.figures:
        figures = outcome.figures
        rest = f"{figures.per_second:10,.0f} infer/s, p99 {figures.p99_us:,.0f} µs"
        say(f"{outcome.row:36}{rest}{'' if outcome.steady else ' (unsteady)'}")
    else:
        say(f"{outcome.row:36}FAILED: {outcome.why_not}")


def _extensions(server: ServerProcess) -> tuple[str, ...]:
    """What the server advertises in its metadata."""
    host, port = server.address("http")
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/v2", timeout=_PROBE_TIMEOUT_S) as reply:
            return tuple(msgspec.json.decode(reply.read())["extensions"])
    except (OSError, KeyError, TypeError, msgspec.DecodeError) as problem:
        raise BenchError(f"no server metadata: {problem}") from problem


def _streams(server: ServerProcess) -> bool:
    """Whether one message on a stream is answered; perf_analyzer would wait for it without end."""
    host, port = server.address("grpc")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        call: grpc.StreamStreamMultiCallable[bytes, bytes]
        call = channel.stream_stream(protobuf_payload.STREAM_PATH)
        replies = call(
            iter([protobuf_payload.infer_request(models.TINY)]), timeout=_PROBE_TIMEOUT_S
        )
        try:
            return any(True for _ in replies)
        except grpc.RpcError as problem:
            if replies.code() == grpc.StatusCode.UNIMPLEMENTED:
                return False
            raise BenchError(f"a stream failed: {problem}") from problem


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtests.perf_analyzer",
        description="Drives the gateway with Triton's perf_analyzer and writes a page about it.",
        epilog="exit status: 0 every row has figures, 1 a row failed or nothing could be run",
    )
    made.add_argument(
        "--window-ms", type=int, default=5000, help="one measuring window (%(default)s)"
    )
    made.add_argument(
        "--spread", type=int, default=10, metavar="PERCENT",
        help="by how much three windows may differ (%(default)s)",
    )  # fmt: skip
    made.add_argument("--trials", type=int, default=6, help="windows at most (%(default)s)")
    made.add_argument(
        "--rate", type=int, default=2000, help="calls per second of the open loop (%(default)s)"
    )
    add_place(made)
    made.add_argument("--output", type=Path, default=_PAGE, metavar="FILE.md", help="the page")
    return made


if __name__ == "__main__":
    sys.exit(main())
