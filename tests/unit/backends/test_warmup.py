from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.echo import BeforeRun, EchoBackend
from backends.errors import ModelRunError
from backends.signature import Tensor, TensorSpec
from backends.warmup import Warmup, WarmupTiming, batch_buckets, warm_up

X = (TensorSpec("x", "FP32", (-1, 4)),)


class SpentTime:
    """A clock that moves only when something is spent."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(
    ("largest", "buckets"),
    [(0, (1,)), (1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (10, (1, 2, 4, 8, 10))],
)
def test_buckets_are_powers_of_two_and_the_largest(largest: int, buckets: tuple[int, ...]) -> None:
    assert batch_buckets(largest) == buckets


@given(st.integers(min_value=1, max_value=2**31 - 1))
@settings(derandomize=True, max_examples=100)
def test_no_batch_is_more_than_twice_its_bucket(largest: int) -> None:
    buckets = batch_buckets(largest)
    assert buckets[0] == 1
    assert buckets[-1] == largest
    assert all(small < large <= 2 * small for small, large in pairwise(buckets))
    assert len(buckets) <= largest.bit_length() + 1


def test_each_bucket_is_timed() -> None:
    clock = SpentTime()
    backend = EchoBackend(X, run_cost_s=0.5, row_cost_s=0.25, spend=clock.spend)
    warmup = warm_up(backend.run, backend.signature, max_batch_size=6, runs=2, clock=clock)
    assert warmup == Warmup(
        (
            WarmupTiming(1, 0.75),
            WarmupTiming(2, 1.0),
            WarmupTiming(4, 1.5),
            WarmupTiming(6, 2.0),
        ),
        "",
    )


def test_the_fastest_run_counts() -> None:
    clock = SpentTime()
    costs_s = iter([9.0, 9.0, 3.0, 5.0])  # the first run looks for a size that works

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        clock.spend(next(costs_s))
        return list(inputs)

    backend = EchoBackend(X)
    warmup = warm_up(run, backend.signature, max_batch_size=0, runs=3, clock=clock)
    assert warmup.timings == (WarmupTiming(1, 3.0),)


def test_a_batch_that_fails_ends_the_warm_up() -> None:
    backend = EchoBackend(X, before_run=fail_from(4))
    warmup = warm_up(backend.run, backend.signature, max_batch_size=8, runs=1, clock=SpentTime())
    assert [timing.rows for timing in warmup.timings] == [1, 2]
    assert warmup.problem == "a batch of 4 generated rows failed: too many"


def test_a_model_that_dislikes_generated_data_is_left_cold() -> None:
    backend = EchoBackend(X, before_run=fail_from(1))
    warmup = warm_up(backend.run, backend.signature, max_batch_size=8, runs=1, clock=SpentTime())
    assert warmup == Warmup((), "no warm-up: the model failed on one generated row: too many")


def fail_from(rows: int) -> BeforeRun:
    def before_run(inputs: Sequence[Tensor]) -> None:
        if len(inputs[0]) >= rows:
            raise ModelRunError("too many")

    return before_run
