from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.errors import ModelRunError
from backends.ports import RunModel
from backends.sample_inputs import (
    DISTINCT_ROWS,
    MOST_ELEMENTS,
    generator,
    sample_inputs,
    working_sizes,
)
from backends.signature import NUMPY_DTYPES, Signature, Tensor, TensorSpec


def signature(*shapes: tuple[int, ...], datatype: str = "FP32") -> Signature:
    return Signature(
        tuple(TensorSpec(f"x{i}", datatype, shape) for i, shape in enumerate(shapes)), ()
    )


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
@pytest.mark.parametrize(
    ("shape", "made"),
    [((-1, 3), (5, 3)), ((-1,), (5,)), ((2, -1), (2, 4)), ((), ()), ((-1, 0), (5, 0))],
)
def test_samples_fit_the_signature(
    datatype: str, shape: tuple[int, ...], made: tuple[int, ...]
) -> None:
    [sample] = sample_inputs(signature(shape, datatype=datatype), 5, 4, generator())
    assert isinstance(sample, np.ndarray)
    assert sample.shape == made
    assert sample.dtype == NUMPY_DTYPES[datatype]
    assert sample.flags.c_contiguous
    if datatype == "BYTES":
        assert all(isinstance(element, bytes) for element in sample.reshape(-1).tolist())


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_rows_differ(datatype: str) -> None:
    [sample] = sample_inputs(signature((-1, 1), datatype=datatype), 5, 1, generator())
    assert all(not np.array_equal(sample[row], sample[row + 1]) for row in range(4)), (
        f"equal rows prove nothing: {sample}"
    )


def test_floats_have_both_signs_or_one() -> None:
    [signed] = sample_inputs(signature((-1, 50)), 5, 1, generator())
    [positive] = sample_inputs(signature((-1, 50)), 5, 1, generator(), positive=True)
    values = signed.astype(np.float32)
    assert values.min() < 0 < values.max()
    assert positive.astype(np.float32).min() > 0
    assert max(abs(values).max(), positive.astype(np.float32).max()) <= 1


def test_the_same_is_made_each_time() -> None:
    first = sample_inputs(signature((-1, 4)), 5, 1, generator())
    assert np.array_equal(first[0], sample_inputs(signature((-1, 4)), 5, 1, generator())[0])


def test_large_batches_repeat_their_first_rows() -> None:
    [sample] = sample_inputs(signature((-1, 4)), 20, 1, generator())
    assert np.array_equal(sample[:DISTINCT_ROWS], sample[DISTINCT_ROWS : 2 * DISTINCT_ROWS])
    assert len(np.unique(sample, axis=0)) == DISTINCT_ROWS


def test_only_one_size_is_tried_without_variable_dimensions() -> None:
    seen: list[tuple[int, ...]] = []
    assert working_sizes(remember(seen, {1}), signature((-1, 4))) == ((1,), "")
    assert seen == [(1, 4)]


def test_all_small_sizes_that_work_are_found() -> None:
    assert working_sizes(remember([], {2, 3}), signature((-1, -1))) == ((2, 3), "")


def test_large_sizes_are_tried_when_no_small_one_works() -> None:
    assert working_sizes(remember([], {32, 224}), signature((-1, -1))) == ((32, 224), "")


def test_the_first_complaint_is_kept() -> None:
    assert working_sizes(remember([], set()), signature((-1, -1))) == ((), "no size 1")


def test_no_sample_is_larger_than_the_limit() -> None:
    seen: list[tuple[int, ...]] = []
    working_sizes(remember(seen, set()), signature((-1, 1000, -1, -1)))
    assert seen == [(1, 1000, 1, 1), (1, 1000, 2, 2), (1, 1000, 3, 3), (1, 1000, 32, 32)]
    assert 1000 * 224 * 224 > MOST_ELEMENTS


def test_an_input_over_the_limit_is_not_made_at_all() -> None:
    sizes, problem = working_sizes(remember([], {1}), signature((10**6, 10**6)))
    assert sizes == ()
    assert problem == "its inputs have more than 16000000 elements"


def remember(seen: list[tuple[int, ...]], working: set[int]) -> RunModel:
    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        seen.append(inputs[0].shape)
        size = inputs[0].shape[-1] if inputs[0].shape[-1] != 4 else 1
        if size not in working:
            raise ModelRunError(f"no size {size}")
        return []

    return run
