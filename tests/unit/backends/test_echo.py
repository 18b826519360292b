from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.echo import EchoBackend
from backends.errors import ModelRunError
from backends.ports import DimensionNames
from backends.signature import Signature, Tensor, TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))


def test_outputs_are_named_as_inputs_unless_told_otherwise() -> None:
    assert EchoBackend((X,)).signature == Signature((X,), (X,))
    renamed = EchoBackend((X,), output_names=("y",)).signature
    assert renamed.outputs == (TensorSpec("y", "FP32", (-1, 2)),)


def test_rows_have_a_name_unless_told_otherwise() -> None:
    assert EchoBackend((X,)).dimension_names.inputs == (("rows", None),)
    nameless = EchoBackend((X,), row_name=None).dimension_names
    assert nameless == DimensionNames(((None, None),), ((None, None),))


def test_a_run_costs_what_it_should() -> None:
    spent_s: list[float] = []
    backend = EchoBackend((X,), run_cost_s=0.5, row_cost_s=0.125, spend=spent_s.append)
    backend.run([np.zeros((4, 2), np.float32)])
    assert spent_s == [1.0]


def test_a_model_without_rows_costs_one() -> None:
    spent_s: list[float] = []
    scalar = TensorSpec("x", "FP32", ())
    backend = EchoBackend((scalar,), row_cost_s=0.125, spend=spent_s.append)
    backend.run([np.zeros((), np.float32)])
    assert spent_s == [0.125]


def test_it_fails_when_told_to() -> None:
    def refuse_negatives(inputs: Sequence[Tensor]) -> None:
        if inputs[0].astype(np.float32).min() < 0:
            raise ModelRunError("negative")

    backend = EchoBackend((X,), before_run=refuse_negatives)
    assert backend.run([np.ones((1, 2), np.float32)])[0].tolist() == [[1, 1]]
    with pytest.raises(ModelRunError, match="negative"):
        backend.run([-np.ones((1, 2), np.float32)])
