"""What a lane reports becomes Triton's statistics: sums of whole batches, in nanoseconds."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.batch import Batch
from gateway.core.statistics import DurationSum
from gateway.telemetry import metrics as metrics_module
from gateway.telemetry.metrics import Metrics

MS = 1_000_000


def a_batch(rows: int, started_s: float) -> Batch[Any]:
    batch: Batch[Any] = Batch(None, started_s)
    batch.rows = rows
    return batch


def test_two_requests_of_one_batch() -> None:
    metrics = Metrics(Admission(AdmissionLimits()))
    lane = metrics.lane("m", "7")
    lane.batch(a_batch(5, 10.0), 10.25, inline=True)
    lane.answered([(8.0, 8.5), (9.0, 9.5)], started_s=10.0, ended_s=10.25, written_s=10.75)
    lane.shed("expired", 2)
    lane.shed("failed", 1)
    [found] = metrics.statistics(wall_offset_s=1_000_000.0)
    assert (found.name, found.version) == ("m", "7")
    assert found.last_inference_ms == 1_000_010_250
    assert (found.inference_count, found.execution_count) == (5, 1)
    requests = found.requests
    assert requests.success == DurationSum(2, 4500 * MS)
    assert requests.fail == DurationSum(3, 0)
    assert requests.queue == DurationSum(2, 2000 * MS)
    assert requests.compute_input == DurationSum(2, 1000 * MS)
    assert requests.compute_infer == DurationSum(2, 500 * MS)
    assert requests.compute_output == DurationSum(2, 500 * MS)
    assert found.batches == {5: DurationSum(1, 250 * MS)}


def test_batches_are_told_apart_by_their_rows() -> None:
    metrics = Metrics(Admission(AdmissionLimits()))
    lane = metrics.lane("m", "1")
    for rows in (1, 4, 4):
        lane.batch(a_batch(rows, 0.0), 0.001 * rows, inline=False)
    [found] = metrics.statistics(0.0)
    assert found.batches == {1: DurationSum(1, MS), 4: DurationSum(2, 8 * MS)}
    assert (found.inference_count, found.execution_count) == (9, 3)


def test_a_version_that_was_never_asked_has_nothing_but_its_name() -> None:
    metrics = Metrics(Admission(AdmissionLimits()))
    metrics.lane("m", "1")
    [found] = metrics.statistics(wall_offset_s=5.0)
    assert found.last_inference_ms == found.inference_count == found.execution_count == 0
    assert found.requests.success == DurationSum()


def test_versions_that_are_gone_are_left_out() -> None:
    metrics = Metrics(Admission(AdmissionLimits()))
    metrics.lane("m", "1")
    metrics.lane("m", "2")
    metrics.retire("m", "1")
    assert [one.version for one in metrics.statistics(0.0)] == ["2"]


def test_batch_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_BATCH_SIZES", 2)
    metrics = Metrics(Admission(AdmissionLimits()))
    lane = metrics.lane("m", "1")
    for rows in (1, 2, 3, 2):
        lane.batch(a_batch(rows, 0.0), 0.5, inline=True)
    [found] = metrics.statistics(0.0)
    assert {rows: runs.count for rows, runs in found.batches.items()} == {1: 1, 2: 2}
    assert found.execution_count == 4
