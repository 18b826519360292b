"""What the values of batching show of themselves."""

from __future__ import annotations

from gateway.core.batch import BatchReason
from tests.unit.core.items import item, offered, queue, taken


def test_an_item_shows_its_place_and_its_progress() -> None:
    lane = queue(max_batch_rows=4)
    [one] = offered(lane, item(6, deadline_s=2.5, priority=2))
    assert repr(one) == "QueueItem(#1 rows=0/6 p2 deadline=2.500000 QUEUED)"
    taken(lane)
    assert repr(one) == "QueueItem(#1 rows=4/6 p2 deadline=2.500000 RUNNING)"


def test_a_batch_shows_why_it_left() -> None:
    lane = queue(max_batch_rows=4)
    offered(lane, item(3), item(1))
    batch = taken(lane)
    assert repr(batch) == "Batch(rows=4, members=2, full)"
    assert batch.reason is BatchReason.FULL


def test_a_queue_shows_its_counts() -> None:
    lane = queue(max_batch_rows=4, instances=2)
    assert repr(lane) == "BatchQueue(0 requests, 0 rows, 0/2 running)"
    offered(lane, item(4), item(3), item(2))
    taken(lane)
    lane.close()
    assert repr(lane) == "BatchQueue(2 requests, 5 rows, 1/2 running, closed)"


def test_a_snapshot_is_the_state_as_values() -> None:
    lane = queue(per_batch_s=1e-3, per_row_s=1e-5, max_batch_rows=4)
    offered(lane, item(4), item(1, bucket="a"), item(2, bucket="b"))
    taken(lane)
    lane.close()
    snapshot = lane.snapshot()
    assert (snapshot.queued_requests, snapshot.queued_rows, snapshot.buckets) == (2, 3, 2)
    assert (snapshot.running_batches, snapshot.closed) == (1, True)
    assert (snapshot.per_batch_us, snapshot.per_row_us) == (1e3, 1e-5 * 1e6)
