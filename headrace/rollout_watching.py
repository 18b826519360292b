"""Follows one rollout until it ends: looks again and again, and shows what is new.

Decides when a rollout has ended and with which exit code, and for how long a server may be away meanwhile. It must
never change anything: whoever stops watching stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import msgspec
import typer

from headrace.rollout_asking import NoAnswerError, RefusedError, RolloutAdmin, StatusSeen
from headrace.rollout_display import (
    change_line,
    console,
    decision_words,
    moment,
    printable,
    status_view,
)
from rollout.plan import Event, Plan, State

INTERVAL_S = 1.0
MAX_AWAY_LOOKS = 120
"""Looks without an answer, one after another; then nobody waits any more."""
EXIT_PROMOTED, EXIT_TAKEN_BACK, EXIT_HOLDING = 0, 3, 4
_EXITS = {
    State.PROMOTED.value: EXIT_PROMOTED,
    State.ROLLED_BACK.value: EXIT_TAKEN_BACK,
    State.ABORTED.value: EXIT_TAKEN_BACK,
    State.HOLDING.value: EXIT_HOLDING,
}
_AWAY = frozenset({429, 500, 502, 503, 504})


class Shown(Protocol):
    """Where what is seen goes to."""

    def seen(self, status: StatusSeen) -> None: ...

    def away(self, why: str) -> None: ...


def exit_code_of(plan: Plan, began_revision: int) -> int | None:
    """How the rollout that was submitted as ``began_revision`` has ended; None while it has not.

    Another plan in its place has ended it too: as it stood then, and taken back if it was still running.
    """
    if plan.began_revision == began_revision:
        return _EXITS.get(plan.state.value)
    replaced = (
        entry
        for entry in plan.history
        if entry.revision > began_revision and entry.event == Event.REPLACE.value
    )
    before = next(replaced, None)
    ended = _EXITS.get(before.source) if before is not None else None
    return EXIT_TAKEN_BACK if ended in {None, EXIT_HOLDING} else ended


def follow(
    look: Callable[[], StatusSeen],
    shown: Shown,
    pause: Callable[[float], None],
    began_revision: int | None = None,
) -> int:
    """The exit code, once the rollout has ended. ``began_revision``: of the rollout; None: the one that is there.

    Raises what ``look`` raises, after ``MAX_AWAY_LOOKS`` on end if waiting may help.
    """
    away_looks = 0
    while True:
        try:
            status = look()
        except (NoAnswerError, RefusedError) as error:
            away_looks += 1
            is_final = isinstance(error, RefusedError) and error.status not in _AWAY
            if is_final or away_looks >= MAX_AWAY_LOOKS:
                raise
            shown.away(str(error))
        else:
            away_looks = 0
            if began_revision is None:
                began_revision = status.plan.began_revision
            shown.seen(status)
            ended = exit_code_of(status.plan, began_revision)
            if ended is not None:
                return ended
        pause(INTERVAL_S)


def watch_rollout(
    admin: RolloutAdmin,
    model: str,
    began_revision: int | None,
    since_revision: int,
    *,
    as_json: bool,
) -> int:
    """Follow a model's rollout on standard output, as suits whoever reads it; the exit code."""

    def look() -> StatusSeen:
        return admin.status(model)

    if as_json:
        return follow(look, JsonLines(), time.sleep, began_revision)
    if console().is_terminal:
        with LiveView() as view:
            return follow(look, view, time.sleep, began_revision)
    return follow(look, Lines(since_revision), time.sleep, began_revision)


class Lines:
    """One line for each change, with its time: for logs and pipes. ``since_revision``: what is known already."""

    def __init__(self, since_revision: int) -> None:
        self._revision = since_revision
        self._kept: object = None
        self._is_away = False

    def seen(self, status: StatusSeen) -> None:
        plan = status.plan
        if plan.revision < self._revision:
            _say(status, f"the plan went back from revision {self._revision} to {plan.revision}")
            self._revision = plan.revision
        for entry in plan.history:
            if entry.revision > self._revision:
                typer.echo(change_line(entry, plan))
        outcomes = tuple((one.guardrail, one.outcome) for one in status.verdicts)
        kept = (plan.revision, status.decision.action, outcomes)
        if self._is_away or kept != self._kept:
            _say(status, decision_words(status))
        self._revision, self._kept, self._is_away = plan.revision, kept, False

    def away(self, why: str) -> None:
        if not self._is_away:
            typer.echo(f"{_now()}  the server is away, looking again: {printable(why)}")
        self._is_away = True


class JsonLines:
    """The status as one line of JSON whenever it says something new, for scripts."""

    def __init__(self) -> None:
        self._last: object = None

    def seen(self, status: StatusSeen) -> None:
        outcomes = tuple((one.guardrail, one.outcome) for one in status.verdicts)
        news = (status.plan.revision, status.decision.action, outcomes)
        if news != self._last:
            typer.echo(msgspec.json.encode(status).decode())
        self._last = news

    def away(self, why: str) -> None:
        typer.echo(f"headrace: looking again: {printable(why)}", err=True)


class LiveView:
    """The whole status, drawn anew in its place: for terminals. Stays on the screen at the end."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(console=console(), auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def seen(self, status: StatusSeen) -> None:
        self._live.update(status_view(status), refresh=True)

    def away(self, why: str) -> None:
        from rich.text import Text

        text = Text(f"{_now()}  the server is away, looking again: {printable(why)}", "yellow")
        self._live.update(text, refresh=True)


def _say(status: StatusSeen, words: str) -> None:
    typer.echo(f"{_now()}  revision {status.plan.revision}  {words}")


def _now() -> str:
    return moment(time.time())
