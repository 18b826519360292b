"""What the queue lets in: exact limits, and arithmetic about deadlines."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from gateway.core.batch import ItemState, Refusal, RefusalReason
from gateway.core.batching import WALK_REQUESTS
from gateway.core.forecast import HEADROOM
from tests.unit.core.items import Queue, item, members, offered, queue, reason, taken

# -- limits ---------------------------------------------------------------------------------------


def test_the_queue_holds_exactly_as_many_requests_as_it_may() -> None:
    lane = queue(max_queue_requests=3)
    offered(lane, item(), item(), item())
    assert reason(lane.offer(item(), 0.0)) is RefusalReason.QUEUE_FULL
    assert lane.queued_requests == 3


def test_the_queue_holds_exactly_as_many_rows_as_it_may() -> None:
    lane = queue(max_queue_rows=10)
    offered(lane, item(6))
    assert reason(lane.offer(item(5), 0.0)) is RefusalReason.QUEUE_FULL
    offered(lane, item(4))
    assert lane.queued_rows == 10


def test_what_runs_does_not_count_as_queued() -> None:
    lane = queue(max_queue_requests=1, max_batch_rows=1)
    offered(lane, item())
    taken(lane)
    offered(lane, item())
    assert reason(lane.offer(item(), 0.0)) is RefusalReason.QUEUE_FULL


@pytest.mark.parametrize("ending", ["taken", "withdrawn", "expired"])
def test_room_is_there_again_as_soon_as_an_item_has_left(ending: str) -> None:
    lane = queue(max_queue_requests=1)
    [one] = offered(lane, item(deadline_s=5.0))
    match ending:
        case "taken":
            taken(lane)
        case "withdrawn":
            lane.withdraw(one)
        case _:
            lane.expire(5.0)
    offered(lane, item(deadline_s=9.0))


def test_more_rows_than_the_queue_can_ever_hold_are_refused_for_good() -> None:
    lane = queue(max_queue_rows=10)
    assert lane.offer(item(11), 0.0) == Refusal(RefusalReason.TOO_LARGE, 0.0)
    offered(lane, item(10))


def test_a_full_queue_says_when_it_will_be_empty() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4, max_queue_requests=8)
    offered(lane, *[item() for _ in range(8)])
    assert lane.offer(item(), 0.0) == Refusal(RefusalReason.QUEUE_FULL, 4.0)


def test_a_closed_queue_takes_nothing_in_and_finishes_what_it_has() -> None:
    lane = queue()
    [one] = offered(lane, item())
    lane.close()
    assert lane.offer(item(), 0.0) == Refusal(RefusalReason.CLOSED, 0.0)
    assert lane.finished(taken(lane), 1.0) == [one]
    assert lane.idle


def test_a_refused_item_leaves_no_trace() -> None:
    lane = queue(per_batch_s=1.0)
    before = lane.snapshot()
    refused = item(deadline_s=0.5)
    assert lane.offer(refused, 0.0) is not None
    assert refused.state is ItemState.NEW
    assert lane.snapshot() == before
    assert lane.next_wakeup() is None
    assert not lane.withdraw(refused)


# -- would it be late? ----------------------------------------------------------------------------


EDGE_S = 1e-6


def busy(**limits: Any) -> Queue:
    """A lane with 1 s a batch and 0.25 s a row; one row runs from 0.0 to 1.25."""
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4, **limits)
    offered(lane, item())
    taken(lane)
    return lane


def needs(lane: Queue, finish_s: float, now: float, **wishes: Any) -> None:
    """A request that is offered now is let in from this deadline on."""
    refused = lane.offer(item(deadline_s=finish_s - EDGE_S, **wishes), now)
    assert reason(refused) is RefusalReason.WOULD_MISS_DEADLINE
    assert refused is not None
    assert refused.retry_after_s >= 0.0
    assert lane.offer(item(deadline_s=finish_s + EDGE_S, **wishes), now) is None


@pytest.mark.parametrize("deadline_s", [4.0, 3.0])
def test_a_deadline_that_has_passed_is_told_apart(deadline_s: float) -> None:
    assert queue().offer(item(deadline_s=deadline_s), 4.0) == Refusal(
        RefusalReason.DEADLINE_PASSED, 0.0
    )


def test_a_lane_that_has_learned_nothing_gives_everyone_a_chance() -> None:
    lane = queue()
    offered(lane, *[item(deadline_s=1e-9) for _ in range(100)])


@pytest.mark.parametrize(("rows", "needs_s"), [(1, 1.25), (4, 2.0), (5, 4.0), (9, 6.0)])
def test_an_idle_lane_needs_the_time_of_the_request_itself(rows: int, needs_s: float) -> None:
    """Beyond one batch, the last batch counts as full."""
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4)
    refusal = lane.offer(item(rows, deadline_s=9.875 + needs_s), 10.0)
    assert refusal == Refusal(RefusalReason.WOULD_MISS_DEADLINE, 0.125)
    assert lane.offer(item(rows, deadline_s=10.0 + needs_s), 10.0) is None


def test_what_runs_is_waited_for() -> None:
    """It ends at 1.25; then the new row runs, with another one that may come in the meantime."""
    needs(busy(), finish_s=0.5 + HEADROOM * 0.75 + 1.5, now=0.5)


def test_a_batch_that_takes_longer_than_predicted_may_end_any_moment() -> None:
    needs(busy(), finish_s=6.5, now=5.0)


def test_what_is_queued_ahead_is_waited_for() -> None:
    """Until 1.25 one row runs, until 3.25 the four; then a batch that others can fill."""
    lane = busy()
    offered(lane, item(4))
    needs(lane, finish_s=HEADROOM * 3.25 + 2.0, now=0.0, priority=2)


def test_what_is_queued_behind_is_waited_for_only_as_company() -> None:
    """Five batches are queued, but only the rows that may join the newcomer's batch lengthen it."""
    lane = busy()
    offered(lane, *[item(4) for _ in range(5)])
    needs(lane, finish_s=1.25 + 2.0, now=0.0)


def test_less_urgent_levels_are_not_waited_for_even_as_company() -> None:
    lane = busy()
    offered(lane, *[item(4, deadline_s=100.0, priority=2) for _ in range(5)])
    needs(lane, finish_s=HEADROOM * 1.25 + 1.5, now=0.0, priority=1)


def test_instances_share_the_queue() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4, instances=2)
    offered(lane, item(4, deadline_s=2.0), item(4, deadline_s=2.0))  # both start at once
    needs(lane, finish_s=4.0, now=0.0, rows=4)


def test_the_instance_that_is_free_first_is_waited_for() -> None:
    lane = queue(per_batch_s=1.0, max_batch_rows=1, instances=2)
    offered(lane, item(), item())
    taken(lane, 0.0)
    taken(lane, 0.5)
    needs(lane, finish_s=0.75 + HEADROOM * 0.25 + 1.0, now=0.75)  # after the first, at 1.0
    needs(lane, finish_s=0.75 + HEADROOM * 0.75 + 1.0, now=0.75)  # after the second, at 1.5


def test_unbatched_each_request_ahead_is_a_run() -> None:
    lane = queue(per_batch_s=1.0, batched=False, max_batch_rows=1)
    offered(lane, item(7), item(9))
    needs(lane, finish_s=3.0, now=0.0, rows=5, priority=2)


def test_unbatched_a_more_urgent_request_waits_for_nobody_behind_it() -> None:
    lane = queue(per_batch_s=1.0, batched=False, max_batch_rows=1)
    offered(lane, item(priority=2), item(priority=2))
    needs(lane, finish_s=1.0, now=0.0, priority=1)


def test_shapes_that_go_first_are_waited_for() -> None:
    lane = queue(per_batch_s=1.0, max_batch_rows=1)
    offered(lane, item(bucket="a", deadline_s=1.5), item(bucket="b", deadline_s=2.5))
    needs(lane, finish_s=3.0, now=0.0, bucket="c")


def test_a_request_may_ride_along_with_an_urgent_one_of_its_shape() -> None:
    """Bucket b goes first although much of bucket a is more urgent than the newcomer."""
    lane = queue(per_batch_s=1.0, max_batch_rows=8)
    offered(lane, item(bucket="b", deadline_s=1.0))
    offered(lane, *[item(8, bucket="a", deadline_s=4.0) for _ in range(3)])
    assert lane.offer(item(bucket="b", deadline_s=4.5), 0.0) is None


# -- would it make others late? -------------------------------------------------------------------


def test_a_request_that_would_make_an_admitted_one_late_is_refused() -> None:
    """What is queued fills a batch until 3.25; two more rows do not fit, and would be another batch before it."""
    lane = busy()
    [admitted] = offered(lane, item(3, deadline_s=4.0))
    refused = lane.offer(item(2, deadline_s=3.9), 0.0)
    assert reason(refused) is RefusalReason.WOULD_MISS_DEADLINE
    assert members_of_next(lane) == [admitted]


def test_a_request_that_harms_nobody_overtakes() -> None:
    lane = busy()
    [admitted] = offered(lane, item(3, deadline_s=4.0))
    [overtaker] = offered(lane, item(1, deadline_s=3.9))
    assert members_of_next(lane) == [overtaker, admitted]


def test_a_more_urgent_level_may_make_others_late() -> None:
    lane = busy()
    offered(lane, item(3, deadline_s=4.0, priority=2))
    assert lane.offer(item(4, deadline_s=10.0, priority=1), 0.0) is None


def test_a_less_urgent_level_makes_nobody_late() -> None:
    """The shapes are taken in turn, so a less urgent request of an urgent shape can stand in the way."""
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=8)
    offered(lane, item(bucket="a", deadline_s=2.0), item(bucket="b", deadline_s=2.75))
    passenger = lane.offer(item(2, bucket="a", deadline_s=9.0, priority=2), 0.0)
    assert reason(passenger) is RefusalReason.WOULD_MISS_DEADLINE


def test_a_request_that_would_empty_an_admitted_ones_batch_is_refused() -> None:
    """The newcomer would be in time in a batch of its own, which would leave with one row while eight wait."""
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=8)
    offered(lane, item(7, deadline_s=9.0))
    refused = lane.offer(item(deadline_s=2.75), 0.0)
    assert reason(refused) is RefusalReason.WOULD_MISS_DEADLINE
    offered(lane, item(deadline_s=3.0))


def test_who_is_late_anyway_keeps_nobody_out() -> None:
    lane = queue(per_batch_s=1.0, max_batch_rows=1)
    offered(lane, item(deadline_s=2.0, priority=2))
    offered(lane, *[item() for _ in range(3)])  # they go first, and make it late
    assert lane.offer(item(deadline_s=9.0, priority=2), 0.0) is None
    assert lane.offer(item(deadline_s=8.0, priority=2), 0.0) is None


def test_other_shapes_are_not_made_late_either() -> None:
    lane = queue(per_batch_s=1.0, max_batch_rows=8)
    offered(lane, item(bucket="a", deadline_s=1.5))
    assert reason(lane.offer(item(bucket="b", deadline_s=1.25), 0.0)) is (
        RefusalReason.WOULD_MISS_DEADLINE
    )
    assert lane.offer(item(bucket="a", deadline_s=1.25), 0.0) is None


def test_unbatched_nobody_is_overtaken_into_lateness() -> None:
    lane = queue(per_batch_s=1.0, batched=False, max_batch_rows=1)
    offered(lane, item(deadline_s=2.0), item(deadline_s=2.0))
    assert reason(lane.offer(item(deadline_s=1.5), 0.0)) is RefusalReason.WOULD_MISS_DEADLINE


# -- the same in queues too long to walk through --------------------------------------------------


def long_queue(deadline_s: float, priority: int) -> Queue:
    """A busy lane with more waiting requests of four rows than are walked through; each is a batch of 2 s."""
    lane = busy()
    offered(lane, *[item(4, deadline_s, priority) for _ in range(WALK_REQUESTS + 1)])
    return lane


def test_in_a_long_queue_a_request_that_harms_nobody_overtakes() -> None:
    lane = long_queue(deadline_s=1e6, priority=1)
    [overtaker] = offered(lane, item(4, deadline_s=9.0))
    assert members_of_next(lane) == [overtaker]


def test_in_a_long_queue_a_request_that_would_make_others_late_is_refused() -> None:
    lane = long_queue(deadline_s=HEADROOM * (1.25 + 2.0 * WALK_REQUESTS) + 2.5, priority=1)
    refused = lane.offer(item(4, deadline_s=9.0), 0.0)
    assert reason(refused) is RefusalReason.WOULD_MISS_DEADLINE


def test_in_a_long_queue_a_more_urgent_level_may_make_others_late() -> None:
    lane = long_queue(deadline_s=HEADROOM * (1.25 + 2.0 * WALK_REQUESTS) + 2.5, priority=2)
    assert lane.offer(item(4, deadline_s=9.0, priority=1), 0.0) is None


def test_nobody_without_a_deadline_is_ever_judged() -> None:
    lane = busy(max_queue_requests=1000)
    offered(lane, item(deadline_s=3.0))
    offered(lane, *[item(4, deadline_s=inf) for _ in range(200)])


def members_of_next(lane: Queue) -> list[object]:
    """Who runs next, once what runs has ended."""
    [running] = lane._running
    lane.finished(running, 1.25)
    return list(members(taken(lane, 1.25)))
