from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.admission import Admission, AdmissionLimits


def admission(max_requests: int = 3, max_bytes: int = 100) -> Admission:
    return Admission(AdmissionLimits(max_requests=max_requests, max_bytes=max_bytes))


def test_room_is_given_up_to_the_last_request() -> None:
    gate = admission(max_requests=3)
    assert [gate.admit(1) for _ in range(4)] == [True, True, True, False]
    assert gate.requests_inside == 3


def test_room_is_given_up_to_the_last_byte() -> None:
    gate = admission(max_bytes=100)
    assert gate.admit(60)
    assert not gate.admit(41)
    assert gate.admit(40)
    assert gate.bytes_inside == 100


def test_what_is_released_can_be_given_again() -> None:
    gate = admission(max_requests=1)
    assert gate.admit(100)
    assert not gate.admit(1)
    gate.release(100)
    assert gate.admit(100)


def test_a_refused_request_takes_no_room() -> None:
    gate = admission(max_requests=1)
    gate.admit(10)
    gate.admit(10)
    assert (gate.requests_inside, gate.bytes_inside) == (1, 10)


def test_refusals_are_counted() -> None:
    gate = admission(max_requests=1, max_bytes=10)
    gate.admit(1)
    gate.admit(1)
    gate.reserve_bytes(11)
    assert gate.requests_refused == 2


def test_a_request_above_the_byte_wall_gets_in_when_it_is_alone() -> None:
    gate = admission(max_bytes=100)
    assert gate.admit(1000)
    assert not gate.admit(1)
    gate.release(1000)
    assert gate.bytes_inside == 0


def test_bodies_that_still_arrive_count_as_bytes_but_not_as_requests() -> None:
    gate = admission(max_requests=1, max_bytes=100)
    assert gate.reserve_bytes(60)
    assert (gate.requests_inside, gate.bytes_inside) == (0, 60)
    assert not gate.reserve_bytes(41)
    gate.release_bytes(60)
    assert gate.bytes_inside == 0


def test_giving_back_more_than_was_taken_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        admission().release(0)
    with pytest.raises(AssertionError):
        admission().release_bytes(1)


def test_the_state_can_be_read() -> None:
    gate = admission()
    gate.admit(7)
    assert repr(gate) == "Admission(1/3 requests, 7/100 bytes)"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_counts_are_those_of_what_is_inside(steps: list[tuple[bool, int]]) -> None:
    gate = admission(max_requests=3, max_bytes=100)
    inside: list[int] = []
    for enters, size_bytes in steps:
        if enters:
            fits = len(inside) < 3 and (not inside or sum(inside) + size_bytes <= 100)
            assert gate.admit(size_bytes) is fits
            inside += [size_bytes] * fits
        elif inside:
            gate.release(inside.pop())
        assert (gate.requests_inside, gate.bytes_inside) == (len(inside), sum(inside))
