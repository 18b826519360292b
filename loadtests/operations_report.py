"""Decides how the operations bench is told: a page in Markdown, and raw numbers in JSON beside it.

It must never leave out a row that failed or could not be measured.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadtests.core_meter import DISTURBED
from loadtests.figures_tables import facts_table, reasons_table, table
from loadtests.operations_verdict import Results
from loadtests.report import verdict_table
from loadtests.verdict import Verdict


def write(
    markdown: Path, setting: dict[str, str], results: Results, verdicts: list[Verdict]
) -> Path:
    """Writes both files; returns the JSON's path."""
    markdown.parent.mkdir(parents=True, exist_ok=True)
    parts = (part for part in _page(setting, results, verdicts) if part)
    markdown.write_text("\n\n".join(parts) + "\n")
    raw = markdown.with_suffix(".json")
    document = {"setting": setting, "results": results, "verdicts": verdicts}
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


def _page(setting: dict[str, str], results: Results, verdicts: list[Verdict]) -> Iterable[str]:
    yield f"# Operations bench, {setting['when']}"
    yield (
        "Ratios are medians of the rounds, failures are sums. Swap and kill run at half of the capacity that was "
        "measured just before, from a client that calls when calls are due, and count latency from there."
    )
    yield verdict_table(verdicts)
    yield busy_note(results)
    if results.swap:
        yield "## A version swapped in at half load\n\n" + _swap(results)
    if results.kill:
        yield "## One of two workers killed at half load\n\n" + _kill(results)
    if results.workers:
        rows = [[one.row, str(one.round), one.summary] for one in results.workers]
        yield "## Two workers and one\n\n" + table(["row", "round", "figures"], rows)
    if results.stream:
        rows = [[str(one.round), one.summary] for one in results.stream]
        yield "## One stream and unary calls\n\n" + table(["round", "figures"], rows)
    if results.failed:
        yield "## Rows without figures\n\n" + reasons_table(results.failed)
    yield "## Setting\n\n" + facts_table(setting)


def _swap(results: Results) -> str:
    heads = ["row", "round", "calls/s", "p50 ms", "p99 ms", "most ms", "p99 ÷ before"]
    heads += [
        "loads",
        "a load takes s",
        "server's share of its core before",
        "failed",
        "client's lag p99 ms",
        "others on a core",
    ]
    lines = []
    for one in results.swap:
        before, during = one.before, one.during
        lines.append(
            [
                one.row,
                str(one.round),
                f"{one.rate:,.0f}",
                f"{before.p50:.2f} → {during.p50:.2f}",
                f"{before.p99:.2f} → {during.p99:.2f}",
                f"{before.most:.1f} → {during.most:.1f}",
                f"{one.ratio:.2f}",
                str(one.loads),
                f"{one.load_s:.2f}",
                f"{one.server_share:.0%}",
                str(one.failed),
                f"{one.client_lag_ms[0]:.2f} → {one.client_lag_ms[1]:.2f}",
                f"{one.foreign_core:.0%}",
            ]
        )
    return table(heads, lines)


def _kill(results: Results) -> str:
    heads = ["row", "round", "calls/s", "calls", "lost with the worker", "sent after the signal"]
    heads += ["beyond", "its connections", "broken", "back s", "p99 ms", "others on a core"]
    lines = [
        [
            one.row,
            str(one.round),
            f"{one.rate:,.0f}",
            f"{one.calls:,}",
            str(one.lost_with_worker),
            str(one.lost_after_signal),
            str(one.beyond),
            str(one.victim_connections),
            str(one.broken_connections),
            f"{one.back_s:.2f}",
            f"{one.before.p99:.1f} → {one.after.p99:.1f}",
            f"{one.foreign_core:.0%}",
        ]
        for one in results.kill
    ]
    return table(heads, lines)
