from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.service_time import OUTLIER_FACTOR, ServiceTime


def learned(*batches: tuple[int, float]) -> ServiceTime:
    service_time = ServiceTime()
    for rows, duration_s in batches:
        service_time.observe(rows, duration_s)
    return service_time


def test_nothing_is_expected_before_anything_ran() -> None:
    assert ServiceTime().predict_s(64) == 0.0


@pytest.mark.parametrize(
    ("per_batch_s", "per_row_s"), [(1e-3, 1e-5), (5e-5, 2e-4), (2e-3, 0.0), (0.0, 3e-5)]
)
def test_the_cost_of_a_batch_and_of_a_row_are_recovered(
    per_batch_s: float, per_row_s: float
) -> None:
    service_time = learned(
        *[(rows, per_batch_s + per_row_s * rows) for rows in (1, 4, 16, 2, 64, 8)]
    )
    assert service_time.per_batch_s == pytest.approx(per_batch_s, abs=1e-12)
    assert service_time.per_row_s == pytest.approx(per_row_s, abs=1e-12)
    assert service_time.predict_s(32) == pytest.approx(per_batch_s + per_row_s * 32)


def test_batches_of_one_size_are_predicted_by_their_mean() -> None:
    service_time = learned(*[(8, 0.002)] * 10)
    assert service_time.predict_s(8) == pytest.approx(0.002)
    assert service_time.per_row_s == 0.0


def test_the_slope_outlives_batches_of_one_size() -> None:
    """A lane that is idle for long runs one row at a time, and must still know what 64 rows cost."""
    service_time = learned(*[(rows, 1e-3 + 1e-5 * rows) for rows in (1, 64, 1, 64, 1, 64)])
    for _ in range(500):
        service_time.observe(1, 1.01e-3)
    assert service_time.predict_s(64) == pytest.approx(1.64e-3, rel=0.01)


@pytest.mark.parametrize("factor", [3.0, 0.1])
def test_a_model_that_changed_is_believed_within_some_tens_of_batches(factor: float) -> None:
    def duration_s(rows: int) -> float:
        return 1e-3 + 1e-5 * rows

    service_time = ServiceTime()
    for turn in range(100):
        rows = 1 + turn % 64
        service_time.observe(rows, duration_s(rows))
    for turn in range(100):
        rows = 1 + turn % 64
        service_time.observe(rows, factor * duration_s(rows))
    assert service_time.predict_s(32) == pytest.approx(factor * duration_s(32), rel=0.2)


def test_a_stalled_batch_counts_as_some_predictions_only() -> None:
    service_time = learned(*[(rows, 1e-3) for rows in (1, 2, 4, 8) * 10])
    service_time.observe(4, 1000.0)
    assert service_time.predict_s(4) < (1 + OUTLIER_FACTOR * 0.1) * 1e-3


def test_the_first_batches_are_believed_as_they_are() -> None:
    service_time = learned((1, 1e-3), (1, 9e-3))
    assert service_time.predict_s(1) == pytest.approx(5e-3, rel=0.05)


def test_a_larger_batch_that_was_quicker_does_not_make_rows_cost_less_than_nothing() -> None:
    service_time = learned((1, 5e-3), (64, 1e-3), (1, 5e-3), (64, 1e-3))
    assert service_time.per_row_s == 0.0
    assert service_time.predict_s(64) == pytest.approx(3e-3, rel=0.05)


batches = st.tuples(st.integers(1, 4096), st.floats(0.0, 10.0))


@given(st.lists(batches, max_size=30), st.integers(0, 4096))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_a_prediction_is_never_negative_and_never_falls_with_rows(
    observed: list[tuple[int, float]], rows: int
) -> None:
    service_time = learned(*observed)
    assert 0.0 <= service_time.predict_s(rows) <= service_time.predict_s(rows + 1)


def test_the_estimate_can_be_read() -> None:
    service_time = learned((1, 1.1e-3), (11, 2.1e-3))
    assert repr(service_time) == "ServiceTime(1000 us + 100.0 us/row)"
