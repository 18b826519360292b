"""What a process that follows plans tells the store: heartbeats, counts, last words, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from gateway.rollout_following import (
    LAST_WORDS_S,
    REPORT_ANEW_S,
)
from rollout.plan import Event, encode
from rollout.ports import Counters, StoreAwayError, Stored
from tests.support.virtual_time import eventually, now_s
from tests.unit.following_world import (
    BEAT_S,
    MODEL,
    PAUSED,
    PLAN,
    REPORT_S,
    WORKER,
    Store,
    World,
    in_world,
    on_disk,
)
from tests.unit.rollout.plans import after

# -- what is told ---------------------------------------------------------------------------------


def test_heartbeats_come_as_often_as_was_said(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        world.store.beaten.clear()
        await asyncio.sleep(20)
        assert len(world.store.beaten) == pytest.approx(20 / BEAT_S, abs=2)
        assert {beat.worker for _, beat in world.store.beaten} == {WORKER}
        await process.stop()

    in_world(tmp_path, test)


def test_counts_are_reported_when_there_are_new_ones(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        await asyncio.sleep(5)
        assert not world.store.reported, "there is nothing to say"
        process.serve(10)
        began_s = now_s()
        await asyncio.sleep(5)
        [(at_s, model, counters)] = world.store.reported
        assert at_s - began_s <= REPORT_S + 0.01
        assert model == MODEL
        [stretch] = counters.stretches
        assert stretch.candidate.requests + stretch.champion.requests == 10
        await process.stop()

    in_world(tmp_path, test)


def test_the_last_words_are_the_last_counts_and_that_it_leaves(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        process.serve(7)
        await process.stop()
        _, _, counters = world.store.reported[-1]
        assert counters.is_final
        assert counters.stretches[0].champion.requests > 0
        assert world.store.beaten[-1][1].has_left
        assert world.store.closed
        said = len(world.store.beaten)
        await asyncio.sleep(5)
        assert len(world.store.beaten) == said
        assert all(task.done() for task in process.following._tasks)

    in_world(tmp_path, test)


def test_a_process_without_a_request_says_so_too(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        await process.stop()
        [(_, _, counters)] = world.store.reported
        assert counters == Counters(is_final=True)

    in_world(tmp_path, test)


@pytest.mark.parametrize("how", ["away", "hangs"])
def test_an_end_without_a_store_is_an_end(tmp_path: Path, how: str) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        process.serve(3)
        if how == "away":
            world.store.go_away()
        world.store.hangs = how == "hangs"
        began_s = now_s()
        await process.stop()
        assert now_s() - began_s <= 2 * LAST_WORDS_S

    in_world(tmp_path, test)


def test_an_end_in_the_middle_of_a_load(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.load_s = 1000.0
        await process.start()
        await asyncio.sleep(1)
        await process.stop()
        assert process.following._loads == {}
        assert process.loaded == {"3"}

    in_world(tmp_path, test)


def test_one_bug_ends_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        real = Store.plan

        async def broken(self: Store, model: str) -> Stored | None:
            raise ValueError("a bug")

        monkeypatch.setattr(Store, "plan", broken)
        await asyncio.sleep(5)
        assert "a bug" in caplog.text
        monkeypatch.setattr(Store, "plan", real)
        await world.store.put(PAUSED)
        await eventually("in force", lambda: process.revision == PAUSED.revision)
        assert world.store.beaten[-1][0] > now_s() - 2 * BEAT_S
        await process.stop()

    in_world(tmp_path, test)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_store_does_revisions_only_grow_and_counts_add_up(
    tmp_path: Path, seed: int
) -> None:
    """Random troubles; at the end all is in force, told and counted."""
    chance = random.Random(seed)
    print("seed", seed)

    async def test(world: World) -> None:
        process = await world.running()
        plan, served, seen = PLAN, 0, [PLAN.revision]
        for _ in range(60):
            match chance.choice(["away", "back", "change", "damage", "serve", "lose", "wait"]):
                case "away":
                    world.store.go_away()
                case "back":
                    world.store.come_back()
                case "change":
                    plan = after(plan, Event.RESUME if plan.state == "paused" else Event.PAUSE)
                    world.store.put_document(MODEL, encode(plan))
                case "damage":
                    world.store.put_document(
                        MODEL, chance.choice([b"{", b"", b"null", b"\xff" * 99])
                    )
                case "lose":
                    world.store.lose_data()
                case "serve":
                    count = chance.randrange(30)
                    process.serve(count)
                    served += count
            await asyncio.sleep(chance.choice([0.0, 0.01, 0.3, 2.0]))
            seen.append(process.revision)
        assert seen == sorted(seen)
        world.store.come_back()
        world.store.put_document(MODEL, encode(plan))
        await eventually("in force", lambda: process.revision == plan.revision)
        await eventually("no trouble is left", lambda: not process.plans.troubles)
        await asyncio.sleep(REPORT_ANEW_S + 1)
        reports = await world.store.reports(MODEL, PLAN.began_revision)
        counted = sum(
            one.candidate.requests + one.champion.requests for one in reports[WORKER].stretches
        )
        assert counted == served
        await process.stop()
        assert on_disk(tmp_path) == {MODEL: plan.revision}

    in_world(tmp_path, test)


def test_the_world_itself_can_be_away(tmp_path: Path) -> None:
    """Else nothing above would show anything."""

    async def test(world: World) -> None:
        world.store.go_away()
        with pytest.raises(StoreAwayError):
            await world.store.models()

    in_world(tmp_path, test)
