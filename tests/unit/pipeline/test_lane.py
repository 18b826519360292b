"""From a submitted request to its settled ticket."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from backends.signature import Tensor, TensorSpec
from gateway.core.batch import ItemState
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Prediction
from gateway.pipeline.lane import INLINE_TURN_S
from tests.support.servables import stub
from tests.unit.pipeline.lane_world import NEVER_INLINE_S, Caller, World, taught
from tests.unit.pipeline.requests import doubled, request

# -- the pump -------------------------------------------------------------------------------------


def test_requests_of_one_turn_share_one_pump_and_one_batch() -> None:
    world = World()
    callers = [world.ask(value) for value in (1, 2, 3)]
    assert len(world.loop.soon) == 1
    assert world.seen_rows == []
    world.loop.turn()
    assert world.seen_rows == [3]
    assert [one.rows for one in callers] == [[[2, 3]], [[4, 5]], [[6, 7]]]


def test_the_next_turn_has_a_pump_of_its_own() -> None:
    world = World()
    world.ask(1)
    world.loop.turn()
    assert world.loop.soon == []
    late = world.ask(2)
    world.loop.turn()
    assert late.rows == [[4, 5]]


def test_a_busy_lane_needs_no_pump_for_an_arrival() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    world.ask(1)
    world.loop.turn()
    world.ask(2)
    assert world.loop.soon == []


def test_what_queued_meanwhile_starts_before_the_answers_are_written() -> None:
    """An idle model is the dearest thing here."""
    world = World(inline_limit_s=NEVER_INLINE_S)
    written_while_idle: list[bool] = []
    first = world.ask(1)
    first.finish = lambda result, error: written_while_idle.append(  # type: ignore[method-assign]
        not world.worker.jobs
    )
    world.loop.turn()
    second = world.ask(2)
    world.worker.finish()
    assert written_while_idle == [False]
    world.worker.finish()
    assert second.rows == [[4, 5]]


def test_more_than_a_batch_runs_batch_by_batch_in_one_turn() -> None:
    world = World(max_batch_rows=2)
    callers = [world.ask(value) for value in range(5)]
    world.loop.turn()
    assert world.seen_rows == [2, 2, 1]
    assert all(one.outcomes for one in callers)


def test_a_lane_lets_go_of_the_loop_after_a_while() -> None:
    """Each batch may be short, but sockets and other lanes must not wait for a long queue of them."""
    world = World(max_batch_rows=1, run_s=0.4 * INLINE_TURN_S)
    callers = [world.ask(value) for value in range(5)]
    answered: list[int] = []
    while world.loop.soon:
        world.loop.turn()
        answered.append(sum(bool(one.outcomes) for one in callers))
    assert answered == [3, 5]


def test_a_request_larger_than_a_batch_gets_its_rows_together() -> None:
    world = World(max_batch_rows=2)
    large, small = world.ask(1, 2, 3, 4, 5), world.ask(9)
    world.loop.turn()
    assert world.seen_rows == [2, 2, 2]
    assert large.rows == [[2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert small.rows == [[18, 19]]


def test_pieces_that_finish_out_of_order_come_together_in_order() -> None:
    world = World(max_batch_rows=2, instances=2, inline_limit_s=NEVER_INLINE_S)
    large = world.ask(1, 2, 3)
    world.loop.turn()
    world.worker.finish(1)
    assert large.outcomes == []
    world.worker.finish(0)
    assert large.rows == [[2, 3], [4, 5], [6, 7]]


def test_all_instances_are_used() -> None:
    world = World(max_batch_rows=1, instances=2, inline_limit_s=NEVER_INLINE_S)
    for value in range(3):
        world.ask(value)
    world.loop.turn()
    assert len(world.worker.jobs) == 2


# -- shapes ---------------------------------------------------------------------------------------


def test_shapes_that_may_vary_are_kept_apart() -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    shapes: list[tuple[int, ...]] = []

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        shapes.append(inputs[0].shape)
        return list(inputs)

    world = World(servable=stub([spec], [spec], answer=run))
    for columns in (2, 3, 2):
        Caller(world.lane, request(np.ones((1, columns), np.float32)))
    world.loop.turn()
    assert shapes == [(2, 2), (1, 3)]


# -- inline or on the worker ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_cost_s", "inline"), [(0.0, True), (1e-4, True), (2e-4, True), (2.1e-4, False), (1, False)]
)
def test_a_batch_runs_on_the_loop_while_its_cost_allows(run_cost_s: float, inline: bool) -> None:
    world = World(inline_limit_s=2e-4 + 1e-12, run_cost=taught(run_cost_s))
    caller = world.ask(1)
    world.loop.turn()
    assert bool(caller.outcomes) is inline
    assert len(world.worker.jobs) == (not inline)


def test_a_model_that_became_slow_moves_to_the_worker() -> None:
    world = World(inline_limit_s=1e-3, run_s=0.5)
    for value in range(3):
        world.ask(value)
        world.loop.turn()
    assert [inline for _, _, inline in world.meters.batches] == [True]
    assert len(world.worker.jobs) == 1


def test_the_hand_over_to_the_worker_is_not_the_models_cost() -> None:
    """The worker answers after half a second, of which its thread worked 10 µs: the next batch runs on the loop."""
    thread_s = iter([0.0, 10e-6, 1.0, 1.0 + 10e-6])
    world = World(
        inline_limit_s=1e-3, run_cost=taught(2e-3, runs=1), thread_clock=lambda: next(thread_s)
    )
    world.ask(1)
    world.loop.turn()
    world.loop.now_s += 0.5
    world.worker.finish()
    quick = world.ask(2)
    world.loop.turn()
    assert quick.rows == [[4, 5]]
    assert [inline for _, _, inline in world.meters.batches] == [False, True]


# -- refusals -------------------------------------------------------------------------------------


def refused(world: World, *values: float, deadline_s: float = float("inf")) -> HeadraceError:
    with pytest.raises(HeadraceError) as refusal:
        world.ask(*values, deadline_s=deadline_s)
    return refusal.value


def test_a_full_queue_is_told_with_the_time_to_try_again() -> None:
    world = World(max_queue_requests=1, predict_s=2.0)
    world.ask(1)
    error = refused(world, 2)
    assert error.code is ErrorCode.OVERLOADED
    assert error.message == "the queue of model 'm' is full"
    assert error.retry_after_s == pytest.approx(2.0)
    assert world.meters.shed_reasons == {"queue_full": 1}


def test_a_full_queue_never_says_try_again_at_once() -> None:
    world = World(max_queue_requests=1)
    world.ask(1)
    assert refused(world, 2).retry_after_s == 0.001


def test_what_cannot_be_in_time_is_told_at_once() -> None:
    world = World(predict_s=2.0)
    error = refused(world, 1, deadline_s=1.5)
    assert error.code is ErrorCode.OVERLOADED
    assert error.message == "model 'm' could not answer before the deadline"
    assert error.retry_after_s == pytest.approx(0.5)
    assert world.loop.soon == []
    assert world.meters.shed_reasons == {"would_miss_deadline": 1}


def test_a_deadline_that_has_passed_is_not_overload() -> None:
    error = refused(World(), 1, deadline_s=0.0)
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert error.retry_after_s is None


def test_more_rows_than_the_queue_holds_are_the_callers_mistake() -> None:
    error = refused(World(max_queue_rows=2), 1, 2, 3)
    assert error.code is ErrorCode.INVALID_ARGUMENT
    assert "3 rows in one request" in error.message
    assert error.retry_after_s is None


def test_a_closed_lane_takes_nothing_and_answers_what_it_has() -> None:
    world = World()
    inside = world.ask(1)
    world.lane.close()
    error = refused(world, 2)
    assert (error.code, error.retry_after_s) == (ErrorCode.NOT_READY, 1.0)
    world.loop.turn()
    assert inside.rows == [[2, 3]]


# -- each on its own ------------------------------------------------------------------------------


def test_a_poisoned_request_takes_nobody_down() -> None:
    def picky(inputs: Sequence[Tensor]) -> list[Tensor]:
        if np.any(np.signbit(inputs[0])):
            raise ValueError("negative")
        return doubled(inputs)

    world = World(answer=picky)
    good, bad, fine = world.ask(1), world.ask(-1), world.ask(3)
    world.loop.turn()
    assert (good.rows, fine.rows) == ([[2, 3]], [[6, 7]])
    assert bad.error.code is ErrorCode.INTERNAL
    assert world.meters.shed_reasons == {"failed": 1}
    assert world.lane.queue.idle


def test_a_failed_piece_fails_the_request_once() -> None:
    def picky(inputs: Sequence[Tensor]) -> list[Tensor]:
        if np.any(np.signbit(inputs[0])):
            raise ValueError("negative")
        return doubled(inputs)

    world = World(answer=picky, max_batch_rows=2)
    large = world.ask(1, 2, -3, 4, 5)
    world.loop.turn()
    assert large.error.code is ErrorCode.INTERNAL
    assert world.lane.queue.idle
    assert world.lane.queue.queued_rows == 0


def test_pieces_that_do_not_join_fail_one_request_only() -> None:
    """A model may answer each batch as wide as its longest row."""
    widths = iter([2, 3])

    def ragged(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [np.zeros((len(inputs[0]), next(widths)), np.float32)]

    world = World(answer=ragged, max_batch_rows=2)
    large, small = world.ask(1, 2, 3), world.ask(4)
    world.loop.turn()
    assert large.error.code is ErrorCode.INTERNAL
    assert "do not join" in large.error.message
    assert small.rows == [[0, 0, 0]]


def test_a_caller_that_fails_to_write_its_answer_takes_nobody_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    before, broken, after = world.ask(1), world.ask(2), world.ask(3)

    def fail(result: Prediction | None, error: BaseException | None) -> None:
        raise OSError("connection reset")

    broken.finish = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, logger="headrace.lane"):
        world.loop.turn()
    assert (before.rows, after.rows) == ([[2, 3]], [[6, 7]])
    assert "answering a request of model 'm' failed" in caplog.text
    world.ask(4)
    world.loop.turn()
    assert world.seen_rows == [3, 1]


def test_a_caller_whose_end_cancels_another_leaves_the_rest_alone() -> None:
    """One connection closes, and with it go all of its calls; their answers were ready already."""
    world = World()
    first, second, third = world.ask(1), world.ask(2), world.ask(3)
    ended = first.finish

    def closing(result: Prediction | None, error: BaseException | None) -> None:
        ended(result, error)
        second.cancel()
        world.lane.withdraw(second.ticket)

    first.finish = closing  # type: ignore[method-assign]
    world.loop.turn()
    assert len(second.outcomes) == 1
    assert third.rows == [[6, 7]]
    assert "cancelled" not in world.meters.shed_reasons


def test_a_request_that_follows_within_an_answer_is_served_too() -> None:
    world = World()
    first = world.ask(1)
    following: list[Caller] = []
    ended = first.finish

    def pipelined(result: Prediction | None, error: BaseException | None) -> None:
        ended(result, error)
        following.append(world.ask(2))

    first.finish = pipelined  # type: ignore[method-assign]
    world.loop.turn()
    world.loop.turn()
    assert following[0].rows == [[4, 5]]


# -- the caller goes away -------------------------------------------------------------------------


def test_a_waiting_request_is_withdrawn() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S, max_batch_rows=1)
    running, gone = world.ask(1), world.ask(2)
    world.loop.turn()
    world.lane.withdraw(gone.ticket)
    world.worker.finish()
    assert running.rows == [[2, 3]]
    assert world.worker.jobs == []
    assert gone.ticket.settled
    assert world.meters.shed_reasons == {"cancelled": 1}


@pytest.mark.parametrize("which", range(4))
def test_neighbours_of_a_withdrawn_request_do_not_notice(which: int) -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    callers = [world.ask(value) for value in range(4)]
    world.loop.turn()
    world.lane.withdraw(callers[which].ticket)
    world.worker.finish()
    for number, one in enumerate(callers):
        if number != which:
            assert one.rows == [[2 * number, 2 * number + 1]]
    assert callers[which].outcomes == []
    assert world.lane.queue.idle


def test_withdrawing_what_was_answered_counts_nothing() -> None:
    world = World()
    one = world.ask(1)
    world.loop.turn()
    world.lane.withdraw(one.ticket)
    assert one.ticket.state == ItemState.ENDED
    assert world.meters.shed_reasons == {}


def test_a_lane_can_be_read() -> None:
    world = World()
    world.ask(1)
    assert "BatchQueue(1 requests, 1 rows, 0/1 running)" in repr(world.lane)
