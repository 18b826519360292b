"""Generated inputs for a model of which only the signature is known, for the probe and for warm-up.

Decides what plausible data looks like for each datatype. It must never judge what a model answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from backends.errors import InvalidModelInput, ModelRunError
from backends.ports import RunModel
from backends.signature import Signature, Tensor, TensorSpec

SEED = 20_241
VARIABLE_SIZES = (1, 2, 3)
"""Sizes tried for variable dimensions other than the first."""
LARGE_VARIABLE_SIZES = (32, 224)
"""Tried only when none of the small ones works, as with images that shrink inside a model."""
MOST_ELEMENTS = 16_000_000
"""Of one row, over all inputs. More is not generated."""
DISTINCT_ROWS = 8
"""Larger batches repeat their first rows: generating all would take several times their memory."""

_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
_TEXTS = (b"1", b"0", b"12", b"3", b"7")
_INTEGER_LIMIT = 4
"""Small, since integers are often positions in a table of unknown length."""


def generator() -> np.random.Generator:
    """Always the same numbers: a model is judged alike by every worker and at every start."""
    return np.random.default_rng(SEED)


def sample_inputs(
    signature: Signature,
    rows: int,
    variable_size: int,
    random: np.random.Generator,
    *,
    positive: bool = False,
) -> list[Tensor]:
    """One tensor for each input. Its first rows differ where the datatype allows.

    Floats lie in [-1, 1], or with ``positive`` in (0, 1]. A first dimension of fixed size keeps
    its size; a variable one has ``rows``.
    """
    distinct = min(rows, DISTINCT_ROWS)
    samples: list[Tensor] = []
    for spec in signature.inputs:
        sample = _sample(spec, _shape(spec, distinct, variable_size), random, positive=positive)
        samples.append(np.resize(sample, _shape(spec, rows, variable_size)))
    return samples


def has_floats(signature: Signature) -> bool:
    """Whether ``positive`` makes a difference to this model."""
    return any(spec.datatype in _FLOATS for spec in signature.inputs)


def working_sizes(run: RunModel, signature: Signature) -> tuple[tuple[int, ...], str]:
    """The sizes of variable dimensions with which one row runs; without any, the first complaint."""
    problem = ""
    for group in (VARIABLE_SIZES, LARGE_VARIABLE_SIZES):
        working: list[int] = []
        for size in _worth_trying(signature, group):
            try:
                run(sample_inputs(signature, 1, size, generator()))
            except (InvalidModelInput, ModelRunError) as error:
                problem = problem or str(error)
            else:
                working.append(size)
        if working:
            return tuple(working), ""
    return (), problem or f"its inputs have more than {MOST_ELEMENTS} elements"


def _worth_trying(signature: Signature, sizes: tuple[int, ...]) -> Iterator[int]:
    varies = any(-1 in spec.shape[1:] for spec in signature.inputs)
    for size in sizes:
        elements = sum(math.prod(_shape(spec, 1, size)) for spec in signature.inputs)
        if elements <= MOST_ELEMENTS and (varies or size == 1):
            yield size


def _shape(spec: TensorSpec, rows: int, variable_size: int) -> tuple[int, ...]:
    sizes = [variable_size if size == -1 else size for size in spec.shape]
    if spec.shape and spec.shape[0] == -1:
        sizes[0] = rows
    return tuple(sizes)


def _sample(
    spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator, *, positive: bool
) -> Tensor:
    if spec.datatype in _FLOATS:
        values = 1.0 - random.random(shape) if positive else random.uniform(-1.0, 1.0, shape)
        return _bfloat16(values) if spec.datatype == "BF16" else values.astype(spec.dtype)
    limit = {"BOOL": 2, "BYTES": len(_TEXTS)}.get(spec.datatype, _INTEGER_LIMIT)
    choices = random.integers(0, limit, shape)
    if shape and choices.size:
        # With few choices, rows of few elements would often be equal by chance, and equal rows
        # prove nothing.
        choices.reshape(shape[0], -1)[:, 0] = np.arange(shape[0]) % limit
    if spec.datatype == "BYTES":
        texts: Tensor = np.array(_TEXTS, np.object_)[choices]
        return texts if shape else np.array(texts, np.object_)
    return choices.astype(spec.dtype) if shape else np.array(choices, spec.dtype)


def _bfloat16(values: Tensor) -> Tensor:
    """The upper half of each float32."""
    bits: Tensor = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits
