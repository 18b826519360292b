"""The loop that everything else here stands on."""

from __future__ import annotations

from tests.sim.virtual_loop import VirtualLoop


def test_timers_run_in_the_order_of_their_times_and_ties_as_they_were_armed() -> None:
    loop = VirtualLoop(start_s=10.0)
    ran: list[str] = []
    for name, delay_s in (("late", 2.0), ("first", 1.0), ("second", 1.0), ("third", 1.0)):
        loop.call_later(delay_s, lambda name=name: ran.append(name))  # type: ignore[misc]
    while loop.run_turn():
        pass
    assert ran == ["first", "second", "third", "late"]


def test_time_jumps_to_the_next_timer_and_callbacks_cost_time() -> None:
    loop = VirtualLoop(start_s=10.0, callback_cost_s=0.25)
    seen: list[float] = []
    loop.call_later(5.0, lambda: seen.append(loop.now_s))
    loop.call_later(5.0, lambda: seen.append(loop.now_s))
    assert loop.run_turn()
    assert seen == [15.25, 15.5]
    assert not loop.run_turn()


def test_what_is_called_soon_runs_in_the_next_turn() -> None:
    loop = VirtualLoop()
    ran: list[int] = []

    def again() -> None:
        ran.append(loop.turn)
        if len(ran) < 3:
            loop.call_soon(again)

    loop.call_soon(again)
    while loop.run_turn():
        pass
    assert ran == [1, 2, 3]


def test_a_cancelled_timer_neither_runs_nor_wakes_the_loop() -> None:
    loop = VirtualLoop(start_s=0.0)
    ran: list[str] = []
    loop.call_later(1.0, lambda: ran.append("cancelled")).cancel()
    loop.call_later(2.0, lambda: ran.append("kept"))
    assert loop.run_turn()
    assert ran == ["kept"]
    assert loop.turn == 1


def test_a_busy_callback_delays_the_timers_behind_it() -> None:
    loop = VirtualLoop(start_s=0.0, callback_cost_s=0.0)
    ran: list[tuple[str, float]] = []
    loop.call_later(1.0, lambda: loop.advance(5.0))
    loop.call_later(2.0, lambda: ran.append(("timer", loop.now_s)))
    while loop.run_turn():
        pass
    assert ran == [("timer", 6.0)]


def test_timers_are_as_coarse_as_asked_but_the_world_is_exact() -> None:
    loop = VirtualLoop(start_s=0.0, callback_cost_s=0.0, timer_resolution_s=1e-3)
    seen: list[float] = []
    loop.call_later(0.0014, lambda: seen.append(loop.now_s))
    loop.call_at(0.0014, lambda: seen.append(loop.now_s))
    while loop.run_turn():
        pass
    assert seen == [0.001, 0.0014]


def test_reading_the_clock_takes_time_and_looking_at_it_does_not() -> None:
    loop = VirtualLoop(start_s=1.0, clock_read_s=0.5)
    assert (loop.clock(), loop.clock()) == (1.5, 2.0)
    assert loop.now_s == loop.now_s == 2.0
