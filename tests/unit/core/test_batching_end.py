"""How items leave the queue: answered, expired, withdrawn; and that each does so once."""

from __future__ import annotations

import pytest

from gateway.core.batch import BatchLimits, ItemState
from gateway.core.batching import DOUBT_AFTER_RUNS, BatchQueue
from gateway.core.service_time import ServiceTime
from tests.unit.core.items import Queue, item, members, offered, queue, taken

# -- finished -------------------------------------------------------------------------------------


def test_a_finished_batch_ends_its_members_and_frees_its_instance() -> None:
    lane = queue()
    items = offered(lane, item(), item(2))
    batch = taken(lane)
    assert lane.finished(batch, 1.0) == items
    assert [one.state for one in items] == [ItemState.ENDED, ItemState.ENDED]
    assert lane.idle
    assert lane.next_wakeup() is None


def test_the_queue_learns_from_what_ran() -> None:
    lane: Queue = BatchQueue(BatchLimits(), ServiceTime())
    for rows in (1, 8, 1, 8):
        offered(lane, item(rows))
        lane.finished(taken(lane, 5.0), 5.0 + 1.0 + 0.25 * rows)
    snapshot = lane.snapshot()
    assert snapshot.per_batch_us == pytest.approx(1.0e6)
    assert snapshot.per_row_us == pytest.approx(0.25e6)


def test_unbatched_a_run_is_learned_as_one_whatever_its_rows() -> None:
    lane: Queue = BatchQueue(BatchLimits(max_batch_rows=1, batched=False), ServiceTime())
    for rows in (1, 8, 1, 8):
        offered(lane, item(rows))
        lane.finished(taken(lane), 2.0)
    assert lane.snapshot().per_batch_us == pytest.approx(2.0e6)
    assert lane.snapshot().per_row_us == 0.0


def test_finishing_a_batch_twice_is_a_mistake() -> None:
    lane = queue()
    offered(lane, item())
    batch = taken(lane)
    lane.finished(batch, 1.0)
    with pytest.raises(ValueError, match="not in list"):
        lane.finished(batch, 2.0)


# -- expired --------------------------------------------------------------------------------------


def test_nothing_expires_before_its_deadline() -> None:
    lane = queue()
    offered(lane, item(deadline_s=5.0), item())
    assert lane.expire(4.999) == []
    assert lane.queued_requests == 2


def test_an_item_expires_at_its_deadline() -> None:
    lane = queue()
    late, patient, later = offered(lane, item(deadline_s=5.0), item(), item(deadline_s=6.0))
    assert lane.expire(5.0) == [late]
    assert late.state is ItemState.ENDED
    assert members(taken(lane, 5.0)) == [later, patient]


def test_items_expire_in_the_order_of_their_deadlines_across_shapes_and_levels() -> None:
    lane = queue()
    second, first = offered(
        lane,
        item(deadline_s=3.0, bucket="a", priority=1),
        item(deadline_s=2.0, bucket="b", priority=2),
    )
    assert lane.expire(9.0) == [first, second]
    assert lane.snapshot().buckets == 0


def test_an_item_that_runs_expires_too_and_its_batch_runs_on() -> None:
    lane = queue()
    late, neighbour = offered(lane, item(deadline_s=5.0), item(deadline_s=9.0))
    batch = taken(lane)
    assert lane.expire(5.0) == [late]
    assert lane.finished(batch, 6.0) == [neighbour]


def test_an_item_expires_once() -> None:
    lane = queue()
    offered(lane, item(deadline_s=5.0))
    assert len(lane.expire(5.0)) == 1
    assert lane.expire(6.0) == []


def test_what_waits_and_can_no_longer_be_in_time_is_given_up() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4)
    offered(lane, item(4))
    taken(lane)
    [hopeless] = offered(lane, item(4, deadline_s=5.0))
    assert lane.expire(3.0) == []  # 3 s + 2 s: just in time
    assert lane.expire(3.125) == [hopeless]


def test_what_an_offer_lets_in_is_not_given_up_at_once() -> None:
    lane = queue(per_batch_s=1.0)
    offered(lane, item(deadline_s=1.0))
    assert lane.expire(0.0) == []


def test_how_long_a_request_runs_depends_on_its_rows() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=1.0, max_batch_rows=4)
    offered(lane, item())
    taken(lane)
    large, small = offered(
        lane, item(4, deadline_s=20.0, bucket="a"), item(1, deadline_s=20.0, bucket="b")
    )
    assert lane.expire(15.5) == [large]
    assert lane.expire(18.5) == [small]


def test_what_runs_has_until_its_deadline() -> None:
    lane = queue(per_batch_s=1.0)
    offered(lane, item(deadline_s=2.0))
    taken(lane)
    assert lane.expire(1.5) == []


# -- doubt: a slow spell is not believed for ever -------------------------------------------------


def slow_once() -> tuple[Queue, float]:
    """A lane that learned that a run takes 10 s, and the time when it learned that."""
    lane = queue(per_batch_s=10.0)
    offered(lane, item())
    lane.finished(taken(lane), 10.0)
    return lane, 10.0


def test_a_lane_that_refused_everyone_for_long_tries_one_again() -> None:
    lane, now = slow_once()
    assert lane.offer(item(deadline_s=now + 1.0), now) is not None
    now += DOUBT_AFTER_RUNS * 10.0 + 0.1
    [trial] = offered(lane, item(deadline_s=now + 1.0), now=now)
    assert lane.offer(item(deadline_s=now + 1.0), now) is not None  # one is enough
    assert lane.expire(now) == []
    assert members(taken(lane, now)) == [trial]


def test_a_trial_that_was_slow_again_is_believed_again() -> None:
    lane, now = slow_once()
    now += DOUBT_AFTER_RUNS * 10.0 + 0.1
    offered(lane, item(deadline_s=now + 1.0), now=now)
    lane.finished(taken(lane, now), now + 10.0)
    assert lane.offer(item(deadline_s=now + 12.0), now + 10.0) is not None


def test_a_lane_that_runs_has_no_doubts() -> None:
    lane, now = slow_once()
    offered(lane, item(), now=now)
    taken(lane, now)
    assert lane.offer(item(deadline_s=now + 1001.0), now + 1000.0) is not None


# -- withdrawn ------------------------------------------------------------------------------------


def test_what_was_never_offered_cannot_be_withdrawn() -> None:
    assert not queue().withdraw(item())


def test_a_waiting_item_is_withdrawn_and_its_neighbours_stay() -> None:
    lane = queue()
    first, gone, last = offered(lane, item(1), item(5), item(2))
    assert lane.withdraw(gone)
    assert (lane.queued_requests, lane.queued_rows) == (2, 3)
    assert members(taken(lane)) == [first, last]


@pytest.mark.parametrize("which", range(4))
def test_a_running_item_is_withdrawn_and_its_neighbours_are_answered(which: int) -> None:
    lane = queue()
    items = offered(lane, *[item() for _ in range(4)])
    batch = taken(lane)
    assert lane.withdraw(items[which])
    assert lane.finished(batch, 1.0) == items[:which] + items[which + 1 :]


def test_a_batch_of_withdrawn_items_only_still_frees_its_instance() -> None:
    lane = queue()
    [one] = offered(lane, item())
    batch = taken(lane)
    lane.withdraw(one)
    assert not lane.has_free_instance
    assert lane.finished(batch, 1.0) == []
    assert lane.idle


@pytest.mark.parametrize("ending", ["answered", "expired", "withdrawn"])
def test_what_has_ended_cannot_be_withdrawn(ending: str) -> None:
    lane = queue()
    [one] = offered(lane, item(deadline_s=5.0))
    match ending:
        case "answered":
            lane.finished(taken(lane), 1.0)
        case "expired":
            lane.expire(5.0)
        case _:
            lane.withdraw(one)
    assert not lane.withdraw(one)
    assert lane.snapshot() == queue().snapshot()


def test_a_withdrawn_items_deadline_is_forgotten() -> None:
    lane = queue()
    [one, _] = offered(lane, item(deadline_s=5.0), item(deadline_s=8.0))
    lane.withdraw(one)
    assert lane.next_wakeup() == 8.0
    assert lane.expire(5.0) == []


def test_equal_items_are_told_apart() -> None:
    lane = queue()
    first, middle, last = offered(lane, *[item(deadline_s=5.0) for _ in range(3)])
    lane.withdraw(middle)
    assert members(taken(lane)) == [first, last]
    assert lane.expire(5.0) == [first, last]


def test_a_half_taken_request_is_withdrawn_whole() -> None:
    lane = queue(max_batch_rows=4)
    large, small = offered(lane, item(10), item(1))
    batch = taken(lane)
    assert lane.withdraw(large)
    assert (lane.queued_requests, lane.queued_rows) == (1, 1)
    assert lane.finished(batch, 1.0) == []
    assert taken(lane, 1.0).parts == [(small, 0, 1)]


def test_a_half_taken_request_that_expires_leaves_nothing_behind() -> None:
    lane = queue(max_batch_rows=4)
    [large] = offered(lane, item(10, deadline_s=5.0))
    batch = taken(lane)
    assert lane.expire(5.0) == [large]
    assert lane.finished(batch, 6.0) == []
    assert lane.idle
    assert lane.take(6.0) is None


def test_a_request_cut_over_two_instances_is_withdrawn_from_both() -> None:
    lane = queue(max_batch_rows=4, instances=2)
    large, small = offered(lane, item(7), item(1))
    first, second = taken(lane), taken(lane)
    assert lane.finished(first, 1.0) == []
    assert lane.withdraw(large)
    assert lane.finished(second, 1.5) == [small]
    assert lane.idle
