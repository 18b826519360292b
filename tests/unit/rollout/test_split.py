"""Weights to intervals, intervals to arms: exact, complete, and nobody moves who need not."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import threading
from collections.abc import Mapping
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout import split
from rollout.split import WHOLE_PPM, Share, SplitError, Splitter, allot, bucket, sampler

STEPS_PERCENT = (1, 5, 25, 50, 100)

# (salt, key, bucket, whether a shadow of 50 % sees it). Changing one of these moves the users of every running plan.
GOLDEN = [
    ("plan-1", b"", 0.35463254918220566, True),
    ("plan-1", b"a", 0.38722391691091496, True),
    ("plan-1", b"N14228", 0.13176093488077956, False),
    ("plan-1", b"user-1", 0.1540576890474532, True),
    ("plan-1", bytes(1000), 0.4922210636676372, True),
    ("", b"", 0.2941760267006448, False),
    ("", b"a", 0.7783661412989897, False),
    ("", b"N14228", 0.43647225914310084, True),
]


# ---- buckets and samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("salt", "key", "expected", "is_seen"), GOLDEN)
def test_buckets_and_samples_are_what_they_always_were(salt, key, expected, is_seen):
    assert bucket(salt, key) == expected
    assert sampler(salt, WHOLE_PPM // 2)(key) is is_seen


@given(st.text(max_size=40), st.binary(max_size=200))
def test_a_bucket_lies_in_zero_to_one_and_has_53_bits(salt, key):
    found = bucket(salt, key)
    assert 0 <= found < 1
    assert (Fraction(found) * 2**53).denominator == 1


@given(st.integers(0, WHOLE_PPM - 1))
def test_bounds_are_exact_to_the_last_bit(ppm):
    first = split._first_hash(ppm) >> 11
    assert Fraction(first, 2**53) >= Fraction(ppm, WHOLE_PPM)
    assert Fraction(first - 1, 2**53) < Fraction(ppm, WHOLE_PPM)


@given(st.binary(max_size=40), st.integers(0, WHOLE_PPM), st.integers(0, WHOLE_PPM))
def test_a_larger_sample_holds_the_smaller(key, one, other):
    smaller, larger = sorted((one, other))
    assert sampler("s", larger)(key) or not sampler("s", smaller)(key)
    assert not sampler("s", 0)(key)
    assert sampler("s", WHOLE_PPM)(key)


def test_a_key_has_to_be_bytes():
    with pytest.raises(TypeError):
        bucket("salt", "user-1")


@pytest.mark.parametrize(
    ("percent", "ppm"),
    [(0, 0), (1, 10_000), (0.0001, 1), (33.3333, 333_333), (99.9999, 999_999), (100, 1_000_000)],
)
def test_percents_become_ppm(percent, ppm):
    assert split.ppm_of_percent(percent) == ppm


@given(st.integers(0, WHOLE_PPM))
def test_every_ppm_survives_being_written_as_a_percent(ppm):
    assert split.ppm_of_percent(float(f"{ppm / 10_000:.4f}")) == ppm


@pytest.mark.parametrize("percent", [-0.0001, 100.0001, 0.00005, float("nan"), float("inf")])
def test_percents_that_are_none_are_refused(percent):
    with pytest.raises(SplitError, match="a weight of"):
        split.ppm_of_percent(percent)


# ---- allot -------------------------------------------------------------------------------------------------


@st.composite
def weightings(draw):
    """Weights of up to six arms; small grids make ties, equal weights and empty arms likely."""
    arms = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True))
    grid = draw(st.sampled_from([4, 10, 1000, WHOLE_PPM]))
    cuts = sorted(
        draw(st.lists(st.integers(0, grid), min_size=len(arms) - 1, max_size=len(arms) - 1))
    )
    bounds = [cut * (WHOLE_PPM // grid) for cut in (0, *cuts, grid)]
    return {
        arm: high - low for arm, (low, high) in zip(arms, itertools.pairwise(bounds), strict=True)
    }


def owners(shares: Mapping[str, Share]) -> list[tuple[int, int, str]]:
    return sorted((start, end, arm) for arm, share in shares.items() for start, end in share)


def assert_a_split(shares: Mapping[str, Share], weights: Mapping[str, int]) -> None:
    assert list(shares) == list(weights)
    runs = owners(shares)
    assert runs[0][0] == 0
    assert runs[-1][1] == WHOLE_PPM
    for (_, end, arm), (start, _, next_arm) in itertools.pairwise(runs):
        assert start == end
        assert arm != next_arm  # neighbours are merged
    for arm, share in shares.items():
        assert list(share) == sorted(share)
        assert split.weight_ppm(share) == weights[arm]


def moves(old: Mapping[str, Share], new: Mapping[str, Share]) -> list[tuple[str, str, int]]:
    """(from, to, ppm) wherever the owner differs; brute force over every bound of either split."""
    bounds = sorted(
        {bound for runs in (owners(old), owners(new)) for run in runs for bound in run[:2]}
    )

    def owner(shares: Mapping[str, Share], place: int) -> str:
        return next(arm for start, end, arm in owners(shares) if start <= place < end)

    pieces = [
        (owner(old, low), owner(new, low), high - low) for low, high in itertools.pairwise(bounds)
    ]
    return [piece for piece in pieces if piece[0] != piece[1]]


def assert_only_what_had_to_moved(old: Mapping[str, Share], new: Mapping[str, Share]) -> None:
    change = {
        arm: split.weight_ppm(new.get(arm, ())) - split.weight_ppm(old.get(arm, ()))
        for arm in {*old, *new}
    }
    moved = moves(old, new)
    assert all(change[source] < 0 < change[target] for source, target, _ in moved)
    assert sum(ppm for _, _, ppm in moved) == sum(by for by in change.values() if by > 0)


def count(shares: Mapping[str, Share]) -> int:
    return sum(len(share) for share in shares.values())


@settings(max_examples=60)
@given(st.lists(weightings(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_sequence_of_weights_is_met_exactly_and_moves_no_one_else(sequence, shuffler):
    shares: dict[str, Share] = {}
    for weights in sequence:
        before, shares = shares, allot(shares, weights)
        assert_a_split(shares, weights)
        if before:
            assert_only_what_had_to_moved(before, shares)
            changed = sum(
                weights.get(arm, 0) != split.weight_ppm(before.get(arm, ()))
                for arm in {*before, *weights}
            )
            assert count(shares) <= count(before) + max(0, 2 * (changed - 1))
        assert allot(shares, weights) == shares
        shuffled = [dict(shuffler.sample(sorted(d.items()), len(d))) for d in (before, weights)]
        assert allot(*shuffled) == shares


def test_a_rollout_of_two_arms_is_bucket_below_the_weight():
    shares = allot({}, {"champion": WHOLE_PPM, "candidate": 0})
    assert shares == {"champion": ((0, WHOLE_PPM),), "candidate": ()}
    for percent in STEPS_PERCENT:
        ppm = percent * 10_000
        shares = allot(shares, {"champion": WHOLE_PPM - ppm, "candidate": ppm})
        assert shares["candidate"] == ((0, ppm),)
    assert allot(shares, {"champion": WHOLE_PPM})["champion"] == ((0, WHOLE_PPM),)


def test_a_third_arm_keeps_everybody_while_two_trade():
    shares = allot({}, {"1": 700_000, "2": 300_000})
    mine = shares["2"]
    for percent in (1, 5, 25, 50, 70, 20, 0):
        ppm = percent * 10_000
        shares = allot(shares, {"1": 700_000 - ppm, "2": 300_000, "3": ppm})
        assert shares["2"] == mine


def test_two_growers_that_take_turns_do_not_shred_the_giver():
    # Cutting each time where the giver's interval begins would leave one more layer after every turn.
    weights = {"a": WHOLE_PPM, "b": 0, "c": 0}
    shares = allot({}, weights)
    for turn in range(100):
        grower = "bc"[turn % 2]
        weights = {**weights, "a": weights["a"] - 5_000, grower: weights[grower] + 5_000}
        shares = allot(shares, weights)
    assert_a_split(shares, weights)
    assert count(shares) <= 4


@pytest.mark.parametrize(
    ("arms", "max_intervals"), [("ab", 2), ("abc", 4), ("abcd", 24), ("abcdef", 45)]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_intervals_stay_few_over_many_random_changes(arms, max_intervals, seed):
    print("seed", seed)
    rng = random.Random(seed)
    weights = {arm: WHOLE_PPM if arm == "a" else 0 for arm in arms}
    shares = allot({}, weights)
    for _ in range(200):
        if rng.random() < 0.8:  # two trade a little or a lot
            source, target = rng.sample(arms, 2)
            ppm = min(rng.randint(0, weights[source]), rng.choice([1, 10, 1000, WHOLE_PPM]))
            weights = {**weights, source: weights[source] - ppm, target: weights[target] + ppm}
        else:
            cuts = sorted(rng.randint(0, WHOLE_PPM) for _ in arms[1:])
            bounds = itertools.pairwise([0, *cuts, WHOLE_PPM])
            weights = {arm: high - low for arm, (low, high) in zip(arms, bounds, strict=True)}
        shares = allot(shares, weights)
        assert count(shares) <= max_intervals
    assert_a_split(shares, weights)
    assert count(allot(shares, {"a": WHOLE_PPM})) == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "add up to 0 ppm"),
        ({"a": 999_999}, r"add up to 999999 ppm \(99.9999 %\): make them 1000000"),
        ({"a": WHOLE_PPM, "b": 1}, "add up to 1000001"),
        ({"a": WHOLE_PPM + 1, "b": -1}, "'b' is -1 ppm: none can be below 0"),
        ({"a": 1e6}, "'a' is 1000000.0: give whole ppm"),
        ({"a": WHOLE_PPM - 1, "b": True}, "'b' is True: give whole ppm"),
        ({str(i): WHOLE_PPM // 20 for i in range(20)}, "20 arms are too many: at most 16"),
    ],
)
def test_weights_that_are_none_are_refused(weights, words):
    with pytest.raises(SplitError, match=words):
        allot({}, weights)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"a": ((1, WHOLE_PPM),)}, "nobody owns ppm 0 to 1, where one of arm 'a' begins"),
        ({"a": ((0, 5),), "b": ((7, WHOLE_PPM),)}, "nobody owns ppm 5 to 7"),
        ({"a": ((0, 5),), "b": ((4, WHOLE_PPM),)}, "two intervals own ppm 4 to 5"),
        ({"a": ((0, 5),), "b": ((0, WHOLE_PPM),)}, "two intervals own ppm 0 to 5"),
        ({"a": ((0, 5),)}, "end at 5 ppm: they must end at 1000000"),
        ({"a": ((0, WHOLE_PPM + 1),)}, "end at 1000001 ppm"),
        ({"a": ((0, WHOLE_PPM), (WHOLE_PPM, WHOLE_PPM))}, "the empty interval"),
        ({"a": ((-5, WHOLE_PPM),)}, "two intervals own ppm -5 to 0"),
    ],
)
def test_intervals_that_are_no_split_are_refused(shares, words):
    with pytest.raises(SplitError, match=words):
        allot(shares, {"a": WHOLE_PPM})
    with pytest.raises(SplitError, match=words):
        Splitter(shares, "salt")


def test_no_intervals_are_a_first_split_to_allot_and_none_to_a_splitter():
    with pytest.raises(SplitError, match="end at 0 ppm"):
        Splitter({}, "salt")


def test_shares_survive_a_document():
    shares = allot(
        allot({}, {"a": 500_000, "b": 500_000}), {"a": 300_000, "b": 400_000, "c": 300_000}
    )
    back = msgspec.json.decode(msgspec.json.encode(shares), type=dict[str, Share])
    assert back == shares


# ---- Splitter ----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(weightings(), min_size=1, max_size=4), st.text(max_size=20), st.data())
def test_the_arm_is_the_one_whose_interval_holds_the_bucket(sequence, salt, data):
    shares: dict[str, Share] = {}
    for weights in sequence:
        shares = allot(shares, weights)
    splitter = Splitter(shares, salt)
    for key in data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=10)):
        place = Fraction(bucket(salt, key)) * WHOLE_PPM
        expected = next(arm for start, end, arm in owners(shares) if start <= place < end)
        index, probability = splitter.arm_of(key)
        assert splitter.arms[index] == expected
        assert probability == splitter.probabilities[index] == weights[expected] / WHOLE_PPM


def test_a_bucket_on_a_bound_belongs_to_the_arm_that_begins_there(monkeypatch):
    splitter = Splitter({"a": ((0, 300_001),), "b": ((300_001, WHOLE_PPM),)}, "s")
    bound = split._first_hash(300_001)

    # Nobody finds a key that hashes to a bound.
    for number, index in ((bound - 1, 0), (bound, 1), (2**64 - 1, 1), (0, 0)):
        monkeypatch.setattr(split, "xxh3_64_intdigest", lambda key, seed, number=number: number)
        assert splitter.arm_of(b"any")[0] == index


def test_an_arm_without_weight_has_an_index_and_no_keys():
    splitter = Splitter(allot({}, {"idle": 0, "1": WHOLE_PPM}), "s")
    assert splitter.arms == ("idle", "1")
    assert {splitter.arm_of(b"%d" % i) for i in range(1000)} == {(1, 1.0)}


def test_touching_intervals_of_one_arm_are_one():
    cut = Splitter({"a": ((0, 5), (5, WHOLE_PPM))}, "s")
    assert cut == Splitter({"a": ((0, WHOLE_PPM),)}, "s")
    assert cut.shares == (((0, WHOLE_PPM),),)


def test_splitters_are_equal_when_they_answer_alike():
    shares = {"a": ((0, 500_000),), "b": ((500_000, WHOLE_PPM),)}
    splitter = Splitter(shares, "s")
    assert splitter == Splitter(dict(shares), "s")
    assert hash(splitter) == hash(Splitter(dict(shares), "s"))
    assert splitter != Splitter(shares, "t")
    assert splitter != Splitter(dict(reversed(shares.items())), "s")  # other indices
    assert splitter != Splitter({"a": shares["b"], "b": shares["a"]}, "s")
    assert splitter != Splitter({"b": shares["a"], "a": shares["b"]}, "s")  # other names
    assert splitter != "s"


def test_a_splitter_never_changes():
    shares = {"a": ((0, 500_000),), "b": ((500_000, WHOLE_PPM),)}
    splitter = Splitter(shares, "s")
    shares["a"] = ()
    assert splitter.shares[0] == ((0, 500_000),)
    with pytest.raises(AttributeError, match="make a new one"):
        splitter.salt = "t"
    with pytest.raises(AttributeError, match="make a new one"):
        splitter.other = 1
    with pytest.raises(AttributeError, match="never changes"):
        del splitter.salt


def test_a_copy_in_another_process_answers_alike():
    splitter = Splitter(allot({}, {"a": 300_000, "b": 700_000}), "s")
    for other in (pickle.loads(pickle.dumps(splitter)), copy.deepcopy(splitter)):
        assert other == splitter
        assert all(other.arm_of(b"%d" % i) == splitter.arm_of(b"%d" % i) for i in range(200))
    assert repr(splitter).startswith("Splitter({'a': ((0, 300000),), 'b'")


def test_requests_in_threads_see_the_old_split_or_the_new_one_and_nothing_between():
    shares = allot({}, {"champion": WHOLE_PPM, "candidate": 0})
    splits = []
    for percent in STEPS_PERCENT:
        shares = allot(
            shares, {"champion": WHOLE_PPM - percent * 10_000, "candidate": percent * 10_000}
        )
        splits.append(Splitter(shares, "s"))
    keys = [b"user-%d" % i for i in range(500)]
    allowed = {key: {splitter.arm_of(key) for splitter in splits} for key in keys}
    in_force = splits[0]
    wrong: list[bytes] = []
    seen: set[tuple[int, float]] = set()
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            for key in keys:
                answer = in_force.arm_of(key)
                seen.add(answer)
                if answer not in allowed[key]:
                    wrong.append(key)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for in_force in itertools.islice(itertools.cycle(splits), 20_000):  # noqa: B007 - the threads read it
        pass
    for key in keys:  # gives the threads turns too
        for in_force in splits:
            assert in_force.arm_of(key) in allowed[key]
    is_over.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert not wrong
    assert len(seen) > 2  # they did see several splits
