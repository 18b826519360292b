"""One process that follows plans, on invented time: store, disk and the loading of versions fail as they may."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.signature import Signature
from gateway.core.prediction_ids import PredictionIds
from gateway.core.servables import ServableTable, ServableVersion
from gateway.errors import ErrorCode, HeadraceError
from gateway.pipeline.route import RolloutRouting
from gateway.rollout_following import (
    FIRST_READ_S,
    LAST_WORDS_S,
    RELOAD_AFTER_S,
    REPORT_ANEW_S,
    PlanStore,
    RolloutFollowing,
)
from gateway.rollout_routing import RolloutPlans
from rollout.last_known import LastKnown, LastKnownError
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan, encode
from rollout.ports import Counters, StoreAwayError, Stored, WorkerBeat, Written
from rollout.settings import RolloutSettings
from tests.support.virtual_time import eventually, now_s, run
from tests.unit.pipeline.requests import X, Y, doubled, request, rows_of
from tests.unit.rollout.plans import after, draft, proposal, stepping

MODEL = "delays"
WORKER = "w"
PLAN = stepping()
PAUSED = after(PLAN, Event.PAUSE)
SETTINGS = RolloutSettings(enabled=True)
BEAT_S = SETTINGS.beat_interval_ms * 1e-3
REPORT_S = SETTINGS.report_interval_ms * 1e-3
POLL_S = SETTINGS.poll_interval_s


class Store(MemoryRollouts):
    """Notes when it was asked, and may hang or damage what it is asked."""

    def __init__(self) -> None:
        super().__init__(clock_s=now_s)
        self.hangs = False
        self.pushes = True
        self.reported: list[tuple[float, str, Counters]] = []
        self.beaten: list[tuple[float, WorkerBeat]] = []
        self.closed = False

    async def _called(self) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        await super()._called()

    async def changes(self) -> Any:
        if not self.pushes:
            await asyncio.sleep(3600)
        async for model in super().changes():
            yield model

    async def report(
        self, worker: str, model: str, began_revision: int, counters: Counters
    ) -> None:
        await super().report(worker, model, began_revision, counters)
        self.reported.append((now_s(), model, counters))

    async def beat(self, beat: WorkerBeat) -> None:
        await super().beat(beat)
        self.beaten.append((now_s(), beat))

    async def close(self) -> None:
        self.closed = True

    async def put(self, plan: Plan) -> None:
        assert isinstance(await self.write(plan, plan.revision - 1, 0), Written)


class Process:
    """A gateway of versions 3 and, after ``load_s``, whatever its plans name and is in ``folder``."""

    def __init__(self, store: Store, disk: Path, *loaded: str) -> None:
        self.store = store
        self.folder = {"3", "4", "5"}
        self.load_s = 0.3
        self.tries: list[tuple[float, frozenset[str]]] = []
        self.fails: BaseException | None = None
        self.table = ServableTable([self._version(one) for one in loaded or ("3",)], [])
        self.routing = RolloutRouting(now_s, PredictionIds(lambda: 0, lambda k: 0))
        self.last_known = LastKnown(disk)
        self.plan_store = PlanStore(store, self.last_known)
        self.plans = RolloutPlans(self.table, self.routing, clock=now_s)
        self.following = RolloutFollowing(
            SETTINGS, self.plan_store, self.plans, self, worker=WORKER, wall_clock=now_s
        )

    @staticmethod
    def _version(number: str) -> ServableVersion:
        return ServableVersion(MODEL, number, Signature((X,), (Y,)), doubled, max_batch_size=64)

    async def follow_plan(self, model: str, versions: Collection[str]) -> None:
        """Fills the port ``VersionLoader``."""
        self.tries.append((now_s(), frozenset(versions)))
        await asyncio.sleep(self.load_s)
        if self.fails is not None:
            raise self.fails
        have = {one.version for one in self.table.of(model)}
        for number in sorted(set(versions) & self.folder - have):
            self.table.put(self._version(number))
        for number in have - set(versions):
            self.table.remove(self.table.find(model, number))

    async def start(self) -> Process:
        """As the composition root does."""
        plans, troubles = await self.plan_store.first()
        for stored in plans.values():
            self.plans.adopt(stored)
        for model, why in troubles.items():
            self.plans.distrust(model, why)
        await self.following.start()
        return self

    @property
    def revision(self) -> int:
        followed = self.plans.followed.get(MODEL)
        return 0 if followed is None else followed.plan.revision

    @property
    def loaded(self) -> set[str]:
        return {one.version for one in self.table.of(MODEL)}

    def serve(self, count: int = 1) -> None:
        """Requests, answered at once."""
        for number in range(count):
            arms = self.routing.arms[MODEL]
            context = tuple({"x-user": f"u{number}"}.get(one) for one in arms.names.headers)
            arm, _, _ = arms.choose(request(rows_of(1), model=MODEL, context=context))
            arm.tally.answered(False, True, False)

    def kill(self) -> None:
        """It is gone in the middle of whatever it did."""
        for task in (*self.following._tasks, *self.following._loads.values()):
            task.cancel()

    async def stop(self) -> None:
        await self.following.close()


class World:
    def __init__(self, disk: Path) -> None:
        self.store = Store()
        self.disk = disk

    def process(self, *loaded: str) -> Process:
        return Process(self.store, self.disk, *loaded)

    async def running(self, *loaded: str, plan: Plan = PLAN) -> Process:
        """A process with ``plan`` in force and its versions loaded."""
        self.store.put_document(plan.model, encode(plan))
        process = await self.process(*loaded).start()
        await eventually("the versions are loaded", lambda: not process.plans.missing(MODEL))
        return process


def in_world(disk: Path, test: Callable[[World], Any]) -> None:
    async def whole() -> None:
        await test(World(disk))

    run(whole)


def on_disk(disk: Path) -> dict[str, int]:
    return {model: one.plan.revision for model, one in LastKnown(disk).read().items()}


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
        assert (said.warm, said.gone) == ({"3"}, frozenset())
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
        assert (said.revision, said.gone) == (PAUSED.revision, {"4"})
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
