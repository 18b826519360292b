"""Lookups while the store fails or is silent, and at their bounds, one situation at a time."""

from __future__ import annotations

from typing import Any

import pytest

from featurecache.lookups.breaker import BreakerLimits, BreakerState
from featurecache.lookups.lookup import UNREACHABLE, Lookup
from featurecache.lookups.lookup_limits import LookupLimits
from tests.support.scripted_rows import Mode
from tests.unit.features.lookup_cases import World, rows


def test_a_source_that_fails_is_not_waited_for() -> None:
    world = World()
    world.source.mode = Mode.REFUSES
    lookup = world.ask(b"k0", budget_s=1.0)
    world.run(0.001)
    assert (lookup.settled, lookup.rows) == (True, [UNREACHABLE])


def test_an_open_breaker_answers_at_once_tries_the_store_and_closes() -> None:
    world = World()
    world.trip()
    fetches = len(world.source.fetches)
    assert world.ask(b"k0").rows == [UNREACHABLE]
    world.run(0.9)
    world.source.mode = Mode.WELL
    assert world.ask(b"k0").settled
    assert len(world.source.fetches) == fetches
    world.run(0.1)
    assert world.ask(b"k0", b"k1").rows == [UNREACHABLE, UNREACHABLE]  # and these try the store
    assert world.ask(b"k2").settled
    assert world.source.fetches[fetches:] == [((b"k0", b"k1"), True, world.loop.turn)]
    assert world.lookup.snapshot().breaker is BreakerState.HALF_OPEN
    world.run(0.01)
    assert world.lookup.snapshot().breaker is BreakerState.CLOSED
    assert world.ask(b"k0", b"k1").rows == rows(b"k0", b"k1")


def test_a_store_that_answers_too_late_is_not_back() -> None:
    world = World()
    world.trip()
    world.source.mode = Mode.WELL
    world.source.latency_s = 0.02
    world.run(1.0)
    world.ask(b"k0")
    world.run(0.05)
    assert world.lookup.snapshot().breaker is BreakerState.OPEN
    assert world.ask(b"k0").rows == rows(b"k0")  # the answer is not wasted
    world.source.latency_s = 0.001
    world.run(2.0)
    world.ask(b"k1")
    world.run(0.05)
    assert world.lookup.snapshot().breaker is BreakerState.CLOSED


def test_silence_opens_the_breaker_once_for_each_read_however_many_wait() -> None:
    world = World()
    world.source.mode = Mode.SILENT
    for number in range(2):
        for _ in range(20):
            world.ask(b"k%d" % number)
        world.run(0.006)
    assert world.lookup.counters.late_reads == 2
    assert world.lookup.snapshot().breaker is BreakerState.CLOSED
    world.ask(b"k2")
    world.run(0.006)
    assert world.lookup.snapshot().breaker is BreakerState.OPEN
    world.run(0.2)
    assert world.lookup.counters.late_reads == 3
    assert world.lookup.snapshot().breaker_opened == 1


def test_a_read_that_hardly_began_is_not_blamed() -> None:
    world = World()
    for number in range(9):
        lookup = world.ask(b"k%d" % number, budget_s=0.3e-3)
        world.run(0.01)
        assert lookup.rows == [UNREACHABLE]
    assert world.lookup.counters.late_reads == 0


def test_a_process_that_was_busy_does_not_blame_the_store() -> None:
    world = World()
    for number in range(9):
        world.ask(b"k%d" % number)
        world.loop.run_turn()
        world.loop.advance(0.02)  # the loop was held up; the timer rings before the answer is read
        world.source.latency_s = 0.03
        world.run(0.05)
    assert world.lookup.counters.late_reads == 0
    assert world.lookup.snapshot().breaker is BreakerState.CLOSED


def test_when_the_breaker_opens_nobody_waits_for_what_was_not_sent() -> None:
    world = World(breaker=BreakerLimits(failures=1), max_reads_in_flight=1)
    world.source.mode = Mode.REFUSES
    world.ask(b"k0", budget_s=1.0)
    world.run(0.0001)
    unsent = world.ask(b"k1", b"k2", budget_s=1.0)
    world.run(0.001)
    assert unsent.rows == [UNREACHABLE, UNREACHABLE]
    assert len(world.source.fetches) == 1


def test_beyond_its_bounds_a_lookup_takes_what_is_at_hand() -> None:
    world = World(max_pending_keys=3, max_waiting_slots=5)
    world.ask(b"k9")
    world.run()
    fits = world.ask(b"k0", b"k1", b"k2")
    refused = world.ask(b"k9", b"k3")
    assert (refused.settled, refused.rows) == (True, [*rows(b"k9"), UNREACHABLE])
    joins = world.ask(b"k0", b"k1")
    too_many = world.ask(b"k0")
    assert (joins.settled, too_many.settled) == (False, True)
    world.run()
    assert fits.rows == rows(b"k0", b"k1", b"k2")
    assert joins.rows == rows(b"k0", b"k1")
    assert world.lookup.counters.refused_lookups == 2
    assert not world.ask(b"k3").settled


def test_what_follows_a_lookup_may_ask_again_let_go_of_others_or_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    first, second, third = (world.ask(b"k0", told=False) for _ in range(3))
    again: list[Lookup] = []

    def follow() -> None:
        world.lookup.detach(second)
        again.append(world.ask(b"k0"))
        again.append(world.ask(b"k1"))
        raise RuntimeError("a bug elsewhere")

    first.on_done = follow
    second.on_done = lambda: pytest.fail("it was let go of")
    third.on_done = lambda: world.done.append(third)
    world.run()
    assert world.done == [third, again[1]]
    assert again[0].settled
    assert "what follows a lookup failed" in caplog.text


def test_a_source_that_breaks_its_word_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(max_read_s=0.05)
    fetch = world.source.fetch
    world.source.fetch = lambda keys, done, *, track: 1 / 0  # type: ignore[method-assign]
    raised = world.ask(b"k0")
    world.run()
    assert raised.rows == [UNREACHABLE]
    silent: list[Any] = []
    world.source.fetch = lambda keys, done, *, track: silent.append(done)  # type: ignore[method-assign]
    world.ask(b"k0")
    world.run(0.1)
    world.ask(b"k0")  # its deadline notices how long the first has been away
    world.run(0.01)
    world.source.fetch = fetch  # type: ignore[method-assign]
    after = world.ask(b"k0")
    world.run(0.01)
    assert after.rows == rows(b"k0")
    silent[0](rows(b"k1"), None)  # at last: nobody listens
    assert world.ask(b"k0").rows == rows(b"k0")
    assert world.lookup.snapshot().pending_keys == 0
    assert "raised out of fetch" in caplog.text


def test_an_answer_of_another_length_is_an_error() -> None:
    world = World()
    world.source.fetch = lambda keys, done, *, track: world.loop.call_soon(  # type: ignore[method-assign]
        lambda: done(rows(b"k0"), None)
    )
    lookup = world.ask(b"k0", b"k1")
    world.run()
    assert lookup.rows == [UNREACHABLE, UNREACHABLE]
    assert world.lookup.counters.failed_reads == 1


def test_the_snapshot_counts() -> None:
    world = World()
    world.ask(b"k0", b"no")
    now = world.lookup.snapshot()
    assert (now.pending_keys, now.waiting_slots, now.waiting_lookups) == (2, 2, 1)
    world.run()
    world.ask(b"k0", b"no", b"k1")
    world.run()
    now = world.lookup.snapshot()
    counters = now.counters
    assert (counters.lookups, counters.slots, counters.missed_slots) == (2, 5, 3)
    assert (counters.reads, counters.read_keys, counters.absent_rows) == (2, 3, 1)
    assert (now.pending_keys, now.waiting_slots, now.waiting_lookups, now.reads_in_flight) == (
        (0,) * 4
    )
    assert (now.cache_entries, now.negative_entries) == (3, 1)
    counters.lookups = 99
    assert world.lookup.counters.lookups == 2


def test_settled_lookups_are_not_held_until_their_deadline() -> None:
    world = World()
    for number in range(2000):
        world.ask(b"m%d" % number, budget_s=3600.0)
        world.run(0.001)
    assert len(world.lookup._deadlines) < 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keys_per_read": 501}, "give 1 to 500"),
        ({"max_reads_in_flight": 0}, "max_reads_in_flight is 0: give more than 0"),
        ({"near_cache_bytes": -1}, "near_cache_bytes is -1: give 0 or more"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LookupLimits(**settings)


def test_a_store_that_is_away_is_not_asked_and_one_that_is_back_is_asked_at_once() -> None:
    world = World(breaker=BreakerLimits(failures=1, open_s=10.0))
    world.source.mode = Mode.REFUSES
    world.ask(b"k1")
    world.run(0.01)
    assert world.lookup.snapshot().breaker is BreakerState.OPEN
    world.source.is_up = False
    reads = world.lookup.counters.reads
    away = world.ask(b"k1")
    assert away.settled
    assert away.rows == [UNREACHABLE]
    assert world.lookup.counters.reads == reads
    world.source.is_up, world.source.mode = True, Mode.WELL
    back = world.ask(b"k1")
    world.run(0.01)
    assert back.rows == rows(b"k1")
    assert world.lookup.snapshot().breaker is BreakerState.CLOSED
