"""Notices answers that are no numbers, for versions of a rollout.

A model's outputs are looked at once per batch, in one pass; only when a batch has something odd are its requests looked
at one by one. It must never change an output, and costs nothing for versions that no plan names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.signature import Signature, Tensor

Run = Callable[[Sequence[Tensor]], list[Tensor]]


class OutputWatch:
    """Stands before a version's ``run`` and counts the batches whose outputs are not all finite."""

    __slots__ = ("_floats", "_numbers", "odd_batches", "run_unwatched")

    def __init__(self, run: Run, signature: Signature) -> None:
        self.run_unwatched = run
        self.odd_batches = 0
        """Of two threads the later may write the smaller number, but no number comes twice: a change stays one."""
        self._numbers = itertools.count(1)
        self._floats = [
            index for index, spec in enumerate(signature.outputs) if spec.dtype.kind == "f"
        ]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The model's own answer."""
        outputs = self.run_unwatched(inputs)
        for index in self._floats:
            if not _is_surely_finite(outputs[index]):
                self.odd_batches = next(self._numbers)
                break
        return outputs

    def is_valid(self, outputs: Sequence[Tensor]) -> bool:
        """Whether one request's outputs are all finite."""
        return all(bool(np.isfinite(outputs[index]).all()) for index in self._floats)


def _is_surely_finite(values: Tensor) -> bool:
    """False also where only the square of a large finite value is infinite: then somebody looks closer."""
    flat: Any = (
        values  # the sum of squares: one pass without a temporary array, and no warning of NumPy's
    )
    return math.isfinite(np.vdot(flat, flat))
