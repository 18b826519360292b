"""The judge: every call ends once, in a way that its own story justifies.

Keeps the books of one process of the gateway: who is inside, how each call ended, whether that was right, and whether
the gateway's own counts say the same. A wrong end is noted here and never raised, because the gateway contains what its
callers raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf

from backends.signature import Tensor
from gateway.core.batch import RefusalReason
from gateway.errors import CallCancelled, ErrorCode, HeadraceError
from gateway.messages import Prediction
from gateway.pipeline.lane import WRITE_MARGIN_S
from gateway.serving import Serving
from tests.sim.feature_book import FeatureBook
from tests.sim.lane_book import TINY_S, LaneBook
from tests.sim.plans import Day
from tests.sim.records import CallRecord, History
from tests.sim.roster import Roster
from tests.sim.rows import is_answer
from tests.sim.virtual_loop import VirtualLoop

MARGIN_S = WRITE_MARGIN_S + TINY_S
"""A call may be given up this long before its deadline although its rows have run: the answer has to be written."""


class DayBook:
    """One process of a day; ``calls`` are those of the whole day."""

    def __init__(
        self, day: Day, loop: VirtualLoop, history: History, calls: dict[int, CallRecord]
    ) -> None:
        self.day = day
        self.history = history
        self.calls = calls
        self.roster: Roster
        self.serving: Serving
        self.features: FeatureBook | None = None
        self.requests_inside = 0
        self.bytes_inside = 0
        self.closed = False
        self._entered = 0
        self._loop = loop
        self._deadlines: list[tuple[float, int]] = []

    def wrong(self, problem: str) -> None:
        self.history.complain(self._loop.now_s, problem)

    @property
    def lanes(self) -> list[LaneBook]:
        """Of every version that has a lane, retired ones included."""
        return self.roster.lanes

    def find(self, model: str, version: str) -> LaneBook | None:
        """Who must answer a call that arrives now."""
        return self.roster.find(model, version)

    # -- bodies that are still arriving -----------------------------------------------------------

    def reserve(self, size_bytes: int) -> bool:
        """What a front does for a large body, checked: False when there is no room."""
        fits = self.bytes_inside + size_bytes <= self.day.max_bytes
        reserved = self.serving.admission.reserve_bytes(size_bytes)
        if reserved != fits:
            self.wrong(f"{size_bytes} bytes beside {self.bytes_inside}: reserved is {reserved}")
        self.bytes_inside += size_bytes * reserved
        return reserved

    def release(self, size_bytes: int) -> None:
        """The body is complete."""
        self.serving.admission.release_bytes(size_bytes)
        self.bytes_inside -= size_bytes

    # -- starts and ends --------------------------------------------------------------------------

    def started(self, record: CallRecord) -> None:
        """The call is about to be handed to the gateway."""
        record.inside = True
        self.requests_inside += 1
        self.bytes_inside += record.size_bytes

    def taken_in(self, record: CallRecord, lane: LaneBook) -> None:
        """The lane did not refuse the call at once."""
        self.history.note(
            self._loop.now_s,
            "enters",
            f"call {record.number}",
            lane.name,
            f"rows={record.rows} width={record.width} p{record.priority}",
            f"deadline=+{(record.deadline_s - self._loop.now_s) * 1e3:.3f} ms",
        )
        if self.closed:
            self.wrong(f"call {record.number} was taken in after the close")
        self._entered += 1
        record.order = self._entered
        lane.enter(record)
        if not record.waited_for_rows:
            self._is_inside(record)

    def waits_for_rows(self, record: CallRecord, lane: LaneBook) -> None:
        """The call is in the gateway, and its lane does not know of it yet."""
        self.history.note(self._loop.now_s, "looks up", f"call {record.number}", lane.name)
        lane.held += 1
        self._is_inside(record)

    def _is_inside(self, record: CallRecord) -> None:
        day = self.day
        if self.requests_inside > day.max_requests:
            self.wrong(f"{self.requests_inside} requests inside")
        if self.bytes_inside > day.max_bytes and self.requests_inside > 1:
            self.wrong(f"{self.bytes_inside} bytes inside")
        if record.deadline_s != inf:
            heappush(self._deadlines, (record.deadline_s, record.number))

    def completed(self, record: CallRecord, inputs: Sequence[Tensor]) -> str:
        """What is wrong with the inputs that the store completed; empty when all is well."""
        assert self.features is not None
        if record.looking is None:
            return "has its features without having asked for them"
        verdict = self.features.judge(record)
        if verdict.refused:
            return "is run although it may not be completed"
        return verdict.inputs_problem(record.inputs, inputs)

    def ended(
        self,
        record: CallRecord,
        lane: LaneBook | None,
        result: Prediction | None,
        error: BaseException | None,
        refusal: str,
    ) -> None:
        """The call's one end; ``refusal`` is the lane's reason when it was never let in."""
        if record.ended or not record.inside:
            self.wrong(f"call {record.number} ended twice, or without a start: {error!r}")
            return
        record.ended = True
        record.inside = False
        if lane is not None and (record.reached_lane or refusal):
            record.lane_name = lane.name
        self.requests_inside -= 1
        self.bytes_inside -= record.size_bytes
        if error is None:
            record.outcome = "answer"
            problem = self._judge_answer(record, lane, result)
        elif isinstance(error, CallCancelled):
            record.outcome = "cancelled"
            problem = "" if record.cancelling else "cancelled, but its caller never went away"
        elif not isinstance(error, HeadraceError):
            record.outcome = repr(error)
            problem = f"failed with {error!r}"
        elif record.reached_lane:
            assert lane is not None
            record.outcome = error.code.value
            problem = self._judge_failure(record, lane, error)
        elif error.code is ErrorCode.FEATURES_MISSING:
            record.outcome = error.code.value
            problem = self._judge_incomplete(record, error)
        else:
            record.outcome = refusal or error.code.value
            problem = self._judge_refusal(record, lane, error, refusal)
            if record.looking is not None and self._must_be_refused(record):
                problem = problem or "came to its lane although it may not be completed"
        self.history.note(
            self._loop.now_s, "ends", f"call {record.number}", lane and lane.name, record.outcome
        )
        if problem:
            self.wrong(f"call {record.number} {problem}")
        if lane is not None and record.reached_lane:
            lane.leave(record)
        if lane is not None and record.waited_for_rows:
            lane.held -= 1

    # -- verdicts: empty when all is well ---------------------------------------------------------

    def _judge_answer(
        self, record: CallRecord, lane: LaneBook | None, result: Prediction | None
    ) -> str:
        if lane is None or result is None:
            return "was answered by nobody, or with nothing"
        if result.servable is not lane.lane.servable:
            return f"was answered by {result.servable!r}"
        if self._loop.now_s > record.deadline_s:
            return f"was answered {self._loop.now_s - record.deadline_s} s after its deadline"
        if record.failures:
            return "was answered although the model failed on its rows"
        if record.taken_rows != record.rows:
            return f"was answered after {record.taken_rows} of {record.rows} rows ran"
        if not is_answer(record.inputs, result.outputs):
            return f"has a wrong answer: {result.outputs}"
        parameters = result.parameters or {}
        if record.service is None or not record.wants_status:
            return f"was told {parameters}" if parameters else ""
        assert self.features is not None
        return self.features.judge(record).report_problem(parameters.get("feature_status"))

    def _must_be_refused(self, record: CallRecord) -> bool:
        assert self.features is not None
        return self.features.judge(record).refused

    def _judge_incomplete(self, record: CallRecord, error: HeadraceError) -> str:
        """Only what its rows allow may keep a call from its model."""
        if record.looking is None:
            return f"failed with {error!r} before anything was asked"
        must = self._must_be_refused(record)
        is_refused = error.code is ErrorCode.FEATURES_MISSING
        return "" if must == is_refused else f"failed with {error!r}, must be refused is {must}"

    def _judge_failure(self, record: CallRecord, lane: LaneBook, error: HeadraceError) -> str:
        """Only the model and the clock may fail a call that the lane took in."""
        if error.code is ErrorCode.DEADLINE_EXCEEDED:
            early_s = record.deadline_s - self._loop.now_s
            if record.taken_rows:
                allowed_s = MARGIN_S
            else:
                # Not worth starting: alone and at once, its first rows would come too late.
                first_rows = min(record.rows, lane.plan.limit_rows)
                allowed_s = lane.lane.queue.service_time.predict_s(first_rows) + TINY_S
            return f"was given up {early_s} s early" if early_s > allowed_s else ""
        if error.code in record.failures:
            return ""
        return f"failed with {error!r}, its own rows with {record.failures or 'nothing'}"

    def _judge_refusal(
        self, record: CallRecord, lane: LaneBook | None, error: HeadraceError, refusal: str
    ) -> str:
        if lane is None:
            known = error.code in (ErrorCode.NOT_FOUND, ErrorCode.NOT_READY)
            full = error.code is ErrorCode.OVERLOADED
            return "" if known or full else f"of no model was refused with {error!r}"
        now_s = self._loop.now_s
        plan = lane.plan
        justified, code = {
            "": (self._was_full(record), ErrorCode.OVERLOADED),
            RefusalReason.CLOSED.value: (self.closed, ErrorCode.NOT_READY),
            RefusalReason.TOO_LARGE.value: (
                record.rows > plan.max_queue_rows,
                ErrorCode.INVALID_ARGUMENT,
            ),
            RefusalReason.DEADLINE_PASSED.value: (
                record.deadline_s <= now_s,
                ErrorCode.DEADLINE_EXCEEDED,
            ),
            RefusalReason.QUEUE_FULL.value: (
                lane.waiting_requests >= plan.max_queue_requests
                or lane.waiting_rows + record.rows > plan.max_queue_rows,
                ErrorCode.OVERLOADED,
            ),
            RefusalReason.WOULD_MISS_DEADLINE.value: (
                self._might_be_late(record, lane),
                ErrorCode.OVERLOADED,
            ),
        }[refusal]
        if error.code is not code:
            return f"was refused ({refusal}) with {error!r}"
        if code is ErrorCode.OVERLOADED and not (error.retry_after_s or 0.0) > 0.0:
            return f"was refused ({refusal}) without saying when to try again"
        return "" if justified else f"was refused ({refusal}) for no reason"

    def _was_full(self, record: CallRecord) -> bool:
        # By now the call itself has left the books again.
        return self.requests_inside >= self.day.max_requests or (
            self.requests_inside > 0 and self.bytes_inside + record.size_bytes > self.day.max_bytes
        )

    def _might_be_late(self, record: CallRecord, lane: LaneBook) -> bool:
        """An idle lane has no excuse: the run alone must be too long."""
        if record.deadline_s == inf:
            return False
        if not lane.is_idle:
            return True
        predict_s = lane.lane.queue.service_time.predict_s
        limit = lane.plan.limit_rows
        if record.rows <= limit:
            alone_s = predict_s(record.rows)
        else:  # others may join its last piece
            alone_s = -(-record.rows // limit) * predict_s(limit)
        return self._loop.now_s + alone_s > record.deadline_s - TINY_S

    # -- moments ----------------------------------------------------------------------------------

    def check_turn(self) -> None:
        """At the end of each turn of the loop."""
        loop = self._loop
        admission = self.serving.admission
        inside = (admission.requests_inside, admission.bytes_inside)
        if inside != (self.requests_inside, self.bytes_inside):
            self.wrong(f"admission counts {inside}, {self.requests_inside} calls are inside")
        for lane in self.lanes:
            lane.check_turn()
        if self.features is not None:
            self.features.check_turn()
        due_s = loop.turn_started_s - loop.timer_resolution_s - TINY_S
        while self._deadlines and self._deadlines[0][0] < due_s:
            deadline_s, number = heappop(self._deadlines)
            if not self.calls[number].ended:
                self.wrong(
                    f"call {number} still waits {loop.now_s - deadline_s} s after its deadline"
                )

    def check_end(self) -> None:
        """When nothing will happen any more."""
        if not self.serving.idle:
            self.wrong(f"the gateway is not idle: {list(self.serving.lanes.values())}")
        late = sum(meters.late_answers for meters in self.serving.metrics.lanes)
        if late:
            self.wrong(f"the metrics count {late} late answers")
