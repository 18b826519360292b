"""Lookups one situation at a time, on invented time; all of them together: test_lookup_invariants.py."""

from __future__ import annotations

from math import inf

import pytest

from featurecache.lookups.lookup import CORRUPT, UNREACHABLE, ViewKeys
from tests.support.scripted_rows import Mode, make_row
from tests.unit.features.lookup_cases import BUDGET_S, KEPT, PLAIN, World, rows


def test_what_copies_have_is_settled_at_once_and_asks_nobody() -> None:
    world = World()
    first = world.ask(b"k0", b"k1")
    assert not first.settled
    world.run()
    assert first.rows == rows(b"k0", b"k1")
    assert world.done == [first]
    second = world.ask(b"k1", b"k0")
    assert second.settled
    assert second.rows == rows(b"k1", b"k0")
    assert len(world.source.fetches) == 1


def test_nothing_asked_for_is_settled() -> None:
    assert World().lookup.ask([], 0.0).settled
    assert World().ask().rows == []
    world = World()
    assert world.ask(
        caching=PLAIN
    ).settled  # a view without copies, and no key: the store is not waited for
    assert world.lookup.counters.missed_slots == world.lookup.counters.expired_lookups == 0


def test_rows_of_several_views_stand_in_order() -> None:
    world = World()
    world.ask(b"k2")
    world.run()
    wanted = [ViewKeys(PLAIN, [b"k0", b"no"]), ViewKeys(KEPT, [b"k2", b"k3"]), ViewKeys(PLAIN, [])]
    lookup = world.lookup.ask(wanted, world.loop.now_s + BUDGET_S)
    world.run()
    assert lookup.rows == [make_row(b"k0", 1), None, *rows(b"k2", b"k3")]


def test_one_turn_makes_at_most_two_reads_whoever_asks() -> None:
    world = World()
    for number in range(30):
        caching = KEPT if number % 2 else PLAIN
        world.ask(b"k%d" % (number % 6), b"k%d" % ((number + 2) % 6), caching=caching)
    world.run()
    fetched = [(set(keys), track) for keys, track, _ in world.source.fetches]
    assert sorted(fetched, key=lambda one: one[1]) == [
        ({b"k0", b"k2", b"k4"}, False),
        ({b"k1", b"k3", b"k5"}, True),
    ]
    assert len(world.done) == 30


def test_the_same_key_twice_in_one_lookup_fills_both_slots() -> None:
    world = World()
    lookup = world.ask(b"k0", b"k1", b"k0", b"k0")
    world.run()
    assert lookup.rows == rows(b"k0", b"k1", b"k0", b"k0")
    assert world.source.fetches[0][0] == (b"k0", b"k1")


def test_long_lookups_go_in_chunks_and_few_at_a_time() -> None:
    world = World(keys_per_read=500, max_reads_in_flight=2)
    lookup = world.ask(*[b"n%04d" % number for number in range(1700)], budget_s=1.0)
    world.loop.run_turn()
    assert world.source.reads_in_flight == 2
    world.run()
    assert [len(keys) for keys, _, _ in world.source.fetches] == [500, 500, 500, 200]
    assert lookup.settled
    assert lookup.rows == [None] * 1700


def test_keys_asked_for_while_all_reads_are_in_flight_go_together() -> None:
    world = World(max_reads_in_flight=1)
    for number in range(5):
        world.ask(b"k%d" % number)
        world.loop.call_at(world.loop.now_s + 20e-6, lambda: None)
        world.loop.run_turn()
        world.loop.run_turn()
    world.run()
    assert [len(keys) for keys, _, _ in world.source.fetches] == [1, 4]
    assert len(world.done) == 5


def test_a_view_without_ttl_is_never_kept_nor_tracked_but_shares_reads() -> None:
    world = World()
    world.ask(b"k0", caching=PLAIN)
    world.run(0.0001)
    world.ask(b"k0", caching=PLAIN)
    world.run()
    assert len(world.source.fetches) == 1
    assert not world.source.fetches[0][1]
    assert not world.ask(b"k0", caching=PLAIN).settled
    assert world.lookup.snapshot().cache_entries == 0


def test_without_a_near_cache_nothing_is_tracked() -> None:
    world = World(near_cache_bytes=0)
    world.ask(b"k0")
    world.run()
    assert not world.source.fetches[0][1]
    assert not world.ask(b"k0").settled


def test_no_such_row_is_kept_for_a_short_time() -> None:
    world = World()
    world.ask(b"no")
    world.run(1.9)
    again = world.ask(b"no")
    assert (again.settled, again.rows) == (True, [None])
    world.run(0.3)
    assert not world.ask(b"no").settled


def test_a_damaged_row_is_handed_out_as_such_and_soon_read_again() -> None:
    world = World()
    world.source.garbled.add(b"k0")
    lookup = world.ask(b"k0", b"k1")
    world.run(0.01)
    assert lookup.rows == [CORRUPT, make_row(b"k1", 1)]
    assert world.ask(b"k0").rows == [CORRUPT]
    assert world.lookup.counters.corrupt_rows == 1
    world.source.garbled.clear()
    world.run(2.3)
    later = world.ask(b"k0")
    world.run(0.01)
    assert later.rows == rows(b"k0")


@pytest.mark.parametrize("row", [b"x", bytes(40), make_row(b"k0", 1)[:-8]])
def test_what_is_no_row_is_corrupt(row: bytes) -> None:
    world = World()
    world.source.fetch = lambda keys, done, *, track: world.loop.call_soon(  # type: ignore[method-assign]
        lambda: done([row], None)
    )
    lookup = world.ask(b"k0")
    world.run()
    assert lookup.rows == [CORRUPT]


def test_a_deadline_settles_with_what_is_at_hand_and_the_read_goes_on() -> None:
    world = World()
    world.ask(b"k0")
    world.run(10.5)  # its copy is old now
    world.source.latency_s = 0.02
    asked_s = world.loop.now_s
    lookup = world.ask(b"k0", b"k1", told=False)
    settled_s: list[float] = []
    lookup.on_done = lambda: settled_s.append(world.loop.now_s)
    world.run(0.01)
    assert lookup.rows == [make_row(b"k0", 1), UNREACHABLE]
    assert lookup.aged == {0}
    assert settled_s == [asked_s + BUDGET_S]
    world.run(0.02)
    late = world.ask(b"k0", b"k1")
    assert late.settled
    assert late.aged == set()
    assert late.rows == rows(b"k0", b"k1")


def test_an_earlier_deadline_is_met_while_a_later_one_waits() -> None:
    world = World()
    world.source.latency_s = 0.03
    late = world.ask(b"k0", budget_s=0.05)
    early = world.ask(b"k0", budget_s=0.01)
    endless = world.lookup.ask([ViewKeys(KEPT, [b"k0"])], inf)
    world.run(0.0101)
    assert (early.rows, late.settled) == ([UNREACHABLE], False)
    world.run(0.03)
    assert late.rows == endless.rows == rows(b"k0")


def test_a_deadline_that_has_passed_asks_nobody() -> None:
    world = World()
    lookup = world.ask(b"k0", budget_s=0.0)
    assert (lookup.settled, lookup.rows) == (True, [UNREACHABLE])
    world.run()
    assert not world.source.fetches


def test_who_goes_away_is_not_called_and_disturbs_nobody() -> None:
    world = World()
    gone, stays = world.ask(b"k0"), world.ask(b"k0")
    world.run(0.0001)
    world.lookup.detach(gone)
    world.run()
    assert world.done == [stays]
    assert stays.rows == rows(b"k0")
    world.lookup.detach(gone)
    world.lookup.detach(stays)
    assert world.lookup.counters.detached_lookups == 1


def test_what_nobody_waits_for_any_longer_is_not_sent() -> None:
    world = World(max_reads_in_flight=1)
    world.ask(b"k0")
    world.run(0.0001)
    gone, stays = world.ask(b"k1", b"k2"), world.ask(b"k2")
    world.lookup.detach(gone)
    world.run()
    assert [keys for keys, _, _ in world.source.fetches] == [(b"k0",), (b"k2",)]
    assert world.lookup.counters.abandoned_keys == 1
    assert stays.rows == rows(b"k2")


def test_a_copy_is_gone_when_its_row_changes() -> None:
    world = World()
    world.ask(b"k0")
    world.run()
    world.source.write(b"k0")
    assert world.ask(b"k0").settled  # the news is still on its way
    world.run()
    lookup = world.ask(b"k0")
    assert not lookup.settled
    world.run()
    assert lookup.rows == rows(b"k0", version=2)
    assert world.lookup.counters.invalidated_rows == 1


def test_after_forgetting_no_copy_is_fresh_but_old_ones_help_when_the_store_fails() -> None:
    world = World()
    world.ask(b"k0")
    world.run()
    world.source.forget()
    assert not world.ask(b"k0").settled
    world.source.forget()
    world.source.mode = Mode.REFUSES
    world.run()
    lookup = world.ask(b"k0")
    world.run()
    assert (lookup.rows, lookup.aged) == (rows(b"k0"), {0})


def test_what_is_in_flight_while_everything_is_forgotten_is_handed_out_but_not_kept() -> None:
    world = World()
    lookup = world.ask(b"k0")
    world.run(0.0002)
    world.source.forget()
    world.run()
    assert lookup.rows == rows(b"k0")
    assert not world.ask(b"k0").settled


def test_a_copy_near_its_end_is_read_again_once_while_it_serves() -> None:
    world = World()
    world.ask(b"k0", b"k1")
    world.run(9.5)
    world.source.versions[b"k0"] = 2  # the store said nothing: a source that does not track
    for _ in range(5):
        lookup = world.ask(b"k0")
        assert (lookup.settled, lookup.rows) == (True, rows(b"k0"))
    world.run(0.6)
    assert [keys for keys, _, _ in world.source.fetches] == [(b"k0", b"k1"), (b"k0",)]
    assert world.ask(b"k0").rows == rows(b"k0", version=2)
    assert world.lookup.counters.renewals == 1
