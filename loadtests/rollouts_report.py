"""Decides how the rollouts bench is told: a page in Markdown, and raw numbers in JSON beside it.

It must never leave out a row that failed or could not be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from loadtests.core_meter import DISTURBED
from loadtests.figures_tables import facts_table, reasons_table, table
from loadtests.load_result import percentile
from loadtests.measured import median
from loadtests.report import verdict_table
from loadtests.rollouts_verdict import (
    MICRO,
    NO_ROLLOUTS,
    SHADOWS,
    VARIANTS,
    WIRES,
    Results,
    figure_of,
    stack_added_us,
    wire_added_us,
)
from loadtests.verdict import Verdict


def write(
    markdown: Path, setting: dict[str, str], results: Results, verdicts: Sequence[Verdict]
) -> Path:
    """Writes both files; returns the JSON's path."""
    markdown.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text("\n\n".join(part for part in page(setting, results, verdicts)) + "\n")
    raw = markdown.with_suffix(".json")
    document = {"setting": setting, "results": results, "verdicts": list(verdicts)}
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return raw


def busy_note(results: Results) -> str:
    """How many samples were disturbed; nothing when none was."""
    shares = results.shares()
    busy = sum(share > DISTURBED for share in shares)
    if not busy:
        return ""
    return (
        f"{busy} of {len(shares)} samples were taken while others used more than {DISTURBED:.0%} of one of the two "
        "cores: repeat on a quiet machine before judging by them."
    )


def page(setting: dict[str, str], results: Results, verdicts: Sequence[Verdict]) -> Iterable[str]:
    """The parts of the page that have something to say."""
    yield f"# Rollouts bench, {setting.get('when', '')}"
    yield (
        "What is compared was measured within one round; figures are medians over the rounds with a 95 % bootstrap "
        "interval of the median, failures are sums."
    )
    yield verdict_table(list(verdicts))
    if note := busy_note(results):
        yield note
    yield from tables(results)
    if results.failed:
        yield "## Rows without figures\n\n" + reasons_table(results.failed)
    yield "## Setting\n\n" + facts_table(setting)


def tables(results: Results) -> Iterable[str]:
    """A section for each kind of row that was measured."""
    if results.stack:
        yield (
            "## The stack without sockets\n\nFrom JSON body to reply body, 32 at once, one key: CPU µs a request.\n\n"
            + _stack(results)
        )
    if results.wire:
        yield (
            "## Over sockets\n\nTwo equal models of one gateway, one with a plan (50 %, key from a header). One user: "
            "batches are as large as without a plan. Many users: each arm has batches of its own, half as large, "
            "which costs more than routing does.\n\n" + _wire(results)
        )
    if results.changes:
        yield "## Changes of weights under load\n\n" + _changes(results)
    if results.shadows:
        yield (
            "## Copies while CPU is available\n\nOpen loop, at a rate that uses half of a core without copies; "
            "the same arrivals without and with them.\n\n" + _shadows(results)
        )
    if results.saturation:
        yield "## Copies at saturation\n\n" + _saturation(results)


def _stack(results: Results) -> str:
    lines = []
    for case in MICRO:
        added = None if case == NO_ROLLOUTS else stack_added_us(results.stack, case)
        whole = figure_of([one.cpu_us[case] for one in results.stack])
        lines.append(
            [case, whole.told(2, "µs") if whole else "", added.told(2, "µs") if added else "—"]
        )
    return table(["case", "CPU a request", "added"], lines)


def _wire(results: Results) -> str:
    lines = []
    for row in WIRES:
        for variant in VARIANTS:
            found = [one for one in results.wire if (one.row, one.variant) == (row, variant)]
            if not found:
                continue
            added = None if variant == "plain" else wire_added_us(results.wire, row, variant)
            lines.append(
                [
                    row,
                    variant,
                    f"{median(one.per_second for one in found):,.0f}",
                    f"{median(one.p99_us for one in found):,.0f}",
                    f"{median(one.cpu_us for one in found):.1f}",
                    added.told(1, "µs") if added else "—",
                ]
            )
    return table(["row", "variant", "requests/s", "p99 µs", "server CPU µs", "added"], lines)


def _changes(results: Results) -> str:
    heads = [
        "row",
        "calls/s",
        "changes",
        "answered in, p50 / p99 ms",
        "heartbeats p50 / p99 / most ms",
    ]
    heads += [
        "answers p50 / p99 / most ms",
        "calls",
        "failed",
        "failed at the first plan",
        "moved",
        "went back",
        "others on a core",
    ]
    lines = [
        [
            one.row,
            f"{one.rate:,.0f}",
            str(len(one.beats_s)),
            _ms(one.written_s, 0.5, 0.99),
            _ms(one.beats_s, 0.5, 0.99, 1.0),
            _ms(one.answers_s, 0.5, 0.99, 1.0),
            f"{one.calls:,}",
            str(one.failed),
            str(one.failed_first),
            f"{one.moved:,}",
            str(one.flips),
            f"{one.foreign_core:.0%}",
        ]
        for one in results.changes
    ]
    return table(heads, lines)


def _ms(values: Sequence[float], *shares: float) -> str:
    ordered = sorted(values)
    return " / ".join(f"{percentile(ordered, share) * 1000:.1f}" for share in shares)


def _shadows(results: Results) -> str:
    heads = [
        "row",
        "round",
        "calls/s",
        "p50 ms",
        "p99 ms",
        "p99 ÷ without",
        "copies",
        "shed",
        "due",
    ]
    heads += ["server's cores", "failed", "client's lag p99 ms", "others on a core"]
    lines = [
        [
            one.row,
            str(one.round),
            f"{one.rate:,.0f}",
            f"{one.p50_ms[0]:.2f} → {one.p50_ms[1]:.2f}",
            f"{one.p99_ms[0]:.2f} → {one.p99_ms[1]:.2f}",
            f"{one.ratio:.3f}",
            f"{one.copies:,.0f}",
            f"{one.shed:,.0f}",
            f"{one.due:,.0f}",
            f"{one.server_cores[0]:.2f} → {one.server_cores[1]:.2f}",
            str(one.failed),
            f"{one.client_lag_ms[0]:.2f} → {one.client_lag_ms[1]:.2f}",
            f"{one.foreign_core:.0%}",
        ]
        for row in SHADOWS
        for one in results.shadows
        if one.row == row
    ]
    return table(heads, lines)


def _saturation(results: Results) -> str:
    heads = ["round", "requests/s", "÷ without", "p99 µs", "copies", "shed", "shed share", "errors"]
    heads += ["others on a core"]
    lines = [
        [
            str(one.round),
            f"{one.per_second[0]:,.0f} → {one.per_second[1]:,.0f}",
            f"{one.ratio:.3f}",
            f"{one.p99_us[0]:,.0f} → {one.p99_us[1]:,.0f}",
            f"{one.copies:,.0f}",
            f"{one.shed:,.0f}",
            f"{one.shed_share:.1%}",
            str(one.errors),
            f"{one.foreign_core:.0%}",
        ]
        for one in results.saturation
    ]
    return table(heads, lines)
