"""Running one batch: gather the members' rows, ask the model, hand each member its own rows back.

Decides whose fault a failure is: when a mixed batch fails, every member is tried alone, so that one poisoned request
cannot take its neighbours down. It must never touch the queue or the loop; it may run on any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from backends.errors import InvalidModelInput
from backends.signature import Tensor
from gateway.errors import ErrorCode, HeadraceError

if TYPE_CHECKING:
    from gateway.core.batch import Batch
    from gateway.pipeline.ticket import Ticket
    from gateway.ports import Servable

Outcome: TypeAlias = list[Tensor] | HeadraceError
"""What one part of a batch got: its rows of every output, or why not."""


def execute(servable: Servable, batch: Batch[Ticket]) -> list[Outcome]:
    """One outcome for each part of the batch, in order. Blocking; never raises an ``Exception``."""
    parts = batch.parts
    if len(parts) == 1:
        ticket, first, end = parts[0]
        return [_run_alone(servable, ticket.inputs, first, end, ticket.rows)]
    try:
        outputs = servable.run(_gather(parts))
        return _scatter(servable, outputs, parts, batch.rows)
    except Exception:  # noqa: BLE001  a model may raise anything; the members are told one by one
        return [
            _run_alone(servable, ticket.inputs, first, end, ticket.rows)
            for ticket, first, end in parts
        ]


def _gather(parts: Sequence[tuple[Ticket, int, int]]) -> list[Tensor]:
    columns = zip(
        *(_slice(ticket.inputs, first, end, ticket.rows) for ticket, first, end in parts),
        strict=True,
    )
    return [np.concatenate(column) for column in columns]


def _slice(inputs: Sequence[Tensor], first: int, end: int, rows: int) -> Sequence[Tensor]:
    if end - first == rows:
        return inputs
    return [one[first:end] for one in inputs]


def _scatter(
    servable: Servable, outputs: list[Tensor], parts: Sequence[tuple[Ticket, int, int]], rows: int
) -> list[Outcome]:
    _check_rows(servable, outputs, rows)
    outcomes: list[Outcome] = []
    row = 0
    for _, first, end in parts:
        stop = row + end - first
        outcomes.append([output[row:stop] for output in outputs])
        row = stop
    return outcomes


def _check_rows(servable: Servable, outputs: list[Tensor], rows: int) -> None:
    for spec, output in zip(servable.signature.outputs, outputs, strict=True):
        if output.shape[:1] != (rows,):
            raise RuntimeError(
                f"output '{spec.name}' has shape {output.shape} for a batch of {rows} rows"
            )


def _run_alone(
    servable: Servable, inputs: Sequence[Tensor], first: int, end: int, rows: int
) -> Outcome:
    try:
        outputs = servable.run(_slice(inputs, first, end, rows))
        if end - first != rows:
            # Else the pieces of a request would join to a wrong answer.
            _check_rows(servable, outputs, end - first)
        return outputs
    except InvalidModelInput as error:
        return HeadraceError(ErrorCode.INVALID_ARGUMENT, str(error))
    except Exception as error:  # noqa: BLE001  a model may raise anything; the members are told one by one
        return HeadraceError(
            ErrorCode.INTERNAL,
            f"model '{servable.name}' version {servable.version} failed: {error}",
        )
