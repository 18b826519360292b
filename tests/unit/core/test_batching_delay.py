"""Waiting for company where the operator allows it, and when the lane must look again."""

from __future__ import annotations

import pytest

from gateway.core.batch import BatchReason
from tests.unit.core.items import item, members, offered, queue, taken

DELAY_US = 2_000_000  # two seconds


def test_without_a_delay_nobody_has_to_look_again() -> None:
    lane = queue()
    offered(lane, item())
    assert lane.next_wakeup() is None


def test_a_request_waits_for_company_for_the_delay() -> None:
    lane = queue(max_queue_delay_us=DELAY_US)
    items = offered(lane, item(), now=1.0)
    assert lane.take(1.0) is None
    assert lane.next_wakeup() == 3.0
    items += offered(lane, item(), now=2.0)
    assert lane.take(2.9) is None
    batch = taken(lane, 3.0)
    assert members(batch) == items
    assert batch.reason is BatchReason.WAITED


def test_a_full_batch_waits_no_longer() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, max_batch_rows=4)
    offered(lane, item(3))
    assert lane.take(0.0) is None
    offered(lane, item(1))
    assert taken(lane).reason is BatchReason.FULL


def test_more_rows_than_a_batch_wait_no_longer() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, max_batch_rows=4)
    first, second = offered(lane, item(3), item(3))
    assert members(taken(lane)) == [first]
    assert lane.queued_requests == 1
    assert second.taken_rows == 0


def test_a_deadline_cuts_the_wait_short() -> None:
    """Released with time to run twice: one run for itself, one for what may be running by then."""
    lane = queue(per_batch_s=0.25, max_queue_delay_us=DELAY_US)
    offered(lane, item(deadline_s=1.0))
    assert lane.next_wakeup() == 0.5
    assert lane.take(0.4) is None
    taken(lane, 0.5)


@pytest.mark.parametrize("priority", [1, 2])
def test_the_earliest_deadline_counts_wherever_it_stands(priority: int) -> None:
    """A request of a less urgent level stands behind one without a deadline, and must not wait for it."""
    lane = queue(per_batch_s=0.25, max_queue_delay_us=DELAY_US)
    offered(lane, item(priority=1), item(deadline_s=1.0, priority=priority))
    assert lane.next_wakeup() == 0.5
    assert len(members(taken(lane, 0.5))) == 2


def test_nobody_waits_longer_because_a_more_urgent_one_came() -> None:
    lane = queue(max_queue_delay_us=DELAY_US)
    offered(lane, item(), now=0.0)
    offered(lane, item(deadline_s=100.0), now=1.9)
    assert lane.next_wakeup() == 2.0
    assert len(members(taken(lane, 2.0))) == 2


def test_each_shape_waits_for_its_own() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, max_batch_rows=2)
    offered(lane, item(bucket="a"))
    full = offered(lane, item(bucket="b"), item(bucket="b"), now=0.5)
    running = taken(lane, 0.5)
    assert members(running) == full
    lane.finished(running, 0.6)
    assert lane.take(0.6) is None
    assert lane.next_wakeup() == 2.0


def test_of_the_shapes_that_are_due_the_most_urgent_goes_first() -> None:
    lane = queue(max_queue_delay_us=DELAY_US)
    offered(lane, item(bucket="a"), item(bucket="b", deadline_s=9.0))
    assert taken(lane, 2.0).bucket == "b"


def test_a_busy_lane_looks_again_for_deadlines_only() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, max_batch_rows=1)
    offered(lane, item())
    running = taken(lane)
    offered(lane, item(deadline_s=7.0), now=0.0)
    assert lane.next_wakeup() == 7.0
    lane.finished(running, 1.0)
    taken(lane, 1.0)


def test_what_waited_while_the_lane_was_busy_has_waited() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, max_batch_rows=8)
    offered(lane, item(), now=0.0)
    running = taken(lane, 2.0)
    offered(lane, item(), now=2.5)
    lane.finished(running, 5.0)
    assert taken(lane, 5.0).reason is BatchReason.WAITED


def test_unbatched_nobody_waits_for_company() -> None:
    lane = queue(max_queue_delay_us=DELAY_US, batched=False, max_batch_rows=1)
    offered(lane, item(3))
    taken(lane)


def test_the_lane_looks_again_at_the_earliest_deadline() -> None:
    lane = queue()
    offered(lane, item(deadline_s=9.0), item(deadline_s=4.0, bucket="a"), item())
    assert lane.next_wakeup() == 4.0


def test_running_items_have_deadlines_too() -> None:
    lane = queue()
    offered(lane, item(deadline_s=4.0))
    batch = taken(lane)
    assert lane.next_wakeup() == 4.0
    lane.finished(batch, 1.0)
    assert lane.next_wakeup() is None
