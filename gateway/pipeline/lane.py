"""The only async part of batching: one lane for each servable.

``BatchQueue`` decides; the lane supplies the time, runs what it is told to run, inline or on a worker, and settles
the tickets. One armed timer, one scheduled pump, no task. It must never let one request's failure reach another, and
never settle a ticket twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from gateway.core.batch import Batch, Refusal, RefusalReason
from gateway.core.batching import BatchQueue
from gateway.core.service_time import ServiceTime
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S, Prediction, PredictRequest
from gateway.pipeline.execution import Outcome, execute
from gateway.pipeline.ticket import Ticket
from gateway.pipeline.traced import TracedTickets
from gateway.ports import Clock, Servable

logger = logging.getLogger("headrace.lane")

INLINE_TURN_S = 1e-3
"""How long one lane may hold the loop with inline batches before sockets and other lanes get their turn."""
WRITE_MARGIN_S = 200e-6
"""An answer must still be encoded and written after it is judged in time; this is what that takes."""


class Cancellable(Protocol):
    """A timer that can be taken back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What a lane needs of an event loop. Delays in seconds."""

    def call_soon(self, callback: Callable[[], None], /) -> object: ...
    def call_later(self, delay: float, callback: Callable[[], None], /) -> Cancellable: ...


class Worker(Protocol):
    """Somewhere else to run a blocking batch; ``done`` is called back on the loop."""

    def submit(
        self, work: Callable[[], list[Outcome]], done: Callable[[list[Outcome]], None]
    ) -> None: ...
    def close(self) -> None: ...
    def join(self) -> None: ...


class LaneMeters(Protocol):
    """What a lane reports, once per batch and once per refusal."""

    def batch(self, batch: Batch[Ticket], ended_s: float, *, inline: bool) -> None: ...
    def answered(
        self,
        times_s: list[tuple[float, float]],
        started_s: float,
        ended_s: float,
        written_s: float,
    ) -> None: ...
    def shed(self, reason: str, count: int) -> None: ...
    def late_answer(self) -> None: ...


class Lane:
    """Requests of one servable on their way through its batches."""

    def __init__(
        self,
        servable: Servable,
        queue: BatchQueue[Ticket],
        *,
        loop: Loop,
        clock: Clock,
        worker: Worker,
        meters: LaneMeters,
        inline_limit_s: float,
        run_cost: ServiceTime | None = None,
        thread_clock: Clock | None = None,
    ) -> None:
        """``run_cost`` is what warm-up learned, ``thread_clock`` counts CPU seconds of the calling thread.

        A batch runs inline while its own cost allows. That cost must not contain the hand-over to a worker or the
        wait for the interpreter lock: one slow hand-over would keep a quick model on the worker for good.
        """
        self.servable = servable
        self.queue = queue
        self._loop = loop
        self._clock = clock
        self._worker = worker
        self._meters = meters
        self._inline_limit_s = inline_limit_s
        self._run_cost = run_cost or ServiceTime()
        self._thread_clock = thread_clock
        self._pump_is_due = False
        self._timer: Cancellable | None = None
        self._timer_due_s = 0.0
        self._traced = TracedTickets()
        self._one_shape = all(-1 not in spec.shape[1:] for spec in servable.signature.inputs)

    # -- from the request's side ------------------------------------------------------------------

    def submit(self, request: PredictRequest) -> Ticket:
        """Queue a request; raises the refusal when it cannot be answered in time or there is no room."""
        bucket = None if self._one_shape else tuple(one.shape[1:] for one in request.inputs)
        ticket = Ticket(request, bucket)
        queue = self.queue
        refusal = queue.offer(ticket, self._clock())
        if refusal is not None:
            self._meters.shed(refusal.reason.value, 1)
            raise self._refused(refusal, request)
        if request.trace is not None:
            self._traced.add(ticket, request.trace)
        if queue.has_free_instance:
            # At the end of this turn of the loop: requests that arrived in the same turn share the batch.
            self._pump_soon()
        elif self._timer is None or request.deadline_s < self._timer_due_s:
            self._arm_timer()
        return ticket

    def _pump_soon(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump)

    def withdraw(self, ticket: Ticket) -> None:
        """The caller went away: forget the ticket; its neighbours do not notice."""
        if self.queue.withdraw(ticket):
            ticket.settled = True
            self._meters.shed("cancelled", 1)

    def _refused(self, refusal: Refusal, request: PredictRequest) -> HeadraceError:
        name = self.servable.name
        reason = refusal.reason
        if reason is RefusalReason.DEADLINE_PASSED:
            return HeadraceError(
                ErrorCode.DEADLINE_EXCEEDED,
                f"the deadline had passed when the request reached model '{name}'",
            )
        if reason is RefusalReason.TOO_LARGE:
            return HeadraceError(
                ErrorCode.INVALID_ARGUMENT,
                f"{request.rows} rows in one request; the queue of model '{name}' holds fewer "
                "(max_queue_rows): send it in several requests",
            )
        if reason is RefusalReason.CLOSED:
            return HeadraceError(
                ErrorCode.NOT_READY, f"model '{name}' is shutting down", retry_after_s=1.0
            )
        why = (
            f"the queue of model '{name}' is full"
            if reason is RefusalReason.QUEUE_FULL
            else f"model '{name}' could not answer before the deadline"
        )
        return HeadraceError(
            ErrorCode.OVERLOADED, why, retry_after_s=max(refusal.retry_after_s, 0.001)
        )

    # -- the pump ---------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Expire what is late, start what may start, arm one timer for the rest."""
        self._pump_is_due = False
        queue = self.queue
        now = began_s = self._clock()
        self._expire(now)
        while (batch := queue.take(now)) is not None:
            inline = self._run_cost.predict_s(batch.rows) <= self._inline_limit_s
            if self._traced.inside:
                self._traced.started(batch, inline=inline)
            if inline:
                self._complete(batch, self._execute(batch), inline=True)
                now = self._clock()
                self._expire(now)
                if now - began_s > INLINE_TURN_S:
                    self._pump_soon()  # whoever waits for the loop gets it in between
                    break
            else:
                self._start(batch)
        self._arm_timer()

    def _start(self, batch: Batch[Ticket]) -> None:
        self._worker.submit(
            lambda: self._execute(batch),
            lambda outcomes: self._complete_and_pump(batch, outcomes),
        )

    def _execute(self, batch: Batch[Ticket]) -> list[Outcome]:
        """Run a batch on whatever thread this is, and note what it cost."""
        thread_clock = self._thread_clock
        if thread_clock is None:
            return execute(self.servable, batch)
        began_s = thread_clock()
        outcomes = execute(self.servable, batch)
        batch.cost_s = thread_clock() - began_s
        return outcomes

    def _complete_and_pump(self, batch: Batch[Ticket], outcomes: list[Outcome]) -> None:
        # Start the next batch before the answers are written: an idle model is the dearest thing here.
        ended_s = self._clock()
        complete = self._free(batch, outcomes, ended_s, inline=False)
        self._pump()
        self._settle(complete, batch.started_s, ended_s)

    def _complete(self, batch: Batch[Ticket], outcomes: list[Outcome], *, inline: bool) -> None:
        ended_s = self._clock()
        complete = self._free(batch, outcomes, ended_s, inline=inline)
        self._settle(complete, batch.started_s, ended_s)

    def _free(
        self, batch: Batch[Ticket], outcomes: list[Outcome], ended_s: float, *, inline: bool
    ) -> list[tuple[Ticket, Outcome]]:
        """Give the instance back and say which tickets now have their outcome."""
        queue = self.queue
        ready: list[tuple[Ticket, Outcome]] = []
        for (ticket, first, end), outcome in zip(batch.parts, outcomes, strict=True):
            if isinstance(outcome, HeadraceError):
                if queue.withdraw(ticket):
                    ready.append((ticket, outcome))
            elif end - first == ticket.rows:
                ticket.outputs = outcome
            else:
                ticket.add_piece(first, outcome)
        ready += [
            (ticket, ticket.outputs or self._assemble(ticket))
            for ticket in queue.finished(batch, ended_s)
        ]
        cost_s = ended_s - batch.started_s if self._thread_clock is None else batch.cost_s
        self._run_cost.observe(batch.rows, cost_s)
        self._meters.batch(batch, ended_s, inline=inline)
        if self._traced.inside:
            self._traced.ended(batch, ended_s)
        return ready

    def _assemble(self, ticket: Ticket) -> Outcome:
        try:
            return ticket.assemble()
        except Exception as error:  # noqa: BLE001  its neighbours have their answers, and wait for them
            return HeadraceError(
                ErrorCode.INTERNAL,
                f"model '{self.servable.name}' answered the parts of a request in shapes that do not join: {error}",
            )

    def _settle(
        self, ready: list[tuple[Ticket, Outcome]], started_s: float, ended_s: float
    ) -> None:
        """Hand every outcome to its caller; each settles on its own, whatever the others do."""
        clock = self._clock
        servable = self.servable
        answered: list[tuple[float, float]] = []
        for ticket, outcome in ready:
            if isinstance(outcome, HeadraceError):
                self._meters.shed("failed", 1)
                self._settle_one(ticket, None, outcome)
            elif ticket.deadline_s == NO_DEADLINE_S:
                self._settle_one(ticket, Prediction(servable, outcome), None)
                answered.append((ticket.received_s, ticket.enqueued_s))
            elif ticket.deadline_s - WRITE_MARGIN_S < clock():
                self._meters.shed("finished_late", 1)
                self._settle_one(ticket, None, self._too_late())
            else:
                self._settle_one(ticket, Prediction(servable, outcome), None)
                answered.append((ticket.received_s, ticket.enqueued_s))
                if clock() > ticket.deadline_s:
                    self._meters.late_answer()
        if answered:
            self._meters.answered(answered, started_s, ended_s, clock())

    def _settle_one(
        self, ticket: Ticket, prediction: Prediction | None, error: HeadraceError | None
    ) -> None:
        try:
            ticket.settle(prediction, error)
        except Exception:
            logger.exception("answering a request of model '%s' failed", self.servable.name)

    # -- time -------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        expired = self.queue.expire(now)
        if expired:
            self._meters.shed("expired", len(expired))
            for ticket in expired:
                self._settle_one(ticket, None, self._too_late())

    def _too_late(self) -> HeadraceError:
        return HeadraceError(
            ErrorCode.DEADLINE_EXCEEDED,
            f"the deadline passed before model '{self.servable.name}' answered",
        )

    def _arm_timer(self) -> None:
        due_s = self.queue.next_wakeup()
        if due_s is None:
            return  # an armed timer that is no longer needed fires once for nothing: cheaper than taking it back
        timer = self._timer
        if timer is not None:
            if self._timer_due_s <= due_s:
                return
            timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def close(self) -> None:
        """Take no more requests; what is inside is still answered."""
        self.queue.close()
        if self.queue.idle and self._timer is not None:
            self._timer.cancel()  # it would keep the model in memory until a deadline that is long met
            self._timer = None

    def __repr__(self) -> str:
        return f"Lane({self.servable!r}, {self.queue!r})"
