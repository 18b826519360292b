"""What the demo shows of its two rollouts: a line for each change, with its time, and what was measured.

Decides words and columns. It must never compute a figure beyond a sum of what was measured, or hide one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape

from examples.flights.broken_version import BASE, BROKEN, Finding
from examples.flights.demo_page import Page
from examples.flights.rollout_seen import Change, Copies, Figure, PlanSeen
from examples.flights.traffic import GRPC, REST, THREADS, TRAVELLERS, USER_HEADER, Call
from examples.flights.traffic_judging import SIGMAS, Harm, Share

_WORDS = {
    "start": "started",
    "shadow_done": "copies are fine",
    "advance": "next step",
    "promote": "promoted",
    "breach": "TAKEN BACK",
    "hold": "held",
    "inconclusive": "held",
}
_COLOURS = {
    "promote": "bold green",
    "breach": "bold red",
    "hold": "yellow",
    "inconclusive": "yellow",
}
_BAR = 20


class RolloutPage:
    """The part of the demo's output that is about rollouts."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.section = page.section
        self.command = page.command

    def settings(self, min_time_s: float, min_samples: int) -> None:
        self._page.line(
            f"[dim]{min_time_s:g} s and {min_samples} requests a step, where you would give hours and thousands; so "
            "the guardrails\n  are wide, too. Callers name themselves in the header "
            f"{USER_HEADER}, and stay with their version.[/]"
        )

    def start_command(self, words: Sequence[str]) -> None:
        """Two lines to copy as one."""
        cut = words.index("--min-time")
        self.command(f"headrace {' '.join(words[:cut])} \\")
        self.command(f"    {' '.join(words[cut:])}")

    def said(self, text: str) -> None:
        """What the command answered."""
        for line in text.splitlines():
            self._page.plain(f"  │ {line}")

    def travellers(self) -> None:
        self._page.line(
            f"{TRAVELLERS:,} travellers begin to ask about single flights, on {THREADS} threads, by turns over {REST} "
            f"and {GRPC}:"
        )

    def change(self, change: Change, after_s: float, plan: PlanSeen, percent: float) -> None:
        colour = _COLOURS.get(change.event, "cyan")
        word = f"[{colour}]{_WORDS.get(change.event, change.event):<16}[/]"
        whose = f"version {plan.candidate} has {percent:g} %, version {plan.champion} {100 - percent:g} %"
        if change.to == "shadowing":
            whose = f"version {plan.champion} has all, version {plan.candidate} sees copies and answers nobody"
        self._page.line(f"{after_s:5.1f} s  {word} {whose}")

    def shadowing(self, after_s: float, calls: int, compared: int) -> None:
        self._page.line(
            f"[dim]{after_s:5.1f} s  {calls:,} calls answered, {compared:,} copies compared so far[/]"
        )

    def measured(self, after_s: float, candidate: str, share: Share) -> None:
        full = round(share.of_calls * _BAR)
        self._page.line(
            f"[dim]{after_s:5.1f} s[/]  {'━' * full}[dim]{'─' * (_BAR - full)}[/]  planned {share.planned:4.0%}, "
            f"measured {share.of_calls:5.1%} of {share.calls:,} calls so far"
        )

    def copies(self, copies: Copies) -> None:
        assert copies.scores is not None
        self._page.true(
            f"{copies.answers:,} answers of both versions to the same request were compared ({copies.failed} copies "
            "failed):"
        )
        self._page.line(
            f"  more than 5 points apart {_share(copies.differing)}, on the other side of 50 % "
            f"{_share(copies.flipped)}; on average version {copies.version}"
        )
        self._page.line(
            f"  says {100 * copies.scores.mean:+.1f} points. {_floor(copies.differing)}"
        )

    def promoted(self, calls: Sequence[Call], shares: Mapping[float, Share], moved: int) -> None:
        seconds = calls[-1].began_s - calls[0].began_s
        fronts = " and ".join(
            f"{sum(one.front == of for one in calls):,} over {of}" for of in (REST, GRPC)
        )
        self._page.true(
            f"{len(calls):,} calls in {seconds:.0f} s ({len(calls) / seconds:,.0f}/s; {fronts}): none failed"
        )
        listed = ", ".join(
            f"{100 * one.of_travellers:.1f} % for {percent:g} %" for percent, one in shares.items()
        )
        self._page.true(
            f"every step in its order, and each share of travellers as planned, within {SIGMAS:g} standard errors:"
        )
        self._page.line(f"  {listed}")
        self._page.true(
            f"{moved:,} travellers were seen with version 1 and later with version 2; none was ever sent back"
        )

    def built(self, finding: Finding, seconds: float) -> None:
        self._page.line(
            f"made in {seconds:.1f} s: version {BASE} plus what a plane's age is worth, {finding.intercept:+.3f} "
            f"{finding.slope:+.3f} · log(1 + age)"
        )
        self._page.line(
            f"Its notebook saw nothing wrong: AUC {finding.auc_after:.4f}, where version {BASE} has "
            f"{finding.auc_before:.4f}, on {finding.judged:,} flights."
        )
        self._page.line(
            f"It had dropped {finding.dropped:,} more, whose plane has no age in the register. Served features say "
            "-100 for\n  that, and log(1 - 100) is NaN. The version loads, warms up, and answers most requests."
        )

    def withdrawn(self, reason: str, decided: Sequence[Call], harm: Harm, decided_s: float) -> None:
        """``decided``: the version's answers until it was taken back, ``decided_s`` after the first."""
        head, _, rest = reason.partition("; ")
        self._page.line(f"         why: [italic]{escape(head)}[/]")
        if rest:
            self._page.line(f"              [italic]{escape(rest)}[/]")
        self._page.true(
            f"taken back {decided_s:.1f} s after its first answer, and {len(decided)} answers, "
            f"{sum(one.is_odd for one in decided)} of them NaN;"
        )
        self._page.line(
            f"  its last answer was asked for {harm.last_s:.1f} s after its first: from then on all is back at {BASE}"
        )
        self._page.true(
            f"callers: {harm.answers} of {harm.calls:,} calls in that time were answered by version {BROKEN}, "
            f"{harm.odd} of them by NaN;"
        )
        self._page.line(
            f"  {harm.failed} calls failed, and {harm.travellers} of {TRAVELLERS:,} travellers saw something odd"
        )

    def safe(self, flights: int, version: int, calls: int) -> None:
        self._page.true(
            f"since then version {version} has answered everything: {calls:,} calls of travellers, and all "
            f"{flights} flights"
        )

    def log(self, records: int, head: str) -> None:
        self._page.true(
            f"the audit log is whole: {records} records, one for each change of both rollouts, up to "
            f"{escape(head[:12])}…"
        )


def _share(figure: Figure | None) -> str:
    return (
        f"{figure.value:.1%}"
        if figure is not None and figure.value is not None
        else "in no known share"
    )


def _floor(figure: Figure | None) -> str:
    if figure is None or figure.floor is None:
        return "How much version 1 differs from itself was not measured"
    return f"Version 1 differs from itself in {figure.floor:.1%} (the noise floor)"
