"""Requests, tickets and models for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.signature import Tensor, TensorSpec
from gateway.core.batch import Batch
from gateway.messages import NO_DEADLINE_S, PredictRequest
from gateway.pipeline.ticket import Ticket
from tests.support.servables import StubServable, stub

X = TensorSpec("x", "FP32", (-1, 2))
Y = TensorSpec("y", "FP32", (-1, 2))


def doubled(inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the model of these tests does."""
    return [np.asarray(inputs[0], np.float32) * 2]


def model(answer: Callable[[Sequence[Tensor]], list[Tensor]] = doubled) -> StubServable:
    """A model with one input and one output of two columns."""
    return stub([X], [Y], answer=answer, max_batch_size=64)


def rows_of(*values: float) -> Tensor:
    """One row of two columns for each value."""
    return np.array([[value, value + 0.5] for value in values], np.float32)


def request(
    *inputs: Tensor, deadline_s: float = NO_DEADLINE_S, priority: int = 1, **fields: Any
) -> PredictRequest:
    """A decoded request with these input tensors."""
    known: dict[str, Any] = {
        "model": "m",
        "version": "",
        "request_id": "",
        "inputs": inputs,
        "rows": len(inputs[0]) if inputs else 1,
        "outputs": (0,),
        "deadline_s": deadline_s,
        "priority": priority,
        "received_s": 0.0,
        "size_bytes": 8,
    }
    return PredictRequest(**(known | fields))


def ticket(*values: float, **fields: Any) -> Ticket:
    """A ticket for one row per value."""
    return Ticket(request(rows_of(*values), **fields), None)


def batch(*parts: tuple[Ticket, int, int]) -> Batch[Ticket]:
    """A batch of these parts."""
    made: Batch[Ticket] = Batch(None, 0.0)
    made.parts = list(parts)
    made.rows = sum(end - first for _, first, end in parts)
    return made


def whole(*tickets: Ticket) -> Batch[Ticket]:
    """A batch of whole requests."""
    return batch(*[(one, 0, one.rows) for one in tickets])
