"""Deadlines, timers and the clocks of a lane."""

from __future__ import annotations

from gateway.errors import ErrorCode
from gateway.pipeline.lane import WRITE_MARGIN_S
from tests.unit.pipeline.lane_world import NEVER_INLINE_S, Caller, World


def busy(**settings: object) -> tuple[World, Caller]:
    """A lane whose only instance runs a request without a deadline on the worker."""
    world = World(inline_limit_s=NEVER_INLINE_S, **settings)  # type: ignore[arg-type]
    running = world.ask(0)
    world.loop.turn()
    return world, running


# -- expiry ---------------------------------------------------------------------------------------


def test_a_deadline_ends_the_wait_although_the_model_still_runs() -> None:
    world, running = busy()
    waiting = world.ask(1, deadline_s=5.0)
    world.loop.advance(4.9)
    assert waiting.outcomes == []
    world.loop.advance(5.0)
    assert waiting.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert world.meters.shed_reasons == {"expired": 1}
    world.worker.finish()
    assert running.rows == [[0, 1]]
    assert world.worker.jobs == []


def test_a_deadline_ends_the_call_although_its_own_batch_still_runs() -> None:
    world = World(inline_limit_s=NEVER_INLINE_S)
    hasty, patient = world.ask(1, deadline_s=5.0), world.ask(2)
    world.loop.turn()
    world.loop.advance(5.0)
    assert hasty.error.code is ErrorCode.DEADLINE_EXCEEDED
    world.worker.finish()
    assert patient.rows == [[4, 5]]
    assert len(hasty.outcomes) == 1


def test_each_deadline_has_its_moment() -> None:
    world, _ = busy()
    callers = [world.ask(value, deadline_s=float(value)) for value in (3, 1, 2)]
    ended: list[int] = []
    for second in (1, 2, 3):
        world.loop.advance(float(second))
        ended.append(sum(bool(one.outcomes) for one in callers))
    assert ended == [1, 2, 3]


def test_a_caller_that_fails_to_hear_of_its_deadline_takes_nobody_down() -> None:
    world, _ = busy()
    broken, other = world.ask(1, deadline_s=5.0), world.ask(2, deadline_s=5.0)

    def fail(result: object, error: object) -> None:
        raise OSError("connection reset")

    broken.finish = fail  # type: ignore[method-assign]
    world.loop.advance(5.0)
    assert other.error.code is ErrorCode.DEADLINE_EXCEEDED


def test_what_can_no_longer_be_in_time_is_not_started() -> None:
    world, running = busy(predict_s=2.0)
    hopeless = world.ask(1, deadline_s=5.0)
    world.loop.now_s = 4.0  # the model was slower than predicted
    world.worker.finish()
    assert hopeless.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert world.worker.jobs == []
    assert running.outcomes


def test_a_batch_on_the_loop_takes_time_from_those_behind_it() -> None:
    """Two batches in one turn: when the first took too long, the second is not started in vain."""
    world = World(max_batch_rows=1, run_s=3.0)
    first, second = world.ask(1), world.ask(2, deadline_s=2.0, priority=2)
    world.loop.turn()
    assert first.rows == [[2, 3]]
    assert second.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert world.seen_rows == [1]


# -- an answer that comes too late is no answer ---------------------------------------------------


def test_an_answer_after_the_deadline_is_an_error() -> None:
    world = World(run_s=6.0)
    late, patient = world.ask(1, deadline_s=5.0), world.ask(2)
    world.loop.turn()
    assert late.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert late.error.message == "the deadline passed before model 'm' answered"
    assert patient.rows == [[4, 5]]
    assert world.meters.shed_reasons == {"finished_late": 1}
    assert world.meters.late == 0


def test_an_answer_that_could_not_be_written_in_time_is_an_error() -> None:
    world = World(run_s=5.0 - 0.5 * WRITE_MARGIN_S)
    late = world.ask(1, deadline_s=5.0)
    world.loop.turn()
    assert late.error.code is ErrorCode.DEADLINE_EXCEEDED


def test_an_answer_just_in_time_is_an_answer() -> None:
    world = World(run_s=5.0 - 2.0 * WRITE_MARGIN_S)
    prompt = world.ask(1, deadline_s=5.0)
    world.loop.turn()
    assert prompt.rows == [[2, 3]]


def test_an_answer_that_took_too_long_to_write_is_counted() -> None:
    world = World(run_s=1.0)
    slow = world.ask(1, deadline_s=5.0)
    ended = slow.finish

    def slowly(result: object, error: BaseException | None) -> None:
        world.loop.now_s += 10.0
        ended(result, error)  # type: ignore[arg-type]

    slow.finish = slowly  # type: ignore[method-assign]
    world.loop.turn()
    assert slow.rows == [[2, 3]]
    assert world.meters.late == 1


def test_the_answers_of_a_batch_are_judged_one_by_one() -> None:
    """Writing the first answer may take so long that the second is late."""
    world = World(run_s=1.0)
    first, second = world.ask(1, deadline_s=5.0), world.ask(2, deadline_s=6.0)
    ended = first.finish

    def slowly(result: object, error: BaseException | None) -> None:
        ended(result, error)  # type: ignore[arg-type]
        world.loop.now_s += 5.5

    first.finish = slowly  # type: ignore[method-assign]
    world.loop.turn()
    assert first.rows == [[2, 3]]
    assert second.error.code is ErrorCode.DEADLINE_EXCEEDED


# -- the timer ------------------------------------------------------------------------------------


def test_without_deadlines_there_is_no_timer() -> None:
    world, _ = busy()
    world.ask(1)
    assert world.loop.armed_s == []


def test_one_timer_for_the_earliest_deadline() -> None:
    world, _ = busy()
    for deadline_s in (5.0, 9.0, 7.0):
        world.ask(1, deadline_s=deadline_s)
    assert world.loop.armed_s == [5.0]


def test_an_earlier_deadline_arms_the_timer_anew() -> None:
    world, _ = busy()
    world.ask(1, deadline_s=9.0)
    world.ask(1, deadline_s=5.0)
    assert world.loop.armed_s == [5.0]


def test_the_timer_is_armed_for_the_next_deadline_when_it_has_fired() -> None:
    world, _ = busy()
    world.ask(1, deadline_s=5.0)
    world.ask(1, deadline_s=9.0)
    world.loop.advance(5.0)
    assert world.loop.armed_s == [9.0]


def test_a_timer_that_fires_early_is_armed_again() -> None:
    """Loops round: uvloop by whole milliseconds."""
    world, _ = busy()
    waiting = world.ask(1, deadline_s=5.0)
    [timer] = world.loop.timers
    world.loop.timers.clear()
    world.loop.now_s = 4.9996
    timer.callback()
    assert waiting.outcomes == []
    assert world.loop.armed_s == [5.0]


def test_a_timer_nobody_needs_any_more_does_no_harm() -> None:
    world = World()
    world.ask(1, deadline_s=5.0)
    world.loop.turn()
    world.loop.advance(9.0)
    assert world.loop.armed_s == []
    assert world.meters.shed_reasons == {}


def test_company_is_waited_for_by_timer() -> None:
    world = World(max_queue_delay_us=2_000_000)
    first = world.ask(1)
    world.loop.turn()
    assert world.loop.armed_s == [2.0]
    world.loop.now_s = 1.0
    second = world.ask(2)
    world.loop.turn()
    assert first.outcomes == []
    world.loop.advance(2.0)
    assert (first.rows, second.rows) == ([[2, 3]], [[4, 5]])
    assert world.meters.batches == [(2, "waited", True)]


# -- what is measured -----------------------------------------------------------------------------


def test_times_are_taken_where_they_happen() -> None:
    world, _ = busy()
    world.loop.now_s = 1.0
    world.ask(1, received_s=0.75)
    world.loop.now_s = 3.0
    world.worker.finish()
    world.loop.now_s = 4.5
    world.worker.finish()
    assert world.meters.answered_times_s == [
        ([(0.0, 0.0)], 0.0, 3.0, 3.0),
        ([(0.75, 1.0)], 3.0, 4.5, 4.5),
    ]


def test_a_batch_is_reported_once_with_its_reason_and_place() -> None:
    world = World(max_batch_rows=2)
    for value in range(3):
        world.ask(value)
    world.loop.turn()
    assert world.meters.batches == [(2, "full", True), (1, "idle", True)]


def test_nothing_is_reported_as_answered_when_nobody_was() -> None:
    world = World(run_s=6.0)
    world.ask(1, deadline_s=5.0)
    world.loop.turn()
    assert world.meters.answered_times_s == []
    assert len(world.meters.batches) == 1
