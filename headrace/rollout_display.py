"""What people see of rollouts: tables, one line for each change, and a view that follows one live.

Decides the words and columns. Whatever others wrote, reasons, names and answers of servers, is shown without the
characters that steer a terminal. It must never ask a server, nor decide what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.rollout_asking import ArmSeen, GatewaySeen, ShadowSeen, StatusSeen, Summary
from headrace.rollout_proposal import duration_words, steps_words
from rollout.plan import NO_STEP, HistoryEntry, Plan, Proposal, State

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table

PIPE_COLUMNS = 160
"""The width of tables where no terminal says its own."""
MAX_SHOWN_GATEWAYS = 20
STALE_BEAT_S = 10.0
"""A gateway not heard of for so long is shown as silent."""
_OUTCOMES = {
    "fine": ("fine", "green"),
    "harmful": ("HARMFUL", "bold red"),
    "not_yet": ("not yet", ""),
}
_STATES = {
    State.PROMOTED: "green",
    State.ROLLED_BACK: "bold red",
    State.ABORTED: "red",
    State.HOLDING: "yellow",
    State.PAUSED: "yellow",
}


# ---- words -------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Without what steers a terminal; line breaks become spaces."""
    return "".join(
        " " if one.isspace() else one if one.isprintable() else _escaped(one) for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "replace").decode()


def moment(at_s: float) -> str:
    """In the time of whoever looks, to the second."""
    try:
        return f"{datetime.fromtimestamp(at_s).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "no time"


def state_words(plan: Plan) -> str:
    """``stepping, step 2 of 4``."""
    if plan.state in {State.STEPPING, State.PAUSED, State.HOLDING} and plan.step != NO_STEP:
        return f"{plan.state.value}, step {plan.step + 1} of {len(plan.steps)}"
    return plan.state.value.replace("_", " ")


def weights_words(plan: Plan) -> str:
    """Who has how much of the traffic: ``version 1 has 95 %, version 2 has 5 %``."""
    return ", ".join(f"version {arm.version} has {arm.weight_percent:g} %" for arm in plan.arms)


def told(plan: Plan) -> str:
    """Where a rollout is after a change, in one line."""
    return printable(
        f"{plan.model} is {state_words(plan)}: {weights_words(plan)} (revision {plan.revision})"
    )


def proposal_lines(proposal: Proposal) -> list[str]:
    """What is going to happen, for whoever asked for it."""
    lines = []
    copies = ", ".join(f"{one.percent:g} % to version {one.version}" for one in proposal.shadows)
    if copies:
        wait = (
            f"; the first step waits for {duration_words(proposal.shadow_min_time_s)} and "
            f"{proposal.shadow_min_samples:,} of them"
        )
        lines.append(f"copies:  {copies}{wait if proposal.shadows_candidate else ''}")
    if proposal.steps:
        lines.append(
            f"steps:   {steps_words(proposal.steps)}; after the last, version {proposal.candidate} has all traffic"
        )
    source, salt = proposal.sticky.source, proposal.sticky.salt
    if source == "request_id":
        kept = (
            f"every request is drawn anew (request_id, salt {salt}), so users are not kept with one version; "
            "to keep them: --sticky header:x-user-id"
        )
    else:
        kept = f"users are kept by {source} (salt {salt})"
    lines.append(f"sticky:  {kept}")
    lines.append(
        f"watched: answers later than {proposal.slo_ms:g} ms count as slow; a step without an answer holds after "
        f"{duration_words(proposal.deadline_s)}"
    )
    return [printable(line) for line in lines]


def change_line(entry: HistoryEntry, now: Plan | None = None) -> str:
    """One change with its time. ``now``: the plan, which knows the weights if the change is its last."""
    way = entry.target if entry.source in {"", entry.target} else f"{entry.source} → {entry.target}"
    where = ""
    if now is not None and now.revision == entry.revision:
        where = f", {weights_words(now)}"
        if now.state in {State.STEPPING, State.PAUSED, State.HOLDING} and now.step != NO_STEP:
            where = f", step {now.step + 1} of {len(now.steps)}{where}"
    why = f": {entry.reason}" if entry.reason else ""
    return printable(
        f"{moment(entry.at_s)}  revision {entry.revision}  {entry.event}: {way}{where}  ({entry.author}{why})"
    )


def decision_words(status: StatusSeen) -> str:
    """What keeps the rollout where it is."""
    decision = status.decision
    labels = {"hold": "kept", "fire": f"next {decision.event}".rstrip(), "nothing": "waits"}
    return printable(f"{labels.get(decision.action, decision.action)}: {decision.reason}")


def share_of(events: int | None, requests: int | None) -> str:
    """Of the requests, in percent; a dash where there were none, or nobody counted."""
    return f"{events / requests:.3%}" if requests and events is not None else "-"


# ---- tables ------------------------------------------------------------------------------------------------


def console() -> Console:
    """Standard output as it is now; wide where it is no terminal."""
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(width=width, highlight=False, markup=False, emoji=False)


def listing(rollouts: Sequence[Summary]) -> Table:
    """All models' rollouts."""
    table = _table("model", "state", "candidate", "has", "champion", "step", "since", "reason")
    for one in rollouts:
        step = f"{one.step + 1} of {one.steps}" if one.step >= 0 else "-"
        table.add_row(
            printable(one.model),
            _state_text(one.state),
            one.candidate or "-",
            f"{one.candidate_percent:g} %" if one.candidate else "-",
            one.champion,
            step,
            moment(one.updated_s),
            printable(one.reason),
        )
    return table


def history_table(entries: Sequence[HistoryEntry]) -> Table:
    """The newest at the bottom."""
    table = _table("revision", "at", "event", "from", "to", "by", "reason")
    for entry in entries:
        table.add_row(
            str(entry.revision),
            moment(entry.at_s),
            printable(entry.event),
            entry.source or "-",
            entry.target,
            printable(entry.author),
            printable(entry.reason),
        )
    return table


def status_view(status: StatusSeen) -> Group:
    """Everything about one rollout: arms, guardrails, what keeps the step, and gateways."""
    from rich.console import Group
    from rich.text import Text

    plan = status.plan
    head = Text(f"{plan.model}: ", style="bold")
    head.append(state_words(plan), style=_STATES.get(plan.state, "bold"))
    head.append(f", revision {plan.revision}, since {moment(plan.updated_s)}")
    head.append(
        printable(f" by {plan.author}: {plan.reason}" if plan.reason else f" by {plan.author}")
    )
    parts: list[RenderableType] = [head, Text(decision_words(status), style="bold"), ""]
    parts.append(_arms_table(status.arms))
    parts.append(Text(_samples_words(status)))
    parts += [Text(_shadow_words(one)) for one in status.shadows]
    if status.breakage:
        parts.append(Text(printable(status.breakage), style="bold red"))
    if not status.is_complete:
        lost = "counters may have been lost: nothing is concluded from the rest"
        parts.append(Text(lost, style="yellow"))
    if status.verdicts:
        parts += ["", _verdicts_table(status)]
    parts += ["", _gateways_table(status.gateways, plan.revision)]
    return Group(*parts)


def _samples_words(status: StatusSeen) -> str:
    plan = status.plan
    if plan.state is State.STEPPING and plan.step != NO_STEP:
        step = plan.steps[plan.step]
        return (
            f"samples: {status.samples:,} of {step.min_samples:,} in this step, which lasts "
            f"{duration_words(step.min_time_s)} at least"
        )
    if plan.state is State.SHADOWING:
        return f"copies compared: {status.samples:,} of {plan.shadow_min_samples:,}"
    return f"samples: {status.samples:,} in this step"


def _shadow_words(shadow: ShadowSeen) -> str:
    seen = f", {shadow.answers:,} answers compared" if shadow.answers else ""
    for what, share in (("differ", shadow.differing), ("decide otherwise", shadow.flipped)):
        if share is not None and share.value is not None:
            floor = "" if share.floor is None else f" (with itself: {share.floor:.2%})"
            seen += f", {share.value:.2%} {what}{floor}"
    if shadow.scores is not None and shadow.scores.pairs:
        seen += f", mean score {shadow.scores.mean:+.4g}"
    if shadow.failed:
        seen += f", {shadow.failed:,} copies failed"
    return printable(f"copies: {shadow.percent:g} % to version {shadow.version}{seen}")


def _arms_table(arms: Sequence[ArmSeen]) -> Table:
    table = _table(
        "version",
        "arm",
        "planned",
        "measured",
        "requests",
        "errors",
        "slow",
        "invalid",
        "defaulted",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for arm in arms:
        counts = (arm.errors, arm.slow, arm.invalid, arm.defaulted)
        measured = arm.share_percent
        table.add_row(
            printable(arm.version),
            printable(arm.arm),
            f"{arm.weight_percent:g} %",
            "-" if measured is None else f"{measured:.2f} %",
            "-" if arm.requests is None else f"{arm.requests:,}",
            *(share_of(count, arm.requests) for count in counts),
        )
    return table


def _verdicts_table(status: StatusSeen) -> Table:
    from rich.text import Text

    table = _table("guardrail", "verdict", "what was seen")
    for verdict in status.verdicts:
        words, style = _OUTCOMES[verdict.outcome]
        seen = verdict.words.removeprefix(f"{verdict.guardrail}: ")
        table.add_row(verdict.guardrail, Text(words, style=style), printable(seen))
    return table


def _gateways_table(gateways: Sequence[GatewaySeen], revision: int) -> RenderableType:
    from rich.text import Text

    if not gateways:
        return Text("no gateway has sent a heartbeat", style="yellow")
    # Whoever lags comes first: it is what keeps a step.
    by_lag = sorted(gateways, key=lambda one: (one.revision == revision, -one.age_s, one.gateway))
    title = "gateway" if len(gateways) <= MAX_SHOWN_GATEWAYS else f"gateway ({len(gateways)})"
    table = _table(title, "heard", "acts on revision", "for", "warm", "gone")
    for one in by_lag[:MAX_SHOWN_GATEWAYS]:
        lag = "" if one.revision == revision else f" (not {revision})"
        heard = f"{one.age_s:.1f} s ago"
        table.add_row(
            printable(one.gateway),
            Text(heard, style="yellow" if one.age_s > STALE_BEAT_S else ""),
            Text(f"{one.revision}{lag}", style="yellow" if lag else ""),
            f"{one.acting_s:.0f} s",
            printable(", ".join(sorted(one.warm))) or "-",
            printable(", ".join(sorted(one.gone))) or "-",
        )
    return table


def _state_text(state: str) -> RenderableType:
    from rich.text import Text

    known = {one.value: style for one, style in _STATES.items()}
    return Text(printable(state.replace("_", " ")), style=known.get(state, ""))


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
