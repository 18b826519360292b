"""Which requests leave the queue together, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.batch import BatchReason, ItemState
from tests.unit.core.items import item, members, offered, queue, taken

# -- an idle servable never waits -----------------------------------------------------------------


def test_an_empty_queue_has_no_batch() -> None:
    assert queue().take(0.0) is None


def test_an_idle_servable_takes_one_request_at_once() -> None:
    lane = queue()
    [one] = offered(lane, item())
    batch = taken(lane)
    assert members(batch) == [one]
    assert batch.reason is BatchReason.IDLE
    assert (batch.rows, batch.started_s) == (1, 0.0)


def test_what_queued_while_the_servable_was_busy_leaves_together() -> None:
    lane = queue()
    offered(lane, item())
    running = taken(lane)
    waiting = offered(lane, item(), item(), item(), now=0.1)
    assert lane.take(0.2) is None
    lane.finished(running, 0.3)
    assert members(taken(lane, 0.3)) == waiting


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_no_more_batches_run_than_there_are_instances(instances: int) -> None:
    lane = queue(instances=instances, max_batch_rows=1)
    offered(lane, *[item() for _ in range(5)])
    batches = [taken(lane) for _ in range(instances)]
    assert lane.take(0.0) is None
    assert not lane.has_free_instance
    lane.finished(batches[-1], 1.0)
    assert lane.has_free_instance
    taken(lane, 1.0)


# -- how large a batch gets -----------------------------------------------------------------------


def test_a_batch_ends_at_the_row_limit() -> None:
    lane = queue(max_batch_rows=4)
    items = offered(lane, *[item() for _ in range(6)])
    batch = taken(lane)
    assert members(batch) == items[:4]
    assert (batch.rows, batch.reason) == (4, BatchReason.FULL)
    assert (lane.queued_requests, lane.queued_rows) == (2, 2)


def test_exactly_full_is_full_although_nothing_is_left() -> None:
    lane = queue(max_batch_rows=4)
    offered(lane, item(3), item(1))
    assert taken(lane).reason is BatchReason.FULL


def test_rows_count_not_requests() -> None:
    lane = queue(max_batch_rows=4)
    items = offered(lane, item(3), item(2), item(1))
    assert members(taken(lane)) == items[:1]


def test_a_request_that_fits_into_a_batch_is_never_cut() -> None:
    lane = queue(max_batch_rows=4)
    first, second = offered(lane, item(2), item(4))
    assert taken(lane).parts == [(first, 0, 2)]
    assert second.taken_rows == 0


def test_nobody_jumps_the_queue_to_fill_a_gap() -> None:
    """A small request behind one that does not fit waits its turn: large ones would starve otherwise."""
    lane = queue(max_batch_rows=4)
    first, large, small = offered(lane, item(2), item(4), item(1))
    running = taken(lane)
    assert members(running) == [first]
    lane.finished(running, 1.0)
    assert members(taken(lane, 1.0)) == [large]
    assert small.state is ItemState.QUEUED


def test_the_expected_time_is_that_of_the_rows_taken() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=0.25, max_batch_rows=4)
    offered(lane, item(3))
    assert taken(lane).expected_s == 1.75


def test_a_batch_ends_where_one_more_row_would_make_a_member_late() -> None:
    lane = queue(per_batch_s=1.0, per_row_s=0.5, max_batch_rows=8)
    tight, loose = offered(lane, item(2, deadline_s=2.0), item(1, deadline_s=9.0))
    batch = taken(lane)
    assert members(batch) == [tight]
    assert batch.reason is BatchReason.DEADLINE
    assert loose.state is ItemState.QUEUED


def test_a_request_with_an_early_deadline_does_not_join_a_batch_too_long_for_it() -> None:
    """The early one stands behind in order, because its level is less urgent."""
    lane = queue(per_batch_s=1.0, per_row_s=0.5, max_batch_rows=8, instances=2)
    early, urgent = offered(lane, item(1, deadline_s=1.5, priority=2), item(4))
    assert members(taken(lane)) == [urgent]
    assert members(taken(lane)) == [early]


def test_one_request_runs_although_it_will_be_late() -> None:
    """The queue never starves itself for a deadline: refusing and expiring are decided elsewhere."""
    lane = queue(per_batch_s=1.0)
    [one] = offered(lane, item(deadline_s=1.5))
    assert members(taken(lane, 1.0)) == [one]


# -- order ----------------------------------------------------------------------------------------


def test_equals_leave_in_the_order_of_arrival() -> None:
    lane = queue(max_batch_rows=2)
    items = offered(lane, *[item(deadline_s=5.0) for _ in range(6)])
    left = []
    for _ in range(3):
        batch = taken(lane)
        left += members(batch)
        lane.finished(batch, 0.0)
    assert left == items


def test_the_earliest_deadline_leaves_first() -> None:
    lane = queue()
    last, first, middle = offered(
        lane, item(deadline_s=3.0), item(deadline_s=1.0), item(deadline_s=2.0)
    )
    assert members(taken(lane)) == [first, middle, last]


def test_a_request_without_a_deadline_waits_behind_those_of_its_level_that_have_one() -> None:
    lane = queue()
    patient, hasty = offered(lane, item(), item(deadline_s=100.0))
    assert members(taken(lane)) == [hasty, patient]


def test_a_more_urgent_level_goes_before_any_deadline() -> None:
    lane = queue()
    second, first = offered(lane, item(deadline_s=1.0, priority=2), item(priority=1))
    assert members(taken(lane)) == [first, second]


def test_a_level_beyond_the_last_counts_as_the_last() -> None:
    lane = queue(priority_levels=3)
    beyond, last = offered(lane, item(priority=99), item(priority=3))
    assert beyond.priority == 3
    assert members(taken(lane)) == [beyond, last]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=20))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_order_is_level_then_deadline_then_arrival(wishes: list[tuple[int, int]]) -> None:
    lane = queue(max_batch_rows=64)
    items = offered(lane, *[item(1, float(deadline), level) for level, deadline in wishes])
    expected = sorted(items, key=lambda one: (one.priority, one.deadline_s, one.order))
    assert members(taken(lane)) == expected


# -- buckets --------------------------------------------------------------------------------------


def test_rows_of_different_shapes_never_meet() -> None:
    lane = queue(instances=2)
    wide, narrow, wide_too = offered(lane, item(bucket=8), item(bucket=4), item(bucket=8))
    first, second = taken(lane), taken(lane)
    assert (members(first), first.bucket) == ([wide, wide_too], 8)
    assert (members(second), second.bucket) == ([narrow], 4)


def test_the_bucket_with_the_most_urgent_head_goes_first() -> None:
    lane = queue()
    offered(lane, item(bucket="a", deadline_s=5.0), item(bucket="b", deadline_s=2.0))
    assert taken(lane).bucket == "b"


def test_an_urgent_level_takes_its_bucket_along() -> None:
    lane = queue()
    offered(lane, item(bucket="a", deadline_s=1.0, priority=2), item(bucket="b", priority=1))
    assert taken(lane).bucket == "b"


def test_an_emptied_bucket_is_forgotten() -> None:
    lane = queue(instances=2)
    offered(lane, item(bucket="a"), item(bucket="b"))
    assert lane.snapshot().buckets == 2
    taken(lane)
    assert lane.snapshot().buckets == 1
    taken(lane)
    assert lane.snapshot().buckets == 0


# -- unbatched ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_rows", [1, 64])
def test_unbatched_every_request_runs_alone_whatever_its_rows(max_batch_rows: int) -> None:
    lane = queue(batched=False, max_batch_rows=max_batch_rows)
    first, second = offered(lane, item(5), item(1))
    batch = taken(lane)
    assert batch.parts == [(first, 0, 5)]
    assert lane.finished(batch, 1.0) == [first]
    assert members(taken(lane, 1.0)) == [second]


def test_unbatched_order_is_the_same() -> None:
    lane = queue(batched=False, max_batch_rows=1)
    late, early = offered(lane, item(deadline_s=9.0), item(deadline_s=5.0))
    batch = taken(lane)
    assert members(batch) == [early]
    lane.finished(batch, 1.0)
    assert members(taken(lane, 1.0)) == [late]


# -- requests larger than a batch -----------------------------------------------------------------


def test_an_oversize_request_is_cut_and_completes_once() -> None:
    lane = queue(max_batch_rows=4)
    [large] = offered(lane, item(10))
    pieces = []
    complete = []
    for turn in range(3):
        batch = taken(lane, float(turn))
        pieces += batch.parts
        complete += lane.finished(batch, turn + 0.5)
    assert pieces == [(large, 0, 4), (large, 4, 8), (large, 8, 10)]
    assert complete == [large]
    assert lane.idle


def test_the_rest_of_an_oversize_request_shares_its_batch() -> None:
    lane = queue(max_batch_rows=4)
    large, small = offered(lane, item(5), item(2))
    lane.finished(taken(lane), 1.0)
    assert taken(lane, 1.0).parts == [(large, 4, 5), (small, 0, 2)]


def test_an_oversize_request_fills_what_is_left_of_a_batch() -> None:
    lane = queue(max_batch_rows=4)
    small, large = offered(lane, item(1), item(6))
    batch = taken(lane)
    assert batch.parts == [(small, 0, 1), (large, 0, 3)]
    assert batch.reason is BatchReason.FULL
    assert (lane.queued_requests, lane.queued_rows) == (1, 3)


def test_an_oversize_request_runs_on_all_instances_at_once() -> None:
    lane = queue(max_batch_rows=4, instances=2)
    [large] = offered(lane, item(7))
    first, second = taken(lane), taken(lane)
    assert (first.parts, second.parts) == ([(large, 0, 4)], [(large, 4, 7)])
    assert lane.finished(second, 1.0) == []
    assert lane.finished(first, 2.0) == [large]


def test_a_more_urgent_request_goes_before_the_rest_of_an_oversize_one() -> None:
    lane = queue(max_batch_rows=4)
    [large] = offered(lane, item(7, priority=2))
    running = taken(lane)
    [urgent] = offered(lane, item(2, priority=1))
    lane.finished(running, 1.0)
    assert taken(lane, 1.0).parts == [(urgent, 0, 2), (large, 4, 6)]


def test_an_oversize_request_counts_as_one_request_until_its_last_row_left() -> None:
    lane = queue(max_batch_rows=4, instances=3)
    offered(lane, item(10))
    counts = []
    while lane.take(0.0) is not None:
        counts.append((lane.queued_requests, lane.queued_rows))
    assert counts == [(1, 6), (1, 2), (0, 0)]
