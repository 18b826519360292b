"""One pair of answers: against a slow count in plain Python, and whatever outputs there may be."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import hypothesis.extra.numpy as hnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout import comparison_numbers
from rollout.comparison import compare
from rollout.comparison_rules import (
    LARGEST_DIFFERENCE,
    MAX_ELEMENTS,
    MAX_OUTPUTS,
    MAX_PAIRS,
    MAX_STRINGS,
    OutputRule,
    Rules,
    bounded_name,
)
from rollout.comparison_stats import OutputStats, spearman

RULE = OutputRule(abs_tolerance=0.01, rel_tolerance=0.001)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def one(a: Any, b: Any, rule: OutputRule = RULE, key: bytes = b"k") -> OutputStats:
    return compare({"y": a}, {"y": b}, Rules(default=rule), key).outputs["y"]


def slow(a: np.ndarray, b: np.ndarray, rule: OutputRule) -> dict[str, Any]:
    """The figures of numeric outputs, counted element by element."""
    columns = a.shape[-1] if a.ndim > 1 else 1
    is_float = a.dtype.kind == "f"
    decision = rule.decision
    if decision == "auto":
        decision = "label" if not is_float else "argmax" if columns > 1 else "threshold"
    names = "elements beyond measured decisions flips nonfinite_a nonfinite_b shifts".split()
    found: dict[str, Any] = dict.fromkeys(names, 0)
    differences, beyond_at = [], []
    pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    for p, q in pairs:
        found["elements"] += 1
        finite = math.isfinite(p) and math.isfinite(q)
        found["nonfinite_a"] += not math.isfinite(p)
        found["nonfinite_b"] += not math.isfinite(q)
        if not finite:
            beyond = not (p == q or (math.isnan(p) and math.isnan(q)))
        elif is_float:
            beyond = abs(q - p) > rule.abs_tolerance + rule.rel_tolerance * abs(p)
        else:
            beyond = abs(Fraction(int(q)) - Fraction(int(p))) > rule.abs_tolerance
        beyond_at.append(beyond)
        found["beyond"] += beyond
        if finite:
            d = min(max(float(q) - float(p), -LARGEST_DIFFERENCE), LARGEST_DIFFERENCE)
            differences.append(d)
            if decision == "label":
                found["decisions"] += 1
                found["flips"] += beyond
    found["measured"] = len(differences)
    found["difference_sum"] = math.fsum(differences)
    found["absolute_sum"] = math.fsum(abs(d) for d in differences)
    found["square_sum"] = math.fsum(d * d for d in differences)
    found["largest"] = max((abs(d) for d in differences), default=0.0)
    scores = []
    width = columns if decision == "argmax" else 1
    for start in range(0, len(pairs), width or 1):
        row = pairs[start : start + width]
        if decision == "label" or (decision == "none" and columns != 1):
            break
        if not all(math.isfinite(p) and math.isfinite(q) for p, q in row):
            continue
        ps, qs = [float(p) for p, _ in row], [float(q) for _, q in row]
        if decision == "argmax":
            found["decisions"] += 1
            found["flips"] += ps.index(max(ps)) != qs.index(max(qs))
            halves = [p / 2 + q / 2 for p, q in zip(ps, qs, strict=True)]
            at = len(row) - 1 if len(row) < 3 else halves.index(max(halves))
        else:
            at = 0
            if decision == "threshold":
                found["decisions"] += 1
                found["flips"] += (ps[0] >= rule.threshold) != (qs[0] >= rule.threshold)
        scores.append((ps[at], qs[at]))
    if scores:
        moves = [min(max(q - p, -LARGEST_DIFFERENCE), LARGEST_DIFFERENCE) for p, q in scores]
        found["shifts"], found["shift_sum"] = 1, math.fsum(moves) / len(moves)
    found["scores"] = sorted(scores)
    found["answers_beyond"] = int(found["beyond"] > 0)
    found["answers_flipped"] = int(found["flips"] > 0)
    return found


DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool"]
SHAPES = [(), (1,), (7,), (1, 1), (5, 1), (1, 2), (4, 2), (3, 5), (2, 3, 4), (2, 1, 1), (1, 1, 3)]
RULES = [
    OutputRule(0.01, 0.001, decision, 0.5)
    for decision in ("auto", "argmax", "threshold", "label", "none")
] + [OutputRule(3.0, 0.0), OutputRule(0.0, 0.0)]


@st.composite
def outputs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(SHAPES))
    elements = None
    if dtype.kind == "f" and draw(st.booleans()):  # plausible scores, else anything
        elements = st.floats(0, 1, width=8 * dtype.itemsize)
    a = draw(hnp.arrays(dtype, shape, elements=elements))
    b = draw(hnp.arrays(dtype, shape, elements=elements))
    same = draw(hnp.arrays(np.bool_, shape))
    return a, np.where(same, a, b)


@settings(max_examples=600, deadline=None)
@given(outputs(), st.sampled_from(RULES))
def test_the_figures_are_those_of_a_slow_count(
    arrays: tuple[np.ndarray, np.ndarray], rule: OutputRule
) -> None:
    a, b = arrays
    a.setflags(write=False)
    b.setflags(write=False)
    expected, stats = slow(a, b, rule), one(a, b, rule)
    scores = expected.pop("scores")
    assert sorted((p, q) for _, p, q in stats.pairs) == scores[:MAX_PAIRS]
    for name, value in expected.items():
        # Sums that nearly cancel are as good as what was summed up.
        scale = {"difference_sum": "absolute_sum", "shift_sum": "largest"}.get(name)
        close = 1e-9 * abs(expected[scale]) if scale else 0.0
        assert getattr(stats, name) == pytest.approx(value, rel=1e-9, abs=close), name
    assert stats.compared == stats.answers == 1


@settings(max_examples=400, deadline=None)
@given(outputs(), st.sampled_from(RULES), st.integers(0, 2**64 - 1))
def test_one_number_has_the_figures_of_an_array_of_one(
    arrays: tuple[np.ndarray, np.ndarray], rule: OutputRule, ticket: int
) -> None:
    a, b = (array.reshape(-1)[:1] for array in arrays)
    quick, thorough = OutputStats(), OutputStats()
    comparison_numbers.compare_one_number(a.item(), b.item(), rule, ticket, quick)
    comparison_numbers.compare_numbers(a, b, rule, ticket, thorough)
    assert quick == thorough


JUNK = [
    None, "text", b"bytes", 1.5, [1, 2], {"a": 1}, object(), np.float32(1), np.array(None),
    np.array([[{"a": 1}]], dtype=object), np.array([1, "a"], dtype=object),
    np.zeros(2, dtype="datetime64[s]"), np.zeros(2, dtype=[("x", "i4")]), np.zeros(2, dtype="V3"),
    np.zeros((0, 3), dtype=np.float32), np.zeros((3, 0)), np.zeros((2,), dtype=np.complex64),
    np.array([[math.nan, math.inf, -math.inf]]), np.array([np.finfo("f8").max, 1e200]),
    np.array([-np.finfo("f8").max, -1e200]), np.array([np.finfo(np.longdouble).max]),
    np.array([np.longdouble("nan")]), np.array([2**63], dtype=np.uint64), np.array([b"a", b"b"]),
    np.array(["a", "\ud800"]), np.array(["a", b"a"], dtype=object),
    np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["a"], dtype=np.dtypes.StringDType()),
    np.array([1.0], dtype=">f8"), np.asfortranarray(np.ones((3, 4)))[::2, ::-1],
    np.array([complex(math.nan, math.inf)]),
]  # fmt: skip


@pytest.mark.parametrize("decision", ["auto", "argmax", "threshold", "label", "none"])
def test_nothing_raises_or_warns_and_every_answer_has_one_outcome(decision: Any) -> None:
    rules = Rules(default=OutputRule(decision=decision))
    for a in JUNK:
        for b in JUNK:
            found = compare({"y": a}, {"y": b}, rules, b"")
            if (stats := found.outputs.get("y")) is not None:
                assert stats.answers == 1
                written = msgspec.json.encode(found)
                assert msgspec.json.decode(written, type=type(found)) == found


def outcome(a: Any, b: Any) -> str:
    stats = one(a, b)
    names = "compared missing_a missing_b shape_mismatches dtype_mismatches unsupported".split()
    (name,) = [name for name in names if getattr(stats, name)]
    assert name == "compared" or not stats.elements
    return name


def test_what_cannot_be_compared_has_outcomes_of_its_own() -> None:
    f4, f8 = np.zeros((2, 2), np.float32), np.zeros((2, 2))
    assert outcome(f4, f4) == "compared"
    assert outcome(None, f4) == "missing_a"
    assert outcome(f4, None) == "missing_b"
    assert outcome(f4, f8) == "dtype_mismatches"
    assert outcome(f8, f8.astype(np.int64)) == "dtype_mismatches"
    assert outcome(f8, f8[:1]) == "shape_mismatches"
    assert outcome(f8, f8.ravel()) == "shape_mismatches"
    assert outcome(f8, f8.tolist()) == "unsupported"
    assert outcome(np.array([{}]), np.array([{}])) == "unsupported"
    assert outcome(np.array(["a"]), np.array(["abc"])) == "compared"
    assert outcome(np.array(["a"]), np.array([b"a"])) == "dtype_mismatches"


def test_a_mismatch_makes_the_answers_differ_and_outputs_of_one_side_count() -> None:
    y = np.ones((1, 1))
    found = compare({"same": y, "gone": y}, {"same": y, "new": y}, Rules(), b"")
    assert (found.answers, found.differing, found.flipped) == (1, 1, 0)
    assert found.outputs["same"].compared == 1
    assert found.outputs["gone"].missing_b == 1
    assert found.outputs["new"].missing_a == 1
    assert compare({"y": y}, {"y": y}, Rules(), b"").differing == 0
    assert compare({}, {}, Rules(), b"").answers == 1


def strings(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


def test_strings_are_equal_or_flipped() -> None:
    stats = one(strings(b"a", b"b", b"c"), strings(b"a", b"x", b"c"))
    assert (stats.elements, stats.beyond, stats.decisions, stats.flips) == (3, 1, 3, 1)
    assert stats.measured == 0
    assert stats.answers_flipped == 1
    assert one(strings("a"), strings("a")).beyond == 0
    assert one(strings("a"), strings(b"a")).beyond == 1
    assert one(np.array([["ab", "c"]]), np.array([["ab", "longer"]])).flips == 1
    assert one(strings(np.str_("a")), strings("a")).beyond == 0
    none = one(strings("a"), strings("b"), OutputRule(decision="none"))
    assert (none.beyond, none.decisions, none.flips) == (1, 0, 0)


def test_large_integers_that_doubles_cannot_tell_apart_differ() -> None:
    for dtype in (np.int64, np.uint64):
        for width in (1, 3):
            a = np.full((1, width), 2**60, dtype)
            stats = one(a, a + dtype(1))
            assert (stats.beyond, stats.flips, stats.absolute_sum) == (width, width, 0.0)
            assert one(a, a).beyond == 0


def test_a_threshold_is_reached_by_what_equals_it() -> None:
    for width in (1, 2):
        low, at, high = (np.full((1, 1) * width, value) for value in (0.499, 0.5, 0.7))
        rule = OutputRule(decision="threshold")
        assert one(low, at, rule).flips == 1
        assert one(at, high, rule).flips == 0
        assert one(low, np.full_like(low, np.nan), rule).decisions == 0


def test_numbers_near_the_end_of_their_range_are_compared() -> None:
    a = np.array([[1.0e308, 1.7e308, 0.0]])
    ((_, *scores),) = one(a, a).pairs
    assert scores == [1.7e308, 1.7e308]
    for size in (1, 2):
        long = np.full(size, 1.0, np.longdouble)
        assert one(long, long + 1e-9).beyond == 0
        assert one(long, long + 1.0).beyond == size


def test_two_noisy_equals_have_no_shift_but_a_worse_one_has() -> None:
    """The score is of the class both hold highest: the champion's own highest would be its luckiest number."""
    seed = 20
    print("seed", seed)
    rng = np.random.default_rng(seed)
    truth = rng.random((20_000, 5))
    a, b = (truth + 0.2 * rng.standard_normal(truth.shape) for _ in range(2))
    assert abs(one(a[:10_000], b[:10_000]).shift_sum) < 4 * 0.2 * math.sqrt(2 / 10_000)
    assert one(a[:10_000], b[:10_000] - 0.1).shift_sum == pytest.approx(-0.1, abs=0.01)
    chosen = a.argmax(axis=1)
    rows = np.arange(len(a))
    assert (b[rows, chosen] - a[rows, chosen]).mean() < -0.05  # what the naive score would say


def test_work_is_bounded_and_says_so() -> None:
    rows = MAX_ELEMENTS // 100
    wide = np.zeros((2 * rows, 100), np.float32)
    changed = wide.copy()
    changed[rows - 1, 7] = 1.0
    changed[rows + 2, 7] = 1.0  # behind what is looked at
    stats = one(wide, changed)
    assert (stats.cut, stats.elements, stats.beyond) == (1, rows * 100, 1)
    assert (stats.decisions, stats.flips, len(stats.pairs)) == (rows, 1, MAX_PAIRS)
    strided = one(np.asfortranarray(wide), np.asfortranarray(changed))
    assert strided == stats
    huge = np.zeros((1, MAX_ELEMENTS + 1))
    stats = one(huge, huge + 1.0)
    assert (stats.cut, stats.elements, stats.beyond) == (1, MAX_ELEMENTS, MAX_ELEMENTS)
    assert (stats.decisions, stats.shifts) == (0, 0)
    complexes = one(huge.astype(np.complex128), huge.astype(np.complex128))
    assert (complexes.cut, complexes.elements) == (1, MAX_ELEMENTS)
    texts = np.full(MAX_STRINGS + 5, b"x", dtype=object)
    stats = one(texts, texts)
    assert (stats.cut, stats.elements) == (1, MAX_STRINGS)


def test_only_so_many_outputs_are_compared_and_always_the_same_ones() -> None:
    y = np.ones((1, 1))
    many = {f"out_{number}": y for number in range(50)}
    found = compare(many, many, Rules(), b"")
    backwards = dict(reversed(many.items()))
    assert len(found.outputs) == MAX_OUTPUTS
    assert found.uncompared == 50 - MAX_OUTPUTS
    assert compare(backwards, backwards, Rules(), b"").outputs == found.outputs
    only = compare(many, many, Rules(only=("out_3", "absent")), b"")
    assert list(only.outputs) == ["out_3"]
    assert only.uncompared == 49


def test_rules_go_by_output() -> None:
    rules = Rules(outputs={"minutes": OutputRule(abs_tolerance=5.0, decision="none")})
    a = {"minutes": np.array([[10.0]]), "score": np.array([[0.4]])}
    b = {"minutes": np.array([[14.0]]), "score": np.array([[0.6]])}
    found = compare(a, b, rules, b"")
    minutes, score = found.outputs["minutes"], found.outputs["score"]
    assert (minutes.beyond, minutes.decisions, minutes.mean_shift) == (0, 0, 4.0)
    assert (score.beyond, score.flips) == (1, 1)


@pytest.mark.parametrize(
    "rule", [{"abs_tolerance": -1.0}, {"abs_tolerance": math.nan}, {"abs_tolerance": math.inf},
             {"rel_tolerance": 1.5}, {"rel_tolerance": math.nan}, {"threshold": math.inf}],
)  # fmt: skip
def test_rules_that_are_none_are_refused(rule: dict[str, float]) -> None:
    (field,) = rule
    with pytest.raises(ValueError, match=f"{field} is .*: give a"):
        OutputRule(**rule)  # type: ignore[arg-type]


def test_rules_are_read_from_json() -> None:
    text = b'{"outputs": {"y": {"decision": "label", "abs_tolerance": 2}}, "only": ["y"]}'
    rules = msgspec.json.decode(text, type=Rules)
    assert rules.of("y").decision == "label"
    assert rules.of("other") == OutputRule()
    with pytest.raises(msgspec.ValidationError, match="abs_tolerance is -1"):
        msgspec.json.decode(b'{"default": {"abs_tolerance": -1}}', type=Rules)
    with pytest.raises(ValueError, match="name at most"):
        Rules(only=tuple("abcdefghijklmnop"))


def test_names_are_short_and_can_be_written() -> None:
    awkward = ["a" * 1000, "\ud800", b"\xff", 10**9000, 1.5, None, True, object(), "\u00fc" * 99]
    for value in awkward:
        name = bounded_name(value)
        assert len(name) <= 64
        assert msgspec.json.decode(msgspec.json.encode(name)) == name
    y = np.ones((1, 1))
    found = compare({"x" * 99: y, "x" * 98: y}, {"x" * 99: y}, Rules(), b"")
    (stats,) = found.outputs.values()
    assert (stats.answers, stats.compared, stats.missing_b) == (2, 1, 1)


def test_the_kept_pairs_are_a_fair_sample_of_the_rows() -> None:
    """Rows of one large answer, and many answers of one row: the mean row number of the sample is no outlier."""
    rows = np.arange(5000.0).reshape(-1, 1)
    for number in range(20):
        pairs = one(rows, rows, key=b"%d" % number).pairs
        assert len({ticket for ticket, _, _ in pairs}) == MAX_PAIRS
        mean = np.mean([a for _, a, _ in pairs])
        assert abs(mean - 2500) < 4.5 * 5000 / math.sqrt(12 * MAX_PAIRS)
    whole = OutputStats()
    for number in range(3000):
        value = np.array([[float(number)]])
        whole.absorb(one(value, value, key=b"request-%d" % number))
    assert len(whole.pairs) == MAX_PAIRS
    mean = np.mean([a for _, a, _ in whole.pairs])
    assert abs(mean - 1500) < 4.5 * 3000 / math.sqrt(12 * MAX_PAIRS)


def test_spearman_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = rng.integers(0, 12, (2, 40)).astype(float)  # with ties

        def ranks(values: np.ndarray) -> list[float]:
            return [
                sum(other < value for other in values) + sum(other == value for other in values) / 2
                for value in values
            ]

        expected = np.corrcoef(ranks(a), ranks(b))[0, 1]
        assert spearman(list(zip(a, b, strict=True))) == pytest.approx(expected)
    assert spearman([(1, 3), (2, 2), (3, 1)]) == -1.0
    assert spearman([(1, 10), (2, 200), (3, 201)]) == 1.0
    assert spearman([(1, 1), (1, 2), (1, 3)]) is None
    assert spearman([(1, 1), (2, 2)]) is None
