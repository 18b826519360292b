"""Ids of predictions against the RFC: version, variant, time, order, and that none comes twice."""

from __future__ import annotations

import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.prediction_ids import IDS_PER_STEM, STEM_BITS, PredictionIds

SEED = 7
NOW_NS = 1_800_000_000_123_456_789


class Time:
    def __init__(self, now_ns: int = NOW_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    @property
    def steady_s(self) -> float:
        return (self.now_ns - NOW_NS) * 1e-9


@given(st.integers(0, 999_999), st.integers(0, 5_000_000))
def test_a_look_at_the_clock_holds_to_the_end_of_its_millisecond(into_ns: int, on_ns: int) -> None:
    time = Time(1_800_000_000_000_000_000 + into_ns)
    ids = PredictionIds(time, random.Random(SEED).getrandbits)
    ids.new(time.steady_s)
    time.now_ns += on_ns
    made_ms = uuid.UUID(ids.new(time.steady_s)).int >> 80
    # A float cannot tell the last nanosecond of one from the first of the next.
    assert made_ms in {time.now_ns // 1_000_000, (time.now_ns - 1) // 1_000_000}


@given(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 64) - 1))
def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front(now_ms: int, seed: int) -> None:
    ids = PredictionIds(lambda: now_ms * 1_000_000 + 999_999, random.Random(seed).getrandbits)
    for _ in range(3):
        text = ids.new(0.0)
        one = uuid.UUID(text)
        assert str(one) == text
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert one.int >> 80 == now_ms


def test_the_extremes_of_chance() -> None:
    for bits in (lambda k: 0, lambda k: (1 << k) - 1):
        one = uuid.UUID(PredictionIds(Time(), bits).new(0.0))
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
    asked: list[int] = []

    def bits_of(count: int) -> int:
        asked.append(count)
        return 0

    PredictionIds(Time(), bits_of).new(0.0)
    assert asked == [STEM_BITS - 1]


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=300))
def test_ids_sort_by_time_as_they_were_made(steps_ns: list[int]) -> None:
    time = Time()
    ids = PredictionIds(time, random.Random(SEED).getrandbits)
    made = []
    for step_ns in steps_ns:
        time.now_ns += step_ns
        made.append(ids.new(time.steady_s))
    assert sorted(made) == made
    assert len(set(made)) == len(made)


def test_no_id_comes_twice_when_the_clock_goes_back_and_forth() -> None:
    time, chance = Time(), random.Random(SEED)
    many = [PredictionIds(time, chance.getrandbits) for _ in range(4)]
    made = []
    for number in range(20_000):
        time.now_ns = NOW_NS + (number % 5) * 1_000_000
        made.append(many[number % 4].new(number * 1e-4))
    assert len(set(made)) == len(made)


@given(st.integers(0, (1 << 61) - 1))
def test_ids_count_on_over_a_used_up_stem(stem: int) -> None:
    ids = PredictionIds(Time(), lambda _: stem)
    made = [uuid.UUID(ids.new(0.0)) for _ in range(IDS_PER_STEM + 2)]
    assert sorted(made) == made
    assert len(set(made)) == len(made)
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}


def test_a_stem_that_is_used_up_is_drawn_anew_in_the_next_millisecond() -> None:
    time, drawn = Time(), iter([1, 2, 3])
    ids = PredictionIds(time, lambda _: next(drawn))
    made = []
    for _ in range(2 * IDS_PER_STEM):
        made.append(ids.new(time.steady_s))
        time.now_ns += 1_000_000
    assert next(drawn) == 3
    assert sorted(made) == made
