"""Which calls are traced: the caller's word first, a share of the rest, and a ceiling over both."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sampling import NO_PARENT, Sampler, TraceParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}-00".encode()
PARENT = TraceParent(int(TRACE, 16), int(SPAN, 16))


def sampler(
    ratio: float, max_per_s: float = 1e6, draw: Callable[[], float] | None = None
) -> Sampler:
    return Sampler(ratio, max_per_s, draw or random.Random(7).random)


def picked(one: Sampler, calls: int, traceparent: bytes = b"", now: float = 1.0) -> int:
    return sum(one.choose(traceparent, now) is not None for _ in range(calls))


# -- the header -----------------------------------------------------------------------------------


def test_a_parent_is_read() -> None:
    assert sampler(1.0).choose(SAMPLED, 0.0) == PARENT
    assert sampler(1.0).choose(UNSAMPLED, 0.0) is None  # unread, it would count as absent


@pytest.mark.parametrize("flags", ["03", "ff", "81"])
def test_only_one_bit_of_the_flags_means_sampled(flags: str) -> None:
    assert sampler(0.0).choose(f"00-{TRACE}-{SPAN}-{flags}".encode(), 0.0) == PARENT


def test_a_later_version_may_say_more() -> None:
    assert sampler(0.0).choose(b"cc" + SAMPLED[2:] + b"-what-comes", 0.0) == PARENT


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{'0' * 32}-{SPAN}-00",
        f"00-{TRACE}-{'0' * 16}-00",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_not_valid_counts_as_absent(header: str) -> None:
    assert sampler(0.0).choose(header.encode(), 0.0) is None
    assert sampler(1.0).choose(header.encode(), 0.0) == NO_PARENT


@given(st.binary(max_size=80))
def test_no_bytes_are_too_strange(header: bytes) -> None:
    parent = sampler(0.0).choose(header, 0.0)
    assert parent is None or (parent.trace_id > 0 and parent.span_id > 0)


# -- the choice -----------------------------------------------------------------------------------


def test_the_parent_decides_whatever_the_ratio() -> None:
    assert sampler(0.0).choose(SAMPLED, 0.0) == PARENT
    assert sampler(1.0).choose(UNSAMPLED, 0.0) is None


def test_nothing_and_everything() -> None:
    assert picked(sampler(0.0), 1000) == 0
    assert picked(sampler(1.0), 1000) == 1000
    assert picked(sampler(5e-324), 1000) == 0


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
def test_about_the_share_that_was_asked_for(ratio: float) -> None:
    calls = 100_000
    assert picked(sampler(ratio), calls) == pytest.approx(calls * ratio, rel=0.1)


def test_no_number_is_drawn_for_a_call_that_is_not_picked() -> None:
    drawn = []

    def draw() -> float:
        drawn.append(1)
        return 0.5

    found = picked(sampler(0.01, draw=draw), 1000)
    assert len(drawn) == found + 1


def test_calls_with_a_parent_do_not_count_towards_the_share() -> None:
    one = sampler(0.5, draw=lambda: 0.6)  # every second call
    assert [one.choose(b"", 0.0) is not None for _ in range(4)] == [False, True, False, True]
    one.choose(UNSAMPLED, 0.0)
    assert [one.choose(b"", 0.0) is not None for _ in range(2)] == [False, True]


# -- the ceiling ----------------------------------------------------------------------------------


def test_a_second_has_room_for_so_many() -> None:
    one = sampler(1.0, max_per_s=10)
    assert picked(one, 50, now=5.0) == 10
    assert (one.taken, one.over_limit) == (10, 40)
    assert picked(one, 50, now=5.5) == 5
    assert picked(one, 50, SAMPLED, now=6.0) == 5
    assert picked(one, 50, now=100.0) == 10  # an hour of silence is no credit


def test_a_ceiling_below_one_a_second() -> None:
    one = sampler(1.0, max_per_s=0.5)
    assert picked(one, 3, now=0.0) == 1
    assert picked(one, 3, now=1.0) == 0
    assert picked(one, 3, now=2.0) == 1


def test_a_ceiling_of_nothing() -> None:
    one = sampler(1.0, max_per_s=0.0)
    assert picked(one, 10, SAMPLED) == 0
    assert one.over_limit == 10
