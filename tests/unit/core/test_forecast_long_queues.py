"""The one-pass arithmetic for long queues says what the request-by-request arithmetic says."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.batch import Batch, BatchLimits, Key, QueueItem
from gateway.core.forecast import finish_s, pushes_into_trouble
from gateway.core.service_time import ServiceTime

NOW = 0.0  # other origins round differently on either side


def service_time(per_batch_s: float, per_row_s: float) -> ServiceTime:
    learned = ServiceTime()
    for rows in (1, 2, 4, 8):
        learned.observe(rows, per_batch_s + per_row_s * rows)
    return learned


def running(rows: int, left_s: float) -> Batch[QueueItem]:
    batch: Batch[QueueItem] = Batch(None, NOW - 1.0)
    batch.rows = rows
    batch.expected_s = 1.0 + left_s
    return batch


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    queued=st.lists(st.tuples(st.integers(1, 6), st.floats(0.0, 40.0)), min_size=1, max_size=30),
    load=st.integers(1, 6),
    ahead=st.integers(0, 30),
    instances=st.integers(1, 3),
    busy=st.lists(st.tuples(st.integers(1, 4), st.floats(-1.0, 3.0)), max_size=3),
    batched=st.booleans(),
)
def test_it_agrees_with_the_forecast_of_each_request(
    queued: list[tuple[int, float]],
    load: int,
    ahead: int,
    instances: int,
    busy: list[tuple[int, float]],
    batched: bool,
) -> None:
    limits = BatchLimits(max_batch_rows=4, instances=instances, batched=batched)
    learned = service_time(1.0, 0.25)
    batches = [running(rows, left_s) for rows, left_s in busy[:instances]]
    behind: list[Key] = []
    for order, (rows, slack_s) in enumerate(sorted(queued, key=lambda one: one[1])):
        item = QueueItem(rows, NOW + slack_s, 1, None)
        behind.append((1, item.deadline_s, order, item))
    loads = accumulate((key[3].rows if batched else 1) for key in behind)

    def ends_s(rows: int) -> float:
        return finish_s(rows, NOW, limits, learned, batches)

    trouble = any(
        ends_s(ahead + rows) <= key[1] < ends_s(ahead + rows + load)
        for rows, key in zip(loads, behind, strict=True)
    )
    found = pushes_into_trouble(load, ahead, behind, NOW, limits, learned, batches)
    # With an idle lane there is no headroom to lose; with a busy one, being late alone counts as well.
    if batches:
        assert found or not trouble
    else:
        assert found == trouble
