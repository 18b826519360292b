"""The traced requests of one lane, which are few.

Notes when their batches start and end, so that a lane asks only once per batch whether it holds any. It must never
keep a request that has its answer beyond the next batch.
"""

from __future__ import annotations

from gateway.core.batch import Batch
from gateway.messages import Trace
from gateway.pipeline.ticket import Ticket


class TracedTickets:
    """Tickets whose requests carry a trace."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside: dict[Ticket, Trace] = {}
        """Empty nearly always: look before you call."""

    def add(self, ticket: Ticket, trace: Trace) -> None:
        """A ticket was queued."""
        trace.queued_s = ticket.enqueued_s
        self.inside[ticket] = trace

    def started(self, batch: Batch[Ticket], *, inline: bool) -> None:
        """A batch starts. A request that is cut over several batches started with its first one."""
        self.inside = {ticket: one for ticket, one in self.inside.items() if not ticket.settled}
        for ticket, _, _ in batch.parts:
            trace = self.inside.get(ticket)
            if trace is not None:
                trace.started_s = trace.started_s or batch.started_s
                trace.batch_rows = batch.rows
                trace.batch_reason = batch.reason.value
                trace.execution = "inline" if inline else "worker"

    def ended(self, batch: Batch[Ticket], ended_s: float) -> None:
        """A batch ended; its answers are about to be written."""
        for ticket, _, end in batch.parts:
            trace = self.inside.get(ticket)
            if trace is not None:
                trace.ran_s = ended_s
                if end == ticket.rows:
                    del self.inside[ticket]
