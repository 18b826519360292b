"""What workers say: counters that are written again, and heartbeats that grow old."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rollout import memory_rollouts, redis_rollouts
from rollout.controller import Heartbeat
from rollout.evidence import ArmCounts, PairedScores, RecentOutcomes, Stretch
from rollout.ports import (
    MAX_REPORT_BYTES,
    Counters,
    ModelBeat,
    StoreAwayError,
    WorkerBeat,
    heartbeats_of,
)
from tests.support.loops import run


def counters(requests: int, **more: Any) -> Counters:
    stretch = Stretch(2, 0, ArmCounts(requests=requests, errors=1), ArmCounts(requests=9))
    return Counters(stretches=(stretch,), **more)


FULL = counters(
    5,
    candidate_recent=RecentOutcomes(3, 5),
    champion_recent=RecentOutcomes(0, 20),
    paired_scores=PairedScores(4, -0.5, 0.25),
    is_complete=False,
    is_final=True,
)


def test_the_last_report_of_a_worker_counts_and_no_other(place: Any) -> None:
    async def test() -> None:
        store, reader = place.connect(), place.connect()
        assert await reader.reports("delays", 1) == {}
        await store.report("a", "delays", 1, counters(3))
        await store.report("a", "delays", 1, counters(5))
        await store.report("a", "delays", 1, counters(5))
        await store.report("b", "delays", 1, FULL)
        await store.report("a", "delays", 9, counters(7))
        await store.report("a", "fares", 1, counters(8))
        assert await reader.reports("delays", 1) == {"a": counters(5), "b": FULL}
        assert await reader.reports("delays", 9) == {"a": counters(7)}
        place.lose_data()
        assert await reader.reports("delays", 1) == {}
        await store.report("a", "delays", 1, counters(6))
        assert await reader.reports("delays", 1) == {"a": counters(6)}
        await store.close()
        await reader.close()

    run(test)


@pytest.mark.parametrize("document", [b"", b"{", b'{"stretches": 5}', b'{"is_final": "\xff"}'])
def test_counters_that_cannot_be_read_are_not_complete(place: Any, document: bytes) -> None:
    async def test() -> None:
        store = place.connect()
        await store.report("a", "delays", 1, counters(3))
        place.put_report("b", "delays", 1, document)
        found = await store.reports("delays", 1)
        assert found == {"a": counters(3), "b": Counters(is_complete=False)}
        await store.close()

    run(test)


def test_too_much_is_refused_before_it_is_sent(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        huge = ModelBeat("m" * MAX_REPORT_BYTES, 1, 0.0)
        with pytest.raises(ValueError, match="the heartbeat take"):
            await store.beat(WorkerBeat("a", 1.0, (huge,)))
        wide = 1 << 200
        stretch = Stretch(wide, 0, ArmCounts(wide, wide, wide, wide, wide), ArmCounts(wide))
        with pytest.raises(ValueError, match="the counters take"):
            await store.report("a", "delays", 1, Counters(stretches=(stretch,) * 8192))
        assert await store.reports("delays", 1) == {}
        await store.close()

    run(test)


def test_only_so_many_workers_are_remembered(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_rollouts, "MAX_WORKERS", 2)
    monkeypatch.setattr(redis_rollouts, "MAX_WORKERS", 2)

    async def test() -> None:
        store = place.connect()
        for worker in "aba":
            await store.report(worker, "delays", 1, counters(3))
            await store.beat(WorkerBeat(worker, 1.0))
        with pytest.raises(StoreAwayError, match="workers already"):
            await store.report("c", "delays", 1, counters(3))
        with pytest.raises(StoreAwayError, match="workers already"):
            await store.beat(WorkerBeat("c", 1.0))
        assert sorted(await store.reports("delays", 1)) == ["a", "b"]
        await store.close()

    run(test)


def test_a_heartbeat_is_the_last_one_and_is_dropped_when_it_is_old(place: Any) -> None:
    delays = ModelBeat("delays", 4, 2.5, warm=frozenset({"3", "4"}), gone=frozenset({"5"}))

    async def test() -> None:
        store, reader = place.connect(), place.connect()
        assert await reader.beats() == []
        await store.beat(WorkerBeat("b", 10.0))
        await store.beat(WorkerBeat("a", 11.0))
        # Its own clock is years off, which is for others to judge: here only the store's counts.
        await store.beat(WorkerBeat("b", 4e9, (delays, ModelBeat("fares\n ü", 1, 0.0))))
        place.pass_time(59)
        await store.beat(WorkerBeat("a", 12.0))
        seen = await reader.beats()
        assert [beat.worker for beat in seen] == ["a", "b"]
        assert seen[1].models == (delays, ModelBeat("fares\n ü", 1, 0.0))
        assert heartbeats_of(seen, "delays") == [
            Heartbeat("a", 12.0, 0, 0.0),
            Heartbeat("b", 4e9, 4, 2.5, delays.warm, delays.gone),
        ]
        place.pass_time(2)
        assert await reader.beats() == [WorkerBeat("a", 12.0)]
        place.pass_time(60)
        assert await reader.beats() == []
        await store.beat(WorkerBeat("b", 13.0))
        assert await reader.beats() == [WorkerBeat("b", 13.0)]
        await store.close()
        await reader.close()

    run(test)


def test_a_worker_that_left_is_told_apart_from_one_that_vanished(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.beat(WorkerBeat("a", 10.0))
        await store.beat(WorkerBeat("b", 10.0))
        await store.beat(WorkerBeat("a", 11.0, has_left=True))
        assert await store.beats() == [WorkerBeat("a", 11.0, has_left=True), WorkerBeat("b", 10.0)]
        assert [beat.gateway for beat in heartbeats_of(await store.beats(), "delays")] == ["b"]
        await store.close()

    run(test)


def test_a_newer_release_may_say_more(place: Any) -> None:
    document = msgspec.json.encode({"is_final": True, "new": [1]})

    async def test() -> None:
        store = place.connect()
        place.put_report("a", "delays", 1, document)
        assert await store.reports("delays", 1) == {"a": Counters(is_final=True)}
        await store.close()

    run(test)
