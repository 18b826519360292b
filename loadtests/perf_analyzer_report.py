"""Decides what perf_analyzer's answer means and how its runs are told: a page in Markdown.

The program reports what a server says of itself (queue, compute) only where the server advertises
statistics, so those columns may be missing. It must never leave out a row that failed, nor show
figures without saying how far others disturbed them.
"""

import csv
import io
import re
import shlex
from collections.abc import Iterable, Sequence

import msgspec

from loadtests.core_meter import DISTURBED
from loadtests.failures import BenchError
from loadtests.figures_tables import facts_table, table

QUIET_WINDOW_MS = 5000
"""perf_analyzer's own default; figures of shorter windows are only a sign of life."""

_ERROR = re.compile(r"^.*\berror:", re.IGNORECASE)
_SERVER_COLUMNS = {
    "Server Queue": "queue",
    "Server Compute Input": "input",
    "Server Compute Infer": "infer",
    "Server Compute Output": "output",
}


class Figures(msgspec.Struct, frozen=True):
    """One line of perf_analyzer's CSV. Times in µs; `server_us` is what the server says of itself, on average."""

    per_second: float
    p50_us: float
    p95_us: float
    p99_us: float
    server_us: dict[str, float]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one row: its figures, or why there are none."""

    row: str
    arguments: tuple[str, ...]
    figures: Figures | None = None
    steady: bool = True
    others_on_a_core: float = 0.0
    why_not: str = ""


class Trial(msgspec.Struct, frozen=True):
    """What became of one option: `refusal` is empty where it works."""

    name: str
    protocol: str
    arguments: str
    is_offered: bool
    refusal: str

    @property
    def is_as_told(self) -> bool:
        """Whether what happened is what the list of options says."""
        return self.is_offered == (not self.refusal)


class Circumstances(msgspec.Struct, frozen=True):
    """Under which the rows were measured."""

    when: str
    command: str
    window_ms: int
    facts: dict[str, str]
    extensions: tuple[str, ...]


def parse(text: str) -> Figures:
    """The one line of figures in perf_analyzer's CSV. Raises `BenchError`."""
    lines = list(csv.DictReader(io.StringIO(text)))
    if len(lines) != 1:
        raise BenchError(f"perf_analyzer wrote {len(lines)} lines of figures instead of one")
    (line,) = lines
    try:
        return Figures(
            per_second=float(line["Inferences/Second"]),
            p50_us=float(line["p50 latency"]),
            p95_us=float(line["p95 latency"]),
            p99_us=float(line["p99 latency"]),
            server_us={
                short: float(line[name]) for name, short in _SERVER_COLUMNS.items() if name in line
            },
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise BenchError(f"perf_analyzer wrote a CSV that cannot be read: {text}") from problem


def page(
    circumstances: Circumstances, outcomes: Sequence[Outcome], trials: Sequence[Trial] = ()
) -> str:
    """The whole page."""
    return "\n\n".join(part for part in _parts(circumstances, outcomes, trials) if part) + "\n"


def figures_table(outcomes: Iterable[Outcome]) -> str:
    """A line for each row, also for those without figures."""
    columns = ["row", "infer/s", "p50 µs", "p95 µs", "p99 µs"]
    columns += ["server: queue · input · infer · output, µs", "others on a core"]
    return table(columns, [_line(outcome) for outcome in outcomes])


def trials_table(trials: Iterable[Trial]) -> str:
    """A line for each option that was tried."""
    return table(["what", "over", "option", "result"], [_trial_line(trial) for trial in trials])


def _parts(
    circumstances: Circumstances, outcomes: Sequence[Outcome], trials: Sequence[Trial]
) -> Iterable[str]:
    yield "# perf_analyzer"
    yield (
        "[perf_analyzer](https://github.com/triton-inference-server/perf_analyzer) is the load "
        "generator of the Triton project. It asks a server for its metadata and configuration, "
        "makes up requests that fit, and measures from outside. It drives Headrace as it drives "
        "Triton, on both fronts:"
    )
    yield "```console\n$ make perf-analyzer\n$ make perf-analyzer ARGS=--help\n```"
    yield (
        "This page is what that command wrote. The program, with two libraries that it loads, is "
        "unpacked below `.bench/` from a wheel that runs on Debian 12; nothing is installed. "
        f"Measured on {circumstances.when}."
    )
    yield _smoke(circumstances)
    yield "## Figures\n\n" + figures_table(outcomes)
    yield (
        "`c1` and `c16` keep that many calls in flight and wait for each answer. `rate` sends when "
        "a Poisson process says so, whether earlier calls were answered or not: read latencies "
        "there. Each row holds one row of 32 floats. " + _statistics(circumstances)
    )
    yield _doubts(outcomes)
    yield "## Other options, tried once\n\n" + trials_table(trials)
    yield "## Command lines\n\n" + _command_lines(outcomes)
    facts = {"command": f"`{circumstances.command}`", **circumstances.facts}
    yield "## Setting\n\n" + facts_table(facts)


def _line(outcome: Outcome) -> list[str]:
    figures = outcome.figures
    if figures is None:
        return [outcome.row, f"*{_reason(outcome.why_not)}*", *["–"] * 5]
    split = " · ".join(f"{us:.0f}" for us in figures.server_us.values())
    return [
        outcome.row,
        f"{figures.per_second:,.0f}" + ("" if outcome.steady else " (unsteady)"),
        f"{figures.p50_us:,.0f}",
        f"{figures.p95_us:,.0f}",
        f"{figures.p99_us:,.0f}",
        split or "–",
        f"{outcome.others_on_a_core:.0%}",
    ]


def _trial_line(trial: Trial) -> list[str]:
    result = f"refused: *{_reason(trial.refusal)}*" if trial.refusal else "works"
    if not trial.is_as_told:
        result = f"**not as it should be:** {result}"
    front = "REST" if trial.protocol == "http" else "gRPC"
    return [trial.name, front, f"`{trial.arguments}`", result]


def _reason(said: str) -> str:
    """The first line that speaks of an error, or the last line."""
    lines = said.strip().splitlines()
    told = next((line for line in lines if _ERROR.search(line)), lines[-1])
    return _ERROR.sub("", told).strip().replace("|", "/")[:200]


def _smoke(circumstances: Circumstances) -> str:
    if circumstances.window_ms >= QUIET_WINDOW_MS:
        return ""
    return (
        f"**Smoke run:** windows of {circumstances.window_ms} ms show that every row works. Do not "
        "quote the figures."
    )


def _statistics(circumstances: Circumstances) -> str:
    if "statistics" in circumstances.extensions:
        return (
            "What the server says of itself comes from its statistics: averages per call, read "
            "before and after each window."
        )
    return "This server advertises no statistics, so perf_analyzer could not ask it for its own."


def _doubts(outcomes: Sequence[Outcome]) -> str:
    measured = [outcome for outcome in outcomes if outcome.figures]
    disturbed = sum(outcome.others_on_a_core > DISTURBED for outcome in measured)
    doubts = []
    if disturbed:
        doubts.append(
            f"During {disturbed} of {len(measured)} rows others used more than {DISTURBED:.0%} of "
            "one of the two cores: repeat on a quiet machine before judging by them."
        )
    if not all(outcome.steady for outcome in measured):
        doubts.append(
            "*Unsteady*: no three windows in a row agreed as closely as was asked, so the figures "
            "are those of three windows that did not."
        )
    return " ".join(doubts)


def _command_lines(outcomes: Iterable[Outcome]) -> str:
    lines = "\n".join(
        f"perf_analyzer {shlex.join(outcome.arguments)}"
        for outcome in outcomes
        if outcome.arguments
    )
    return f"```\n{lines}\n```"
