"""Figures that are added up: in any order and grouping the same, as JSON the same, and within bounds."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import numpy as np
import pytest

from rollout.comparison import compare
from rollout.comparison_rules import MAX_OUTPUTS, MAX_PAIRS, MAX_SLICES, Rules, bounded_name
from rollout.comparison_slices import SlicedComparison
from rollout.comparison_stats import Comparison, OutputStats, added

SEED = 11


def parts(count: int, outputs: int = 12) -> list[Comparison]:
    """Comparisons of answers with a few of many outputs, some of them missing, mismatched, NaN or beyond."""
    rng = np.random.default_rng(SEED)
    print("seed", SEED)
    found = []
    for number in range(count):
        a, b = {}, {}
        for name in rng.choice(outputs, size=3, replace=False):
            rows = int(rng.integers(1, 5))
            value = rng.random((rows, int(rng.integers(1, 4))))
            other = value + 0.1 * rng.standard_normal(value.shape)
            fate = rng.integers(0, 12)
            if fate == 0:
                other[0, 0] = np.nan
            elif fate == 1:
                other = other.astype(np.float32)
            elif fate == 2:
                other = other[:, :0]
            a[f"out_{name}"] = value
            if fate != 3:
                b[f"out_{name}"] = other
        found.append(compare(a, b, Rules(), b"request-%d" % number))
    return found


def same(one: object, other: object) -> None:
    """Equal up to the rounding of floats."""
    one, other = msgspec.to_builtins(one), msgspec.to_builtins(other)

    def walk(a: object, b: object) -> None:
        if isinstance(a, dict):
            assert isinstance(b, dict)
            assert a.keys() == b.keys()
            for key in a:
                walk(a[key], b[key])
        elif isinstance(a, (list, tuple)):
            assert isinstance(b, (list, tuple))
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                walk(x, y)
        elif isinstance(a, float):
            assert b == pytest.approx(a, rel=1e-9, abs=1e-12)
        else:
            assert a == b

    walk(one, other)


def test_addition_is_commutative_and_associative() -> None:
    answers = parts(400)
    whole = added(*answers)
    assert whole.answers == 400
    assert len(whole.outputs) == MAX_OUTPUTS
    assert whole.uncompared > 0
    outcomes = sum(stats.answers for stats in whole.outputs.values())
    assert outcomes + whole.uncompared == 3 * 400
    order = random.Random(SEED)
    for _ in range(5):
        order.shuffle(answers)
        cut = sorted(order.sample(range(400), 3))
        groups = [answers[a:b] for a, b in zip([0, *cut], [*cut, 400], strict=True)]
        same(added(*(added(*group) for group in groups)), whole)
        left, right = added(*groups[0]), added(*groups[1], *groups[2])
        same(added(left, right), added(right, left))


def test_an_output_that_is_kept_is_complete() -> None:
    """Answers with too many outputs keep the same ones as sums of answers that have few."""
    y = np.ones((1, 1))
    names = [f"out_{number}" for number in range(3 * MAX_OUTPUTS)]
    wide = compare(dict.fromkeys(names, y), dict.fromkeys(names, y), Rules(), b"")
    narrow = [compare({name: y}, {name: y}, Rules(), b"") for name in names]
    for whole in (added(wide, *narrow), added(*narrow, wide), added(*reversed(narrow), wide)):
        assert whole.outputs.keys() == wide.outputs.keys()
        assert {stats.compared for stats in whole.outputs.values()} == {2}
        assert whole.uncompared == 2 * 2 * MAX_OUTPUTS


def test_adding_leaves_what_was_added_as_it_was() -> None:
    answers = parts(30)
    before = msgspec.json.encode(answers)
    whole = added(*answers)
    whole.absorb(answers[0])
    whole.absorb(whole_copy := msgspec.json.decode(msgspec.json.encode(whole), type=Comparison))
    assert msgspec.json.encode(answers) == before
    assert whole.answers == 2 * whole_copy.answers
    assert added() == Comparison()
    same(added(Comparison(), answers[0], Comparison()), answers[0])


def test_figures_are_the_same_after_json() -> None:
    whole = added(*parts(100))
    written = msgspec.json.encode(whole)
    assert msgspec.json.decode(written, type=Comparison) == whole
    again = msgspec.json.decode(written, type=Comparison)
    again.absorb(parts(1)[0])
    assert again.answers == 101


def test_means_and_variances_are_those_of_all_numbers() -> None:
    rng = np.random.default_rng(SEED)
    a = rng.random((500, 3, 1))
    b = a + 5.0 + 0.01 * rng.standard_normal(a.shape)  # a large shift with a small spread
    whole = added(
        *(
            compare({"y": x}, {"y": y}, Rules(), bytes(k))
            for k, (x, y) in enumerate(zip(a, b, strict=True))
        )
    )
    stats, difference = whole.outputs["y"], b - a
    assert stats.mean_difference == pytest.approx(difference.mean())
    assert stats.mean_absolute == pytest.approx(np.abs(difference).mean())
    assert stats.variance_of_absolute == pytest.approx(np.abs(difference).var(ddof=1), rel=1e-6)
    assert stats.largest == np.abs(difference).max()
    per_answer = difference.mean(axis=(1, 2))
    assert stats.shifts == 500
    assert stats.mean_shift == pytest.approx(per_answer.mean())
    assert stats.variance_of_shift == pytest.approx(per_answer.var(ddof=1), rel=1e-6)
    assert stats.share_beyond == 1.0
    assert stats.flip_rate == pytest.approx((a < 0.5).mean())
    assert stats.rank_correlation is not None
    assert stats.rank_correlation > 0.95


def test_without_figures_nothing_is_derived() -> None:
    empty = OutputStats()
    for name in ("share_compared", "share_beyond", "flip_rate", "mean_absolute", "mean_difference",
                 "variance_of_absolute", "mean_shift", "variance_of_shift", "rank_correlation"):  # fmt: skip
        assert getattr(empty, name) is None, name
    assert Comparison().share_differing is None
    assert Comparison().share_flipped is None


def test_extremes_never_become_infinite() -> None:
    huge = np.full((4, 3), np.finfo(np.float64).max)
    answer = compare({"y": huge}, {"y": -huge}, Rules(), b"")
    whole = Comparison()
    for _ in range(64):  # 2**64 answers
        whole.absorb(answer)
        answer = added(whole)
    written = msgspec.json.encode(whole)
    assert b"null" not in written
    same(msgspec.json.decode(written, type=Comparison), whole)


# ---- by slice


def sliced(pinned: tuple[str, ...], work: list[tuple[object, Comparison]]) -> SlicedComparison:
    found = SlicedComparison(pinned)
    for name, comparison in work:
        found.record(name, comparison)
    return found


def test_slices_add_up_in_any_order_and_grouping() -> None:
    order = random.Random(SEED)
    names = [f"carrier {number}" for number in range(3 * MAX_SLICES)]
    pinned = ("carrier 5", "carrier 50", "carrier 90")
    work: list[tuple[object, Comparison]] = [(order.choice(names), part) for part in parts(500)]
    whole = sliced(pinned, work)
    assert len(whole.slices) == MAX_SLICES
    assert set(pinned) <= whole.slices.keys()
    assert whole.other.answers == 500 - sum(part.answers for part in whole.slices.values())
    assert whole.other.answers > 100
    for name in whole.slices:  # a slice that is kept is complete
        same(whole.slices[name], added(*(part for other, part in work if other == name)))
    same(whole.total(), added(*(part for _, part in work)))
    for _ in range(3):
        order.shuffle(work)
        cut = order.randrange(500)
        left, right = sliced(pinned, work[:cut]), sliced(pinned, work[cut:])
        before = msgspec.json.encode(right)
        left.absorb(right)
        assert msgspec.json.encode(right) == before
        same(left, whole)
        right.absorb(sliced(pinned, work[:cut]))
        same(right, whole)


def test_slices_survive_json_and_go_on() -> None:
    work: list[tuple[object, Comparison]] = [
        (number % 7, part) for number, part in enumerate(parts(60))
    ]
    whole = sliced(("3",), work)
    again = msgspec.json.decode(msgspec.json.encode(whole), type=SlicedComparison)
    assert again == whole
    again.absorb(whole)
    assert again.total().answers == 120
    assert set(again.slices) == {str(number) for number in range(7)}


def test_slices_of_any_value() -> None:
    part = parts(1)[0]
    values = [None, "", "AA", b"AA", 3, 3.0, True, object(), "\ud800", "x" * 10_000]
    found = sliced((), [(value, part) for value in values])
    assert found.slices["AA"].answers == 2
    assert found.total().answers == len(values)
    assert all(len(name) <= 64 for name in found.slices)
    msgspec.json.encode(found)


def test_slices_that_are_not_the_same_are_not_added() -> None:
    with pytest.raises(ValueError, match="name the same slices everywhere"):
        SlicedComparison(("a",)).absorb(SlicedComparison(("b",)))
    with pytest.raises(ValueError, match="name at most"):
        SlicedComparison(tuple(str(number) for number in range(MAX_SLICES + 1)))
    SlicedComparison(("b", "a")).absorb(SlicedComparison(("a", "b")))


def test_memory_is_bounded_whatever_comes() -> None:
    """As many slices, outputs and pairs as there can be; then as many again, which must add nothing."""
    rng = np.random.default_rng(SEED)
    tickets = sorted(rng.integers(0, 2**32, MAX_PAIRS).tolist())
    scores = rng.random((2, MAX_PAIRS)).tolist()
    stats = OutputStats(10**9, pairs=list(zip(tickets, *scores, strict=True)))

    def fill(found: SlicedComparison, start: int) -> None:
        for number in range(start, start + 2 * MAX_SLICES):
            outputs = {bounded_name(f"{number} {k} " + "o" * 99): stats for k in range(MAX_OUTPUTS)}
            named = {f"out {k}": stats for k in range(MAX_OUTPUTS)}
            for part in (Comparison(1, outputs=outputs), Comparison(1, outputs=named)):
                found.record(f"slice {number} " + "s" * 99, part)

    tracemalloc.start()
    try:
        found = SlicedComparison()
        fill(found, 0)
        first = tracemalloc.get_traced_memory()[0]
        fill(found, 1000)
        second = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    everything = [*found.slices.values(), found.other]
    assert len(everything) == MAX_SLICES + 1
    assert all(len(part.outputs) == MAX_OUTPUTS for part in everything)
    written = len(msgspec.json.encode(found))
    print("bytes of JSON", written, "of memory", second)
    assert written < 3_000_000
    assert second < first + 500_000  # a memory of ranks, itself bounded
