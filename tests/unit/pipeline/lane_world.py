"""A lane in a world of its own: a loop, a clock and a worker that move only when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from backends.signature import Tensor
from gateway.core.batch import Batch, BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.call import Call
from gateway.core.service_time import ServiceTime
from gateway.errors import HeadraceError
from gateway.messages import Prediction, PredictRequest
from gateway.pipeline.execution import Outcome
from gateway.pipeline.lane import Lane
from gateway.pipeline.ticket import Ticket
from tests.support.servables import StubServable
from tests.unit.pipeline.requests import doubled, model, request, rows_of

ALWAYS_INLINE_S = inf
NEVER_INLINE_S = -1.0


class Timer:
    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """Runs what was scheduled when it is told to; time is an attribute."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        assert delay >= 0.0
        timer = Timer(self.now_s + delay, callback)
        self.timers.append(timer)
        return timer

    def turn(self) -> None:
        """One turn: what is scheduled now runs, what it schedules waits for the next."""
        callbacks, self.soon = self.soon, []
        for callback in callbacks:
            callback()

    @property
    def armed_s(self) -> list[float]:
        """When the timers are due that have neither fired nor been taken back."""
        return sorted(timer.due_s for timer in self.timers if not timer.cancelled)

    def advance(self, to_s: float) -> None:
        """Let time pass, timer by timer."""
        while due := [one for one in self.timers if not one.cancelled and one.due_s <= to_s]:
            timer = min(due, key=lambda one: one.due_s)
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer.due_s)
            timer.callback()
            self.turn()
        self.now_s = to_s


class ManualWorker:
    """Keeps what was handed over until the test runs it."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], list[Outcome]], Callable[[list[Outcome]], None]]] = []

    def submit(
        self, work: Callable[[], list[Outcome]], done: Callable[[list[Outcome]], None]
    ) -> None:
        self.jobs.append((work, done))

    def finish(self, which: int = 0) -> None:
        """Run one job to its end and report it."""
        work, done = self.jobs.pop(which)
        done(work())

    def close(self) -> None:
        """Nothing was started."""

    def join(self) -> None:
        return None


class RecordingMeters:
    def __init__(self) -> None:
        self.batches: list[tuple[int, str, bool]] = []
        self.shed_reasons: dict[str, int] = {}
        self.answered_times_s: list[tuple[list[tuple[float, float]], float, float, float]] = []
        self.late = 0

    def batch(self, batch: Batch[Ticket], ended_s: float, *, inline: bool) -> None:
        self.batches.append((batch.rows, batch.reason.value, inline))

    def answered(
        self,
        times_s: list[tuple[float, float]],
        started_s: float,
        ended_s: float,
        written_s: float,
    ) -> None:
        self.answered_times_s.append((times_s, started_s, ended_s, written_s))

    def shed(self, reason: str, count: int) -> None:
        self.shed_reasons[reason] = self.shed_reasons.get(reason, 0) + count

    def late_answer(self) -> None:
        self.late += 1


class Caller(Call[Prediction]):
    """Asks a lane and remembers what came of it."""

    def __init__(self, lane: Lane, asks: PredictRequest) -> None:
        super().__init__()
        self.lane = lane
        self.outcomes: list[Prediction | BaseException | None] = []
        self.ticket = lane.submit(asks)
        self.start(self._wait())

    async def _wait(self) -> Prediction:
        return await self.ticket

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.outcomes.append(error or result)

    @property
    def rows(self) -> Any:
        """The only answer's rows."""
        [outcome] = self.outcomes
        assert isinstance(outcome, Prediction), outcome
        [output] = outcome.outputs
        return output.tolist()

    @property
    def error(self) -> HeadraceError:
        """The only answer, an error."""
        [outcome] = self.outcomes
        assert isinstance(outcome, HeadraceError), outcome
        return outcome


class World:
    """One lane; ``run_s`` is what a batch takes when it runs, ``predict_s`` what the queue expects."""

    def __init__(
        self,
        *,
        servable: StubServable | None = None,
        answer: Callable[[Sequence[Tensor]], list[Tensor]] = doubled,
        inline_limit_s: float = ALWAYS_INLINE_S,
        run_cost: ServiceTime | None = None,
        predict_s: float = 0.0,
        run_s: float = 0.0,
        thread_clock: Callable[[], float] | None = None,
        **limits: Any,
    ) -> None:
        self.loop = ManualLoop()
        self.worker = ManualWorker()
        self.meters = RecordingMeters()
        self.seen_rows: list[int] = []

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            self.seen_rows.append(len(inputs[0]))
            self.loop.now_s += run_s
            return answer(inputs)

        self.lane = Lane(
            servable or model(run),
            BatchQueue(BatchLimits(**limits), taught(predict_s)),
            loop=self.loop,
            clock=self.loop.time,
            worker=self.worker,
            meters=self.meters,
            inline_limit_s=inline_limit_s,
            run_cost=run_cost,
            thread_clock=thread_clock,
        )

    def ask(self, *values: float, **fields: Any) -> Caller:
        """A caller with one row for each value, who now waits."""
        return Caller(self.lane, request(rows_of(*values), **fields))


def taught(duration_s: float, runs: int = 20) -> ServiceTime:
    """A service time that has seen some runs of this duration; none at all for zero."""
    service_time = ServiceTime()
    for run in range(runs if duration_s else 0):
        service_time.observe(1 + 63 * (run % 2), duration_s)
    return service_time
