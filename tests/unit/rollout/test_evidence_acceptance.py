"""What the verdicts are worth, measured: simulated rollouts with candidates that are worse, and such that are not.

The simulations compute the evidence of all looks at once; ``judge`` itself is asked at the looks that matter, those at
which the evidence is highest or first reaches its threshold, and has to agree to the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rollout.evidence import (
    LEAST_EVENTS,
    ArmCounts,
    Evidence,
    Guardrail,
    PairedScores,
    Stretch,
    Verdict,
    default_guardrails,
    judge,
)
from rollout.sequential import (
    RATIOS,
    CountSegment,
    Moments,
    log_e_value,
    mean_log_e_value,
    tuned_rho,
)

RUNS = 200
LOOK_EVERY_REQUESTS = 20
WEIGHT = 0.05
BASE = {"errors": 0.005, "slow": 0.02, "invalid": 0.001, "defaulted": 0.1}
GUARDRAILS = (*default_guardrails(), Guardrail(kind="score_shift", tolerated=0.01))
NEEDED = math.log(500)
"""Each of five guardrails has a fifth of 1 %."""

Counts = NDArray[np.int64]


class Arms:
    """Running counts, shape (RUNS, looks), of requests and of one kind of bad events per guardrail."""

    def __init__(self, dice: np.random.Generator, looks: int, ratio: float) -> None:
        shape = (RUNS, looks)
        new = dice.binomial(LOOK_EVERY_REQUESTS, WEIGHT, shape)
        old = LOOK_EVERY_REQUESTS - new
        self.requests: tuple[Counts, Counts] = (new.cumsum(axis=1), old.cumsum(axis=1))
        self.events: dict[str, tuple[Counts, Counts]] = {
            kind: (
                dice.binomial(new, min(1.0, rate * ratio)).cumsum(axis=1),
                dice.binomial(old, rate).cumsum(axis=1),
            )
            for kind, rate in BASE.items()
        }

    def log_evidence(self, kind: str) -> NDArray[np.float64]:
        """At every look; ratio by ratio, to stay small in memory."""
        share = self.requests[0] / (self.requests[0] + self.requests[1])
        bad, total = self.events[kind][0], sum(self.events[kind])
        e_value = np.zeros(share.shape)
        for ratio in RATIOS:
            e_value += np.exp(bad * math.log(ratio) - total * np.log1p(share * (ratio - 1)))
        return np.log(e_value / len(RATIOS))

    def at(self, run: int, look: int) -> Stretch:
        arms = [
            ArmCounts(
                requests=int(self.requests[arm][run, look]),
                **{kind: int(self.events[kind][arm][run, look]) for kind in BASE},
            )
            for arm in (0, 1)
        ]
        return Stretch(revision=1, step=0, candidate=arms[0], champion=arms[1])


def verdict_of(stretches: Sequence[Stretch], kind: str) -> Verdict:
    guardrail = next(guardrail for guardrail in GUARDRAILS if guardrail.kind == kind)
    [verdict] = judge(Evidence(step=0, stretches=tuple(stretches)), [guardrail])
    return verdict


def requests_until_harmful(arms: Arms) -> NDArray[np.float64]:
    """Candidate requests per run at the first look with a harmful verdict for errors; infinite for none."""
    log_evidence = arms.log_evidence("errors")
    is_harm = (log_evidence >= NEEDED) & (arms.events["errors"][0] >= LEAST_EVENTS)
    found = np.full(RUNS, math.inf)
    for run in np.flatnonzero(is_harm.any(axis=1)):
        look = int(is_harm[run].argmax())
        verdict = verdict_of([arms.at(run, look)], "errors")
        assert verdict.outcome == "harmful"
        assert verdict.log_evidence == pytest.approx(log_evidence[run, look])
        if look:
            assert verdict_of([arms.at(run, look - 1)], "errors").outcome != "harmful"
        found[run] = arms.requests[0][run, look]
    return found


def test_ten_times_the_errors_are_harmful_within_500_candidate_requests() -> None:
    """Acceptance: at least 95 % of runs. The error guardrail has 0.2 % of the 1 % for all five."""
    seed = 20_251
    found = requests_until_harmful(Arms(np.random.default_rng(seed), 800, 10))
    share = (found <= 500).mean()
    print("seed", seed, "median", np.median(found), "within 500", share)
    assert share >= 0.95
    assert 80 <= np.median(found) <= 140


def test_an_equal_candidate_is_harmful_to_any_guardrail_in_at_most_one_run_in_a_hundred() -> None:
    """Acceptance: five guardrails together, 100 000 requests of which 5 000 the candidate's, a look every 20."""
    seed, looks = 20_252, 100_000 // LOOK_EVERY_REQUESTS
    dice = np.random.default_rng(seed)
    arms = Arms(dice, looks, 1)
    assert arms.requests[0][:, -1].min() > 4_700  # of 5 000 on average
    alarmed = np.zeros(RUNS, dtype=bool)
    for kind in BASE:
        log_evidence = arms.log_evidence(kind)
        highest = log_evidence.argmax(axis=1)
        for run, look in enumerate(highest):
            verdict = verdict_of([arms.at(run, int(look))], kind)
            assert verdict.log_evidence == pytest.approx(log_evidence[run, look], abs=1e-9)
            alarmed[run] |= verdict.outcome == "harmful"
        alarmed |= (log_evidence >= NEEDED).any(axis=1)  # whatever the other conditions say
    alarmed |= score_alarms(dice, 5_000)
    print("seed", seed, "runs with a false alarm", int(alarmed.sum()), "of", RUNS)
    assert alarmed.mean() <= 0.01


def score_alarms(dice: np.random.Generator, pairs: int) -> NDArray[np.bool_]:
    """Runs in which the score shift was harmful at a look: shifted by just what is tolerated, with heavy tails."""
    n = np.arange(1, pairs + 1)
    shifts = 0.01 + 0.05 * dice.standard_t(5, (RUNS, pairs))
    mean = shifts.cumsum(axis=1) / n
    variance = np.maximum((shifts**2).cumsum(axis=1) / n - mean**2, 1e-12)
    rho = tuned_rho(1_000, 0.002)
    log_evidence = 0.5 * np.log(rho / (n + rho)) + (mean - 0.01) ** 2 * n**2 / (
        2 * variance * (n + rho)
    )
    log_evidence[(mean < 0.01) | (n < 100)] = 0
    alarmed = np.zeros(RUNS, dtype=bool)
    for run, look in enumerate(log_evidence.argmax(axis=1)):
        if log_evidence[run, look] <= 0:
            continue
        scores = PairedScores(int(n[look]), float(mean[run, look]), float(variance[run, look]))
        verdict = judge(Evidence(step=0, paired_scores=scores), GUARDRAILS)[-1]
        assert verdict.log_evidence == pytest.approx(log_evidence[run, look])
        alarmed[run] = verdict.outcome == "harmful"
    return alarmed


@pytest.mark.parametrize(
    ("ratio", "requests", "least", "most"),
    [(5, 40_000, 280, 480), (3, 100_000, 900, 1_500), (2, 160_000, 3_200, 5_200)],
)
def test_smaller_harm_takes_the_requests_that_the_table_says(
    ratio: float, requests: int, least: int, most: int
) -> None:
    seed = 20_253
    found = requests_until_harmful(
        Arms(np.random.default_rng(seed), requests // LOOK_EVERY_REQUESTS, ratio)
    )
    print(
        "seed", seed, "ratio", ratio, "median", np.median(found), "found", np.isfinite(found).mean()
    )
    assert least <= np.median(found) <= most


def simulated_steps(
    dice: np.random.Generator, rates: Sequence[float], weights: Sequence[float], requests: int
) -> list[Stretch]:
    """An equal candidate while base rate and weight change: one stretch per change."""
    stretches = []
    for step, (rate, weight) in enumerate(zip(rates, weights, strict=True)):
        new = int(dice.binomial(requests, weight))
        candidate = ArmCounts(requests=new, errors=int(dice.binomial(new, rate)))
        champion = ArmCounts(
            requests=requests - new, errors=int(dice.binomial(requests - new, rate))
        )
        stretches.append(Stretch(1, step, candidate, champion))
    return stretches


def test_an_incident_of_both_arms_while_the_weight_grows_raises_no_alarm() -> None:
    """Thrown together, the same counts look like a much worse candidate: weights and rates rose at the same time."""
    seed = 20_254
    dice = np.random.default_rng(seed)
    alarms = pooled_alarms = 0
    for _ in range(RUNS):
        stretches = simulated_steps(
            dice, (0.002, 0.005, 0.03, 0.06), (0.01, 0.05, 0.25, 0.5), 4_000
        )
        looks = range(1, len(stretches) + 1)
        alarms += any(verdict_of(stretches[:look], "errors").outcome == "harmful" for look in looks)
        candidate, champion = ArmCounts(), ArmCounts()
        for stretch in stretches:
            candidate, champion = candidate.plus(stretch.candidate), champion.plus(stretch.champion)
        pooled = verdict_of([Stretch(1, 0, candidate, champion)], "errors")
        pooled_alarms += pooled.outcome == "harmful"
    print("seed", seed, "alarms", alarms, "thrown together", pooled_alarms)
    assert alarms / RUNS <= 0.01
    assert pooled_alarms / RUNS > 0.9


def test_retries_raise_alarms_unless_they_are_divided_out() -> None:
    """Every failure comes three times to the same arm; 40 000 requests, a look at each failure."""
    seed, fails = 20_255, 200
    dice = np.random.default_rng(seed)
    bad = 3 * (dice.random((RUNS, fails)) < WEIGHT).cumsum(axis=1)
    alarms = {1: 0, 3: 0}
    for run in bad:
        for burst in alarms:
            highest = max(
                log_e_value([CountSegment(k / burst, (3 * (i + 1) - k) / burst, WEIGHT)])
                for i, k in enumerate(run)
                if i == 0 or k > run[i - 1]
            )
            alarms[burst] += highest >= NEEDED
    print("seed", seed, "alarms by burst", alarms)
    assert alarms[3] / RUNS <= 0.01
    assert alarms[1] / RUNS > 0.05


def first_fine(arms: Arms, kind: str, run: int) -> float:
    """Candidate requests at the first fine verdict, to 5 %; infinite for none."""
    looks = arms.requests[0].shape[1]
    look = 300.0  # 300 candidate requests: before that not even a flawless one is fine
    while look < looks:
        if verdict_of([arms.at(run, int(look))], kind).outcome == "fine":
            return float(arms.requests[0][run, int(look)])
        look *= 1.05
    return math.inf


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("errors", 1_000, 2_000), ("slow", 800, 1_700), ("invalid", 500, 1_100)],
)
def test_an_equal_candidate_is_fine_after_an_ordinary_number_of_requests(
    kind: str, least: int, most: int
) -> None:
    seed = 20_256
    arms = Arms(np.random.default_rng(seed), 5_000, 1)
    found = [first_fine(arms, kind, run) for run in range(20)]
    print("seed", seed, kind, "median", np.median(found), "latest", max(found))
    assert least <= np.median(found) <= most


def test_a_candidate_at_the_edge_of_what_is_tolerated_is_seldom_called_fine() -> None:
    """At most one run in twenty: 1.5 % instead of 0.5 %, one point tolerated, looks up to 5 000 candidate requests."""
    seed = 20_257
    arms = Arms(np.random.default_rng(seed), 5_000, 3)
    found = [first_fine(arms, "errors", run) for run in range(60)]
    print("seed", seed, "fine", np.isfinite(found).mean())
    assert np.isfinite(found).mean() <= 0.05


def test_the_mean_of_scores_is_judged_by_the_published_formula() -> None:
    scores = PairedScores(pairs=900, mean=0.05, variance=0.04)
    verdict = judge(Evidence(step=0, paired_scores=scores), GUARDRAILS)[-1]
    expected = mean_log_e_value(Moments(900, 0.05, 0.04), 0.01, 0.002, 1_000)
    assert verdict.log_evidence == pytest.approx(expected)
