"""Bugs to plant into the gateway, so that the simulator can show that it would find them.

Each is one small change of the kind that a tired hand makes, planted from outside and taken back by ``monkeypatch``.
What a bug looks like from outside stands beside it: the words of a complaint that must appear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import msgspec
import numpy as np
import pytest

from backends.signature import Tensor
from gateway.core.admission import Admission
from gateway.core.batch import Batch, BatchLimits, BatchReason, Refusal, RefusalReason
from gateway.core.batching import BatchQueue
from gateway.core.servables import ServableTable, ServableVersion
from gateway.core.service_time import ServiceTime
from gateway.errors import CallCancelled, HeadraceError
from gateway.messages import Prediction, PredictRequest
from gateway.pipeline import execution, lane
from gateway.pipeline.execution import Outcome
from gateway.pipeline.lane import Lane
from gateway.pipeline.ticket import Ticket
from gateway.telemetry.metrics import LaneMetrics

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, tuple[str, ...]]] = {}
"""Name → (how to plant it, what it may look like)."""


def bug(*looks_like: str) -> Callable[[Plant], Plant]:
    """Register a bug and the complaints, any of which finds it."""

    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = (plant, looks_like)
        return plant

    return register


def with_limits(patch: pytest.MonkeyPatch, change: Callable[[BatchLimits], dict[str, Any]]) -> None:
    """Every queue gets other limits than its model's settings say."""
    original = BatchQueue.__init__

    def changed(self: BatchQueue[Any], limits: BatchLimits, service_time: ServiceTime) -> None:
        original(self, msgspec.structs.replace(limits, **change(limits)), service_time)

    patch.setattr(BatchQueue, "__init__", changed)


# -- promises -------------------------------------------------------------------------------------


@bug("never ended", "still waits", "its lane had forgotten it", "queue counts")
def a_dropped_promise(patch: pytest.MonkeyPatch) -> None:
    settle = Ticket.settle

    def forgets(
        self: Ticket, result: Prediction | None, error: BaseException | None = None
    ) -> None:
        if self.order % 20 != 7:
            settle(self, result, error)

    patch.setattr(Ticket, "settle", forgets)


@bug("after its deadline")
def nobody_looks_at_the_deadline_when_the_model_is_done(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lane, "WRITE_MARGIN_S", -inf)
    patch.setattr(BatchQueue, "expire", lambda self, now: [])


@bug("still waits", "was started after its deadline")
def nothing_expires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchQueue, "expire", lambda self, now: [])


@bug("was given up")
def expires_too_early(patch: pytest.MonkeyPatch) -> None:
    expire = BatchQueue.expire
    patch.setattr(BatchQueue, "expire", lambda self, now: expire(self, now + 2e-3))


@bug("still waits", "waited too long for company")
def the_timer_is_never_armed_for_an_earlier_deadline(patch: pytest.MonkeyPatch) -> None:
    arm = Lane._arm_timer

    def only_once(self: Lane) -> None:
        if self._timer is None:
            arm(self)

    patch.setattr(Lane, "_arm_timer", only_once)


@bug("never ended", "still waits", "had forgotten it", "queue counts")
def cancelling_withdraws_the_whole_batch(patch: pytest.MonkeyPatch) -> None:
    withdraw = BatchQueue.withdraw

    def all_of_them(self: BatchQueue[Any], item: Any) -> bool:
        for batch in self._running:
            members = [member for member, _, _ in batch.parts]
            if item in members:
                for neighbour in members:
                    if neighbour is not item:
                        withdraw(self, neighbour)
        return withdraw(self, item)

    patch.setattr(BatchQueue, "withdraw", all_of_them)


@bug("its caller never went away")
def cancelling_cancels_the_neighbours(patch: pytest.MonkeyPatch) -> None:
    withdraw = Lane.withdraw

    def all_of_them(self: Lane, ticket: Ticket) -> None:
        withdraw(self, ticket)
        for batch in self.queue._running:
            members = [member for member, _, _ in batch.parts]
            for neighbour in members if ticket in members else ():
                if self.queue.withdraw(neighbour):
                    neighbour.settle(None, CallCancelled())

    patch.setattr(Lane, "withdraw", all_of_them)


@bug("queue counts", "had forgotten it")
def a_cancelled_request_keeps_its_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lane, "withdraw", lambda self, ticket: None)


@bug("was taken in after the close")
def a_closed_lane_takes_requests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchQueue, "close", lambda self: None)


@bug("the gateway logged")
def a_promise_is_kept_twice(patch: pytest.MonkeyPatch) -> None:
    settle = Ticket.settle

    def twice(self: Ticket, result: Prediction | None, error: BaseException | None = None) -> None:
        settle(self, result, error)
        settle(self, result, error)

    patch.setattr(Ticket, "settle", twice)


# -- batches --------------------------------------------------------------------------------------


@bug("first in line")
def the_last_comes_first(patch: pytest.MonkeyPatch) -> None:
    take = BatchQueue.take

    def backwards(self: BatchQueue[Any], now: float) -> Batch[Any] | None:
        for bucket in self._buckets.values():
            bucket.reverse()
        try:
            return take(self, now)
        finally:
            for bucket in self._buckets.values():
                bucket.reverse()

    patch.setattr(BatchQueue, "take", backwards)


@bug("first in line", "of another bucket")
def priorities_are_ignored(patch: pytest.MonkeyPatch) -> None:
    offer = BatchQueue.offer

    def all_alike(self: BatchQueue[Any], item: Any, now: float) -> Refusal | None:
        item.priority = 1
        return offer(self, item, now)

    patch.setattr(BatchQueue, "offer", all_alike)


@bug("of another bucket")
def buckets_take_turns_by_age(patch: pytest.MonkeyPatch) -> None:
    def first_made(self: BatchQueue[Any], now: float) -> Any:
        name = next(iter(self._buckets))
        return name, self._buckets[name], BatchReason.IDLE

    patch.setattr(BatchQueue, "_most_urgent", first_made)


@bug("rows in one batch", "left behind")
def batches_are_too_large(patch: pytest.MonkeyPatch) -> None:
    with_limits(patch, lambda limits: {"max_batch_rows": limits.max_batch_rows + 1})


@bug("left behind", "was cut although it fits")
def batches_are_smaller_than_they_could_be(patch: pytest.MonkeyPatch) -> None:
    with_limits(patch, lambda limits: {"max_batch_rows": max(1, limits.max_batch_rows - 1)})


@bug("requests in the queue")
def the_queue_takes_one_too_many(patch: pytest.MonkeyPatch) -> None:
    with_limits(patch, lambda limits: {"max_queue_requests": limits.max_queue_requests + 1})


@bug("(queue_full) for no reason")
def the_queue_is_full_one_too_early(patch: pytest.MonkeyPatch) -> None:
    with_limits(patch, lambda limits: {"max_queue_requests": limits.max_queue_requests - 1})


@bug("batches run on")
def one_batch_more_than_there_are_instances(patch: pytest.MonkeyPatch) -> None:
    with_limits(patch, lambda limits: {"instances": limits.instances + 1})


@bug("was inline", "was not inline")
def the_limit_for_inline_runs_is_half_of_what_was_set(patch: pytest.MonkeyPatch) -> None:
    make = Lane.__init__

    def hasty(self: Lane, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs | {"inline_limit_s": kwargs["inline_limit_s"] / 2})

    patch.setattr(Lane, "__init__", hasty)


@bug("wait beside an idle instance")
def nothing_starts_when_a_batch_ends(patch: pytest.MonkeyPatch) -> None:
    def no_pump(self: Lane, batch: Batch[Ticket], outcomes: list[Outcome]) -> None:
        self._complete(batch, outcomes, inline=False)

    patch.setattr(Lane, "_complete_and_pump", no_pump)


@bug("waited too long for company", "never ended")
def company_is_awaited_for_ever(patch: pytest.MonkeyPatch) -> None:
    def deadlines_only(self: BatchQueue[Any]) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    patch.setattr(BatchQueue, "next_wakeup", deadlines_only)


@bug("(would_miss_deadline) for no reason")
def an_idle_lane_refuses(patch: pytest.MonkeyPatch) -> None:
    offer = BatchQueue.offer

    def timid(self: BatchQueue[Any], item: Any, now: float) -> Refusal | None:
        if item.deadline_s != inf and self.idle and item.rows == 1:
            return Refusal(RefusalReason.WOULD_MISS_DEADLINE, 1.0)
        return offer(self, item, now)

    patch.setattr(BatchQueue, "offer", timid)


@bug("left behind", "first in line", "batches run on", "batches of")
def shapes_share_a_bucket(patch: pytest.MonkeyPatch) -> None:
    make = Ticket.__init__

    def shapeless(self: Ticket, request: PredictRequest, bucket: object) -> None:
        make(self, request, None)

    patch.setattr(Ticket, "__init__", shapeless)


# -- answers --------------------------------------------------------------------------------------


@bug("has a wrong answer")
def rows_are_handed_out_one_too_far(patch: pytest.MonkeyPatch) -> None:
    scatter = execution._scatter

    def shifted(servable: Any, outputs: list[Tensor], parts: Any, rows: int) -> list[Outcome]:
        return scatter(servable, [np.roll(one, 1, axis=0) for one in outputs], parts, rows)

    patch.setattr(execution, "_scatter", shifted)


@bug("has a wrong answer")
def pieces_are_joined_in_the_order_in_which_they_came_back(patch: pytest.MonkeyPatch) -> None:
    add_piece = Ticket.add_piece

    def at_the_end(self: Ticket, first_row: int, outputs: list[Tensor]) -> None:
        add_piece(self, -first_row, outputs)

    patch.setattr(Ticket, "add_piece", at_the_end)


@bug("its own rows with nothing")
def one_bad_row_fails_its_batch(patch: pytest.MonkeyPatch) -> None:
    execute = execution.execute

    def together(servable: Any, batch: Batch[Ticket]) -> list[Outcome]:
        outcomes = execute(servable, batch)
        failed = [one for one in outcomes if isinstance(one, HeadraceError)]
        return [failed[0]] * len(outcomes) if failed else outcomes

    patch.setattr(lane, "execute", together)


@bug("was answered although the model failed", "has a wrong answer")
def a_failed_row_is_answered_with_zeros(patch: pytest.MonkeyPatch) -> None:
    run_alone = execution._run_alone

    def comforting(
        servable: Any, inputs: Sequence[Tensor], first: int, end: int, rows: int
    ) -> Outcome:
        outcome = run_alone(servable, inputs, first, end, rows)
        if isinstance(outcome, HeadraceError):
            return [np.zeros_like(one[first:end]) for one in inputs[::-1]]
        return outcome

    patch.setattr(execution, "_run_alone", comforting)


@bug("was answered by", "queue counts", "still held", "asks for no known model")
def an_asked_version_is_ignored(patch: pytest.MonkeyPatch) -> None:
    find = ServableTable.find
    patch.setattr(ServableTable, "find", lambda self, model, version: find(self, model, ""))


# -- counts ---------------------------------------------------------------------------------------


@bug("admission counts")
def the_permit_of_a_cancelled_call_is_lost(patch: pytest.MonkeyPatch) -> None:
    release = Admission.release

    def forgets(self: Admission, size_bytes: int) -> None:
        if self.requests_inside % 5 != 3:
            release(self, size_bytes)

    patch.setattr(Admission, "release", forgets)


@bug("requests inside")
def the_process_takes_one_too_many(patch: pytest.MonkeyPatch) -> None:
    make = Admission.__init__

    def generous(self: Admission, limits: Any) -> None:
        make(self, msgspec.structs.replace(limits, max_requests=limits.max_requests + 1))

    patch.setattr(Admission, "__init__", generous)


@bug("is still held")
def a_handle_is_never_given_back(patch: pytest.MonkeyPatch) -> None:
    release = ServableVersion.release

    def forgets(self: ServableVersion) -> bool:
        return False if self.handles == 2 else release(self)

    patch.setattr(ServableVersion, "release", forgets)


@bug("metrics of", "had forgotten it")
def cancelled_calls_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    shed = LaneMetrics.shed

    def quietly(self: LaneMetrics, reason: str, count: int) -> None:
        if reason != "cancelled":
            shed(self, reason, count)

    patch.setattr(LaneMetrics, "shed", quietly)


@bug("metrics of")
def the_batch_that_fails_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    batch = LaneMetrics.batch

    def twice(self: LaneMetrics, one: Batch[Any], ended_s: float, *, inline: bool) -> None:
        batch(self, one, ended_s, inline=inline)
        if len(one.parts) > 1:
            batch(self, one, ended_s, inline=inline)

    patch.setattr(LaneMetrics, "batch", twice)
