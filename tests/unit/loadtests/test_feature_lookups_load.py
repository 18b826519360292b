"""What a round of the lookup bench asks for, in which order, and at which rates."""

from __future__ import annotations

import msgspec
import pytest

from loadtests.feature_lookups_data import Variant
from loadtests.feature_lookups_load import SEARCHES, half_busy_rate, in_turn
from loadtests.feature_lookups_verdict import LoadName, Sample

REACHED: dict[Variant, float] = {"direct": 30_000, "hit": 20_000, "mixed": 18_000, "miss": 14_000}
CPU_US: dict[Variant, float] = {"direct": 60.0, "hit": 90.0, "mixed": 95.0, "miss": 125.0}
"""Of a request that comes alone."""


class Gateway:
    """Answers whatever is due, and writes down what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[LoadName, Variant, float]] = []

    def take(self, variant: Variant, load: LoadName, rate: float) -> Sample:
        self.asked.append((load, variant, rate))
        return Sample(
            row="http-1",
            round=1,
            variant=variant,
            load=load,
            rate=rate,
            per_second=rate or REACHED[variant],
            p50_ms=1.0,
            p99_ms=2.0,
            gateway_us=CPU_US[variant],
            store_us=0.0,
            hit_share=None,
            client_busy=0.3,
            client_lag_p99_ms=0.0,
            foreign_core=0.0,
        )


@pytest.mark.parametrize(
    ("core_busy", "share"),
    [
        (1.0, 0.5),
        (0.8, 0.625),
        (0.5, 1.0),
        (0.3, 1.0),  # never faster than the half rate …
        (0.0, 1.0),
        (4.9, 0.5 / 4.9),
        (5.0, 0.1),
        (50.0, 0.1),  # … nor slower than a tenth of it
    ],
)
def test_the_rate_that_keeps_the_core_half_busy(core_busy: float, share: float) -> None:
    assert half_busy_rate(6000.0, core_busy) == pytest.approx(6000.0 * share)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_one_entity_is_asked_for_at_three_loads_whatever_the_order(number: int) -> None:
    gateway = Gateway()
    told = [(one.load, one.variant, one.rate) for one in in_turn(gateway.take, 1, number)]
    searched = gateway.asked.pop(7)
    assert searched[:2] == ("half_busy", "miss")
    assert told == gateway.asked
    loads = [load for load, _, _ in gateway.asked]
    assert loads == ["full"] * 4 + ["half_rate"] * 3 + ["half_busy"] * 3
    assert {one for _, one, _ in gateway.asked[:4]} == {"direct", "hit", "mixed", "miss"}
    for part in (gateway.asked[4:7], gateway.asked[7:]):
        assert {one for _, one, _ in part} == {"direct", "hit", "miss"}
    # 14,000 a second without copies; half of them take 7,000 × 125 µs = 87.5 % of the core.
    rates = [rate for _, _, rate in gateway.asked]
    assert rates == pytest.approx([0.0] * 4 + [7000.0] * 3 + [4000.0] * 3)


def test_many_entities_are_asked_for_without_copies_only() -> None:
    gateway = Gateway()
    assert len(list(in_turn(gateway.take, 100, 1))) == 6
    del gateway.asked[4]  # how the rate was found
    assert {one for _, one, _ in gateway.asked} == {"direct", "miss"}
    assert [load for load, _, _ in gateway.asked[::2]] == ["full", "half_rate", "half_busy"]


def test_a_sample_is_told_before_the_next_is_taken() -> None:
    gateway = Gateway()
    for count, _ in enumerate(in_turn(gateway.take, 1, 1), start=1):
        assert len(gateway.asked) == count + (count > 7)  # with the one by which the rate was found


def test_the_rate_is_searched_for_where_slower_requests_cost_more() -> None:
    gateway = Gateway()

    def dearer(variant: Variant, load: LoadName, rate: float) -> Sample:
        one = gateway.take(variant, load, rate)
        return msgspec.structs.replace(one, gateway_us=80.0 + 300_000.0 / max(rate, 1.0))

    *_, last = in_turn(dearer, 1, 1)
    searched = [rate for load, _, rate in gateway.asked if load == "half_busy"]
    assert searched == sorted(searched, reverse=True)
    assert len(searched) == 3 + SEARCHES
    assert last.core_busy < 0.6
