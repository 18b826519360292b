"""One process that follows plans, on invented time: store, disk and the loading of versions fail as they may."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.rollout_following import (
    FIRST_READ_S,
    RELOAD_AFTER_S,
    REPORT_ANEW_S,
)
from rollout.last_known import LastKnown, LastKnownError
from rollout.plan import Event, encode
from rollout.ports import Stored
from tests.support.virtual_time import eventually, now_s
from tests.unit.following_world import (
    BEAT_S,
    MODEL,
    PAUSED,
    PLAN,
    POLL_S,
    REPORT_S,
    WORKER,
    World,
    in_world,
    on_disk,
)
from tests.unit.rollout.plans import after, draft, proposal

# -- plans come -----------------------------------------------------------------------------------


def test_a_change_is_pushed_and_told_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        await asyncio.sleep(1.23)
        await world.store.put(PAUSED)
        assert await eventually("in force", lambda: process.revision == PAUSED.revision) < 0.05

        def told() -> bool:
            _, beat = world.store.beaten[-1]
            return beat.models[0].revision == PAUSED.revision

        assert await eventually("told", told) < 0.05
        assert on_disk(tmp_path) == {MODEL: PAUSED.revision}
        await process.stop()

    in_world(tmp_path, test)


def test_without_pushes_a_change_is_found_by_looking(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.pushes = False
        process = await world.running()
        await world.store.put(PAUSED)
        took_s = await eventually("in force", lambda: process.revision == PAUSED.revision)
        assert took_s <= POLL_S + 0.05
        process.kill()

    in_world(tmp_path, test)


def test_a_first_plan_of_a_model_is_found(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.process().start()
        await asyncio.sleep(3)
        assert process.revision == 0
        await world.store.put(draft())
        assert await eventually("in force", lambda: process.revision == 1) < 0.05
        await eventually("4 is loaded", lambda: process.loaded == {"3", "4"})
        await process.stop()

    in_world(tmp_path, test)


def test_a_damaged_document_leaves_the_last_good_plan_and_hinders_no_other_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        world.store.put_document(MODEL, b"{")
        await eventually("it is noticed", lambda: MODEL in process.plans.troubles)
        other = draft(proposal(model="zz"))
        world.store.put_document("zz", encode(other))
        await eventually("the other is in force", lambda: "zz" in process.plans.followed)
        await asyncio.sleep(10)
        assert process.revision == PLAN.revision
        assert process.plan_store.is_up
        said = [one for one in caplog.records if "cannot be read" in one.message]
        assert len(said) == 1, "told once, not every second"
        world.store.put_document(MODEL, encode(PLAN))
        await eventually("put back", lambda: not process.plans.troubles)
        world.store.put_document(MODEL, b"{")
        await eventually("damaged again", lambda: MODEL in process.plans.troubles)
        world.store.put_document(MODEL, encode(PAUSED))
        await eventually("a newer one", lambda: process.revision == PAUSED.revision)
        assert not process.plans.troubles
        await process.stop()

    in_world(tmp_path, test)


# -- starts ---------------------------------------------------------------------------------------


def test_a_start_has_what_the_store_has_and_keeps_it(tmp_path: Path) -> None:
    """Also where nothing changes afterwards: the next start may find no store."""

    async def test(world: World) -> None:
        process = await world.running()
        assert process.following.changes_seen == 0
        await eventually("it is on the disk", lambda: on_disk(tmp_path) == {MODEL: PLAN.revision})
        process.kill()
        world.store.go_away()
        again = await world.process("3", "4").start()
        assert again.revision == PLAN.revision
        assert not again.plan_store.is_up
        again.serve(10)
        again.kill()

    in_world(tmp_path, test)


def test_a_store_that_hangs_holds_up_no_start(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        LastKnown(tmp_path).keep(Stored(PLAN, encode(PLAN)))
        world.store.hangs = True
        began_s = now_s()
        process = await world.process().start()
        assert now_s() - began_s <= FIRST_READ_S
        assert process.revision == PLAN.revision
        process.kill()

    in_world(tmp_path, test)


@pytest.mark.parametrize("kind", ["no JSON", "wrong intervals"])
def test_a_damaged_document_at_the_start_leaves_the_one_of_the_disk(
    tmp_path: Path, kind: str
) -> None:
    async def test(world: World) -> None:
        LastKnown(tmp_path).keep(Stored(PLAN, encode(PLAN)))
        wrong = msgspec.structs.replace(PAUSED, arms=PAUSED.arms[:1])
        world.store.put_document(MODEL, b"{" if kind == "no JSON" else encode(wrong))
        process = await world.process().start()
        assert process.revision == PLAN.revision
        assert MODEL in process.plans.troubles
        await asyncio.sleep(3)
        assert on_disk(tmp_path) == {MODEL: PLAN.revision}
        process.kill()

    in_world(tmp_path, test)


def test_a_disk_that_cannot_be_read_or_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise LastKnownError("the disk is broken")

    async def test(world: World) -> None:
        monkeypatch.setattr(LastKnown, "read", broken)
        monkeypatch.setattr(LastKnown, "keep", broken)
        process = await world.running()
        await world.store.put(PAUSED)
        await eventually("in force", lambda: process.revision == PAUSED.revision)
        await process.stop()
        assert "the disk is broken" in caplog.text

    in_world(tmp_path, test)


# -- the store goes away --------------------------------------------------------------------------


def test_while_the_store_is_away_the_plan_stays_and_afterwards_nothing_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        process.serve(50)
        await asyncio.sleep(1)
        world.store.go_away()
        await eventually("it is noticed", lambda: not process.plan_store.is_up)
        process.serve(70)
        await asyncio.sleep(60)
        assert process.revision == PLAN.revision
        warned = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(warned) == 1, "told once, however long it lasts"
        world.store.put_document(MODEL, encode(PAUSED))
        world.store.come_back()
        took_s = await eventually("in force", lambda: process.revision == PAUSED.revision)
        assert took_s < POLL_S
        await eventually("it beats", lambda: world.store.beaten[-1][1].at_s > now_s() - 1)
        await asyncio.sleep(REPORT_S)
        reports = await world.store.reports(MODEL, PLAN.began_revision)
        [stretch] = reports[WORKER].stretches
        assert stretch.candidate.requests + stretch.champion.requests == 120
        assert process.plan_store.is_up
        await process.stop()

    in_world(tmp_path, test)


def test_a_store_that_lost_its_data_is_told_all_of_it_again(tmp_path: Path) -> None:
    """Also by a process that nobody asks anything meanwhile: else its counts were missing, and nobody knew."""

    async def test(world: World) -> None:
        process = await world.running()
        process.serve(50)
        await asyncio.sleep(1)
        world.store.lose_data()
        world.store.put_document(MODEL, encode(PLAN))
        await asyncio.sleep(REPORT_ANEW_S + 2 * REPORT_S)
        reports = await world.store.reports(MODEL, PLAN.began_revision)
        assert reports[WORKER].stretches[0].champion.requests > 0
        assert process.revision == PLAN.revision
        await process.stop()

    in_world(tmp_path, test)


def test_a_store_that_was_emptied_takes_no_plan_away(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running()
        world.store.lose_data()
        await asyncio.sleep(10)
        assert process.revision == PLAN.revision
        assert on_disk(tmp_path) == {MODEL: PLAN.revision}
        later = draft(now_s=PLAN.created_s + 60)
        await world.store.put(later)
        await eventually("the new one is in force", lambda: process.revision == 1)
        await process.stop()

    in_world(tmp_path, test)


# -- versions -------------------------------------------------------------------------------------


def test_a_plans_versions_are_loaded_and_others_go(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        process = await world.running("3", "5")
        assert process.loaded == {"3", "4"}
        assert len(process.tries) == 1
        await world.store.put(after(PLAN, Event.ROLLBACK))
        await eventually("the candidate goes", lambda: process.loaded == {"3"})
        await asyncio.sleep(10)
        assert len(process.tries) == 2
        await process.stop()

    in_world(tmp_path, test)


def test_while_a_version_is_loading_it_is_not_gone_and_when_it_failed_it_is(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.folder = {"3"}
        process.load_s = 2.0
        await process.start()
        await asyncio.sleep(1.9)
        [said] = world.store.beaten[-1][1].models
        assert said.warm == {"3"}
        assert not said.gone
        await asyncio.sleep(0.2)
        [said] = world.store.beaten[-1][1].models
        assert said.gone == {"4"}, "told at once"
        await process.stop()

    in_world(tmp_path, test)


def test_a_version_that_cannot_be_loaded_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.folder = {"3"}
        await process.start()
        await asyncio.sleep(200)
        waits = [b - a for (a, _), (b, _) in zip(process.tries, process.tries[1:], strict=False)]
        for wait_s, least_s in zip(waits, [RELOAD_AFTER_S, 10, 20, 40, 60], strict=False):
            assert least_s <= wait_s <= least_s + POLL_S + 2 * process.load_s
        assert len(process.tries) == 7
        process.folder.add("4")
        await eventually("it is loaded", lambda: "4" in process.loaded, within_s=62)
        await asyncio.sleep(0.1)
        assert world.store.beaten[-1][1].models[0].warm == {"3", "4"}
        await process.stop()

    in_world(tmp_path, test)


def test_a_new_revision_with_the_same_versions_says_soon_what_is_gone(tmp_path: Path) -> None:
    """Nothing is tried for it before the next try: as long as it said nothing, nobody would know it is lost."""

    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.folder = {"3"}
        await process.start()
        await asyncio.sleep(40)
        await world.store.put(PAUSED)
        await asyncio.sleep(POLL_S + BEAT_S + 0.1)
        [said] = world.store.beaten[-1][1].models
        assert said.revision == PAUSED.revision
        assert said.gone == {"4"}
        await process.stop()

    in_world(tmp_path, test)


def test_a_plan_that_changes_during_a_load_has_its_own_versions_loaded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.load_s = 3.0
        await process.start()
        await asyncio.sleep(1)
        await world.store.put(after(PLAN, Event.ROLLBACK))
        await eventually("only the champion", lambda: len(process.tries) == 2, within_s=10)
        await asyncio.sleep(4)
        assert process.loaded == {"3"}
        assert [one for _, one in process.tries] == [{"3", "4"}, {"3"}]
        await process.stop()

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    "error", [HeadraceError(ErrorCode.NOT_READY, "no folder"), RuntimeError("a bug")]
)
def test_a_loader_that_fails_is_asked_again(tmp_path: Path, error: Exception) -> None:
    async def test(world: World) -> None:
        world.store.put_document(MODEL, encode(PLAN))
        process = world.process("3")
        process.fails = error
        await process.start()
        await asyncio.sleep(1)
        assert world.store.beaten[-1][1].models[0].gone == {"4"}
        process.fails = None
        await eventually("it is loaded", lambda: "4" in process.loaded, within_s=RELOAD_AFTER_S + 2)
        await process.stop()

    in_world(tmp_path, test)
