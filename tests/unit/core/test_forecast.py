"""What a lane will do next if nothing else comes."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from gateway.core.batch import Batch, BatchLimits, BatchReason, Key, QueueItem
from gateway.core.forecast import HEADROOM, finish_s, late_or_tight, next_batch, whole_members
from tests.unit.core.items import KnownTime, item

LIMITS = BatchLimits(max_batch_rows=4)
COST = KnownTime(1.0, 0.25)


def bucket(*items: QueueItem) -> list[Key]:
    for order, one in enumerate(items):
        one.order = order
    return [(one.priority, one.deadline_s, one.order, one) for one in items]


def running(rows: int, ends_s: float) -> Batch[QueueItem]:
    batch: Batch[QueueItem] = Batch(None, 0.0)
    batch.rows = rows
    batch.expected_s = ends_s
    return batch


# -- the members of a batch -----------------------------------------------------------------------


def test_a_forecast_moves_nothing() -> None:
    one = item(3)
    queued = bucket(one)
    next_batch(queued, 0.0, LIMITS, COST, {})
    assert (one.taken_rows, len(queued)) == (0, 1)


def test_a_batch_that_empties_the_bucket_stops_for_no_reason() -> None:
    first, second = item(1), item(2)
    parts, rows, why = next_batch(bucket(first, second), 0.0, LIMITS, COST, {})
    assert (parts, rows, why) == ([(first, 0, 1), (second, 0, 2)], 3, None)


def test_rows_that_left_in_the_forecast_have_left() -> None:
    large = item(10)
    queued = bucket(large)
    assert next_batch(queued, 0.0, LIMITS, COST, {})[0] == [(large, 0, 4)]
    assert next_batch(queued, 0.0, LIMITS, COST, {large.order: 4})[0] == [(large, 4, 8)]
    parts, rows, why = next_batch(queued, 0.0, LIMITS, COST, {large.order: 8})
    assert (parts, rows, why) == ([(large, 8, 10)], 2, None)


def test_a_batch_stops_before_a_member_would_be_late() -> None:
    first, second = item(2, deadline_s=1.5), item(1, deadline_s=9.0)
    parts, rows, why = next_batch(bucket(first, second), 0.0, LIMITS, COST, {})
    assert (parts, rows, why) == ([(first, 0, 2)], 2, BatchReason.DEADLINE)


@pytest.mark.parametrize(("end", "whole"), [(2, 2), (1, 1)])
def test_only_a_member_with_its_last_row_leaves_the_queue(end: int, whole: int) -> None:
    assert whole_members([(item(1), 0, 1), (item(2), 0, end)]) == whole


# -- when answers end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "expected_s"),
    [(0, 1.0), (1, 1.25), (4, 2.0), (5, 4.0), (8, 4.0), (9, 6.0)],
)
def test_an_idle_instance_runs_the_load_batch_by_batch(load: int, expected_s: float) -> None:
    """Behind a full batch, the last one counts as full: it fills up while it waits."""
    assert finish_s(load, 10.0, LIMITS, COST, []) == 10.0 + expected_s


def test_a_busy_instance_is_waited_for_with_headroom() -> None:
    ends_s = finish_s(4, 10.0, LIMITS, COST, [running(4, ends_s=11.0)])
    assert ends_s == pytest.approx(10.0 + HEADROOM * 1.0 + 2.0)


def test_as_many_rows_may_join_as_run_now() -> None:
    ends_s = finish_s(1, 10.0, LIMITS, COST, [running(2, ends_s=10.0)])
    assert ends_s == pytest.approx(10.0 + 1.75)


def test_an_overdue_instance_counts_as_free_any_moment() -> None:
    assert finish_s(4, 10.0, LIMITS, COST, [running(4, ends_s=3.0)]) == 12.0


@pytest.mark.parametrize(
    ("load", "expected_s"), [(4, 2.0), (8, 2.0), (12, 4.0), (16, 4.0), (17, 6.0)]
)
def test_idle_instances_share_the_load(load: int, expected_s: float) -> None:
    limits = BatchLimits(max_batch_rows=4, instances=2)
    assert finish_s(load, 0.0, limits, COST, []) == expected_s


def test_a_free_instance_goes_first_then_the_one_that_ends_first() -> None:
    limits = BatchLimits(max_batch_rows=4, instances=3)
    busy = [running(4, ends_s=9.0), running(4, ends_s=5.0)]
    ends_s = [finish_s(load, 0.0, limits, COST, busy) for load in (4, 8, 12, 16)]
    waits_s = [
        0.0,
        5.0,
        9.0,
        2.0,
    ]  # the fourth batch follows the first, on the instance that was free
    assert ends_s == pytest.approx([HEADROOM * wait_s + 2.0 for wait_s in waits_s])


def test_unbatched_the_load_is_counted_in_requests() -> None:
    limits = BatchLimits(max_batch_rows=64, batched=False)
    assert finish_s(3, 0.0, limits, KnownTime(1.0, 0.0), []) == 3.0


# -- who is in trouble ----------------------------------------------------------------------------


def trouble(
    *items: QueueItem, level: int = 3, limits: BatchLimits = LIMITS
) -> list[tuple[QueueItem, bool]]:
    queues: dict[Hashable, list[Key]] = {}
    for key in sorted(bucket(*items), key=lambda key: key[:3]):
        queues.setdefault(key[3].bucket, []).append(key)
    return list(late_or_tight(queues, 0.0, limits, COST, [], level))


def test_nobody_is_in_trouble_with_time_enough() -> None:
    assert trouble(item(4, deadline_s=2.0), item(4, deadline_s=4.0), item()) == []


def test_late_is_who_ends_after_the_deadline() -> None:
    first, second = item(4, deadline_s=2.0), item(4, deadline_s=3.9)
    assert trouble(first, second) == [(second, True)]


def test_tight_is_who_is_in_time_only_because_the_batch_leaves_early() -> None:
    hasty, patient = item(1, deadline_s=1.5), item(3, deadline_s=9.0)
    assert trouble(hasty, patient) == [(hasty, False)]


def test_company_of_a_less_urgent_level_makes_nobody_tight() -> None:
    hasty = item(1, deadline_s=1.5, priority=1)
    patient = item(3, deadline_s=9.0, priority=2)
    assert trouble(hasty, patient, level=1) == []
    assert trouble(hasty, patient, level=2) == [(hasty, False)]


def test_less_urgent_levels_are_not_looked_at() -> None:
    late = item(1, deadline_s=0.5, priority=2)
    assert trouble(late, level=1) == []
    assert trouble(late, level=2) == [(late, True)]


def test_shapes_run_one_after_the_other() -> None:
    first = item(1, deadline_s=2.0, bucket="a")
    second = item(1, deadline_s=2.4, bucket="b")
    assert trouble(first, second) == [(second, True)]


def test_a_request_in_pieces_is_late_with_its_last_one() -> None:
    """Four rows until 2.0, the other two until 3.5."""
    assert trouble(item(6, deadline_s=3.5)) == []
    large = item(6, deadline_s=3.4)
    assert trouble(large) == [(large, True)]
