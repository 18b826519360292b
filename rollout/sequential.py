"""Statistics that may be looked at all the time: is the candidate worse, how much at most, has the split gone wrong?

Everything here keeps its promise at every moment, however often somebody peeks and whenever the rollout stops. A test
that is made for one look must never be put here: looked at every few seconds it raises false alarms in two runs out of
five. Numbers come in, numbers go out: no clock, no dice, no state.

**Counts of bad events** (``log_e_value``). Take one stretch of the rollout with N requests, a share s of which the
candidate answered, and K bad events, k of them the candidate's. If versions make no difference, the split dealt those K
events out blindly. For a ratio θ > 1 of the two rates the likelihood ratio is θ^k / (1 − s + sθ)^K; the e-value is the
mean, over the fixed ratios in ``RATIOS``, of the product of these factors over all stretches.

*Why it is valid.* Given s and K, k is hypergeometric, and θ^k is convex in k, so its mean is at most the binomial one,
(1 − s + sθ)^K (Hoeffding 1963): each factor has mean ≤ 1, for every θ, given everything before the stretch. If the
candidate is better, the mean is smaller still. A product of such factors is a supermartingale, so is a mean of such
products with fixed weights, and by Ville's inequality it reaches 1/alpha, ever, with probability at most alpha.
Nothing is assumed about the rate of bad events: it may drift, and burst for both arms at once, because each stretch is
conditioned on its own K and its own s. For that reason a change of weight has to begin a new stretch; cutting time
finer (a stretch per minute or per look) is welcome, and makes looks between stretches exact. A look *inside* a stretch
reads s while it still settles; its effect is of the order of the rate of bad events, and simulated in the tests. Where
both versions see the same requests (copies), agreeing in their failures only makes the test more cautious.

*What it assumes.* Requests fall to the arms independently. A sticky key, or a client that retries, brings several bad
events to one arm by one throw. Where up to b come together, divide all counts by b: the b-th root of a factor has mean
≤ 1 for any cluster of up to b (Jensen's and Hölder's inequalities), at the price of b times the requests.

*What it costs.* Median candidate requests until the alarm, measured at 0.5 % base rate, 5 % of the traffic, alpha 0.2 %
(ln 1/alpha = 6.2), 200 runs each, beside the usual beta mixture (prior strength 20), which also pays its prior anew in
every stretch::

    true ratio                    ×1.5      ×2      ×3     ×5    ×10
    this mixture, median        13 700   3 550   1 180    390    110
    this mixture, 95 % of runs  30 800   7 950   2 900    850    290
    beta mixture, median        14 500   3 800   1 280    440    170

It scales with the number of bad events: ×10 takes 290 requests at 0.2 %, 55 at 1 %; at 50 % of the traffic, where the
champion says less per candidate request, 310 at 0.5 %. The nine ratios cost at most ln 9 = 2.2 on the way to the 6.2; a
ratio known beforehand would save that much. Below ×1.15 there is next to no power (the smallest ratio is 1.3), and none
is wanted: such differences are for tests with labels. Where bad events are common (30 % and more) the test is valid,
but slow.

**The rate itself** (``rate_upper_bound``, ``rate_lower_bound``) uses the same factor with the hypothetical rate in the
place of s. It holds for the mean of a drifting rate too, because ln(1 − p + pθ) is concave in p.

**Means** (``mean_interval``, ``difference_interval``) use the normal mixture of Robbins, as in Howard, Ramdas,
McAuliffe and Sekhon, arXiv:1810.08240. With an estimated variance it is asymptotic: it starts at 100 samples.

**The split** (``sample_ratio_log_bayes_factor``): a Dirichlet-multinomial against the promised weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATIOS = (1.3, 1.6, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 50.0)
"""The ratios of the candidate's rate to the champion's that are looked for, equally likely."""
LEAST_SAMPLES = 100
"""Samples (per arm) below which an interval of a mean says nothing: its width is infinite."""
SPLIT_PRIOR = 100.0
"""How many pseudo-requests of the promised split the test of the split believes in."""

_LOG_RATIOS = np.log(np.array(RATIOS))[:, None]
_RATIOS_LESS_ONE = np.array(RATIOS)[:, None] - 1.0
_LOG_TILTS = -0.001 * 3.0 ** np.arange(9)
"""Steps of log odds for bounds of a rate: the small ones serve many events, the large ones few."""
_TILTS_LESS_ONE = np.expm1(_LOG_TILTS)
_HALVINGS = 50
"""Of [0, 1], in the search for a bound: to 1e-15."""


class CountSegment(NamedTuple):
    """Bad events of one stretch of constant weight. Counts may be fractions, where bursts are divided out."""

    candidate_events: float
    champion_events: float
    candidate_share: float
    """Of the stretch's requests, measured, in [0, 1]."""


class Moments(NamedTuple):
    """``n`` samples with their mean and variance (of single samples, in squared units)."""

    n: int
    mean: float
    variance: float


class Bounds(NamedTuple):
    """What the truth lies between, at all times at once, but for a chance of alpha."""

    low: float
    high: float


def log_e_value(segments: Sequence[CountSegment]) -> float:
    """How strongly the counts say that the candidate's rate is higher: natural log of an e-value, 0.0 for no evidence.

    Reaches ln(1/alpha), ever, with probability at most alpha if the candidate's rate is not higher. One-sided: a better
    candidate drives it below 0. Raises ValueError for counts below 0, shares out of [0, 1], and events of an arm that
    had no requests.
    """
    if not segments:
        return 0.0
    table = np.array(segments, dtype=np.float64)
    candidate, champion, share = table[:, 0], table[:, 1], table[:, 2]
    if not np.isfinite(table).all() or (table < 0).any() or (share > 1).any():
        raise ValueError("counts of events must be 0 or more, and shares between 0 and 1")
    if candidate[share == 0].any() or champion[share == 1].any():
        raise ValueError("an arm without requests cannot have bad events: count both in one place")
    total = candidate + champion
    penalty = np.log1p(_RATIOS_LESS_ONE * share) @ total
    return _log_mean_exp(_LOG_RATIOS[:, 0] * candidate.sum() - penalty)


def rate_upper_bound(events: float, trials: float, alpha: float) -> float:
    """The rate (mean chance of an event per trial) is below this at all times, but for a chance of ``alpha``.

    1.0 without trials. Counts may be fractions, where bursts are divided out. Raises ValueError for counts that are no
    counts and for an alpha that is not between 0 and 1.
    """
    _check_alpha(alpha)
    if not 0 <= events <= trials < math.inf:
        raise ValueError(f"{events} events of {trials} trials: must be 0 <= events <= trials")
    needed = -math.log(alpha)
    low, high = (events / trials if trials else 0.0), 1.0
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        if _log_evidence_against(rate, events, trials) >= needed:
            high = rate
        else:
            low = rate
    return high


def rate_lower_bound(events: float, trials: float, alpha: float) -> float:
    """The rate is above this at all times, but for a chance of ``alpha``; as ``rate_upper_bound``."""
    return 1.0 - rate_upper_bound(trials - events, trials, alpha)


def tuned_rho(best_at: float, alpha: float) -> float:
    """The mixture's parameter (in samples) that makes an interval narrowest at ``best_at`` samples.

    To be kept for a whole rollout: choosing it after looking at the data breaks the promise.
    """
    _check_alpha(alpha)
    if not 0 < best_at < math.inf:
        raise ValueError(f"an interval cannot be best at {best_at} samples: give a number above 0")
    wish = -2 * math.log(alpha)
    return best_at / (wish + math.log1p(wish - alpha**2) - alpha**2)


def mean_radius(n: float, variance: float, alpha: float, best_at: float) -> float:
    """Half the width of the interval of a mean of ``n`` samples, by the formula: says nothing about too few of them."""
    rho = tuned_rho(best_at, alpha)
    # The product rho * alpha ** 2: a sum in its place, as some pages print it, is no bound at all.
    return math.sqrt(variance * (n + rho) * math.log((n + rho) / (rho * alpha**2))) / n


def mean_interval(sample: Moments, alpha: float, best_at: float) -> Bounds:
    """Two-sided, for a mean, and so for the mean of paired differences; no bound below ``LEAST_SAMPLES``."""
    _check_moments(sample)
    if sample.n < LEAST_SAMPLES:
        return Bounds(-math.inf, math.inf)
    radius = mean_radius(sample.n, sample.variance, alpha, best_at)
    return Bounds(sample.mean - radius, sample.mean + radius)


def mean_log_e_value(sample: Moments, null: float, alpha: float, best_at: float) -> float:
    """Evidence against a mean of ``null``: reaches ln(1/alpha) just when ``mean_interval`` leaves ``null`` out.

    0.0 below ``LEAST_SAMPLES``; infinite for samples that are all the same and not ``null``.
    """
    _check_moments(sample)
    rho = tuned_rho(best_at, alpha)
    n, off = sample.n, sample.mean - null
    if n < LEAST_SAMPLES:
        return 0.0
    shrink = 0.5 * math.log(rho / (n + rho))
    if off == 0.0:
        return shrink
    if sample.variance == 0.0:
        return math.inf
    return shrink + off**2 * n**2 / (2 * sample.variance * (n + rho))


def difference_interval(a: Moments, b: Moments, alpha: float, best_at: float) -> Bounds:
    """Two-sided, for mean(a) − mean(b) of independent samples.

    Two arms count as their harmonic number of samples, n_a·n_b / (n_a + n_b), and ``best_at`` is in that unit: two arms
    of 1 000 are 500. No bound while either has fewer than ``LEAST_SAMPLES``.
    """
    _check_moments(a)
    _check_moments(b)
    off = a.mean - b.mean
    if min(a.n, b.n) < LEAST_SAMPLES:
        return Bounds(-math.inf, math.inf)
    n = a.n * b.n / (a.n + b.n)
    variance = (a.variance / a.n + b.variance / b.n) * n
    radius = mean_radius(n, variance, alpha, best_at)
    return Bounds(off - radius, off + radius)


def sample_ratio_log_bayes_factor(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    """How strongly counts per arm contradict the promised split: alarm over ln(1/alpha), valid at all times.

    ``probabilities`` are above 0 and sum to 1. Count what is dealt out independently: distinct keys where the split is
    sticky, or one busy user alone would raise the alarm.
    """
    if len(counts) != len(probabilities) or len(counts) < 2:
        raise ValueError("a split has at least two arms, each with a count and a probability")
    if min(counts) < 0 or min(probabilities) <= 0 or abs(sum(probabilities) - 1) > 1e-9:
        raise ValueError("counts must be 0 or more; probabilities above 0, and 1 in all")
    log_factor = math.lgamma(SPLIT_PRIOR) - math.lgamma(SPLIT_PRIOR + sum(counts))
    for count, probability in zip(counts, probabilities, strict=True):
        prior = SPLIT_PRIOR * probability
        log_factor += math.lgamma(prior + count) - math.lgamma(prior)
        log_factor -= count * math.log(probability)
    return log_factor


def _log_evidence_against(rate: float, events: float, trials: float) -> float:
    """For a true rate of ``rate`` or more, that it is lower. Rises with ``rate``."""
    return _log_mean_exp(_LOG_TILTS * events - trials * np.log1p(rate * _TILTS_LESS_ONE))


def _log_mean_exp(logs: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is a probability between 0 and 1, not {alpha}")


def _check_moments(sample: Moments) -> None:
    if sample.n < 0 or not math.isfinite(sample.mean) or not 0 <= sample.variance < math.inf:
        raise ValueError(f"no sample has these moments: {sample}; leave NaN and infinities out")
