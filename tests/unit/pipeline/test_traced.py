"""What a lane notes in the traces of its requests, and that it notes nothing else."""

from __future__ import annotations

import pytest

from gateway.errors import HeadraceError
from gateway.messages import Trace
from tests.unit.pipeline.lane_world import NEVER_INLINE_S, World


def a_trace() -> Trace:
    return Trace(protocol="http", trace_id=1, parent_id=0, state="", received_s=1.0)


def test_a_traced_request_shows_its_batch_and_its_neighbour_does_not_notice() -> None:
    world = World(run_s=0.25)
    world.loop.now_s = 10.0
    trace = a_trace()
    traced, neighbour = world.ask(1, 2, trace=trace), world.ask(3)
    world.loop.now_s = 10.5
    world.loop.turn()
    assert (trace.queued_s, trace.started_s, trace.ran_s) == (10.0, 10.5, 10.75)
    assert (trace.batch_rows, trace.batch_reason, trace.execution) == (3, "idle", "inline")
    assert traced.rows == [[2, 3], [4, 5]]
    assert neighbour.rows == [[6, 7]]


def test_a_batch_on_a_worker_says_so() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    trace = a_trace()
    world.ask(1, trace=trace)
    world.loop.turn()
    assert trace.execution == "worker"
    assert trace.ran_s == 0.0
    world.loop.now_s = 3.0
    world.worker.finish()
    assert trace.ran_s == 3.0


def test_a_refused_request_was_never_queued() -> None:
    world = World(max_queue_requests=1)
    world.ask(1)
    trace = a_trace()
    with pytest.raises(HeadraceError):
        world.ask(2, trace=trace)
    assert trace.queued_s == 0.0


def test_a_request_that_is_cut_starts_with_its_first_batch_and_ends_with_its_last() -> None:
    world = World(run_s=1.0, max_batch_rows=2)
    world.loop.now_s = 5.0
    trace = a_trace()
    caller = world.ask(1, 2, 3, trace=trace)
    while not caller.outcomes:
        world.loop.turn()
    assert (trace.started_s, trace.ran_s) == (5.0, 7.0)
    assert trace.batch_rows == 1


def test_one_that_expired_in_its_batch_had_started() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    trace = a_trace()
    caller = world.ask(1, deadline_s=2.0, trace=trace)
    world.loop.turn()
    world.loop.advance(3.0)
    assert caller.error.code.value == "deadline_exceeded"
    assert trace.batch_rows == 1
    world.worker.finish()


def test_a_lane_holds_no_request_that_has_its_answer() -> None:
    world = World()
    world.ask(1, trace=a_trace())
    world.loop.turn()
    assert not world.lane._traced.inside


def test_a_withdrawn_one_is_forgotten_with_the_next_batch() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    gone = world.ask(1, trace=a_trace())
    world.lane.withdraw(gone.ticket)
    world.ask(2)
    world.loop.turn()
    assert not world.lane._traced.inside
