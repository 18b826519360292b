"""Versions come and go under ``Serving``, with a loop and workers that move only when the test says so."""

from __future__ import annotations

from weakref import ref

import pytest

from gateway.core.call import Call
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus, Prediction
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from tests.sim.plans import ModelPlan
from tests.sim.rows import make_rows
from tests.sim.scripted_model import ScriptedModel, load
from tests.sim.virtual_loop import VirtualLoop
from tests.sim.virtual_worker import RunTime
from tests.unit.pipeline.lane_world import ManualLoop, ManualWorker
from tests.unit.pipeline.requests import request


class Quiet:
    """A witness who sees nothing wrong."""

    def run_starts(self, parts: object, width: int, *, inline: bool) -> None: ...
    def run_ends(self, parts: object, failure: object) -> None: ...
    def take_failed(self) -> list[object]:
        return []

    def reported(self, failed: object) -> None: ...


class CountingWorker(ManualWorker):
    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Caller(Call[Prediction]):
    def __init__(self, serving: Serving, version: str = "", deadline_s: float = 1e9) -> None:
        super().__init__()
        self.outcome: Prediction | BaseException | None = None
        asks = request(*make_rows(1, 1, 3, {}), version=version, deadline_s=deadline_s)
        self.start(serving.stack(asks))

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.outcome = error or result

    @property
    def version(self) -> str:
        assert isinstance(self.outcome, Prediction), self.outcome
        return self.outcome.servable.version


class World:
    def __init__(self, *versions: str) -> None:
        self.loop = ManualLoop()
        self.workers: list[CountingWorker] = []
        self.gone: list[str] = []
        self.serving = Serving(
            [self.model(one) for one in versions],
            [ModelStatus("m", one, "READY", "") for one in versions],
            GatewaySettings(),
            loop=self.loop,
            clock=self.loop.time,
            make_worker=self._make_worker,
        )

    def _make_worker(self, name: str, threads: int) -> CountingWorker:
        self.workers.append(CountingWorker())
        return self.workers[-1]

    def model(self, version: str):  # type: ignore[no-untyped-def]
        plan = ModelPlan(version=version, inline="never")
        backend = ScriptedModel(plan, None, RunTime(VirtualLoop()), lambda: 0.0)  # type: ignore[arg-type]
        backend.witness = Quiet()  # type: ignore[assignment]
        return load(plan, backend)

    def swap_in(self, version: str) -> None:
        self.serving.swap_in(self.model(version), lambda: self.gone.append(f"before {version}"))

    def retire(self, version: str) -> None:
        self.serving.retire("m", version, lambda: self.gone.append(version))

    def finish(self, worker: int) -> None:
        self.workers[worker].finish()
        self.loop.turn()


def test_a_swap_of_an_idle_version_is_over_at_once() -> None:
    world = World("1")
    world.swap_in("1")
    assert world.gone == ["before 1"]
    assert [one.closed for one in world.workers] == [1, 0]
    assert len(world.serving.lanes) == 1


def test_a_new_version_replaces_nobody_and_is_asked_from_now_on() -> None:
    world = World("1")
    world.swap_in("2")
    assert world.gone == ["before 2"]
    asked = Caller(world.serving)
    world.loop.turn()
    world.finish(1)
    assert asked.version == "2"


def test_who_found_the_old_version_is_answered_by_it_and_then_it_goes() -> None:
    world = World("1")
    before = world.serving.table.find("m", "")
    caller = Caller(world.serving)
    world.loop.turn()
    world.swap_in("1")
    after = Caller(world.serving)
    assert world.gone == []
    world.finish(0)
    assert isinstance(caller.outcome, Prediction)
    assert caller.outcome.servable is before
    assert world.gone == ["before 1"]
    assert [one.closed for one in world.workers] == [1, 0]
    world.loop.turn()
    world.finish(1)
    assert isinstance(after.outcome, Prediction)
    assert after.outcome.servable is not before


def test_a_version_whose_callers_left_waits_for_its_batch() -> None:
    world = World("1", "2")
    caller = Caller(world.serving, "1")
    world.loop.turn()
    world.retire("1")
    caller.cancel()
    world.loop.turn()
    assert world.gone == []
    assert world.workers[0].closed == 0
    world.finish(0)
    world.serving.reap()
    world.serving.reap()
    assert world.gone == ["1"]
    assert world.workers[0].closed == 1


def test_what_was_retired_is_not_found_any_more() -> None:
    world = World("1", "2")
    world.retire("2")
    assert world.serving.table.find("m", "").version == "1"
    refused = Caller(world.serving, "2").outcome
    assert isinstance(refused, HeadraceError)
    assert refused.code is ErrorCode.NOT_FOUND


def test_retiring_what_is_not_there_answers_at_once() -> None:
    world = World("1")
    world.retire("9")
    assert world.gone == ["9"]


def test_a_version_that_arrives_after_the_close_takes_nothing() -> None:
    world = World("1")
    world.serving.close()
    world.swap_in("2")
    refused = Caller(world.serving).outcome
    assert isinstance(refused, HeadraceError)
    assert refused.code is ErrorCode.NOT_READY


@pytest.mark.parametrize("deadline_s", [3600.0, 1e9])
def test_nothing_holds_a_version_that_is_gone(deadline_s: float) -> None:
    """Not even the timer of a caller that would have waited for an hour."""
    world = World("1")
    caller = Caller(world.serving, deadline_s=deadline_s)
    world.loop.turn()
    left = ref(world.serving.table.find("m", "1"))
    world.swap_in("1")
    world.finish(0)
    assert isinstance(caller.outcome, Prediction)
    caller.outcome = None
    assert world.gone == ["before 1"]
    assert world.loop.armed_s == []
    world.loop.timers.clear()
    assert left() is None or left().handles == 0  # type: ignore[union-attr]


def test_an_equal_version_goes_on_with_the_counters() -> None:
    world = World("1")
    Caller(world.serving)
    world.loop.turn()
    world.finish(0)
    world.swap_in("1")
    Caller(world.serving)
    world.loop.turn()
    world.finish(1)
    [lane] = world.serving.metrics.lanes
    assert sum(lane.duration_s.counts) == 2
