"""Decides what metrics and traces cost: the same load with and without them, side by side.

Every round starts a fresh server for each variant and protocol, and the order turns with the round, so that a slow
minute of the machine falls on all of them. A figure is the median of its rounds; a cost is the ratio of two such
medians. It must never compare figures of different loads or lengths, nor write a page about a broken row.
"""

import argparse
import contextlib
import http.server
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from loadtests import closed_loop, machine, quiet
from loadtests.command import NOT_KEPT, guarded
from loadtests.figures_tables import facts_table, table
from loadtests.measured import ClosedSample, median
from loadtests.options import add_place
from loadtests.progress import say, show
from loadtests.rows import ClosedRow, turned
from loadtests.server_process import running
from loadtests.servers import find_headrace
from loadtests.workbench import Workbench, claim_cores, prepare

AT_LEAST = 0.95
"""The share of the throughput without them that has to be left."""
LOADS = (
    ClosedRow("http-32", "headrace", "http", 32, 1),
    ClosedRow("grpc-8x8", "headrace", "grpc", 8, 8),
)
VARIANTS = ("nothing", "metrics", "metrics and 1% traces")
NOTHING, METRICS, TRACES = VARIANTS
PAIRS = ((METRICS, NOTHING), (TRACES, METRICS), (TRACES, NOTHING))

_RESULTS = Path(__file__).with_name("results")


class Cost(msgspec.Struct, frozen=True):
    """What one variant leaves of another's throughput, under one load."""

    load: str
    variant: str
    beside: str
    throughput: float
    """Ratio of the medians of requests per second."""
    cpu: float
    """Ratio of the medians of CPU time per request."""

    @property
    def is_kept(self) -> bool:
        """Whether the promise holds."""
        return self.throughput >= AT_LEAST


def judge(samples: list[ClosedSample]) -> list[Cost]:
    """The costs of all pairs that were measured; samples are named ``<load>: <variant>``."""
    costs = []
    for load in LOADS:
        for variant, beside in PAIRS:
            mine = [one for one in samples if one.row == f"{load.name}: {variant}"]
            theirs = [one for one in samples if one.row == f"{load.name}: {beside}"]
            if not mine or not theirs:
                continue
            costs.append(
                Cost(
                    load=load.name,
                    variant=variant,
                    beside=beside,
                    throughput=_ratio([s.per_second for s in mine], [s.per_second for s in theirs]),
                    cpu=_ratio([s.cpu_us for s in mine], [s.cpu_us for s in theirs]),
                )
            )
    return costs


def _ratio(mine: list[float], theirs: list[float]) -> float:
    upper, lower = median(mine), median(theirs)
    assert upper is not None
    assert lower
    return upper / lower


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes every post and keeps nothing: a collector that is never the bottleneck."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """The address of a collector on the load's core."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(variant: str, endpoint: str) -> str:
    """The settings file of a variant."""
    lines = ["[telemetry]", f"metrics = {str(variant != NOTHING).lower()}"]
    if variant == TRACES:
        lines += [f'otlp_endpoint = "{endpoint}"', "trace_sample_ratio = 0.01"]
    return "\n".join(lines) + "\n"


def measure(bench: Workbench, rounds: int, seconds: float, patience_s: float) -> list[ClosedSample]:
    """All samples, in the order in which they were taken."""
    samples: list[ClosedSample] = []
    cases = [(load, variant) for load in LOADS for variant in VARIANTS]
    with collector() as endpoint:
        for number in range(1, rounds + 1):
            for load, variant in turned(cases, number):
                if patience_s:
                    quiet.wait((bench.server_core, bench.load_core), patience_s)
                samples.append(_sample(bench, load, variant, endpoint, number, seconds))
                say(f"round {number}/{rounds} {samples[-1].row}: {samples[-1].summary}")
    return samples


def _sample(
    bench: Workbench, load: ClosedRow, variant: str, endpoint: str, number: int, seconds: float
) -> ClosedSample:
    file = bench.folder / "telemetry.toml"
    file.write_text(settings(variant, endpoint))
    command = [*bench.servers.command("headrace"), "--config", str(file)]
    row = ClosedRow(
        f"{load.name}: {variant}", load.server, load.protocol, load.connections, load.streams
    )
    with running("headrace", command, bench.server_core, bench.logs) as server:
        return closed_loop.measure(bench, server, row, number, seconds)


def page(samples: list[ClosedSample], costs: list[Cost], command: str) -> str:
    """The result in Markdown."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    rows = dict.fromkeys(one.row for one in samples)
    measured = [
        [
            row,
            f"{median(s.per_second for s in samples if s.row == row):,.0f}",
            f"{median(s.cpu_us for s in samples if s.row == row):.1f}",
            f"{median(s.p99_us for s in samples if s.row == row):,.0f}",
            f"{max(s.foreign_core for s in samples if s.row == row):.0%}",
        ]
        for row in sorted(rows)
    ]
    judged = [
        [
            one.load,
            f"{one.variant} beside {one.beside}",
            f"{one.throughput:.1%}",
            f"{one.cpu:.1%}",
            "pass" if one.is_kept else "**short**",
        ]
        for one in costs
    ]
    around = {"command": f"`{command}`", "git revision": machine.revision(), **machine.describe()}
    parts = [
        f"# What telemetry costs, {when}",
        (
            f"Medians of {max(s.round for s in samples)} interleaved rounds; at least "
            f"{AT_LEAST:.0%} of the throughput has to be left. Traces are those of 1% of the calls, "
            "at most `telemetry.trace_max_per_s`. The fronts count their calls in every variant."
        ),
        table(["load", "what", "throughput", "CPU per request", "verdict"], judged),
        table(["row", "requests/s", "CPU µs", "p99 µs", "others on a core, at most"], measured),
        facts_table(around),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return guarded("telemetry_cost", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    server_core, load_core = options.server_core, options.load_core
    claim_cores(server_core, load_core)
    headrace = find_headrace(options.headrace)
    bench = prepare(options.work.resolve(), headrace, server_core, load_core)
    samples = measure(bench, options.rounds, options.seconds, options.patience)
    costs = judge(samples)
    command = shlex.join(["python", "-m", "loadtests.telemetry_cost", *sys.argv[1:]])
    text = page(samples, costs, command)
    show(text)
    if options.output is None:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        options.output = _RESULTS / f"{day}-telemetry.md"
    options.output.write_text(text)
    raw = msgspec.json.encode({"samples": samples, "costs": costs})
    options.output.with_suffix(".json").write_bytes(msgspec.json.format(raw, indent=1) + b"\n")
    return 0 if all(one.is_kept for one in costs) else NOT_KEPT


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtests.telemetry_cost",
        description="Measures the gateway with and without metrics and traces, side by side. "
        "Exit status: 0 all promises kept, 1 it could not run, 3 a promise is not kept.",
    )
    made.add_argument("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    made.add_argument("--seconds", type=float, default=4.0, help="load per row (%(default)s)")
    made.add_argument(
        "--patience", type=float, default=0.0, help="wait so long for idle cores (%(default)s)"
    )
    add_place(made)
    made.add_argument("--output", type=Path, metavar="FILE.md", help="instead of results/")
    return made


if __name__ == "__main__":
    sys.exit(main())
