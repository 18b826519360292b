from __future__ import annotations

import numpy as np
import pytest

from gateway.core.batch import ItemState
from gateway.pipeline.ticket import Ticket
from tests.unit.pipeline.requests import request, rows_of, ticket


def test_a_ticket_is_what_the_queue_orders() -> None:
    one = Ticket(request(rows_of(1, 2), deadline_s=5.0, priority=2), (2,))
    assert (one.rows, one.deadline_s, one.priority, one.bucket) == (2, 5.0, 2, (2,))
    assert one.state == ItemState.NEW
    assert not one.settled
    assert repr(one) == "Ticket(#0 rows=0/2 p2 deadline=5.000000 NEW)"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_pieces_come_together_in_the_callers_order(order: tuple[int, ...]) -> None:
    one = ticket(*range(5))
    pieces = [(0, rows_of(0, 1)), (2, rows_of(2, 3)), (4, rows_of(4))]
    for which in order:
        first_row, rows = pieces[which]
        one.add_piece(first_row, [rows, rows[:, 0]])
    whole, column = one.assemble()
    assert np.array_equal(whole, rows_of(0, 1, 2, 3, 4))
    assert column.tolist() == [0, 1, 2, 3, 4]
