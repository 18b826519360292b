"""The fake beside the real sources, on invented time; what all sources have in common is in tests/contract."""

from __future__ import annotations

import pytest

from featurecache.errors import FeatureError
from featurecache.sources import memory_source
from featurecache.sources.memory_source import MemorySource
from featurecache.sources.source_limits import SourceLimits
from tests.sim.virtual_loop import VirtualLoop


class World:
    def __init__(self, **options: bool) -> None:
        self.loop = VirtualLoop(callback_cost_s=0.0)
        self.source = MemorySource(
            SourceLimits(read_timeout_s=1.0), loop=self.loop, clock=self.loop.clock, **options
        )
        self.heard: list[tuple[str, object]] = []
        self.source.on_invalidated = lambda keys: self.heard.append(("changed", keys))
        self.source.begin()

    def ask(self, name: str, *keys: bytes) -> None:
        def done(rows: object, error: object) -> None:
            self.heard.append((name, rows if error is None else str(error)))

        self.source.fetch(keys, done, track=True)

    def pass_time(self, seconds: float) -> None:
        end_s = self.loop.now_s + seconds
        self.loop.call_at(end_s, lambda: None)
        while self.loop.now_s < end_s:
            assert self.loop.run_turn()


def test_a_row_is_read_half_way() -> None:
    world = World()
    world.source.delay_s = 0.2
    world.source.set(b"k", b"1")
    world.ask("a", b"k")
    world.pass_time(0.05)
    world.source.set(b"k", b"2")
    world.pass_time(0.07)
    world.source.set(b"k", b"3")  # after it was read: told after the answer
    world.pass_time(0.07)
    assert world.heard == []
    world.pass_time(0.2)
    assert world.heard == [("a", [b"2"]), ("changed", [b"k"])]


def test_answers_and_changes_stay_in_order_when_delays_shrink() -> None:
    world = World()
    world.source.delay_s = 0.4
    world.ask("a", b"k")
    world.pass_time(0.21)
    world.source.delay_s = 0.01
    world.source.set(b"k", b"1")
    world.ask("b", b"k")
    world.pass_time(0.5)
    assert world.heard == [("a", [None]), ("changed", [b"k"]), ("b", [b"1"])]


def test_a_store_that_hangs_fails_all_at_the_timeout_and_is_down_until_it_heals() -> None:
    world = World()
    world.source.hang()
    world.ask("a", b"k")
    world.pass_time(0.6)
    world.ask("b", b"k")
    world.pass_time(0.39)
    assert world.heard == []
    assert world.source.is_up
    world.pass_time(0.02)
    said = "memory: no reply within 1000 ms"
    assert world.heard == [("a", said), ("b", said), ("changed", None)]
    assert not world.source.is_up
    world.ask("c", b"k")
    assert len(world.heard) == 3, "told from inside fetch"
    world.pass_time(0.01)
    assert world.heard[3:] == [("c", said)]
    world.source.heal()
    world.ask("d", b"k")
    world.pass_time(5.0)
    assert world.heard[4:] == [("d", [None])]


def test_a_slow_store_loses_its_connection_and_gets_another() -> None:
    world = World()
    world.source.delay_s = 3.0
    world.ask("a", b"k")
    world.pass_time(1.1)
    assert world.heard == [("a", "memory: no reply within 1000 ms"), ("changed", None)]
    assert world.source.is_up
    world.source.delay_s = 0.1
    world.ask("b", b"k")
    world.pass_time(9.0)
    assert world.heard[2:] == [("b", [None])], "an answer of the old connection came through"


def test_changes_of_an_old_connection_are_not_told_on_the_next() -> None:
    world = World()
    world.source.delay_s = 0.2
    world.ask("a", b"k")
    world.pass_time(0.3)
    world.source.set(b"k", b"1")
    world.source.fail("it broke")
    world.source.heal()
    assert world.heard == [("a", [None]), ("changed", None)]
    world.pass_time(1.0)
    world.source.set(b"k", b"2")
    world.pass_time(1.0)
    assert len(world.heard) == 2, "nobody watches it any more"


def test_rows_expire_unless_they_were_written_again() -> None:
    world = World()
    world.source.set(b"a", b"1", ttl_s=1.0)
    world.source.set(b"b", b"1", ttl_s=1.0)
    world.source.set(b"b", b"1", ttl_s=2.0)
    world.source.set(b"c", b"1", ttl_s=1.0)
    world.source.set(b"c", b"1")
    world.pass_time(1.5)
    assert [world.source.get(key) for key in (b"a", b"b", b"c")] == [None, b"1", b"1"]
    world.pass_time(1.0)
    assert len(world.source) == 1


def test_a_store_without_tracking_says_nothing() -> None:
    world = World(tracking=False)
    assert not world.source.tracks
    world.ask("a", b"k")
    world.pass_time(0.1)
    world.source.set(b"k", b"1")
    world.source.fail()
    world.pass_time(0.1)
    assert world.heard == [("a", [None])]


def test_it_holds_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_source, "MAX_ROWS", 2)
    world = World()
    world.source.set(b"a", b"1")
    world.source.set(b"b", b"1")
    world.source.set(b"a", b"2")
    with pytest.raises(FeatureError, match="use a real store"):
        world.source.set(b"c", b"1")
    world.ask("x", b"a", b"b", b"c")
    world.pass_time(0.1)
    assert world.heard == [("x", [b"2", b"1", None]), ("changed", None)]
