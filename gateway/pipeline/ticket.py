"""A request's place in a lane: what the queue orders, and the promise that its caller waits for.

Decides how the rows of a request that was cut into several batches come together again. It must never outlive its
outcome: it is settled exactly once, by the lane.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from backends.signature import Tensor
from gateway.core.batch import QueueItem
from gateway.core.call import Promise
from gateway.messages import Prediction, PredictRequest


class Ticket(QueueItem, Promise[Prediction]):
    """One request inside a lane."""

    __slots__ = (
        "_pieces",
        "error",
        "inputs",
        "outputs",
        "received_s",
        "result",
        "settled",
        "waiter",
    )

    def __init__(self, request: PredictRequest, bucket: Hashable) -> None:
        self.rows = request.rows
        self.deadline_s = request.deadline_s
        self.priority = request.priority
        self.bucket = bucket
        self.state = 0  # type: ignore[assignment]  # ItemState.NEW; the enum look-up costs more than the rest
        self.order = 0
        self.taken_rows = 0
        self.done_rows = 0
        self.inputs = request.inputs
        self.received_s = request.received_s
        self.waiter: Callable[[], None] | None = None
        self.settled = False
        self.outputs: list[Tensor] | None = None
        """The answer of a request that ran in one piece, until it is settled."""
        self._pieces: list[tuple[int, list[Tensor]]] | None = None
        self.result: Prediction | None = None
        self.error: BaseException | None = None

    def add_piece(self, first_row: int, outputs: list[Tensor]) -> None:
        """Keep the rows of one part of a request that is larger than a batch."""
        if self._pieces is None:
            self._pieces = []
        self._pieces.append((first_row, outputs))

    def assemble(self) -> list[Tensor]:
        """All rows of every output, in the caller's order; only once every piece is there."""
        pieces = self._pieces
        assert pieces is not None, self
        pieces.sort(key=lambda piece: piece[0])
        return [
            np.concatenate(column)
            for column in zip(*(outputs for _, outputs in pieces), strict=True)
        ]
