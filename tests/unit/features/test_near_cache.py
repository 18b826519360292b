"""The near cache: bounded in bytes, ends on time, keeps what is asked for, and hides nothing from its count."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from featurecache.lookups.near_cache import ENTRY_OVERHEAD_BYTES, MAX_LOOKS, NearCache

ROW = bytes(100)


def middle() -> float:
    return 0.5


def size(key: bytes, row: bytes = ROW) -> int:
    return len(key) + len(row) + ENTRY_OVERHEAD_BYTES


def cache_of(entries: int, negative: int = 4) -> NearCache:
    return NearCache(entries * size(b"k00"), negative * (3 + ENTRY_OVERHEAD_BYTES), middle)


def keys_of(cache: NearCache) -> list[bytes]:
    return sorted(cache.entries)


def count_bytes(cache: NearCache) -> tuple[int, int]:
    """Both budgets counted anew."""
    entries = cache.entries.values()
    return (
        sum(size(entry.key, entry.row or b"") for entry in entries if not entry.negative),
        sum(size(entry.key, b"") for entry in entries if entry.negative),
    )


def test_keeps_a_row_for_its_time() -> None:
    cache = cache_of(4)
    cache.put(b"k00", ROW, 10.0, 100.0)
    entry = cache.entries[b"k00"]
    assert (entry.row, entry.fresh_until_s, entry.expires_s) == (ROW, 109.0, 110.0)
    assert cache.used_bytes == size(b"k00")


@pytest.mark.parametrize(("unit", "expires_s"), [(0.0, 9.0), (1.0, 11.0)])
def test_lives_are_jittered_by_a_tenth(unit: float, expires_s: float) -> None:
    cache = NearCache(10_000, 10_000, lambda: unit)
    cache.put(b"a", ROW, 10.0, 0.0)
    cache.put_negative(b"b", None, 10.0, 0.0)
    assert cache.entries[b"a"].expires_s == pytest.approx(expires_s)
    assert cache.entries[b"a"].fresh_until_s == pytest.approx(expires_s * 0.9)
    assert cache.entries[b"b"].expires_s == pytest.approx(expires_s)


def test_a_new_row_takes_the_place_of_the_old_and_the_count_follows() -> None:
    cache = cache_of(4)
    cache.put(b"k00", ROW, 10.0, 0.0)
    cache.put(b"k00", bytes(150), 10.0, 5.0)
    assert cache.used_bytes == size(b"k00", bytes(150))
    assert cache.entries[b"k00"].expires_s == 15.0
    cache.put(b"k00", bytes(10), 10.0, 5.0)
    assert cache.used_bytes == size(b"k00", bytes(10))


def test_the_oldest_that_nobody_asked_for_goes_first() -> None:
    cache = cache_of(3)
    for name in (b"k00", b"k01", b"k02"):
        cache.put(name, ROW, 10.0, 0.0)
    cache.entries[b"k00"].visited = True
    cache.put(b"k03", ROW, 10.0, 0.0)
    assert keys_of(cache) == [b"k00", b"k02", b"k03"]
    # The hand stands behind k00 and goes on from there, past k02, towards the newest.
    cache.put(b"k04", ROW, 10.0, 0.0)
    assert keys_of(cache) == [b"k00", b"k03", b"k04"]
    assert cache.evictions == 2


def test_a_scan_of_new_keys_does_not_push_out_what_is_asked_for() -> None:
    cache = cache_of(50)
    hot = [b"h%02d" % number for number in range(20)]
    for key in hot:
        cache.put(key, ROW, 100.0, 0.0)
    for number in range(2000):
        if number % 10 == 0:
            for key in hot:
                if key in cache.entries:
                    cache.entries[key].visited = True
        cache.put(b"s%04d" % number, ROW, 100.0, 0.0)
    assert sum(key in cache.entries for key in hot) == len(hot)


def test_the_hand_looks_at_a_bounded_number_even_when_all_are_asked_for() -> None:
    cache = cache_of(3 * MAX_LOOKS)
    for number in range(3 * MAX_LOOKS):
        cache.put(b"%03d" % number, ROW, 10.0, 0.0)
        cache.entries[b"%03d" % number].visited = True
    cache.put(b"new", ROW, 10.0, 0.0)
    still = sum(entry.visited for entry in cache.entries.values())
    assert still == 3 * MAX_LOOKS - MAX_LOOKS - 1
    assert b"%03d" % MAX_LOOKS not in cache.entries


def test_a_row_larger_than_everything_is_not_kept_and_pushes_nothing_out() -> None:
    cache = cache_of(3)
    cache.put(b"k00", ROW, 10.0, 0.0)
    cache.put(b"big", bytes(10_000), 10.0, 0.0)
    assert keys_of(cache) == [b"k00"]
    cache.put(b"k00", bytes(10_000), 10.0, 0.0)  # nor does an old copy stay in its stead
    assert keys_of(cache) == []
    assert cache.used_bytes == 0


def test_without_bytes_nothing_is_kept() -> None:
    cache = NearCache(0, 0, middle)
    cache.put(b"a", ROW, 10.0, 0.0)
    cache.put_negative(b"b", None, 10.0, 0.0)
    assert not cache.entries


def test_ids_that_do_not_exist_push_out_no_rows() -> None:
    cache = cache_of(5, negative=4)
    for number in range(5):
        cache.put(b"k%02d" % number, ROW, 100.0, 0.0)
    for number in range(1000):
        cache.put_negative(b"n%03d" % number, None, 2.0, 0.001 * number)
    assert sum(not entry.negative for entry in cache.entries.values()) == 5
    assert cache.negative_entries <= 4
    assert cache.negative_bytes <= cache.negative_limit_bytes
    assert b"n999" in cache.entries


def test_a_key_moves_between_the_two_budgets() -> None:
    cache = cache_of(5)
    cache.put(b"k00", ROW, 10.0, 0.0)
    cache.put_negative(b"k00", None, 2.0, 0.0)
    assert (cache.used_bytes, cache.negative_entries) == (0, 1)
    cache.put(b"k00", ROW, 10.0, 0.0)
    assert (cache.used_bytes, cache.negative_bytes) == (size(b"k00"), 0)


def test_what_is_invalidated_is_gone_and_may_come_back() -> None:
    cache = cache_of(5)
    cache.put(b"k00", ROW, 10.0, 0.0)
    cache.put_negative(b"n00", None, 10.0, 0.0)
    held = cache.entries[b"k00"]
    assert cache.invalidate([b"k00", b"n00", b"unknown"]) == 2
    assert not cache.entries
    assert held.row is None
    assert (cache.used_bytes, cache.negative_bytes) == (0, 0)
    cache.put(b"k00", ROW, 10.0, 1.0)
    assert cache.entries[b"k00"].row == ROW


def test_expire_all_leaves_old_copies() -> None:
    cache = cache_of(5)
    cache.put(b"k00", ROW, 10.0, 0.0)
    assert cache.expire_all() == 1
    assert cache.entries[b"k00"].row == ROW
    assert cache.entries[b"k00"].expires_s < 0.0


def test_places_of_the_dead_do_not_pile_up() -> None:
    cache = cache_of(1000)
    for number in range(20_000):
        key = b"%03d" % (number % 100)
        cache.put(key, ROW, 10.0, 0.0)
        cache.put_negative(b"n" + key, None, 1e9, 0.0)
        cache.invalidate([key, b"n" + key])
    assert len(cache._ahead) + len(cache._passed) < 100
    assert len(cache._negatives) <= 4


@pytest.mark.parametrize("seed", range(5))
def test_its_bounds_and_counts_hold_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    cache = NearCache(40 * size(b"k00"), 10 * size(b"k00"), rng.random)
    now_s = 0.0
    for _ in range(6000):
        now_s += rng.random() * 0.01
        key = b"k%02d" % rng.randrange(120)
        what = rng.random()
        if what < 0.5:
            cache.put(key, bytes(rng.randrange(300)), 1.0, now_s)
        elif what < 0.7:
            cache.put_negative(key, None, 0.2, now_s)
        elif what < 0.8:
            cache.invalidate([key, b"k%02d" % rng.randrange(120)])
        elif key in cache.entries:
            cache.entries[key].visited = True
        assert cache.used_bytes <= cache.limit_bytes
        assert cache.negative_bytes <= cache.negative_limit_bytes
    assert (cache.used_bytes, cache.negative_bytes) == count_bytes(cache)
    alive = [e for e in (*cache._ahead, *cache._passed) if e.alive]
    assert len(alive) == len(cache.entries) - cache.negative_entries
    assert cache._dead == len(cache._ahead) + len(cache._passed) - len(alive)


@pytest.mark.parametrize("count", [700, 5_000, 11_000, 23_000])
def test_the_overhead_is_what_an_entry_really_costs(count: int) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        cache = NearCache(1 << 30, 1 << 20, random.Random(1).random)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            cache.put(b"hr:p:{airport:%06d}:weather" % number, bytes(300), 10.0, 1000.0 + number)
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.75 * cache.used_bytes < real <= 1.02 * cache.used_bytes
