"""Answers that are no numbers are found for exactly the requests that got them, whatever batch they were in."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backends.signature import Signature, Tensor
from gateway.pipeline.execution import execute
from gateway.pipeline.output_watch import OutputWatch
from tests.support.servables import stub, tensor_spec
from tests.unit.pipeline.requests import ticket, whole

LABEL = tensor_spec("label", "INT64", -1)
ODD = [math.nan, math.inf, -math.inf]


def watched(datatype: str = "FP32", *before: Any) -> OutputWatch:
    specs = (*before, tensor_spec("y", datatype, -1, 2))
    return OutputWatch(list, Signature((), specs))


def is_odd(watch: OutputWatch, *outputs: Tensor) -> bool:
    before = watch.odd_batches
    assert all(mine is theirs for mine, theirs in zip(watch.run(outputs), outputs, strict=True))
    return watch.odd_batches != before


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", ODD)
def test_one_odd_number_among_many_is_found(datatype: str, value: float) -> None:
    watch = watched(datatype)
    values = np.zeros(
        (501, 2), {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[datatype]
    )
    assert not is_odd(watch, values)
    for place in ((0, 0), (500, 1), (250, 0)):
        values[place] = value
        assert is_odd(watch, values)
        assert not watch.is_valid([values])
        values[place] = 0.0


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(0, 8), st.integers(0, 5)), elements=st.floats(width=32)
    )
)
def test_no_odd_number_is_missed_and_none_is_invented(values: Tensor) -> None:
    watch = watched()
    is_finite = bool(np.isfinite(values).all())
    assert watch.is_valid([values]) is is_finite
    assert is_odd(watch, values) or is_finite


@pytest.mark.parametrize(("datatype", "value"), [("FP16", 6e4), ("FP32", 3e38), ("FP64", 1e308)])
def test_a_finite_number_whose_square_is_not_is_valid_on_a_closer_look(
    datatype: str, value: float
) -> None:
    values = np.full((2, 2), value, {"FP16": "f2", "FP32": "f4", "FP64": "f8"}[datatype])
    watch = watched(datatype)
    assert is_odd(watch, values)
    assert watch.is_valid([values])


def test_outputs_that_are_no_floats_are_not_looked_at() -> None:
    watch = watched("FP32", LABEL)
    labels = np.array([2**62, -1])
    assert not is_odd(watch, labels, np.zeros((2, 2), np.float32))
    assert is_odd(watch, labels, np.array([[0, math.nan]], np.float32))
    words = OutputWatch(list, Signature((), (tensor_spec("t", "BYTES", -1), LABEL)))
    assert not is_odd(words, np.array([b"nan"], object), labels)
    assert words.is_valid([np.array([b"nan"], object), labels])


def test_views_that_are_not_contiguous() -> None:
    values = np.zeros((6, 4), np.float32)
    values[1, 1] = math.nan
    assert not is_odd(watched(), values[::2, ::2])
    assert is_odd(watched(), values[1::2, 1::2])


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=8))
def test_of_a_batch_exactly_the_affected_requests_are_invalid(requests: list[list[bool]]) -> None:
    def poisoned(inputs: Sequence[Tensor]) -> list[Tensor]:
        values = np.asarray(inputs[0], np.float32)
        return [np.where(values[:, :1] < 0, np.float32(math.nan), values)]

    servable = stub([tensor_spec("x", "FP32", -1, 2)], [tensor_spec("y", "FP32", -1, 2)])
    watch = OutputWatch(poisoned, servable.signature)
    servable.run = watch.run  # type: ignore[method-assign]
    tickets = [ticket(*(-1.0 if odd else 1.0 for odd in rows)) for rows in requests]
    outcomes = execute(servable, whole(*tickets))
    found = [
        not (watch.odd_batches == 0 or watch.is_valid(outcome))  # as Route asks
        for outcome in outcomes
        if isinstance(outcome, list)
    ]
    assert found == [any(rows) for rows in requests]


def test_what_a_model_raises_comes_through_and_counts_nothing() -> None:
    def broken(inputs: Sequence[Tensor]) -> list[Tensor]:
        raise RuntimeError("broken")

    watch = OutputWatch(broken, Signature((), (tensor_spec("y", "FP32", -1),)))
    with pytest.raises(RuntimeError, match="broken"):
        watch.run([])
    assert watch.odd_batches == 0


def test_two_threads_never_give_one_number_twice() -> None:
    """A request compares the number before with the number after its batch: none may ever come back."""
    watch = watched()
    values = np.full((1, 2), math.nan, np.float32)
    seen: list[list[int]] = [[], []]

    def look(mine: list[int]) -> None:
        for _ in range(2_000):
            before = watch.odd_batches
            watch.run([values])
            assert watch.odd_batches != before
            mine.append(before)

    threads = [threading.Thread(target=look, args=(mine,)) for mine in seen]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [len(one) for one in seen] == [2_000, 2_000]
