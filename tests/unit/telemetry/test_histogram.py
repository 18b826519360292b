from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.histogram import LATENCY_BOUNDS_S, ROWS_BOUNDS, Histogram


def counts(histogram: Histogram) -> dict[str, float]:
    return dict(histogram.cumulative())


def test_nothing_observed_is_nothing_counted() -> None:
    assert Histogram((1, 2)).cumulative() == [("1.0", 0), ("2.0", 0), ("+Inf", 0)]


def test_a_value_counts_in_its_bucket_and_all_above() -> None:
    histogram = Histogram((1, 2, 4))
    histogram.observe(1.5)
    assert counts(histogram) == {"1.0": 0, "2.0": 1, "4.0": 1, "+Inf": 1}


@pytest.mark.parametrize(("value", "bound"), [(1, "1.0"), (2, "2.0"), (0, "1.0"), (-3, "1.0")])
def test_a_value_on_a_bound_counts_below_it(value: float, bound: str) -> None:
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert next(key for key, count in histogram.cumulative() if count) == bound


def test_what_lies_above_every_bound_is_counted_too() -> None:
    histogram = Histogram((1, 2))
    histogram.observe(2.001)
    assert counts(histogram) == {"1.0": 0, "2.0": 0, "+Inf": 1}


def test_the_sum_is_kept() -> None:
    histogram = Histogram((1,))
    histogram.observe(0.25)
    histogram.observe_all([0.5, 4.0])
    assert histogram.total == 4.75


def test_observing_none_of_many_changes_nothing() -> None:
    histogram = Histogram((1,))
    histogram.observe_all([])
    assert (histogram.counts, histogram.total) == ([0, 0], 0.0)


@pytest.mark.parametrize("bounds", [LATENCY_BOUNDS_S, ROWS_BOUNDS])
def test_bounds_grow(bounds: tuple[float, ...]) -> None:
    assert all(low < high for low, high in pairwise(bounds))


@given(st.lists(st.floats(0.0, 20.0), max_size=40))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_one_by_one_or_all_at_once_is_the_same(values: list[float]) -> None:
    one_by_one, at_once = Histogram(LATENCY_BOUNDS_S), Histogram(LATENCY_BOUNDS_S)
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all(values)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)
    expected = {repr(bound): sum(one <= bound for one in values) for bound in LATENCY_BOUNDS_S}
    assert counts(at_once) == expected | {"+Inf": len(values)}
