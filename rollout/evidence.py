"""Is the candidate harmful, fine, or not known yet? Counters come in, verdicts with a sentence for people go out.

Decides nothing about weights: the controller does, and acts on these verdicts. Must never call a candidate fine on
counters that may be incomplete, nor mix times of different weights for it, but for one case: at 100 % the champion
gets nothing, and its rate in the steps before has to do; harm then shows only as a hard stop or as not being fine.

**harmful**: the guardrail's evidence that the candidate is worse than the champion has reached 1/alpha of that
guardrail, *and* the measured excess is worth a rollback (``Guardrail.negligible``), *and* at least ``LEAST_EVENTS`` bad
events of the candidate's are in it. Evidence is summed over the whole rollout. The total ``alpha`` (1 % by default)
bounds the chance that *any* guardrail *ever* calls a harmless candidate harmful, in however many looks and steps: each
gets its ``alpha_share``, and shares sum to at most 1 (Bonferroni). By default that is a fifth for each of errors, slow,
invalid, defaulted and score shift: 0.2 % of their own. The two further conditions can only lower the chance. The bound
is exact for counts, under the assumptions in ``sequential``, and asymptotic for the score shift.

**fine**: at 95 % confidence, however often one looks, the candidate's rate is less than ``Guardrail.tolerated`` above
the champion's; judged on the stretches of the current step alone, because over several weights a drifting base rate
would pass for a difference. A step is left only when every guardrail is fine, so one in which any guardrail is beyond
its tolerance is left in at most 5 % of cases, without dividing by their number. Candidate requests until an equal
candidate is fine, measured at 5 % of the traffic (median of 200 runs; 95 % are through at up to 2.5 times that)::

    base rate                0 %   0.1 %   0.5 %    1 %    2 %    5 %
    1 point tolerated        540     540   1 600  2 250  3 750  8 400
    2 points tolerated       270     270     500    680    940  2 500

**not_yet**: neither. A candidate that is worse by less than its tolerance may be fine in one step and harmful in a
later one: evidence of harm goes on through all steps.

**Hard stop** (``hard_stop``): plain breakage, without statistics and outside alpha. Five failures on end in 5 000
requests of an equal candidate: 2 in 10⁸ rollouts at a base rate of 0.5 %, 0.15 % of rollouts at 5 %, 4 % at 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from rollout.sequential import (
    CountSegment,
    Moments,
    log_e_value,
    mean_interval,
    mean_log_e_value,
    rate_lower_bound,
    rate_upper_bound,
)

CountKind = Literal["errors", "slow", "invalid", "defaulted"]
GuardrailKind = Literal["errors", "slow", "invalid", "defaulted", "score_shift"]
Outcome = Literal["harmful", "fine", "not_yet"]

DEFAULT_ALPHA = 0.01
FINE_ALPHA = 0.05
LEAST_EVENTS = 5
"""A single client that retries twice must not end a rollout at 1 %, where two events alone would be evidence."""
SCORE_BEST_AT_PAIRS = 1000
"""Where the interval of the score shift is narrowest, in pairs."""
MAX_STRETCHES = 4096
"""Per judgement: 28 days of ten-minute slices."""
MOST_LOG_EVIDENCE = 1000.0
"""More is written as this: JSON has no infinity."""
HISTORY = 20
"""Outcomes that the hard stop remembers."""
CONSECUTIVE_FAILURES = 5
WELL_FAILURES = 3
"""Failures of its last ``HISTORY`` from which on the champion is not well either."""

Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, le=1)]


class ArmCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happened to the requests of one arm in one stretch; one request may be in several counts."""

    requests: Count = 0
    """Answered or failed; counted when they end."""
    errors: Count = 0
    """The server's faults: neither the caller's mistakes nor refusals at admission."""
    slow: Count = 0
    """Answered later than the plan's ``slo_ms``."""
    invalid: Count = 0
    """Answered with NaN or infinities."""
    defaulted: Count = 0
    """Answered with a default in the place of a feature."""

    def plus(self, other: ArmCounts) -> ArmCounts:
        """Both, as one: counts of several processes add up."""
        return ArmCounts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            slow=self.slow + other.slow,
            invalid=self.invalid + other.invalid,
            defaulted=self.defaulted + other.defaulted,
        )

    def events(self, kind: CountKind) -> int:
        count: int = getattr(self, kind)
        return count

    def trials(self, kind: CountKind) -> int:
        """Requests; a process's counters are read one by one, and an event may be seen before its request."""
        return max(self.requests, self.events(kind))


class Stretch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of a time in which the weights did not change: of a revision and a step, or a slice of time of it."""

    revision: Count
    step: Count
    candidate: ArmCounts
    champion: ArmCounts


class RecentOutcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The last ``HISTORY`` outcomes of an arm, as one process saw them."""

    failed: Annotated[int, Meta(ge=0, lt=1 << HISTORY)] = 0
    """Bit i: the outcome i requests ago was a failure."""
    seen: Annotated[int, Meta(ge=0, le=HISTORY)] = 0

    def then(self, *, failed: bool) -> RecentOutcomes:
        """After one more outcome."""
        bits = (self.failed << 1 | failed) & (1 << HISTORY) - 1
        return RecentOutcomes(failed=bits, seen=min(self.seen + 1, HISTORY))

    @property
    def failures(self) -> int:
        return self.failed.bit_count()

    @property
    def consecutive(self) -> int:
        """Failures since the last success."""
        return (~self.failed & self.failed + 1).bit_length() - 1

    @property
    def is_broken(self) -> bool:
        """At least ``CONSECUTIVE_FAILURES`` on end, or half of a full ``HISTORY``."""
        half_failed = self.seen == HISTORY and 2 * self.failures >= HISTORY
        return self.consecutive >= CONSECUTIVE_FAILURES or half_failed

    @property
    def is_well(self) -> bool:
        """Few failures or nothing seen; between well and broken lies a middle."""
        return self.failures < WELL_FAILURES


class PairedScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Candidate's score minus champion's, for the same requests. Pairs with NaN or infinities are left out."""

    pairs: Count
    mean: float
    variance: Annotated[float, Meta(ge=0)]
    """Of single differences."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is known of one candidate against one champion, since the candidate got its first request."""

    step: Count
    """The current one: what is fine is judged on its stretches, from ``since_revision`` on."""
    since_revision: Count = 0
    stretches: Annotated[tuple[Stretch, ...], Meta(max_length=MAX_STRETCHES)] = ()
    candidate_recent: tuple[RecentOutcomes, ...] = ()
    """One per process."""
    champion_recent: tuple[RecentOutcomes, ...] = ()
    paired_scores: PairedScores | None = None
    is_complete: bool = True
    """False when counters may have been lost: then nothing is called fine."""


class Guardrail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing the candidate must not be worse at."""

    kind: GuardrailKind
    tolerated: Annotated[float, Meta(gt=0)] = 0.01
    """The excess below which the candidate is fine: a share of requests (0.01 = one point), or units of the score."""
    negligible: Annotated[float, Meta(ge=0, le=1)] = 0.0005
    """Counts only: however certain, a smaller excess is not worth a rollback."""
    alpha_share: Share = 0.2
    """Of the total alpha."""
    burst: Annotated[float, Meta(ge=1, le=1000)] = 1.0
    """Counts only: how many requests of one key may go the same way at once (retries). Divides all counts."""


def default_guardrails() -> tuple[Guardrail, ...]:
    """For a plan without any: the four counts. A score shift is only for candidates that should score alike."""
    return (
        Guardrail(kind="errors", tolerated=0.01),
        Guardrail(kind="slow", tolerated=0.02),
        Guardrail(kind="invalid", tolerated=0.01),
        Guardrail(kind="defaulted", tolerated=0.02),
    )


class Verdict(msgspec.Struct, frozen=True):
    """What one guardrail says."""

    guardrail: GuardrailKind
    outcome: Outcome
    log_evidence: float
    """Of harm: natural log of an e-value, over the whole rollout."""
    log_evidence_needed: float
    excess: float
    """Measured, over the whole rollout: candidate minus champion, in the unit of ``tolerated``."""
    excess_at_most: float | None
    """In the current step, at 95 % confidence and all times; None while nothing is known."""
    tolerated: float
    words: str


def guardrail_faults(guardrails: Sequence[Guardrail]) -> list[str]:
    """Everything that is wrong with a set of guardrails; empty for one that ``judge`` takes."""
    kinds = [guardrail.kind for guardrail in guardrails]
    faults = [
        f'the guardrail "{kind}" is there {kinds.count(kind)} times: keep one'
        for kind in sorted(set(kinds))
        if kinds.count(kind) > 1
    ]
    total = math.fsum(guardrail.alpha_share for guardrail in guardrails)
    if total > 1 + 1e-9:
        faults.append(
            f"the guardrails' alpha_share sum to {total:g}: together they may have at most 1,"
            " or false alarms are more frequent than the plan's alpha"
        )
    faults.extend(
        f'the guardrail "{one.kind}" neglects {one.negligible:g} and tolerates {one.tolerated:g}:'
        " what is negligible must be less than what is tolerated"
        for one in guardrails
        if one.kind != "score_shift" and one.negligible >= one.tolerated
    )
    return faults


def judge(
    evidence: Evidence, guardrails: Sequence[Guardrail], alpha: float = DEFAULT_ALPHA
) -> list[Verdict]:
    """One verdict per guardrail, in their order. Pure: the same evidence has the same verdicts.

    ``alpha``: total chance that any guardrail ever calls a harmless candidate harmful. Raises ValueError, with all
    faults in its sentence, for guardrails that cannot be judged together, an alpha out of (0, 0.5], too many stretches,
    and scores that are no numbers.
    """
    faults = guardrail_faults(guardrails)
    if not 0 < alpha <= 0.5:
        faults.append(f"alpha is {alpha:g}: give a probability above 0 and up to 0.5, say 0.01")
    if len(evidence.stretches) > MAX_STRETCHES:
        faults.append(f"{len(evidence.stretches)} stretches of counts: add slices of time up")
    if faults:
        raise ValueError("; ".join(faults))
    return [
        _judge_scores(evidence, guardrail, alpha * guardrail.alpha_share)
        if guardrail.kind == "score_shift"
        else _judge_counts(evidence, guardrail, guardrail.kind, alpha * guardrail.alpha_share)
        for guardrail in guardrails
    ]


def hard_stop(evidence: Evidence) -> str | None:
    """Why to roll back at once: a process sees the candidate broken while the champion is well everywhere; else None.

    A champion that nobody has seen lately counts as well: it is what a rollback falls back to.
    """
    broken = [recent for recent in evidence.candidate_recent if recent.is_broken]
    if not broken or not all(recent.is_well for recent in evidence.champion_recent):
        return None
    worst = max(broken, key=lambda recent: (recent.consecutive, recent.failures))
    return (
        f"the candidate is broken: {worst.failures} of its last {worst.seen} requests failed,"
        f" {worst.consecutive} of them just now without a success between, while the champion is well"
    )


def _judge_counts(evidence: Evidence, rail: Guardrail, kind: CountKind, alpha: float) -> Verdict:
    segments = [_segment(stretch, kind, rail.burst) for stretch in evidence.stretches]
    log_evidence = log_e_value(segments)
    excess = _excess(evidence.stretches, kind)
    candidate, champion = _totals(evidence.stretches)
    is_harmful = (
        log_evidence >= -math.log(alpha)
        and candidate.events(kind) >= LEAST_EVENTS
        and excess >= rail.negligible
    )
    seen = f"{_rate(candidate, kind)} of the candidate's requests, {_rate(champion, kind)} of the champion's"
    at_most = _excess_at_most(evidence, kind, rail.burst)
    finding = _Finding(is_harmful, log_evidence, excess, at_most, seen)
    return _verdict(finding, rail, alpha, is_complete=evidence.is_complete)


def _judge_scores(evidence: Evidence, rail: Guardrail, alpha: float) -> Verdict:
    paired = evidence.paired_scores
    if paired is None:
        seen = "no scores of the same requests from both versions: let one of them shadow the other"
        finding = _Finding(False, 0.0, 0.0, None, seen)
        return _verdict(finding, rail, alpha, is_complete=evidence.is_complete)
    moments = Moments(paired.pairs, paired.mean, paired.variance)
    log_evidence = 0.0
    if abs(paired.mean) > rail.tolerated:
        edge = math.copysign(rail.tolerated, paired.mean)
        log_evidence = mean_log_e_value(moments, edge, alpha, SCORE_BEST_AT_PAIRS)
    bounds = mean_interval(moments, FINE_ALPHA, SCORE_BEST_AT_PAIRS)
    at_most = max(bounds.high, -bounds.low)
    finding = _Finding(
        is_harmful=log_evidence >= -math.log(alpha),
        log_evidence=min(log_evidence, MOST_LOG_EVIDENCE),
        excess=abs(paired.mean),
        at_most=at_most if math.isfinite(at_most) else None,
        seen=f"the mean score shifts by {paired.mean:+.4g} in {paired.pairs:,} pairs",
    )
    return _verdict(finding, rail, alpha, is_complete=evidence.is_complete)


class _Finding(NamedTuple):
    is_harmful: bool
    log_evidence: float
    excess: float
    at_most: float | None
    seen: str


def _verdict(finding: _Finding, rail: Guardrail, alpha: float, *, is_complete: bool) -> Verdict:
    outcome: Outcome = "not_yet"
    at_most, tolerated = finding.at_most, rail.tolerated
    if finding.is_harmful:
        outcome = "harmful"
        meaning = f"worse than the champion, beyond chance (alpha {alpha:.3g})"
    elif at_most is None:
        meaning = "too little to tell"
    elif at_most >= tolerated:
        meaning = f"may still be worse by {at_most:.3g} ({tolerated:g} is tolerated)"
    elif not is_complete:
        meaning = "would be fine, but counters may have been lost"
    else:
        outcome = "fine"
        meaning = f"worse by {at_most:.3g} at most ({tolerated:g} is tolerated)"
    return Verdict(
        guardrail=rail.kind,
        outcome=outcome,
        log_evidence=finding.log_evidence,
        log_evidence_needed=-math.log(alpha),
        excess=finding.excess,
        excess_at_most=at_most,
        tolerated=tolerated,
        words=f"{rail.kind}: {finding.seen}; {meaning}",
    )


def _segment(stretch: Stretch, kind: CountKind, burst: float) -> CountSegment:
    candidate, champion = stretch.candidate, stretch.champion
    trials = candidate.trials(kind) + champion.trials(kind)
    return CountSegment(
        candidate_events=candidate.events(kind) / burst,
        champion_events=champion.events(kind) / burst,
        candidate_share=candidate.trials(kind) / trials if trials else 0.0,
    )


def _excess(stretches: Sequence[Stretch], kind: CountKind) -> float:
    """The difference of the rates within stretches, weighted by what each can tell (Mantel and Haenszel)."""
    difference = weight = 0.0
    for stretch in stretches:
        candidate, champion = stretch.candidate.trials(kind), stretch.champion.trials(kind)
        total = candidate + champion or 1
        bad, usual_bad = stretch.candidate.events(kind), stretch.champion.events(kind)
        difference += (bad * champion - usual_bad * candidate) / total
        weight += candidate * champion / total
    return difference / weight if weight else 0.0


def _excess_at_most(evidence: Evidence, kind: CountKind, burst: float) -> float | None:
    """Upper bound of the candidate's rate less lower bound of the champion's, in the current step if both are in it."""
    candidate, champion = _totals(
        stretch
        for stretch in evidence.stretches
        if stretch.step == evidence.step and stretch.revision >= evidence.since_revision
    )
    if not champion.trials(kind):
        champion = _totals(evidence.stretches)[1]
    if not candidate.trials(kind) or not champion.trials(kind):
        return None
    bad, usual_bad = candidate.events(kind) / burst, champion.events(kind) / burst
    high = rate_upper_bound(bad, candidate.trials(kind) / burst, FINE_ALPHA / 2)
    return high - rate_lower_bound(usual_bad, champion.trials(kind) / burst, FINE_ALPHA / 2)


def _totals(stretches: Iterable[Stretch]) -> tuple[ArmCounts, ArmCounts]:
    """Of the candidate and of the champion."""
    candidate = champion = ArmCounts()
    for stretch in stretches:
        candidate, champion = candidate.plus(stretch.candidate), champion.plus(stretch.champion)
    return candidate, champion


def _rate(counts: ArmCounts, kind: CountKind) -> str:
    trials = counts.trials(kind)
    return f"{counts.events(kind) / trials:.3%}" if trials else "none"
