"""The thread that a batch seems to run on, and where the time of runs goes.

Decides nothing: a batch is run at the moment in which it is submitted, and reported when the time that it took is over.
Run inline, the same batch moves the loop's clock instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.pipeline.execution import Outcome
from tests.sim.records import CallRecord
from tests.sim.virtual_loop import ProcessLoop, VirtualLoop

Part = tuple[int, int, int]
"""(call, first row, end row)."""


class RunWitness(Protocol):
    """Who is told of every run, before its time passes and after its fate is known."""

    def run_starts(self, parts: list[Part], width: int, *, inline: bool) -> None: ...
    def run_ends(self, parts: list[Part], failure: Exception | None) -> None: ...
    def take_failed(self) -> list[CallRecord]: ...
    def reported(self, failed: list[CallRecord]) -> None: ...


class RunTime:
    """Where the time of runs goes: to the loop, or to the worker that called."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._collected_s: float | None = None
        self._spent_s = 0.0

    @property
    def inline(self) -> bool:
        return self._collected_s is None

    def thread_clock(self) -> float:
        """What all runs together have cost."""
        return self._spent_s

    def spend(self, seconds: float) -> None:
        self._spent_s += seconds
        if self._collected_s is None:
            self._loop.advance(seconds)
        else:
            self._collected_s += seconds

    def collect(self, work: Callable[[], list[Outcome]]) -> tuple[list[Outcome], float]:
        """Run ``work`` at this very moment, and say how long it would have taken."""
        self._collected_s = 0.0
        try:
            outcomes = work()
            return outcomes, self._collected_s
        finally:
            self._collected_s = None


class VirtualWorker:
    """Fills the port ``Worker``; counts its threads as the real one has them."""

    def __init__(
        self, loop: ProcessLoop, run_time: RunTime, threads: int, hand_over_s: float
    ) -> None:
        self._loop = loop
        self._run_time = run_time
        self._hand_over_s = hand_over_s
        self.threads = threads
        self.busy = 0
        self.closed = 0
        """How often."""
        self.closed_while_busy = False
        self.witness: RunWitness | None = None

    def submit(
        self, work: Callable[[], list[Outcome]], done: Callable[[list[Outcome]], None]
    ) -> None:
        assert not self.closed, "a batch was started after the workers were closed"
        self.busy += 1
        outcomes, seconds = self._run_time.collect(work)
        witness = self.witness
        assert witness is not None
        failed = witness.take_failed()

        def report() -> None:
            self.busy -= 1
            witness.reported(failed)
            done(outcomes)

        self._loop.call_at(self._loop.now_s + seconds + self._hand_over_s, report)

    def close(self) -> None:
        self.closed += 1
        self.closed_while_busy |= self.busy > 0

    def join(self) -> None:
        return None
