from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.quota import RETRY_AFTER_BUSY_S, Quota, QuotaLimits, TokenBucket

RATES = st.floats(0.01, 10_000)
BURSTS = st.floats(1, 1000)
GAPS_S = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 1e-3), st.floats(0, 10)), min_size=1, max_size=200
)


# -- the bucket -----------------------------------------------------------------------------------


@given(RATES, BURSTS, GAPS_S, st.floats(0, 1e6))
def test_never_more_than_the_burst_and_the_rate(
    rate: float, burst: float, gaps_s: list[float], start_s: float
) -> None:
    bucket = TokenBucket(rate, burst, start_s)
    now = start_s
    taken_s = []
    for gap_s in gaps_s:
        now += gap_s
        if not bucket.take(now):
            taken_s.append(now)
    for first in range(len(taken_s)):
        for last in range(first, len(taken_s), 7):
            span_s = taken_s[last] - taken_s[first]
            assert last - first + 1 <= burst + rate * span_s + 1e-3


@given(RATES, BURSTS, GAPS_S)
def test_whoever_comes_back_when_told_is_let_through(
    rate: float, burst: float, gaps_s: list[float]
) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    now = 0.0
    for gap_s in gaps_s:
        now += gap_s
        wait_s = bucket.take(now)
        if wait_s:
            now += wait_s
            assert bucket.take(now) == 0.0


@given(RATES, st.integers(1, 1000))
def test_a_full_bucket_gives_its_burst_at_once(rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    assert sum(not bucket.take(0.0) for _ in range(burst + 5)) == burst


def test_a_long_pause_saves_no_more_than_the_burst() -> None:
    bucket = TokenBucket(10, 3, 0.0)
    assert [bool(bucket.take(1e6)) for _ in range(4)] == [False, False, False, True]


def test_a_refusal_costs_nothing() -> None:
    bucket = TokenBucket(1, 1, 0.0)
    assert bucket.take(0.0) == 0.0
    waits_s = [bucket.take(0.5) for _ in range(100)]
    assert waits_s == [0.5] * 100
    assert bucket.take(1.0) == 0.0


def test_a_clock_that_steps_back_gives_and_takes_nothing() -> None:
    bucket = TokenBucket(1, 2, 100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) == 0.0
    assert bucket.take(100.5) == pytest.approx(0.5)


# -- the quota ------------------------------------------------------------------------------------


def test_without_limits_everybody_enters() -> None:
    quota = Quota(QuotaLimits(), 0.0)
    assert [quota.enter(0.0) for _ in range(1000)] == [None] * 1000
    assert quota.inside == 1000


def test_calls_at_once_are_counted_until_they_leave() -> None:
    quota = Quota(QuotaLimits(max_concurrent_requests=2), 0.0)
    assert quota.enter(0.0) is None
    assert quota.enter(0.0) is None
    refusal = quota.enter(0.0)
    assert refusal is not None
    assert refusal.reason == "2 calls at once"
    assert refusal.retry_after_s == RETRY_AFTER_BUSY_S
    quota.leave()
    assert quota.enter(0.0) is None


def test_a_call_that_is_one_too_many_at_once_keeps_its_token() -> None:
    quota = Quota(QuotaLimits(1.0, 2.0, max_concurrent_requests=1), 0.0)
    assert quota.enter(0.0) is None
    for _ in range(5):
        assert quota.enter(0.0) is not None
    quota.leave()
    assert quota.enter(0.0) is None


def test_the_rate_says_when_to_ask_again_and_takes_no_place() -> None:
    quota = Quota(QuotaLimits(requests_per_s=4.0, burst_requests=1.0), 0.0)
    assert quota.enter(0.0) is None
    refusal = quota.enter(0.0)
    assert refusal is not None
    assert refusal.reason == "4 calls per second"
    assert refusal.retry_after_s == 0.25
    assert quota.inside == 1


@pytest.mark.parametrize(("rate", "let_through"), [(5.0, 5), (0.1, 1)])
def test_the_burst_is_what_a_second_allows_unless_said(rate: float, let_through: int) -> None:
    quota = Quota(QuotaLimits(requests_per_s=rate), 0.0)
    assert sum(quota.enter(0.0) is None for _ in range(20)) == let_through


def test_one_leave_too_many_is_noticed() -> None:
    with pytest.raises(AssertionError):
        Quota(QuotaLimits(), 0.0).leave()


def test_other_limits_keep_who_is_inside() -> None:
    quota = Quota(QuotaLimits(), 0.0)
    quota.enter(0.0)
    quota.enter(0.0)
    quota.change(QuotaLimits(max_concurrent_requests=2), 1.0)
    assert quota.enter(1.0) is not None
    quota.leave()
    assert quota.enter(1.0) is None


def test_the_same_limits_again_fill_no_bucket() -> None:
    quota = Quota(QuotaLimits(requests_per_s=1.0), 0.0)
    assert quota.enter(0.0) is None
    quota.change(QuotaLimits(requests_per_s=1.0), 0.0)
    assert quota.enter(0.0) is not None


# -- the share of a worker ------------------------------------------------------------------------


def test_a_worker_gets_its_share() -> None:
    whole = QuotaLimits(10.0, 8.0, 5)
    assert whole.share(1) == whole
    assert whole.share(4) == QuotaLimits(2.5, 2.0, 2)
    assert QuotaLimits().share(4) == QuotaLimits()


@given(st.integers(1, 64), st.floats(0.1, 1e4), st.floats(1, 1e4), st.integers(1, 1000))
def test_shares_add_up_and_let_at_least_one_through(
    workers: int, rate: float, burst: float, concurrent: int
) -> None:
    share = QuotaLimits(rate, burst, concurrent).share(workers)
    assert share.requests_per_s is not None
    assert share.burst_requests is not None
    assert share.max_concurrent_requests is not None
    assert share.requests_per_s * workers == pytest.approx(rate)
    assert share.burst_requests >= 1
    assert concurrent <= share.max_concurrent_requests * workers < concurrent + workers
    assert Quota(share, 0.0).enter(0.0) is None
