"""Rows that say whose they are, and the answer that each must get.

Every row carries its call's number and its own position, and the right answer depends on every value of the row, so
that a row which was swapped, lost, doubled or answered for somebody else is seen. Nothing here knows the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backends.signature import Signature, Tensor, TensorSpec

Ids = npt.NDArray[np.int64]

ROW_BITS = 20
ROW_MASK = (1 << ROW_BITS) - 1
POISON = 1
INVALID = 2
_FLAG_BITS = 2
_DIGEST_FACTOR = np.int64(0x9E3779B97F4A7C1)
_SALT_FACTOR = np.int64(0x2545F4914F6CDD1D)


def signature(width: int) -> Signature:
    """Two inputs, two outputs; ``width`` -1 lets callers choose it."""
    return Signature(
        (TensorSpec("ids", "INT64", (-1, width)), TensorSpec("salt", "INT64", (-1,))),
        (TensorSpec("digest", "INT64", (-1,)), TensorSpec("mirror", "INT64", (-1, width))),
    )


def make_rows(number: int, rows: int, width: int, flags: dict[int, int]) -> tuple[Tensor, Tensor]:
    """The inputs of call ``number``; ``flags`` marks rows by position."""
    first = (number << ROW_BITS) + np.arange(rows, dtype=np.int64)
    ids = first[:, None] * np.arange(1, width + 1, dtype=np.int64)
    salt = (first % 8191) << _FLAG_BITS
    for row, flag in flags.items():
        salt[row] |= flag
    return ids, salt


def answer(inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the model says to these rows. One row's answer depends on that row alone."""
    ids, salt = (np.asarray(one, np.int64) for one in inputs[:2])
    digest = ids.sum(axis=1) * _DIGEST_FACTOR ^ salt * _SALT_FACTOR
    for features in inputs[2:]:
        bits = np.ascontiguousarray(features).view(np.int64)
        places = np.arange(1, bits.shape[1] + 1, dtype=np.int64)
        digest = digest * _DIGEST_FACTOR ^ (bits * places).sum(axis=1)
    return [digest, np.ascontiguousarray(ids[:, ::-1]) + salt[:, None]]


def is_answer(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether ``outputs`` is right, row by row and in order."""
    wanted = answer(inputs)
    return len(outputs) == len(wanted) and all(
        got.dtype == want.dtype and np.array_equal(got, want)
        for got, want in zip(outputs, wanted, strict=True)
    )


def owners(ids: Ids) -> list[tuple[int, int, int]]:
    """(call, first row, end row) of each stretch of rows that belong together, in the order they stand."""
    first = ids[:, 0]
    breaks = np.flatnonzero(np.diff(first) != 1) + 1
    starts = [0, *breaks.tolist()]
    ends = [*starts[1:], len(first)]
    found: list[tuple[int, int, int]] = []
    for start, end in zip(starts, ends, strict=True):
        row = int(first[start])
        found.append((row >> ROW_BITS, row & ROW_MASK, (row & ROW_MASK) + end - start))
    return found


def has_flag(salt: Tensor, flag: int) -> bool:
    """Whether any row is marked so."""
    return bool((np.asarray(salt, np.int64) & flag).any())
