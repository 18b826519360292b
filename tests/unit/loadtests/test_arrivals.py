import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import arrivals

RATES = st.floats(min_value=0.5, max_value=2_000)
SPANS = st.floats(min_value=0.1, max_value=5)


@given(RATES, SPANS)
def test_constant_arrivals_are_evenly_spaced(rate: float, seconds: float) -> None:
    due = arrivals.constant(rate, seconds)
    assert all(0 <= at < seconds for at in due)
    assert all(b - a == pytest.approx(1 / rate) for a, b in itertools.pairwise(due))
    assert abs(len(due) - rate * seconds) <= 1


@given(RATES, SPANS, st.integers())
def test_poisson_arrivals_ascend_inside_the_span(rate: float, seconds: float, seed: int) -> None:
    due = arrivals.poisson(rate, seconds, seed)
    assert due == sorted(due)
    assert all(0 < at < seconds for at in due)


def test_a_seed_gives_the_same_arrivals_again() -> None:
    assert arrivals.poisson(100, 10, seed=4) == arrivals.poisson(100, 10, seed=4)
    assert arrivals.poisson(100, 10, seed=4) != arrivals.poisson(100, 10, seed=5)


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    due = arrivals.poisson(1_000, 100, seed=1)
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert len(due) == pytest.approx(100_000, rel=0.02)
    assert statistics.fmean(gaps) == pytest.approx(1e-3, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(1e-3, rel=0.02)


def test_poisson_counts_vary_as_much_as_they_should() -> None:
    due = arrivals.poisson(100, 1_000, seed=2)
    counts = [0] * 1_000
    for at in due:
        counts[int(at)] += 1
    assert statistics.variance(counts) == pytest.approx(100, rel=0.15)


def test_a_schedule_is_that_of_its_pattern() -> None:
    assert arrivals.schedule("constant", 50, 2, seed=3) == arrivals.constant(50, 2)
    assert arrivals.schedule("poisson", 50, 2, seed=3) == arrivals.poisson(50, 2, seed=3)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_nonsense_is_refused(rate: float, seconds: float) -> None:
    for pattern in arrivals.PATTERNS:
        with pytest.raises(ValueError, match="above 0"):
            arrivals.schedule(pattern, rate, seconds, seed=0)


def test_a_schedule_too_long_to_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="arrivals"):
        arrivals.constant(1e6, 1e6)
