"""Running one batch: who gets which rows, and who pays for a failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import InvalidModelInput, ModelRunError
from backends.signature import Tensor, TensorSpec
from gateway.errors import ErrorCode, HeadraceError
from gateway.pipeline.execution import Outcome, execute
from gateway.pipeline.ticket import Ticket
from tests.support.servables import stub
from tests.unit.pipeline.requests import batch, doubled, model, request, rows_of, ticket, whole


def answer(outcome: Outcome) -> Any:
    """The rows of the only output."""
    assert not isinstance(outcome, HeadraceError), outcome
    [output] = outcome
    return output.tolist()


def failure(outcome: Outcome) -> HeadraceError:
    assert isinstance(outcome, HeadraceError), outcome
    return outcome


# -- gather and scatter ---------------------------------------------------------------------------


def test_each_member_gets_its_own_rows_back() -> None:
    outcomes = execute(model(), whole(ticket(1), ticket(2, 3), ticket(4)))
    assert [answer(one) for one in outcomes] == [[[2, 3]], [[4, 5], [6, 7]], [[8, 9]]]


def test_the_members_run_together() -> None:
    seen: list[tuple[int, ...]] = []

    def count(inputs: Sequence[Tensor]) -> list[Tensor]:
        seen.append(inputs[0].shape)
        return doubled(inputs)

    execute(model(count), whole(ticket(1), ticket(2, 3)))
    assert seen == [(3, 2)]


def test_a_request_alone_runs_on_its_own_tensor_without_a_copy() -> None:
    one = ticket(1, 2)
    seen: list[Tensor] = []

    def keep(inputs: Sequence[Tensor]) -> list[Tensor]:
        seen.extend(inputs)
        return doubled(inputs)

    execute(model(keep), whole(one))
    assert seen[0] is one.inputs[0]


def test_every_input_and_output_is_cut_the_same_way() -> None:
    specs = [TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "INT64", (-1, 1))]

    def swap(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [inputs[1], inputs[0]]

    servable = stub(specs, specs[::-1], answer=swap)
    tickets = [
        Ticket(request(np.arange(rows), np.arange(rows).reshape(rows, 1) + 10), None)
        for rows in (1, 3)
    ]
    first, second = execute(servable, whole(*tickets))
    assert [output.tolist() for output in first] == [[[10]], [0]]  # type: ignore[union-attr]
    assert [output.tolist() for output in second] == [[[10], [11], [12]], [0, 1, 2]]  # type: ignore[union-attr]


def test_texts_of_any_length_are_gathered_as_they_are() -> None:
    words = TensorSpec("w", "BYTES", (-1, 1))

    def shout(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [np.array([[word.upper()] for [word] in inputs[0].tolist()], object)]

    servable = stub([words], [words], answer=shout)
    texts = [[b"a"], [b"\0\xff", b""], [b"long" * 100]]
    tickets = [Ticket(request(np.array([[t] for t in one], object)), None) for one in texts]
    outcomes = execute(servable, whole(*tickets))
    assert [answer(one) for one in outcomes] == [[[word.upper()] for word in one] for one in texts]


@given(st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_together_and_alone_give_the_same(members: list[list[int]]) -> None:
    together = execute(model(), whole(*[ticket(*values) for values in members]))
    alone = [execute(model(), whole(ticket(*values)))[0] for values in members]
    assert [answer(one) for one in together] == [answer(one) for one in alone]


# -- requests larger than a batch -----------------------------------------------------------------


def test_of_a_cut_request_only_the_part_runs() -> None:
    large, small = ticket(1, 2, 3, 4, 5), ticket(9)
    part, other = execute(model(), batch((large, 2, 4), (small, 0, 1)))
    assert answer(part) == [[6, 7], [8, 9]]
    assert answer(other) == [[18, 19]]


def test_a_part_alone_is_cut_too() -> None:
    [part] = execute(model(), batch((ticket(1, 2, 3), 1, 2)))
    assert answer(part) == [[4, 5]]


def test_a_part_with_a_wrong_number_of_rows_is_an_error() -> None:
    """Joined with the other parts, it would be a wrong answer that looks right."""
    [part] = execute(
        model(lambda inputs: [np.zeros((7, 2), np.float32)]), batch((ticket(1, 2, 3), 0, 2))
    )
    assert failure(part).code is ErrorCode.INTERNAL
    assert "output 'y' has shape (7, 2) for a batch of 2 rows" in failure(part).message


# -- failures -------------------------------------------------------------------------------------


def poisoned(error: Exception) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        if np.any(np.signbit(inputs[0])):
            raise error
        return doubled(inputs)

    return run


def test_a_poisoned_member_takes_nobody_down() -> None:
    good, bad, fine = execute(
        model(poisoned(ModelRunError("no negative numbers"))),
        whole(ticket(1), ticket(-1), ticket(3)),
    )
    assert answer(good) == [[2, 3]]
    assert answer(fine) == [[6, 7]]
    assert failure(bad).code is ErrorCode.INTERNAL
    assert failure(bad).message == "model 'm' version 1 failed: no negative numbers"


def test_a_poisoned_part_takes_nobody_down() -> None:
    large = ticket(-1, -2, -3)
    part, other = execute(
        model(poisoned(ModelRunError("bad"))),
        batch((large, 0, 2), (ticket(5), 0, 1)),
    )
    assert failure(part).code is ErrorCode.INTERNAL
    assert answer(other) == [[10, 11]]


@pytest.mark.parametrize("company", [(), (4.0,)])
def test_input_that_the_runtime_refuses_is_the_callers_fault(company: tuple[float, ...]) -> None:
    refusing = model(poisoned(InvalidModelInput("negative index")))
    bad, *others = execute(refusing, whole(ticket(-1), *map(ticket, company)))
    assert failure(bad).code is ErrorCode.INVALID_ARGUMENT
    assert failure(bad).message == "negative index"
    assert len(others) == len(company)


def test_a_model_that_always_fails_fails_each_member_on_its_own() -> None:
    outcomes = execute(
        model(poisoned(MemoryError("no room"))),
        whole(ticket(-1), ticket(-2)),
    )
    first, second = map(failure, outcomes)
    assert first is not second
    assert first.code is second.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("shape", [(2, 2), (4, 2), (1, 2), ()])
def test_a_batch_with_a_wrong_number_of_rows_is_run_one_by_one(shape: tuple[int, ...]) -> None:
    def confused(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [np.zeros(shape, np.float32)] if len(inputs[0]) == 3 else doubled(inputs)

    outcomes = execute(model(confused), whole(ticket(1), ticket(2), ticket(3)))
    assert [answer(one) for one in outcomes] == [[[2, 3]], [[4, 5]], [[6, 7]]]


def test_a_missing_output_is_noticed() -> None:
    def forgetful(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [] if len(inputs[0]) > 1 else doubled(inputs)

    outcomes = execute(model(forgetful), whole(ticket(1), ticket(2)))
    assert [answer(one) for one in outcomes] == [[[2, 3]], [[4, 5]]]


def test_shapes_that_do_not_join_are_run_one_by_one() -> None:
    """The queue keeps shapes apart; should it ever fail to, nobody is answered with another's rows."""
    wide = Ticket(request(np.ones((1, 3), np.float32)), None)
    outcomes = execute(model(), whole(ticket(1), wide))
    assert [answer(one) for one in outcomes] == [[[2, 3]], [[2, 2, 2]]]


def test_the_inputs_stay_as_they_were() -> None:
    one, other = ticket(1), ticket(2)
    execute(model(), whole(one, other))
    assert np.array_equal(one.inputs[0], rows_of(1))
    assert np.array_equal(other.inputs[0], rows_of(2))
