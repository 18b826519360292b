"""The breaker: opens after failures in a row, tries again after a while that grows, and never stays open for good."""

from __future__ import annotations

import pytest

from featurecache.lookups.breaker import Breaker, BreakerLimits, BreakerState

LIMITS = BreakerLimits(failures=3, open_s=1.0, max_open_s=10.0)


def middle() -> float:
    return 0.5


def opened(now_s: float = 100.0, limits: BreakerLimits = LIMITS) -> Breaker:
    breaker = Breaker(limits, middle)
    while not breaker.failed(now_s):
        pass
    return breaker


def test_opens_after_so_many_failures_in_a_row_and_says_so_once() -> None:
    breaker = Breaker(LIMITS, middle)
    assert [breaker.failed(1.0) for _ in range(5)] == [False, False, True, False, False]
    assert (breaker.state, breaker.closed, breaker.opened) == (BreakerState.OPEN, False, 1)


def test_a_success_between_starts_the_count_anew() -> None:
    breaker = Breaker(LIMITS, middle)
    for _ in range(10):
        assert not breaker.failed(1.0)
        assert not breaker.failed(1.0)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_a_success_of_an_older_read_closes_nothing() -> None:
    breaker = opened()
    breaker.succeeded()
    assert breaker.state is BreakerState.OPEN


def test_tries_once_when_its_time_is_over() -> None:
    breaker = opened(100.0)
    assert not breaker.may_probe(100.999)
    assert breaker.may_probe(101.0)
    breaker.probe_sent(101.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.may_probe(101.5)
    breaker.probe_ended(101.6, ok=True)
    assert breaker.state is BreakerState.CLOSED
    assert not breaker.failed(102.0)  # and counts from nothing


def test_waits_twice_as_long_after_each_try_that_fails_up_to_the_most() -> None:
    breaker = opened(0.0)
    now_s, waits_s = 0.0, []
    for _ in range(7):
        began_s = now_s
        while not breaker.may_probe(now_s):
            now_s += 0.125
        waits_s.append(now_s - began_s)
        breaker.probe_sent(now_s)
        breaker.probe_ended(now_s, ok=False)
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert breaker.opened == 1


def test_a_try_that_never_ends_counts_as_failed() -> None:
    breaker = opened(0.0)
    breaker.probe_sent(1.0)
    assert not breaker.may_probe(10.9)
    assert not breaker.may_probe(11.0)  # from here it is open again, for twice as long as at first
    assert breaker.state is BreakerState.OPEN
    assert not breaker.may_probe(12.9)
    assert breaker.may_probe(13.0)
    breaker.probe_ended(13.0, ok=True)  # the old one, after all: nobody waits for it any longer
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(("unit", "wait_s"), [(0.0, 0.9), (1.0, 1.1)])
def test_its_time_is_jittered(unit: float, wait_s: float) -> None:
    breaker = Breaker(LIMITS, lambda: unit)
    for _ in range(3):
        breaker.failed(0.0)
    assert not breaker.may_probe(wait_s - 1e-6)
    assert breaker.may_probe(wait_s + 1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"failures": 0}, "failures is 0: give 1 or more"),
        ({"open_s": 0.0}, "open_s is 0.0"),
        ({"open_s": 11.0}, "no smaller than open_s"),
        ({"jitter": 1.0}, "jitter is 1.0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BreakerLimits(**settings)
