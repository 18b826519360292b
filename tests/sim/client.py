"""The caller's end of one call, where a front would stand.

Decides nothing about the gateway: it starts the stack's coroutine, tells the book how the call ended, spends the time
that writing takes, and then lets its crowd react. What goes wrong is noted in the book, never raised into the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from featurecache.joining.resolve import ServicePlan
from gateway.core.call import Call
from gateway.errors import CallCancelled
from gateway.messages import Prediction, PredictRequest
from gateway.pipeline.enrich import ServiceEnrichment
from gateway.pipeline.ticket import Ticket
from tests.sim.day_book import DayBook
from tests.sim.feature_book import FeatureBook
from tests.sim.feature_looking import Looking
from tests.sim.feature_rows import client_inputs
from tests.sim.lane_book import LaneBook
from tests.sim.records import CallRecord
from tests.sim.virtual_loop import VirtualLoop

if TYPE_CHECKING:
    from tests.sim.process import Process


class BrokenClientError(Exception):
    """A caller that fails while it is handed its answer."""


class SimCall(Call[Prediction]):
    """One call of the simulator."""

    def __init__(
        self,
        record: CallRecord,
        request: PredictRequest,
        loop: VirtualLoop,
        *,
        breaks: bool,
        then: Callable[[SimCall], None],
        lost: Callable[[SimCall], None],
    ) -> None:
        super().__init__()
        self.record = record
        self._request = request
        self._lane: LaneBook | None = None
        self._plan: ServicePlan | None = None
        self._book: DayBook
        self._process: Process
        self._loop = loop
        self.breaks = breaks
        self._then = then
        self._lost = lost
        self._shed_before: dict[str, int] = {}

    def begin(self, process: Process) -> None:
        """The request is complete: decoded by what is served now, and into the gateway with it."""
        book, record, request = process.book, self.record, self._request
        self._process, self._book = process, book
        self._lane = lane = book.find(request.model, request.version)
        if lane is not None and not lane.plan.batched:
            record.rows = request.rows = 1
        if book.features is not None and record.entities:
            self._name_entities(lane, book.features)
        process.calls[record.number] = self
        self._shed_before = self._shed()
        book.started(record)
        self.start(book.serving.stack(request))
        if not record.ended:
            if self._lane is None:
                book.wrong(f"call {record.number} asks for no known model, and waits")
            elif not self.running:
                book.wrong(f"call {record.number} neither waits nor has ended")
            elif isinstance(record.looking, Looking) and not record.looking.settled:
                record.waited_for_rows = True
                book.waits_for_rows(record, self._lane)
            else:
                self._enters(self._lane)

    def _name_entities(self, lane: LaneBook | None, features: FeatureBook) -> None:
        """The request as the version asks for it that answers now."""
        record, request = self.record, self._request
        if lane is None or not lane.plan.features:
            return
        record.service = service = features.plan.service(lane.plan.features)
        found = self._book.serving.table.find(request.model, request.version).enrichment
        self._plan = cast("ServiceEnrichment", found).plan
        if service.key != "input":
            record.entities = [record.entities[0]] * len(record.entities)
        request.inputs, request.context = client_inputs(record.inputs, record.entities, service)
        request.wants_feature_status = record.wants_status
        features.expects = record

    def _enters(self, lane: LaneBook) -> None:
        """It waits in its lane from now on."""
        record = self.record
        if record.service is not None:
            assert self._plan is not None
            inputs = self._plan.build(self._request.inputs)
            problem = self._book.completed(record, inputs)
            if problem:
                self._book.wrong(f"call {record.number} {problem}")
            record.inputs = inputs
        self._book.taken_in(record, lane)

    def _step(self) -> None:
        looking, features = self.record.looking, self._book.features
        if features is None or not isinstance(looking, Looking) or looking.settled:
            super()._step()
            return
        features.settles(looking)
        self._shed_before = self._shed()
        super()._step()
        if not self.record.ended:
            if isinstance(self._promise, Ticket) and self._lane is not None:
                self._enters(self._lane)
            else:
                self._book.wrong(f"call {self.record.number} has its rows, and waits for no model")

    def go_away(self, *, in_a_sweep: bool) -> None:
        """The caller hangs up, whatever state the call is in.

        ``in_a_sweep``: while the gateway hands out answers. Only then may a call have its outcome and still wait.
        """
        record = self.record
        was_inside = record.inside
        record.cancelling = True
        self._shed_before = self._shed()
        self.cancel()
        if not was_inside:
            return
        if record.inside:
            self._book.wrong(f"call {record.number} lives on after it was cancelled")
        if record.cancelled_after_outcome and not in_a_sweep:
            self._book.wrong(f"call {record.number} was cancelled, but its lane had forgotten it")

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        record, loop = self.record, self._loop
        self._process.calls.pop(record.number, None)
        looking, features = record.looking, self._book.features
        if features is not None and isinstance(looking, Looking) and not looking.settled:
            features.leaves(looking)
        refusal = "" if record.reached_lane else self._newly_shed()
        if record.cancelling and record.reached_lane and isinstance(error, CallCancelled):
            record.cancelled_after_outcome = self._newly_shed() != "cancelled"
        self._book.ended(record, self._lane, result, error, refusal)
        if error is None:
            loop.advance(self._book.day.write_cost_s)
            if loop.now_s > record.deadline_s:
                self._book.wrong(f"call {record.number} was written after its deadline")
        self._then(self)
        if self.breaks and error is None:
            raise BrokenClientError(f"call {record.number}")

    def be_lost(self) -> None:
        """The process that had the call, or its connection, is no more."""
        coroutine, self._coroutine, self._promise = self._coroutine, None, None
        if coroutine is not None:
            coroutine.close()
        record = self.record
        record.ended = True
        record.inside = False
        record.outcome = "lost"
        self._lost(self)

    def _shed(self) -> dict[str, int]:
        """How many requests of this call's lane ended without an answer of the model, by reason."""
        return {} if self._lane is None else dict(self._lane.meters.shed_reasons)

    def _newly_shed(self) -> str:
        """For which reason the lane counted a request just now; empty when it counted none."""
        before = self._shed_before
        newly = [reason for reason, count in self._shed().items() if count != before.get(reason, 0)]
        if len(newly) > 1:
            self._book.wrong(f"call {self.record.number} was counted twice: {newly}")
        return newly[0] if newly else ""
