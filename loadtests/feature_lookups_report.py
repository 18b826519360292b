"""Decides how the lookup bench is told: a page in Markdown, and raw numbers in JSON beside it.

It must never leave out a row that failed or was skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from loadtests import feature_lookups_data as data
from loadtests.core_meter import DISTURBED
from loadtests.feature_lookups_peers import compared
from loadtests.feature_lookups_verdict import LOADS, LoadName, Results, Sample
from loadtests.figures_tables import facts_table, reasons_table, table
from loadtests.measured import median
from loadtests.report import verdict_table
from loadtests.verdict import Verdict

TITLES: dict[data.Variant, str] = {
    "direct": "values sent",
    "hit": "looked up, copies of all",
    "mixed": "looked up, copies of 90 %",
    "miss": "looked up, no copies",
    "parts": "looked up in five views, no copies",
}
HEADINGS: dict[LoadName, str] = {
    "full": "As fast as it goes",
    "half_rate": "At half of the rate that lookups without copies reach",
    "half_busy": "With the core half busy",
}
WHY_TWO_HALVES = (
    "Half of the highest rate is not half of the work: requests that come one by one, each with a wake-up of its own, "
    "cost more CPU than those that a busy gateway takes in one go, so at that rate the core may be nearly saturated "
    "(“their core busy”), and latencies are those of waiting; hence all is shown again at a lower rate, at which "
    "lookups without copies should keep the core about half busy."
)
_Figure = tuple[str, Callable[[Sample], float], str]
_FIGURES: tuple[_Figure, ...] = (
    ("requests/s", lambda one: one.per_second, ",.0f"),
    ("p50 ms", lambda one: one.p50_ms, ".3f"),
    ("p99 ms", lambda one: one.p99_ms, ".3f"),
    ("gateway CPU µs", lambda one: one.gateway_us, ".1f"),
    ("store CPU µs", lambda one: one.store_us, ".1f"),
    ("their core busy", lambda one: one.core_busy, ".0%"),
    ("others on a core", lambda one: one.foreign_core, ".0%"),
)
_CLOSED: _Figure = ("client busy", lambda one: one.client_busy, ".0%")
_OPEN: _Figure = ("client's lag p99 ms", lambda one: one.client_lag_p99_ms, ".2f")
"""The client of an open loop spins between two sends: how busy it is says nothing."""


def write(
    markdown: Path, setting: dict[str, str], results: Results, verdicts: list[Verdict]
) -> Path:
    """Writes both files; returns the JSON's path."""
    markdown.parent.mkdir(parents=True, exist_ok=True)
    parts = (part for part in page(setting, results, verdicts) if part)
    markdown.write_text("\n\n".join(parts) + "\n")
    raw = markdown.with_suffix(".json")
    document = {"setting": setting, "results": results, "verdicts": verdicts}
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return raw


def page(setting: dict[str, str], results: Results, verdicts: list[Verdict]) -> Iterable[str]:
    """The page's parts, some of them empty."""
    yield f"# Bench of feature lookups, {setting['when']}"
    yield (
        "Medians of the rounds; what is compared was measured in turn in the same round, at the same rate and instants "
        "where a rate is given. Gateway and store share the server's core, clients have the load's. The model is one "
        f"product of {data.FEATURES} values; it gets them with the request (“values sent”) or by the ids of entities. "
        "Every answer is compared with the model's. CPU is user plus system time per request."
    )
    yield verdict_table(verdicts)
    yield busy_note(results)
    tables = {load: _loads(results, load) for load in HEADINGS}
    if any(tables.values()):
        yield WHY_TWO_HALVES
    for load, heading in HEADINGS.items():
        if tables[load]:
            yield f"## {heading}\n\n{tables[load]}"
    if results.decode:
        yield "## From 500 rows to a tensor\n\n" + _decoded(results)
    if results.load:
        yield "## Loading a Parquet file\n\n" + _loaded(results)
    if results.peers:
        yield "## Beside Feast\n\n" + _peers(results)
    gaps = {**results.skipped, **results.failed}
    if gaps:
        yield "## Rows without figures\n\n" + reasons_table(gaps)
    yield "## Setting\n\n" + facts_table({**setting, **results.facts})


def busy_note(results: Results) -> str:
    """How many samples were disturbed; nothing when none was."""
    shares = results.foreign_shares()
    busy = sum(share > DISTURBED for share in shares)
    if not busy:
        return ""
    return (
        f"{busy} of {len(shares)} loads were measured while others used more than {DISTURBED:.0%} of one of the two "
        "cores: repeat on a quiet machine before judging by them."
    )


def _loads(results: Results, load: LoadName) -> str:
    lines = []
    figures = (*_FIGURES, _CLOSED if load == "full" else _OPEN)
    for row in LOADS:
        for variant, title in TITLES.items():
            samples = list(results.of(row, variant, load).values())
            if not samples:
                continue
            hits = median(one.hit_share for one in samples if one.hit_share is not None)
            cells = [format(median(map(figure, samples)), shape) for _, figure, shape in figures]
            front, _, entities = row.partition("-")
            asked = f"{front.replace('http', 'HTTP JSON').replace('grpc', 'gRPC')}, {entities} × 50"
            lines.append([asked, title, "–" if hits is None else f"{hits:.1%}", *cells])
    heads = ["load", "values", "hits", *(head for head, _, _ in figures)]
    return table(heads, lines) if lines else ""


def _decoded(results: Results) -> str:
    lines = []
    for views in dict.fromkeys(one.views for one in results.decode):
        samples = [one for one in results.decode if one.views == views]
        middle = median(one.median_us for one in samples)
        lines.append([str(views), f"{min(one.least_us for one in samples):.0f}", f"{middle:.0f}"])
    return (
        table(["views", "at least µs", "median µs"], lines)
        + f"\n\n500 entities, {data.FEATURES} values each, checksums included; in process, on the server's core."
    )


def _loaded(results: Results) -> str:
    figures: tuple[tuple[str, float | None], ...] = (
        ("check and write", median(one.whole for one in results.load)),
        ("write alone", median(one.writing for one in results.load)),
        ("plain SETs of the same bytes", median(one.plain_sets for one in results.load)),
    )
    lines = [[what, "–" if value is None else f"{value:,.0f}"] for what, value in figures]
    one = results.load[0]
    return (
        table(["what", "rows/s"], lines)
        + f"\n\n{one.rows:,} rows of {one.row_bytes} bytes, the loader on the load's core, the store on the server's."
    )


def _peers(results: Results) -> str:
    lines = []
    beside: dict[tuple[int, int], float] = {}
    for views, entities, who, rounds in compared(results):
        p50, p99 = median(one.p50_us for one in rounds), median(one.p99_us for one in rounds)
        cpu = median(one.cpu_us for one in rounds if one.cpu_us is not None)
        assert p50 is not None
        assert p99 is not None
        first = beside.setdefault((views, entities), p50)
        lines.append(
            [
                str(entities),
                str(views),
                who,
                f"{p50:,.0f}",
                f"{p99:,.0f}",
                "–" if cpu is None else f"{cpu:,.0f}",
                f"{min(one.min_us for one in rounds):,.0f}",
                f"{first / p50:,.1f} ×",
            ]
        )
    heads = [
        "entities",
        "views",
        "who",
        "p50 µs",
        "p99 µs",
        "CPU µs",
        "least µs",
        "quicker than the first",
    ]
    return (
        table(heads, lines)
        + f"\n\n{data.FEATURES} values an entity, {data.HOT:,} entities. Of Feast, the quickest of its ways: fields or "
        "precomputed vectors, until its response object or until plain values. Ours, until the model's input tensor. "
        "CPU is that of the process that asks. All rounds of all ways are in the JSON file."
    )
