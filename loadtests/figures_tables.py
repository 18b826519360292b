"""Decides how measured figures stand in Markdown tables: medians, one line per row.

It must never show a row whose load met errors as if it had figures.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from loadtests import rows
from loadtests.measured import ClosedSample, OpenSample, Results, median
from loadtests.servers import TITLES

_CLOSED_FIGURES: tuple[tuple[str, str, Callable[[ClosedSample], float]], ...] = (
    ("requests/s", ",.0f", lambda sample: sample.per_second),
    ("p50 µs", ",.0f", lambda sample: sample.p50_us),
    ("p99 µs", ",.0f", lambda sample: sample.p99_us),
    ("server CPU µs per request", ".1f", lambda sample: sample.cpu_us),
    ("others on a core", ".0%", lambda sample: sample.foreign_core),
)
_OPEN_FIGURES: tuple[tuple[str, str, Callable[[OpenSample], float | None]], ...] = (
    ("capacity/s", ",.0f", lambda sample: sample.capacity),
    ("offered/s", ",.0f", lambda sample: sample.offered),
    ("in time ÷ capacity", ".1%", lambda sample: sample.goodput),
    ("seen by the client", ".1%", lambda sample: sample.client_goodput),
    ("refused", ",.0f", lambda sample: sample.count("refused")),
    ("expired", ",.0f", lambda sample: sample.count("expired")),
    ("no answer", ",.0f", lambda sample: sample.count("unanswered")),
    ("late, client", ",.0f", lambda sample: sample.client.late),
    ("p99 ms answered", ".1f", lambda sample: sample.client.p99_ms),
    ("p99 ms refused", ".1f", lambda sample: sample.client.refusal_p99_ms),
    ("client's own lag p99 ms", ".2f", lambda sample: sample.client.client_lag_p99_ms),
    ("others on a core", ".0%", lambda sample: sample.foreign_core),
)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def facts_table(facts: Mapping[str, str]) -> str:
    """A line for each fact about a bench."""
    return table(["what", "value"], facts.items())


def reasons_table(reasons: Mapping[str, str]) -> str:
    """A line for each row without figures; a reason may be as long as a server's last words."""
    lines = ((row, why.strip().replace("\n", " ")[:300]) for row, why in reasons.items())
    return table(["row", "why"], lines)


def closed(results: Results) -> str:
    """The closed-loop rows that have figures."""
    lines = []
    for row in rows.CLOSED:
        if results.closed_median(row.name, lambda sample: sample.cpu_us) is not None:
            cells = (
                format(results.closed_median(row.name, figure), shape)
                for _, shape, figure in _CLOSED_FIGURES
            )
            lines.append([row.load, row.title, *cells])
    return table(["load", "server", *(head for head, _, _ in _CLOSED_FIGURES)], lines)


def open_loop(results: Results) -> str:
    """The open-loop rows that have figures."""
    lines = []
    for row in rows.OPEN:
        samples = results.open_samples(row.name)
        if samples:
            cells = (_middle(samples, figure, shape) for _, shape, figure in _OPEN_FIGURES)
            lines.append([TITLES[row.server], row.deadline_by, *cells, _late(samples)])
    heads = ["server", "deadline by", *(head for head, _, _ in _OPEN_FIGURES)]
    return table([*heads, "late, server's write"], lines)


def above_echo(results: Results) -> str:
    """How much later than the bare limit half of the answers come, one call at a time."""
    lines = []
    for row in rows.CLOSED:
        if row.connections == 1 and not row.name.endswith("-echo"):
            echo = row.name.rpartition("-")[0] + "-echo"
            ours = results.closed_median(row.name, lambda sample: sample.p50_us)
            limit = results.closed_median(echo, lambda sample: sample.p50_us)
            if ours is not None and limit is not None:
                lines.append([row.load, row.title, f"{ours - limit:,.0f}"])
    return table(["load", "server", "p50 above the echo server, µs"], lines) if lines else ""


def _middle(
    samples: list[OpenSample], figure: Callable[[OpenSample], float | None], shape: str
) -> str:
    """The median of the rounds that have the figure; a dash when none was refused, say."""
    values = [value for value in map(figure, samples) if value is not None]
    return format(median(values), shape) if values else "–"


def _late(samples: list[OpenSample]) -> str:
    known = [sample.late_at_server for sample in samples if sample.late_at_server is not None]
    return f"{sum(known):,.0f}" if len(known) == len(samples) else "not exported"
