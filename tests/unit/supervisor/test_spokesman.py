"""One answer from seats whose workers answer, refuse, hang or die."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.settings import GatewaySettings, RepositorySettings
from gateway.supervisor import spokesman as module
from gateway.supervisor.channel import ChannelClosedError
from gateway.supervisor.merge import Family
from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.restarts import Restarts
from gateway.supervisor.seat import Seat
from gateway.supervisor.spokesman import Spokesman
from tests.support.loops import run

INDEX = [{"name": "m", "version": "2", "state": "READY", "reason": ""}]


class FakeSeat:
    """A worker that answers from a table; what is not in it never comes."""

    def __init__(self, index: int, **answers: Any) -> None:
        self.index = index
        self.answers = {"index": INDEX, "commit": None, "prepare_load": None, **answers}
        self.asked: list[str] = []
        self.told: list[str] = []
        self.serving = True
        self.leaving = False
        self.restarts = Restarts()
        self.families: list[Family] = []
        self.process: object = object()
        self.pid = 100 + index
        self.killed = False

    async def ask(self, method: str, value: Any = None, *, timeout_s: float) -> Any:
        self.asked.append(method)
        await asyncio.sleep(0)
        if method not in self.answers:
            await asyncio.wait_for(asyncio.Event().wait(), timeout_s)
        answer = self.answers[method]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def tell(self, method: str, value: Any = None) -> None:
        self.told.append(method)

    def kill(self) -> None:
        self.killed = True


def speak_for(*seats: FakeSeat) -> Spokesman:
    settings = GatewaySettings(repository=RepositorySettings(control="explicit"))
    orphans = cast("Orphanage", SimpleNamespace(handed_on=0))
    return Spokesman(cast("list[Seat]", list(seats)), orphans, settings, "1")


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASK_TIMEOUT_S", "LOOK_TIMEOUT_S", "COMMIT_TIMEOUT_S", "HANG_S"):
        monkeypatch.setattr(module, name, 0.02)


def counter(value: float) -> list[Family]:
    return [Family("calls", "", "counter", [("calls_total", {}, value)])]


def test_one_that_is_ready_is_enough_whatever_the_others_do() -> None:
    async def test() -> None:
        hanging = FakeSeat(0)
        ready = FakeSeat(1, ready=[True, ""])
        assert await speak_for(hanging, ready).ready() == (True, "")
        refusing = FakeSeat(0, ready=[False, "draining"])
        assert await speak_for(refusing, ready).ready() == (True, "")
        assert await speak_for(refusing).ready() == (False, "draining")
        assert await speak_for(hanging).ready() == (False, "worker 0 does not answer")

    run(test)


def test_why_nobody_is_ready() -> None:
    async def test() -> None:
        empty = FakeSeat(0)
        empty.serving = False
        spokesman = speak_for(empty)
        assert await spokesman.ready() == (False, "the models are loading")
        spokesman.has_started = True
        assert await spokesman.ready() == (False, "no worker is running")
        spokesman.stopping = True
        assert await spokesman.ready() == (False, "the server is shutting down")

    run(test)


def test_a_hanging_worker_holds_up_no_look() -> None:
    async def test() -> None:
        hanging, living = FakeSeat(0), FakeSeat(1)
        living.answers |= {
            "metrics": [{"name": "calls", "text": "", "kind": "counter", "samples": []}],
            "snapshot": {"models": INDEX, "ready": True},
            "ready": [True, ""],
        }
        spokesman = speak_for(hanging, living)
        hanging.families = counter(3)
        families = {one.name: one for one in (await spokesman.metrics()).collect()}
        assert families["calls"].samples[0].value == 3, "its latest report stands"
        status = await spokesman.snapshot()
        assert status["models"][0]["name"] == "m"
        assert [one.get("models") for one in status["workers"]] == [None, INDEX]

    run(test)


def test_a_report_of_the_dead_is_not_counted_twice() -> None:
    async def test() -> None:
        seat = FakeSeat(0)
        spokesman = speak_for(seat)
        seat.answers["metrics"] = [
            {"name": "calls", "text": "", "kind": "counter", "samples": [["calls_total", {}, 5]]}
        ]
        listening = asyncio.create_task(spokesman.listen(cast("Seat", seat)))
        await asyncio.sleep(0)
        seat.families = counter(5)
        spokesman.bury(cast("Seat", seat))
        seat.families, seat.process = [], object()  # the next one sits here
        await listening
        assert seat.families == []

    run(test)


def test_a_worker_that_hangs_is_killed_and_its_successor_is_not() -> None:
    async def test() -> None:
        seat = FakeSeat(0)
        await speak_for(seat).listen(cast("Seat", seat))
        assert seat.killed
        seat = FakeSeat(0)
        listening = asyncio.create_task(speak_for(seat).listen(cast("Seat", seat)))
        await asyncio.sleep(0)
        seat.process = object()
        await listening
        assert not seat.killed

    run(test)


def test_a_change_goes_on_when_the_worker_that_passed_it_on_dies() -> None:
    async def test() -> None:
        asking, other = FakeSeat(0), FakeSeat(1)
        swap = asyncio.Event()
        asking.answers["commit"] = ChannelClosedError()
        other.answers["commit"] = swap
        spokesman = speak_for(asking, other)
        spokesman.served = {"m": ["1"]}
        call = asyncio.create_task(spokesman.load("m"))
        while "commit" not in other.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        asking.serving = False
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert spokesman.change.locked(), "its successor may not catch up before that is over"
        swap.set()
        async with spokesman.change:
            assert spokesman.served == {"m": ["2"]}

    run(test)


def test_one_that_cannot_load_keeps_all_on_the_old_version() -> None:
    async def test() -> None:
        able = FakeSeat(0)
        unable = FakeSeat(1, prepare_load=HeadraceError(ErrorCode.INVALID_ARGUMENT, "no memory"))
        with pytest.raises(HeadraceError, match="no memory"):
            await speak_for(able, unable).load("m")
        assert "commit" not in able.asked
        assert able.told == unable.told == ["abort"]

    run(test)


def test_what_is_served_is_known_though_one_worker_hangs() -> None:
    async def test() -> None:
        hanging, living = FakeSeat(0), FakeSeat(1)
        del hanging.answers["index"]
        spokesman = speak_for(hanging, living)
        await spokesman.note_what_is_served()
        assert spokesman.served == {"m": ["2"]}
        living.serving = hanging.serving = False
        await spokesman.note_what_is_served()
        assert spokesman.served == {"m": ["2"]}, "nobody is left who could know better"

    run(test)


def test_statistics_of_what_only_older_workers_know() -> None:
    unknown = HeadraceError(ErrorCode.NOT_FOUND, "no statistics")

    async def test() -> None:
        older = FakeSeat(0, statistics=[{"name": "m", "version": "1", "inference_count": 4}])
        younger = FakeSeat(1, statistics=unknown)
        [found] = await speak_for(older, younger).statistics("m", "")
        assert found.inference_count == 4
        with pytest.raises(HeadraceError, match="no statistics"):
            await speak_for(younger).statistics("m", "")

    run(test)


# ---- what one worker can say for all -------------------------------------------------------------


def test_features_are_asked_of_the_first_worker_that_answers() -> None:
    async def test() -> None:
        gone, hanging = FakeSeat(0, look_up=ChannelClosedError()), FakeSeat(1)
        answering = FakeSeat(2, look_up={"rows": 1}, features={"views": []})
        speaker = speak_for(gone, hanging, answering)
        assert await speaker.look_up("view", "v", {}) == {"rows": 1}
        assert gone.asked == hanging.asked == answering.asked == ["look_up"]
        assert await speak_for(answering, hanging).features() == {"views": []}
        assert hanging.asked == ["look_up"]

    run(test)


def test_a_workers_own_refusal_of_a_lookup_is_the_answer() -> None:
    async def test() -> None:
        error = HeadraceError(ErrorCode.NOT_FOUND, "no feature view 'v'")
        other = FakeSeat(1, look_up={})
        with pytest.raises(HeadraceError, match="no feature view"):
            await speak_for(FakeSeat(0, look_up=error), other).look_up("view", "v", {})
        assert not other.asked
        with pytest.raises(HeadraceError) as refused:
            await speak_for(FakeSeat(0)).features()
        assert refused.value.code is ErrorCode.NOT_READY

    run(test)
