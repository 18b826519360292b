"""The formulas, against sums over all outcomes, other ways to compute them, and the figures they are known for."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from rollout.sequential import (
    LEAST_SAMPLES,
    RATIOS,
    CountSegment,
    Moments,
    difference_interval,
    log_e_value,
    mean_interval,
    mean_log_e_value,
    mean_radius,
    rate_lower_bound,
    rate_upper_bound,
    sample_ratio_log_bayes_factor,
    tuned_rho,
)


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def hypergeometric(k: int, requests: int, candidate_requests: int, events: int) -> float:
    others = requests - candidate_requests
    ways = math.comb(candidate_requests, k) * math.comb(others, events - k)
    return ways / math.comb(requests, events)


# ---- counts ------------------------------------------------------------------------------------------------------


def test_without_events_or_with_one_arm_alone_there_is_no_evidence() -> None:
    assert log_e_value([]) == 0.0
    nothing = [CountSegment(0, 0, 0.05), CountSegment(0, 9, 0.0), CountSegment(9, 0, 1.0)]
    assert log_e_value(nothing) == pytest.approx(0.0, abs=1e-12)


def test_the_e_value_is_the_mean_over_ratios_of_the_likelihood_ratio_of_all_segments() -> None:
    segments = [CountSegment(3, 10, 0.05), CountSegment(7, 12, 0.25)]
    ratios = []
    for ratio in RATIOS:
        factor = 1.0
        for k, others, share in segments:
            chance = share * ratio / (1 - share + share * ratio)
            factor *= chance**k * (1 - chance) ** others / (share**k * (1 - share) ** others)
        ratios.append(factor)
    assert math.exp(log_e_value(segments)) == pytest.approx(np.mean(ratios))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("events", [1, 4, 15])
def test_an_equal_candidate_has_a_mean_e_value_of_one(share: float, events: int) -> None:
    mean = sum(
        binomial(k, events, share) * math.exp(log_e_value([CountSegment(k, events - k, share)]))
        for k in range(events + 1)
    )
    assert mean == pytest.approx(1.0)


@pytest.mark.parametrize(("requests", "candidate_requests"), [(20, 1), (60, 3), (40, 20), (30, 29)])
def test_two_segments_of_any_errors_dealt_out_blindly_have_a_mean_of_at_most_one(
    requests: int, candidate_requests: int
) -> None:
    """With the measured share, whatever the errors were: also when every second request fails."""
    share = candidate_requests / requests
    for first, second in ((1, 1), (3, 7), (requests // 2, 2), (requests, requests)):
        mean = 0.0
        for a, b in product(range(first + 1), range(second + 1)):
            if max(first - a, second - b) > requests - candidate_requests:
                continue
            segments = [CountSegment(a, first - a, share), CountSegment(b, second - b, share)]
            mean += (
                hypergeometric(a, requests, candidate_requests, first)
                * hypergeometric(b, requests, candidate_requests, second)
                * math.exp(log_e_value(segments))
            )
        assert 0 < mean <= 1 + 1e-9


def test_a_better_candidate_has_a_mean_below_one() -> None:
    share, ratio = 0.3, 0.5
    chance = share * ratio / (1 - share + share * ratio)
    mean = sum(
        binomial(k, 12, chance) * math.exp(log_e_value([CountSegment(k, 12 - k, share)]))
        for k in range(13)
    )
    assert mean < 0.7


def test_clusters_that_fall_to_one_arm_have_a_mean_of_at_most_one_when_divided_out() -> None:
    """Clusters of 1, 2 and 3 events; undivided, the mean is far above 1: the test would lie."""
    share, sizes = 0.1, (1, 3, 2, 3)
    means = dict.fromkeys((1, 3), 0.0)
    for falls in product((True, False), repeat=len(sizes)):
        chance = math.prod(share if fell else 1 - share for fell in falls)
        k = sum(size for size, fell in zip(sizes, falls, strict=True) if fell)
        for burst in means:
            segment = CountSegment(k / burst, (sum(sizes) - k) / burst, share)
            means[burst] += chance * math.exp(log_e_value([segment]))
    assert means[3] <= 1
    assert means[1] > 5


@pytest.mark.parametrize("copied", [0.01, 0.1, 1.0])
def test_copies_of_the_same_requests_that_fail_alike_have_a_mean_of_at_most_one(
    copied: float,
) -> None:
    """A shadow that fails on just what the champion fails on, for 12 failures of the champion."""
    share = copied / (1 + copied)
    mean = sum(
        binomial(k, 12, copied) * math.exp(log_e_value([CountSegment(k, 12, share)]))
        for k in range(13)
    )
    assert 0 < mean < 1


def test_a_large_count_does_not_overflow() -> None:
    assert 1e6 < log_e_value([CountSegment(10**7, 10**6, 0.05)]) < 1e8
    assert -1e8 < log_e_value([CountSegment(0, 10**7, 0.5)]) < -1e6


@pytest.mark.parametrize(
    ("segment", "sentence"),
    [
        (CountSegment(-1, 0, 0.5), "counts of events must be 0 or more"),
        (CountSegment(1, 0, 1.5), "shares between 0 and 1"),
        (CountSegment(math.nan, 0, 0.5), "counts of events"),
        (CountSegment(1, 0, 0.0), "an arm without requests cannot have bad events"),
        (CountSegment(0, 1, 1.0), "an arm without requests cannot have bad events"),
    ],
)
def test_counts_that_cannot_be_are_refused(segment: CountSegment, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        log_e_value([segment])


# ---- rates -------------------------------------------------------------------------------------------------------


def test_bounds_of_a_rate_close_in_on_it() -> None:
    assert rate_upper_bound(0, 0, 0.05) == 1.0
    assert rate_lower_bound(0, 0, 0.05) == 0.0
    for rate in (0.001, 0.02, 0.5, 0.98):
        gaps = []
        for trials in (1_000, 100_000, 10_000_000):
            events = rate * trials
            low, high = (
                rate_lower_bound(events, trials, 0.05),
                rate_upper_bound(events, trials, 0.05),
            )
            assert low < rate < high
            gaps.append((high - low) / math.sqrt(rate * (1 - rate) / trials))
        assert max(gaps) < 8  # standard errors between the bounds; for a single look 3.3 would do


def test_without_events_the_bound_is_near_the_rule_of_three() -> None:
    assert 3 / 1000 < rate_upper_bound(0, 1000, 0.05) < 6 / 1000


def test_the_bounds_mirror_each_other() -> None:
    assert rate_lower_bound(30, 1000, 0.02) == pytest.approx(1 - rate_upper_bound(970, 1000, 0.02))


def test_a_drifting_rate_leaves_the_bounds_no_more_often_than_promised() -> None:
    """Looked at after every 50 of 20 000 requests, while the rate swings between 0.2 % and 6 %."""
    seed, runs, alpha = 20_261, 300, 0.05
    print("seed", seed)
    dice = np.random.default_rng(seed)
    rates = 0.002 + 0.058 * (np.sin(np.arange(400) / 25) > 0.3)
    events = dice.binomial(50, rates, (runs, 400)).cumsum(axis=1)
    trials = 50.0 * np.arange(1, 401)
    mean = rates.cumsum() / np.arange(1, 401)
    # The bound is monotone in the events: at every look, one search finds the counts that break it.
    too_few = np.array([_most_breaking(mean[i], trials[i], alpha) for i in range(400)])
    broken = (events <= too_few).any(axis=1)
    assert broken.mean() <= alpha


def _most_breaking(rate: float, trials: float, alpha: float) -> int:
    """The most events with which the upper bound is below the rate; -1 for none."""
    low, high = -1, int(rate * trials) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if rate_upper_bound(middle, trials, alpha) < rate:
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize(("events", "trials"), [(2, 1), (-1, 5), (0, math.inf), (math.nan, 3)])
def test_counts_that_are_no_counts_have_no_bound(events: float, trials: float) -> None:
    with pytest.raises(ValueError, match="must be 0 <= events <= trials"):
        rate_upper_bound(events, trials, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is a probability between 0 and 1"):
        rate_upper_bound(1, 10, alpha)
    with pytest.raises(ValueError, match="alpha is a probability between 0 and 1"):
        mean_interval(Moments(200, 0, 1), alpha, 1000)


# ---- means -------------------------------------------------------------------------------------------------------


def test_the_mixture_is_tuned_as_published() -> None:
    assert 1000 / tuned_rho(1000, 0.05) == pytest.approx(7.93, abs=0.005)
    assert 1000 / tuned_rho(1000, 0.01) == pytest.approx(11.53, abs=0.005)


@pytest.mark.parametrize(("times", "wider"), [(1, 1.55), (0.5, 1.57), (10, 1.65), (0.1, 1.97)])
def test_the_price_of_looking_at_any_time_is_known(times: float, wider: float) -> None:
    n = int(10_000 * times)
    single_look = 1.959964 * math.sqrt(1 / n)
    assert mean_radius(n, 1.0, 0.05, 10_000) / single_look == pytest.approx(wider, abs=0.01)


def test_the_interval_is_narrowest_near_where_it_is_tuned() -> None:
    radii = [
        mean_radius(10_000, 1.0, 0.05, best_at)
        for best_at in (2_000, 9_000, 10_000, 11_000, 50_000)
    ]
    assert min(radii) == radii[2]


def test_evidence_and_interval_agree() -> None:
    sample = Moments(700, 0.3, 2.5)
    low, high = mean_interval(sample, 0.01, 1000)
    for edge in (low, high):
        evidence = mean_log_e_value(sample, edge, 0.01, 1000)
        assert evidence == pytest.approx(math.log(100))
    assert mean_log_e_value(sample, 0.3, 0.01, 1000) < 0


def test_evidence_is_the_likelihood_ratio_averaged_over_normal_effects() -> None:
    n, mean, variance, rho = 400, 0.12, 1.7, tuned_rho(1000, 0.05)
    effects = np.linspace(-3, 3, 200_001)
    prior = np.exp(-(effects**2) * rho / (2 * variance)) / math.sqrt(2 * math.pi * variance / rho)
    ratio = np.exp(n * (mean * effects - effects**2 / 2) / variance)
    brute = float((prior * ratio).sum() * (effects[1] - effects[0]))
    found = mean_log_e_value(Moments(n, mean, variance), 0.0, 0.05, 1000)
    assert math.exp(found) == pytest.approx(brute, rel=1e-6)


def test_few_samples_say_nothing_and_equal_ones_all() -> None:
    few = Moments(LEAST_SAMPLES - 1, 5.0, 0.1)
    assert mean_interval(few, 0.05, 1000) == (-math.inf, math.inf)
    assert mean_log_e_value(few, 0.0, 0.05, 1000) == 0.0
    assert difference_interval(few, Moments(5000, 0, 1), 0.05, 1000) == (-math.inf, math.inf)
    same = Moments(LEAST_SAMPLES, 5.0, 0.0)
    assert mean_interval(same, 0.05, 1000) == (5.0, 5.0)
    assert mean_log_e_value(same, 0.0, 0.05, 1000) == math.inf
    assert mean_log_e_value(same, 5.0, 0.05, 1000) < 0


def test_two_samples_are_one_of_their_harmonic_number() -> None:
    a, b = Moments(3_000, 0.4, 2.0), Moments(1_500, 0.1, 2.0)
    low, high = difference_interval(a, b, 0.01, 1000)
    assert (low + high) / 2 == pytest.approx(0.3)
    assert (high - low) / 2 == pytest.approx(mean_radius(1000, 2.0, 0.01, 1000))


def test_looking_all_the_time_does_not_raise_more_false_alarms_than_promised() -> None:
    """Two arms of 5 % each, looked at from 100 to 5 000 per arm; an interval for one look fails in two runs of five."""
    seed, runs, alpha = 20_262, 300, 0.05
    print("seed", seed)
    dice = np.random.default_rng(seed)
    looks = np.arange(100, 5_001, 25)
    events = (dice.random((2, runs, 5_000)) < 0.05).cumsum(axis=2)[:, :, looks - 1]
    mean = events / looks
    variance = mean * (1 - mean)
    off = np.abs(mean[0] - mean[1])
    single = 1.959964 * np.sqrt((variance[0] + variance[1]) / looks)
    assert (off > single).any(axis=1).mean() > 0.3
    peaks = (off / np.maximum(single, 1e-9)).argmax(axis=1)
    alarms = 0
    for run in range(runs):
        for look in {int(peaks[run]), *range(0, len(looks), 4)}:
            arms = [
                Moments(int(looks[look]), mean[arm, run, look], variance[arm, run, look])
                for arm in (0, 1)
            ]
            low, high = difference_interval(arms[0], arms[1], alpha, 1_000)
            if not low <= 0 <= high:
                alarms += 1
                break
    print("false alarms", alarms / runs)
    assert alarms / runs <= alpha


@pytest.mark.parametrize(
    "sample", [Moments(-1, 0, 1), Moments(500, math.nan, 1), Moments(500, 0, -1)]
)
def test_moments_that_no_sample_has_are_refused(sample: Moments) -> None:
    with pytest.raises(ValueError, match="no sample has these moments"):
        mean_interval(sample, 0.05, 1000)
    with pytest.raises(ValueError, match="no sample has these moments"):
        difference_interval(Moments(500, 0, 1), sample, 0.05, 1000)


def test_an_interval_cannot_be_tuned_to_nothing() -> None:
    with pytest.raises(ValueError, match="cannot be best at 0 samples"):
        tuned_rho(0, 0.05)


# ---- the split ---------------------------------------------------------------------------------------------------


def test_the_bayes_factor_is_the_product_of_predictions() -> None:
    """Request by request: what the prior and the counts so far predict, against what was promised."""
    arms, promised = [0, 1, 0, 0, 2, 0, 1, 0], (0.7, 0.2, 0.1)
    log_factor, counts = 0.0, [0, 0, 0]
    for arm in arms:
        predicted = (100 * promised[arm] + counts[arm]) / (100 + sum(counts))
        log_factor += math.log(predicted / promised[arm])
        counts[arm] += 1
    assert sample_ratio_log_bayes_factor(counts, promised) == pytest.approx(log_factor)


def test_a_wrong_split_is_found_and_a_right_one_left_alone() -> None:
    seed, runs, looks = 20_263, 500, 60
    print("seed", seed)
    dice = np.random.default_rng(seed)
    candidates = dice.binomial(200, 0.05, (runs, looks)).cumsum(axis=1)
    alarms = 0
    for run in candidates:
        factors = [
            sample_ratio_log_bayes_factor((200 * (i + 1) - int(c), int(c)), (0.95, 0.05))
            for i, c in enumerate(run)
        ]
        alarms += max(factors) > math.log(100)
    assert alarms / runs <= 0.01
    assert sample_ratio_log_bayes_factor((93_500, 6_500), (0.95, 0.05)) > math.log(100)


@pytest.mark.parametrize(
    ("counts", "probabilities"),
    [
        ((5,), (1.0,)),
        ((5, 5), (0.5,)),
        ((5, -1), (0.5, 0.5)),
        ((5, 5), (0.5, 0.4)),
        ((5, 5), (1, 0)),
    ],
)
def test_what_is_no_split_is_refused(
    counts: tuple[int, ...], probabilities: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"a split has|counts must be"):
        sample_ratio_log_bayes_factor(counts, probabilities)
