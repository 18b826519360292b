from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.supervisor.restarts import FIRST_DELAY_S, MAX_DELAY_S, QUIET_S, Restarts


def test_the_first_death_of_a_worker_that_served_is_answered_at_once() -> None:
    assert Restarts().delay_s(lived_s=5.0) == 0.0


def test_a_worker_that_never_served_waits_from_the_first_time() -> None:
    assert Restarts().delay_s(lived_s=0.0) == FIRST_DELAY_S


def test_who_dies_again_waits_longer() -> None:
    restarts = Restarts()
    delays_s = [restarts.delay_s(lived_s=1.0) for _ in range(12)]
    assert delays_s == sorted(delays_s)
    assert delays_s[0] == 0.0
    assert delays_s[1] == 2 * FIRST_DELAY_S
    assert delays_s[-1] == MAX_DELAY_S
    assert restarts.count == 12


def test_a_quiet_life_wipes_the_slate() -> None:
    restarts = Restarts()
    for _ in range(6):
        restarts.delay_s(lived_s=1.0)
    assert restarts.delay_s(lived_s=QUIET_S) == 0.0
    assert restarts.delay_s(lived_s=1.0) == 2 * FIRST_DELAY_S


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_it_neither_gives_up_nor_waits_for_ever(lives_s: list[float]) -> None:
    restarts = Restarts()
    assert all(0.0 <= restarts.delay_s(lived_s) <= MAX_DELAY_S for lived_s in lives_s)
    assert restarts.count == len(lives_s)
