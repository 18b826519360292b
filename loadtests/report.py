"""Decides how a bench is told: a page in Markdown, and raw numbers in JSON beside it.

The verdict shows every promise. It must never leave out a row that failed or was skipped.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadtests import figures_tables, verdict
from loadtests.core_meter import DISTURBED
from loadtests.figures_tables import facts_table, reasons_table, table
from loadtests.measured import Results, median
from loadtests.server_metrics import LATE

_MARKS = {"pass": "pass", "short": "**short**", "not measured": "*not measured*"}


class Setting(msgspec.Struct, frozen=True):
    """Under which circumstances the figures were measured."""

    when: str
    command: str
    revision: str
    cores: str
    machine: dict[str, str]
    packages: dict[str, str]
    rounds: int
    seconds: float
    open_seconds: float
    arrivals: str


def write(markdown: Path, setting: Setting, results: Results) -> Path:
    """Writes both files; returns the JSON's path."""
    markdown.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text("\n\n".join(part for part in _page(setting, results) if part) + "\n")
    raw = markdown.with_suffix(".json")
    document = {"setting": setting, "results": results, "verdicts": verdict.judge(results)}
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return raw


def verdict_table(verdicts: list[verdict.Verdict]) -> str:
    """Every promise with what was measured."""
    lines = [[v.promise, v.limit, v.measured, _MARKS[v.status]] for v in verdicts]
    return table(["what", "limit", "measured", "verdict"], lines)


def busy_note(results: Results) -> str:
    """How many samples were disturbed, so that a reader knows what to believe."""
    shares = results.foreign_shares()
    busy = sum(share > DISTURBED for share in shares)
    if not busy:
        return ""
    return (
        f"{busy} of {len(shares)} samples were taken while others used more than "
        f"{DISTURBED:.0%} of one of the two cores: repeat on a quiet machine, or with --patience "
        "and --attempts, before judging by them."
    )


def _page(setting: Setting, results: Results) -> Iterable[str]:
    yield f"# Bench of {setting.when}"
    yield (
        f"Medians of {setting.rounds} interleaved rounds, {setting.seconds:g} s per closed-loop "
        f"row, {setting.open_seconds:g} s per open-loop row. {setting.cores}. CPU is user plus "
        "system time of the server's whole process tree over the load; it is the steadiest "
        "figure, rates and latencies follow the mood of the machine."
    )
    if results.closed:
        yield "## A fixed number of requests in flight\n\n" + figures_tables.closed(results)
        yield figures_tables.above_echo(results)
    if results.open_loop:
        yield "## Twice the capacity, with a deadline of 50 ms\n\n" + _open_loop(setting, results)
    yield _others(results)
    gaps = {**results.skipped, **results.failed}
    if gaps:
        yield "## Rows without figures\n\n" + reasons_table(gaps)
    yield "## Baselines beside their known cost\n\n" + verdict_table(verdict.baselines(results))
    yield "## Setting\n\n" + facts_table(_circumstances(setting))
    yield "## Verdict\n\n" + verdict_table(verdict.judge(results))
    yield busy_note(results)


def _open_loop(setting: Setting, results: Results) -> str:
    costs = ", ".join(f"{ms:.2f} at batch size {n}" for n, ms in results.heavy_row_ms.items())
    return (
        figures_tables.open_loop(results)
        + f"\n\nArrivals: {setting.arrivals}. The model's ms per row, timed alone: {costs}. "
        "Latency runs from the instant at which a request was due. Counts are medians of the "
        "rounds. Capacity is the mean of a closed loop before and one after. In time "
        f"is judged at the server's write by `{LATE}`, summed over the rounds; the client judges "
        "from the due time to the last byte, network and its own time included."
    )


def _others(results: Results) -> str:
    figures = {}
    if results.cold_start_s:
        each = ", ".join(f"{seconds:.2f}" for seconds in results.cold_start_s)
        figures["cold start to first answer, s"] = f"{median(results.cold_start_s):.2f} ({each})"
    for server in ("headrace", "starlette", "grpcaio"):
        size = results.resident_mb(server)
        if size is not None:
            figures[f"resident memory after load, {server}, MB"] = f"{size:.0f}"
    for layer, cost in results.pipeline_us.items():
        figures[f"in-process pipeline, {layer}, µs per request"] = f"{cost:.1f}"
    return "## Start, memory, pipeline\n\n" + facts_table(figures) if figures else ""


def _circumstances(setting: Setting) -> dict[str, str]:
    packages = ", ".join(f"{name} {version}" for name, version in setting.packages.items())
    return {
        "command": f"`{setting.command}`",
        "git revision": setting.revision,
        **setting.machine,
        "packages": packages,
    }
