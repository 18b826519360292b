"""Rules by a plan, and the reports of workers that add up."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.checking import faults_of
from rollout.comparison import compare
from rollout.comparison_plan import (
    MAX_SLICE_NAMES,
    PlannedComparison,
    PlannedOutput,
    ScoreRule,
    comparison_faults,
    rules_of,
    slice_sources,
)
from rollout.comparison_rules import MAX_OUTPUTS, MAX_PAIRS, MAX_SLICES, OutputRule
from rollout.comparison_stats import Comparison, OutputStats
from rollout.evidence import ArmCounts, Stretch
from rollout.plan import PlanError, decode_plan, decode_proposal, encode
from rollout.ports import MAX_REPORT_BYTES, Counters
from rollout.shadow_report import (
    MAX_REPORTS,
    Pairing,
    ScoreSums,
    ShadowReport,
    copy_of,
    merged,
    pairing_of,
    score_shift,
)
from rollout.shared_documents import read_report, report_document
from tests.unit.rollout.plans import draft, proposal, shadowed

# -- rules ----------------------------------------------------------------------------------------


def test_a_plan_that_says_nothing_compares_everything_and_scores_the_first_floats() -> None:
    rules, score = rules_of(PlannedComparison(), {"label": False, "p": True, "q": True})
    assert rules.only == ()
    assert rules.of("p") == OutputRule(abs_tolerance=1e-6, rel_tolerance=1e-3)
    assert score == ScoreRule("p", None)
    assert rules_of(PlannedComparison(), {"label": False})[1] == ScoreRule("")


def test_a_plan_says_what_is_different_for_an_output() -> None:
    planned = PlannedComparison(
        outputs=(
            PlannedOutput(name="p", threshold=0.2),
            PlannedOutput(name="q", rel_tolerance=0.0, decision="none"),
        ),
        score="q",
        score_column=-1,
    )
    rules, score = rules_of(planned, {"p": True, "q": True})
    assert rules.of("p") == OutputRule(1e-6, 1e-3, "threshold", 0.2)
    assert rules.of("q") == OutputRule(1e-6, 0.0, "none", 0.5)
    assert score == ScoreRule("q", -1)


def test_of_many_outputs_the_score_is_among_the_compared() -> None:
    outputs = {f"label{i:02}": False for i in range(20)} | {"p": True}
    planned = PlannedComparison(outputs=(PlannedOutput(name="label19"),))
    rules, _ = rules_of(planned, outputs)
    assert len(rules.only) == MAX_OUTPUTS
    assert rules.only[:3] == ("p", "label19", "label00")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"comparison": PlannedComparison(score="a\nb")}, "no output's name"),
        ({"comparison": PlannedComparison(score_column=1 << 20)}, "score_column is 1048576"),
        (
            {"comparison": PlannedComparison(outputs=(PlannedOutput(name="p"),) * 2)},
            "'p' is there 2 times",
        ),
        (
            {"comparison": PlannedComparison(outputs=(PlannedOutput(name="p", abs_tolerance=-1),))},
            "abs_tolerance is -1",
        ),
        (
            {
                "comparison": PlannedComparison(
                    outputs=tuple(PlannedOutput(name=f"p{i}") for i in range(MAX_OUTPUTS + 1))
                )
            },
            "at most 8",
        ),
        ({"slices": ("carrier",)}, "write input:NAME"),
        ({"slices": ("input:a", "input:a")}, "there 2 times"),
        (
            {"slices": tuple(f"input:a{i}" for i in range(MAX_SLICE_NAMES + 1))},
            f"at most {MAX_SLICE_NAMES}",
        ),
        ({"self_copy_percent": 101.0}, "self_copy_percent"),
        ({"self_copy_percent": float("nan")}, "self_copy_percent"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    faults = faults_of(proposal(**changed))
    assert len(faults) == 1, faults
    assert said in faults[0]


def test_a_plan_with_all_of_it_travels_and_one_without_is_read() -> None:
    made = shadowed(
        comparison=PlannedComparison(outputs=(PlannedOutput(name="p", decision="label"),)),
        slices=("input:carrier", "header:x-country"),
        self_copy_percent=0.0,
    )
    assert faults_of(made) == []
    assert decode_proposal(encode(made)) == made
    plan = draft(made)
    assert decode_plan(encode(plan)) == plan
    old = msgspec.json.decode(encode(draft(shadowed())))
    for name in ("comparison", "slices", "self_copy_percent"):
        del old[name]
    assert decode_plan(msgspec.json.encode(old)).self_copy_percent == 1.0
    old["comparison"] = {"outputs": [{"name": "p", "decision": "odd"}]}
    with pytest.raises(PlanError, match="decision"):
        decode_plan(msgspec.json.encode(old))


def test_self_copies_are_picked_by_a_salt_of_their_own() -> None:
    made = shadowed()
    assert made.self_copy_salt not in {made.sticky.salt, *(one.salt for one in made.shadows)}


def test_slices_are_read_by_kind_and_name() -> None:
    assert slice_sources(("input:a", "header:x-b", "odd")) == (("input", "a"), ("header", "x-b"))
    assert list(comparison_faults(PlannedComparison(), ("parameter:a.b-c",))) == []


# -- reports --------------------------------------------------------------------------------------


def test_who_is_compared_with_whom() -> None:
    assert pairing_of("3", "3", "4") == Pairing("4", primary_is_champion=True)
    assert pairing_of("3", "4", "3") == Pairing("4", primary_is_champion=False)
    assert pairing_of("3", "3", "3") == Pairing("3", primary_is_champion=True)
    assert pairing_of("3", "4", "5") is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50), st.integers(0, 50))
def test_sums_of_scores_add_up_to_mean_and_variance(values: list[float], cut: int) -> None:
    one, other = ScoreSums(), ScoreSums()
    for value in values[:cut]:
        one.add(value)
    for value in values[cut:]:
        other.add(value)
    one.absorb(other)
    paired = one.paired()
    assert paired is not None
    assert paired.pairs == len(values)
    assert paired.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert paired.variance == pytest.approx(np.var(values, ddof=1), abs=1e-6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_no_pair(odd: float) -> None:
    sums = ScoreSums()
    sums.add(odd)
    sums.add(1.0)
    assert sums.paired() is None
    assert sums.pairs == 1


def one_answer(shift: float, key: bytes) -> Comparison:
    rules, _ = rules_of(PlannedComparison(), {"p": True, "label": False})
    a = {"p": np.full((1, 1), 0.3), "label": np.array([[1]])}
    b = {"p": np.full((1, 1), 0.3 + shift), "label": np.array([[1]])}
    return compare(a, b, rules, key)


def test_reports_of_workers_add_up_in_any_order() -> None:
    reports, whole = [], ShadowReport(version="4")
    for worker in range(3):
        mine = ShadowReport(version="4", failed=worker)
        for number in range(20):
            found = one_answer(number * 1e-3, b"%d %d" % (worker, number))
            for report in (mine, whole):
                report.record(found, score_shift(found, "p"), {"input:a": number % 5}, "p")
        reports.append((mine, ShadowReport(version="3", is_floor=True)))
    added = merged(reports)
    assert added == merged(reversed(reports))
    report = added["4", False]
    assert (report.failed, report.total.answers) == (3, 60)
    assert report.total.outputs["p"].pairs == whole.total.outputs["p"].pairs
    assert report.scores.total == pytest.approx(whole.scores.total)
    slices = report.slices["input:a"].slices
    assert {name: one.answers for name, one in slices.items()} == dict.fromkeys("01234", 12)
    assert all(list(one.outputs) == ["p"] for one in slices.values())
    assert all(one.outputs["p"].pairs == [] for one in slices.values())


def test_a_copy_does_not_change_with_the_report() -> None:
    report = ShadowReport(version="4")
    report.record(one_answer(0.1, b"a"), 0.1, {"input:a": 1}, "p")
    copy = copy_of(report)
    assert copy == report
    report.record(one_answer(0.1, b"b"), 0.1, {"input:a": 1}, "p")
    assert (copy.total.answers, copy.slices["input:a"].slices["1"].answers) == (1, 1)


def largest(slices: int = MAX_SLICE_NAMES) -> ShadowReport:
    """With every output, pair and slice that there is room for, and long numbers in all of them."""
    number, share = 10**15, 0.12345678901234567
    stats = {
        name: share if kind is float else number
        for name, kind in OutputStats.__annotations__.items()
        if name != "pairs"
    }
    stats = {
        name: share if isinstance(getattr(OutputStats(), name), float) else number for name in stats
    }
    pairs = [(2**32 - 1 - i, share, share) for i in range(MAX_PAIRS)]
    outputs = {f"{i:064}": OutputStats(**stats, pairs=pairs) for i in range(MAX_OUTPUTS)}
    found = Comparison(number, number, number, number, outputs)
    report = ShadowReport(version="4" * 20)
    for value in range(MAX_SLICES + 1):
        names = {f"input:{'n' * 100}{i}": f"{value:064}" for i in range(slices)}
        report.record(found, share, names, f"{0:064}")
    return report


def test_the_largest_reports_fit() -> None:
    stretches = tuple(
        Stretch(i, 0, ArmCounts(1000, 1, 1, 1, 1), ArmCounts(1000, 1, 1)) for i in range(1000)
    )
    counters = Counters(stretches=stretches, comparisons=(largest(),) * MAX_REPORTS)
    document = report_document(counters)
    assert len(document) <= MAX_REPORT_BYTES
    assert read_report(document) == counters


def test_slices_are_left_out_before_a_report_is_refused() -> None:
    wide = ArmCounts(10**15, 10**15, 10**15, 10**15, 10**15)
    stretches = tuple(Stretch(10**15 + i, 0, wide, wide) for i in range(4096))
    counters = Counters(stretches=stretches, comparisons=(largest(),) * MAX_REPORTS)
    read = read_report(report_document(counters))
    assert read.stretches == stretches
    assert all(one.slices == {} and one.slices_left_out for one in read.comparisons)
    assert read.comparisons[0].total == counters.comparisons[0].total


def test_more_reports_than_a_worker_may_have_are_not_read() -> None:
    document = msgspec.json.encode(
        Counters(comparisons=(ShadowReport(version="4"),) * (MAX_REPORTS + 1))
    )
    assert not read_report(document).is_complete
