"""Verdicts on evidence made by hand: what is harmful, what fine, and what keeps a verdict open."""

from __future__ import annotations

import math

import msgspec
import pytest

from rollout.evidence import (
    CONSECUTIVE_FAILURES,
    HISTORY,
    LEAST_EVENTS,
    MAX_STRETCHES,
    ArmCounts,
    CountKind,
    Evidence,
    Guardrail,
    PairedScores,
    RecentOutcomes,
    Stretch,
    Verdict,
    default_guardrails,
    guardrail_faults,
    hard_stop,
    judge,
)

ERRORS = Guardrail(kind="errors")
SCORES = Guardrail(kind="score_shift", tolerated=0.05)


def stretch(
    candidate: tuple[int, int], champion: tuple[int, int], *, step: int = 0, revision: int = 1
) -> Stretch:
    """Of (requests, errors) per arm."""
    return Stretch(
        revision=revision,
        step=step,
        candidate=ArmCounts(requests=candidate[0], errors=candidate[1]),
        champion=ArmCounts(requests=champion[0], errors=champion[1]),
    )


def errors(*stretches: Stretch, step: int = 0, rail: Guardrail = ERRORS, **rest: object) -> Verdict:
    evidence = msgspec.structs.replace(Evidence(step=step, stretches=stretches), **rest)
    [verdict] = judge(evidence, [rail])
    return verdict


def recent(outcomes: str) -> RecentOutcomes:
    """Of a text like ``..x``: a failure is an x."""
    seen = RecentOutcomes()
    for outcome in outcomes:
        seen = seen.then(failed=outcome == "x")
    return seen


# ---- harmful -----------------------------------------------------------------------------------------------------


def test_nothing_seen_is_not_yet() -> None:
    verdict = errors()
    assert (verdict.outcome, verdict.log_evidence, verdict.excess_at_most) == ("not_yet", 0.0, None)
    assert verdict.words == (
        "errors: none of the candidate's requests, none of the champion's; too little to tell"
    )


def test_many_more_errors_are_harmful() -> None:
    verdict = errors(stretch((500, 25), (9_500, 48)))
    assert verdict.outcome == "harmful"
    assert verdict.log_evidence > verdict.log_evidence_needed == pytest.approx(math.log(500))
    assert verdict.excess == pytest.approx(0.05 - 48 / 9_500)
    assert verdict.words == (
        "errors: 5.000% of the candidate's requests, 0.505% of the champion's;"
        " worse than the champion, beyond chance (alpha 0.002)"
    )


@pytest.mark.parametrize("kind", ["errors", "slow", "invalid", "defaulted"])
def test_every_count_is_judged_by_its_own_numbers(kind: CountKind) -> None:
    bad = Stretch(
        revision=1,
        step=0,
        candidate=ArmCounts(requests=500, **{kind: 25}),
        champion=ArmCounts(requests=9_500, **{kind: 48}),
    )
    verdicts = judge(Evidence(step=0, stretches=(bad,)), default_guardrails())
    assert [verdict.guardrail for verdict in verdicts] == ["errors", "slow", "invalid", "defaulted"]
    assert [v.guardrail for v in verdicts if v.outcome == "harmful"] == [kind]


def test_a_better_candidate_is_never_harmful() -> None:
    verdict = errors(stretch((9_500, 48), (500, 25)))
    assert verdict.outcome == "fine"
    assert verdict.log_evidence < 0
    assert verdict.excess < 0


def test_a_few_bad_events_are_not_harmful_however_unlikely() -> None:
    few, enough = LEAST_EVENTS - 1, LEAST_EVENTS
    verdict = errors(stretch((100, few), (9_900, 0)))
    assert verdict.log_evidence > verdict.log_evidence_needed
    assert verdict.outcome == "not_yet"
    assert errors(stretch((100, enough), (9_900, 0))).outcome == "harmful"


def test_a_negligible_excess_is_not_harmful_however_certain() -> None:
    tiny = stretch((1_000_000, 300), (1_000_000, 30))
    verdict = errors(tiny)
    assert verdict.log_evidence > verdict.log_evidence_needed
    assert verdict.outcome == "fine"
    strict = Guardrail(kind="errors", negligible=0.0001)
    assert errors(tiny, rail=strict).outcome == "harmful"


def test_evidence_adds_up_over_steps() -> None:
    first, second = stretch((600, 11), (11_400, 60)), stretch((600, 11), (1_800, 9), step=1)
    assert errors(first).outcome == "not_yet"
    assert errors(second, step=1).outcome == "not_yet"
    assert errors(first, second, step=1).outcome == "harmful"


def test_a_rate_that_falls_while_the_weight_grows_hides_no_harm() -> None:
    """Over all stretches together the candidate has fewer errors per request than the champion."""
    verdict = errors(
        stretch((100, 20), (9_900, 990)), stretch((5_000, 100), (5_000, 20), step=1), step=1
    )
    assert 120 / 5_100 < 1_010 / 14_900
    assert verdict.outcome == "harmful"
    assert verdict.excess > 0.01


def test_a_smaller_share_of_alpha_needs_more_evidence() -> None:
    seen = stretch((200, 8), (3_800, 20))
    assert errors(seen).outcome == "harmful"
    rare = errors(seen, rail=Guardrail(kind="errors", alpha_share=0.0001))
    assert rare.outcome == "not_yet"
    assert rare.log_evidence_needed == pytest.approx(math.log(1e6))


def test_bursts_are_divided_out() -> None:
    seen = stretch((200, 12), (3_800, 30))
    single, burst = errors(seen), errors(seen, rail=Guardrail(kind="errors", burst=4))
    assert (single.outcome, burst.outcome) == ("harmful", "not_yet")
    assert burst.excess == single.excess
    assert burst.excess_at_most is not None
    assert single.excess_at_most is not None
    assert burst.excess_at_most > single.excess_at_most


def test_lost_counters_do_not_hide_harm() -> None:
    assert errors(stretch((500, 25), (9_500, 48)), is_complete=False).outcome == "harmful"


# ---- fine --------------------------------------------------------------------------------------------------------


def test_enough_requests_without_harm_are_fine() -> None:
    assert errors(stretch((500, 2), (9_500, 48))).outcome == "not_yet"
    verdict = errors(stretch((4_000, 20), (76_000, 380)))
    assert verdict.outcome == "fine"
    assert verdict.excess_at_most is not None
    assert 0 < verdict.excess_at_most < verdict.tolerated == 0.01
    assert "worse by 0.00" in verdict.words
    assert verdict.words.endswith("at most (0.01 is tolerated)")


def test_a_wider_tolerance_is_reached_sooner() -> None:
    seen = stretch((700, 4), (13_300, 66))
    assert errors(seen).outcome == "not_yet"
    assert errors(seen, rail=Guardrail(kind="errors", tolerated=0.02)).outcome == "fine"


def test_lost_counters_are_never_fine() -> None:
    verdict = errors(stretch((4_000, 20), (76_000, 380)), is_complete=False)
    assert verdict.outcome == "not_yet"
    assert verdict.words.endswith("would be fine, but counters may have been lost")


def test_only_the_current_step_makes_fine() -> None:
    before, now = stretch((4_000, 20), (76_000, 380)), stretch((100, 0), (300, 2), step=1)
    assert errors(before, now).outcome == "fine"
    assert errors(before, now, step=1).outcome == "not_yet"


def test_only_the_current_visit_of_a_step_makes_fine() -> None:
    before, now = stretch((4_000, 20), (76_000, 380)), stretch((100, 0), (1_900, 9), revision=7)
    assert errors(before, now, since_revision=1).outcome == "fine"
    assert errors(before, now, since_revision=7).outcome == "not_yet"


def test_a_candidate_with_all_traffic_is_compared_with_the_champion_before() -> None:
    before = stretch((4_000, 20), (76_000, 380))
    assert errors(before, stretch((4_000, 20), (0, 0), step=1), step=1).outcome == "fine"
    assert errors(before, stretch((4_000, 200), (0, 0), step=1), step=1).outcome == "not_yet"
    assert errors(stretch((4_000, 20), (0, 0), step=1), step=1).outcome == "not_yet"


def test_an_event_that_is_seen_before_its_request_does_no_harm() -> None:
    verdict = errors(stretch((0, 1), (10, 0)))
    assert verdict.outcome == "not_yet"
    assert math.isfinite(verdict.log_evidence)


# ---- scores ------------------------------------------------------------------------------------------------------


def scores(pairs: int, mean: float, variance: float, **rest: object) -> Verdict:
    paired = PairedScores(pairs=pairs, mean=mean, variance=variance)
    evidence = msgspec.structs.replace(Evidence(step=0, paired_scores=paired), **rest)
    [verdict] = judge(evidence, [SCORES])
    return verdict


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_of_the_score_either_way_is_harmful(sign: int) -> None:
    verdict = scores(1_000, 0.1 * sign, 0.01)
    assert verdict.outcome == "harmful"
    assert verdict.excess == 0.1


def test_a_shift_just_beyond_what_is_tolerated_is_open_either_way() -> None:
    up, down = scores(1_000, 0.052, 0.01), scores(1_000, -0.052, 0.01)
    assert (up.outcome, down.outcome) == ("not_yet", "not_yet")
    assert up.log_evidence == pytest.approx(down.log_evidence)


def test_a_shift_within_what_is_tolerated_is_fine() -> None:
    assert scores(1_000, -0.04, 0.001).outcome == "fine"
    assert scores(1_000, -0.04, 0.1).outcome == "not_yet"
    assert scores(1_000, -0.04, 0.001, is_complete=False).outcome == "not_yet"


def test_few_pairs_say_nothing() -> None:
    verdict = scores(99, 0.9, 0.001)
    assert (verdict.outcome, verdict.excess_at_most) == ("not_yet", None)


def test_scores_that_all_shift_alike_can_be_written_as_json() -> None:
    verdict = scores(100, 0.9, 0.0)
    assert verdict.outcome == "harmful"
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


def test_without_a_shadow_the_score_is_never_judged() -> None:
    [verdict] = judge(Evidence(step=0), [SCORES])
    assert verdict.outcome == "not_yet"
    assert "let one of them shadow the other" in verdict.words


# ---- the hard stop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "is_broken"),
    [
        ("", False),
        ("xxxx", False),
        ("xxxxx", True),
        ("xxxxx.", False),
        ("....xxxxx", True),
        ("x." * 10, True),
        ("x." * 9 + "..", False),
        ("x." * 9 + "x", False),  # 19 seen: half of less than the last 20 says nothing
        ("x" * 20 + "." * 11, False),
        ("x" * 40, True),
    ],
)
def test_five_failures_on_end_or_half_of_the_last_twenty_are_broken(
    outcomes: str, is_broken: bool
) -> None:
    seen = recent(outcomes)
    assert seen.is_broken == is_broken
    assert seen.seen == min(len(outcomes), HISTORY)
    assert seen.failures == outcomes[-HISTORY:].count("x")
    last = outcomes[-HISTORY:]
    assert seen.consecutive == len(last) - len(last.rstrip("x"))


def test_a_broken_candidate_beside_a_well_champion_is_stopped() -> None:
    words = hard_stop(
        Evidence(
            step=0,
            candidate_recent=(recent("." * 20), recent("." * 13 + "x" * 7)),
            champion_recent=(recent("." * 18 + "xx"), RecentOutcomes()),
        )
    )
    assert words == (
        "the candidate is broken: 7 of its last 20 requests failed,"
        f" {CONSECUTIVE_FAILURES + 2} of them just now without a success between,"
        " while the champion is well"
    )


def test_a_champion_that_nobody_sees_is_what_a_broken_candidate_falls_back_to() -> None:
    assert hard_stop(Evidence(step=0, candidate_recent=(recent("xxxxx"),))) is not None


def test_when_both_fail_nothing_is_stopped() -> None:
    candidate = (recent("x" * 20),)
    ill = Evidence(step=0, candidate_recent=candidate, champion_recent=(recent(".x.x.x"),))
    assert hard_stop(ill) is None
    assert hard_stop(Evidence(step=0, champion_recent=candidate)) is None


# ---- what is handed in -------------------------------------------------------------------------------------------


def test_the_usual_guardrails_share_alpha_and_leave_a_fifth_to_the_score() -> None:
    rails = (*default_guardrails(), Guardrail(kind="score_shift"))
    assert guardrail_faults(rails) == []
    assert sum(rail.alpha_share for rail in rails) == pytest.approx(1.0)


def test_all_faults_of_guardrails_are_told_at_once() -> None:
    rails = [
        Guardrail(kind="errors", alpha_share=0.9),
        Guardrail(kind="errors", alpha_share=0.9),
        Guardrail(kind="slow", tolerated=0.001, negligible=0.01),
    ]
    faults = guardrail_faults(rails)
    assert faults == [
        'the guardrail "errors" is there 2 times: keep one',
        (
            "the guardrails' alpha_share sum to 2: together they may have at most 1,"
            " or false alarms are more frequent than the plan's alpha"
        ),
        (
            'the guardrail "slow" neglects 0.01 and tolerates 0.001:'
            " what is negligible must be less than what is tolerated"
        ),
    ]
    with pytest.raises(ValueError, match=r"there 2 times.*alpha is 0: give a probability"):
        judge(Evidence(step=0), rails, 0)


def test_too_many_stretches_are_refused() -> None:
    stretches = (stretch((1, 0), (1, 0)),) * (MAX_STRETCHES + 1)
    with pytest.raises(ValueError, match="4097 stretches of counts: add slices of time up"):
        errors(*stretches)
    assert errors(*stretches[:-1]).outcome == "fine"


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="leave NaN and infinities out"):
        scores(1_000, math.nan, 0.01)


def test_counts_add_up() -> None:
    a = ArmCounts(requests=10, errors=1, slow=2, invalid=3, defaulted=4)
    b = ArmCounts(requests=90, errors=8, slow=7, invalid=6, defaulted=5)
    assert a.plus(b) == ArmCounts(requests=100, errors=9, slow=9, invalid=9, defaulted=9)


def test_evidence_survives_json() -> None:
    evidence = Evidence(
        step=2,
        since_revision=5,
        stretches=(stretch((500, 25), (9_500, 48)),),
        candidate_recent=(recent("x.x"),),
        champion_recent=(recent("..."),),
        paired_scores=PairedScores(pairs=3, mean=0.1, variance=0.2),
        is_complete=False,
    )
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ('{"kind": "mood"}', Guardrail),
        ('{"kind": "errors", "alpha_share": 0}', Guardrail),
        ('{"kind": "errors", "tolerated": -0.1}', Guardrail),
        ('{"kind": "errors", "burst": 0.5}', Guardrail),
        ('{"kind": "errors", "tolerate": 0.1}', Guardrail),
        ('{"requests": -1}', ArmCounts),
        ('{"failed": 1048576}', RecentOutcomes),
        ('{"pairs": 3, "mean": 0, "variance": -1}', PairedScores),
    ],
)
def test_documents_that_make_no_sense_are_refused(
    document: str, kind: type[msgspec.Struct]
) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(document, type=kind)
