"""How far a long command is, on standard error: a bar in a terminal, a line now and then anywhere else.

Decides how often something is shown. It must never slow the work down, nor write to standard output.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import typer

LINE_EVERY_S = 5.0
SHOW_EVERY_S = 0.1


class ProgressDisplay:
    """One stage of a command; call it with what is done, and of how much."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._task: Any = None
        self._began_s = self._shown_s = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows, {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=0, rate="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = done
        if now_s - self._shown_s < (LINE_EVERY_S if self._bar is None else SHOW_EVERY_S):
            return
        self._shown_s = now_s
        rate = (done - self._first) / max(now_s - self._began_s, 1e-3)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:,.0f} rows/s")
            return
        left = f", about {(total - done) / rate:,.0f} s left" if rate > 0 else ""
        typer.echo(f"{self._what}: {done:,} of {total:,} rows, {rate:,.0f} rows/s{left}", err=True)
