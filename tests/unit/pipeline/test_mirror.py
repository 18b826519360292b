"""Copies of answered requests: the primary never notices, the bounds hold, and everything is given back."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from typing import Any
from weakref import ref

import numpy as np
import pytest

from backends.signature import Signature, Tensor, TensorSpec
from gateway.core.servables import ServableState
from gateway.core.shadow_budget import ShadowLimits
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import RoutedRequest
from gateway.pipeline.mirror import mirror
from gateway.pipeline.shadow_copies import STARTS_PER_TURN
from tests.unit.pipeline.requests import request
from tests.unit.pipeline.shadow_world import SCORE, Asked, ShadowWorld, shadowing
from tests.unit.rollout.plans import stepping


def broken(inputs: Sequence[Tensor]) -> list[Tensor]:
    raise ValueError("a shadow may do anything")


# -- the primary ----------------------------------------------------------------------------------


def test_without_shadows_the_next_hops_own_coroutine_is_returned() -> None:
    made: list[Any] = []

    async def inner(routed: RoutedRequest) -> Any:
        return "answer"

    def hop(routed: RoutedRequest) -> Any:
        made.append(inner(routed))
        return made[0]

    world = ShadowWorld()
    mirrored = mirror(world.mirroring.copies, hop)
    coroutine = mirrored(RoutedRequest(request(np.ones((1, 2), np.float32)), world.servables["3"]))
    assert coroutine is made[0]
    assert Asked(coroutine).endings == ["answer"]


def test_the_primary_has_its_answer_before_the_copy_begins() -> None:
    world = ShadowWorld()
    asked = world.ask(1)
    world.loop.turn()
    assert asked.endings[0].outputs[0].tolist() == [[1]]
    assert world.worker.jobs == []
    world.settle()
    assert world.outcomes == {"equal": 1}
    assert world.inside == (0, 0)


def test_a_copy_is_never_run_on_the_loop() -> None:
    world = ShadowWorld()
    world.ask(1)
    world.turn(10)
    assert len(world.worker.jobs) == 1
    assert world.outcomes == {}


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_shadow_that_raises_changes_nothing_for_anyone(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"3": "4", "4": "3"}[version]
    world = ShadowWorld({other: broken})
    with caplog.at_level(logging.WARNING, "headrace.shadow"):
        for _ in range(5):
            asked = world.ask(2, version=version, shadows=(other,))
            world.settle()
            assert asked.endings[0].outputs[0].tolist() == [[2]]
    assert world.live_meters.shed_reasons == {}
    assert world.inside == (0, 0)
    if other == "4":
        assert world.outcomes == {"failed": 5}
        assert world.mirroring.comparisons("delays")[0].failed == 5
        assert len(caplog.records) == 1  # once a minute
        assert "shadow 4 of model delays" in caplog.text


def test_a_shadow_that_hangs_costs_no_more_than_its_room() -> None:
    limits = ShadowLimits(max_copies=3, max_wait_s=10)
    world = ShadowWorld(limits=limits)
    asked = [world.ask(value) for value in range(6)]
    world.turn(10)
    assert all(len(one.endings) == 1 for one in asked)
    assert world.inside[0] == 3
    assert world.shed == {"in_flight": 3}
    world.loop.advance(11)
    assert world.outcomes == {"late": 3}
    assert world.inside == (0, 0)
    late = world.ask(7)
    world.turn()
    assert late.endings[0].outputs[0].tolist() == [[7]]


def test_a_primary_that_fails_is_not_copied() -> None:
    world = ShadowWorld({"3": broken})
    asked = world.ask(1, shadows=("4", "5"))
    world.settle()
    assert isinstance(asked.endings[0], HeadraceError)
    assert asked.endings[0].code is ErrorCode.INTERNAL
    assert world.shed == {"primary_failed": 2}
    assert world.outcomes == {}


def test_a_primary_whose_caller_left_is_not_copied() -> None:
    world = ShadowWorld()
    asked = world.ask(1)
    asked.cancel()
    world.settle()
    assert world.shed == {"primary_failed": 1}


def test_whatever_breaks_while_a_copy_is_taken_does_not_reach_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ShadowWorld()

    def fail(size_bytes: int, now_s: float) -> str:
        raise RuntimeError("odd")

    monkeypatch.setattr(type(world.mirroring.copies.budget), "admit", lambda self, *a: fail(*a))
    asked = world.ask(1)
    world.settle()
    assert asked.endings[0].outputs[0].tolist() == [[1]]
    assert world.shed == {"internal": 1}


# -- bounds ---------------------------------------------------------------------------------------


def test_a_flood_is_answered_and_only_so_much_of_it_copied() -> None:
    limits = ShadowLimits(max_copies=20, max_bytes=10_000)
    world = ShadowWorld(limits=limits)
    asked = []
    for _ in range(50):
        asked += [world.ask(value, shadows=("4", "5")) for value in range(10)]
        world.turn(2)
        copies, size = world.inside
        assert copies <= 20
        assert size <= 10_000
    assert all(one.endings[0].outputs for one in asked)
    world.settle()
    done = sum(world.outcomes.values()) + sum(world.shed.values())
    assert done == 1000
    assert set(world.outcomes) == {"equal"}
    assert world.inside == (0, 0)


def test_only_so_many_copies_begin_in_one_turn() -> None:
    world = ShadowWorld(batch=0)
    for value in range(3 * STARTS_PER_TURN):
        world.ask(value)
    world.loop.turn()
    started = []
    for _ in range(4):
        before = [one.queue.queued_requests for one in world.mirroring.lanes.values()]
        world.loop.turn()
        after = [one.queue.queued_requests for one in world.mirroring.lanes.values()]
        started.append(sum(after) - sum(before) + (1 if not started else 0))
    assert max(started) <= STARTS_PER_TURN + 1
    world.settle()
    assert world.outcomes == {"equal": 3 * STARTS_PER_TURN}


def test_a_large_request_finds_no_room() -> None:
    world = ShadowWorld(limits=ShadowLimits(max_bytes=1000))
    world.ask(1, size_bytes=2000)
    world.settle()
    assert world.shed == {"bytes": 1}


def test_an_answer_that_is_larger_than_the_primarys_has_to_fit() -> None:
    def long(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [np.ones((1, 5000), np.float32)]

    world = ShadowWorld({"4": long}, limits=ShadowLimits(max_bytes=1000), batch=0)
    world.ask(1)
    world.settle()
    assert world.outcomes == {"too_large": 1}
    assert world.inside == (0, 0)


@pytest.mark.parametrize("why", ["loop_late", "gateway_busy", "live_queue"])
def test_while_the_process_is_busy_there_are_no_copies(why: str) -> None:
    world = ShadowWorld()
    asked = world.ask(1)
    world.loop.turn()
    if why == "loop_late":
        world.loop.now_s += 0.02
    elif why == "gateway_busy":
        for _ in range(30):
            world.admission.admit(1)
    else:
        lane = world.live[world.servables["5"]]
        lane.queue.service_time.observe(1, 0.5)
        lane.queue.queued_requests, lane.queue.queued_rows = 1, 1
    world.turn()
    assert asked.endings[0].outputs
    assert world.shed == {why: 1}
    assert world.inside == (0, 0)
    world.ask(1)
    world.turn()
    assert world.shed == {why: 2}  # and not looked again for a while


# -- versions and plans come and go ---------------------------------------------------------------


def test_what_is_not_here_is_not_copied() -> None:
    world = ShadowWorld()
    world.follow(stepping(shadowing()), "4")
    world.ask(1)
    world.ask(1, shadows=("77",))
    world.settle()
    assert world.shed == {"not_loaded": 2}


def test_without_the_champion_there_is_nothing_to_compare_with() -> None:
    world = ShadowWorld()
    world.ask(1, version="4", shadows=("5", "4"))
    world.settle()
    assert world.shed == {"no_champion": 2}


def test_a_version_with_other_inputs_is_not_asked() -> None:
    world = ShadowWorld()
    world.servables["4"].signature = Signature((TensorSpec("z", "FP32", (-1, 2)),), (SCORE,))
    world.follow(stepping(shadowing()))
    world.ask(1)
    world.settle()
    assert world.shed == {"other_inputs": 1}


@pytest.mark.parametrize("moment", ["waiting", "queued", "running", "to compare"])
def test_a_plan_that_ends_drops_every_copy_at_once(moment: str) -> None:
    world = ShadowWorld()
    world.ask(1)
    world.ask(2)
    world.loop.turn()
    if moment != "waiting":
        world.loop.turn()
    if moment in ("running", "to compare"):
        world.loop.turn()
    if moment == "to compare":
        world.worker.finish()
    assert world.inside[0] == 2
    world.follow(None)
    assert world.inside == (0, 0)
    assert world.mirroring.lanes == {}
    assert world.mirroring.comparisons("delays") == ()
    assert world.mirroring.paired_scores("delays") is None
    world.settle()
    assert world.outcomes == {"dropped": 2}
    assert all(one.handles == 0 for one in world.servables.values())


def test_a_retired_version_drains_once_its_copies_are_dropped() -> None:
    world = ShadowWorld()
    world.ask(1)
    world.turn()
    shadow = world.servables["4"]
    assert not shadow.retire()
    world.follow(stepping(shadowing()), "4")
    assert shadow.state is ServableState.DRAINING  # a thread still runs it
    world.worker.finish()
    assert shadow.state is ServableState.UNLOADED
    assert world.drained == ["4"]


def test_a_run_that_never_ends_does_not_keep_its_version_for_ever() -> None:
    world = ShadowWorld()
    world.ask(1)
    world.turn()
    shadow = world.servables["4"]
    shadow.retire()
    world.follow(stepping(shadowing()), "4")
    world.loop.advance(10.5)
    assert shadow.state is ServableState.UNLOADED
    world.worker.finish()  # and if it ends after all, nothing is given back twice
    assert (shadow.handles, world.drained) == (0, ["4"])


def test_nothing_stays_in_memory_when_copies_are_dropped() -> None:
    world = ShadowWorld()
    tensor = np.ones((1, 2), np.float32)
    asks = request(tensor, model="delays")
    routed = RoutedRequest(asks, world.servables["3"], None, ("4",), asks.inputs)
    asked = Asked(world.hop(routed))
    world.turn(1)
    known = ref(tensor)
    del tensor, asks, routed, asked
    world.follow(None)
    world.loop.turn()
    gc.collect()
    assert known() is None


# -- what the shadow is asked ---------------------------------------------------------------------


def test_the_copy_is_a_request_of_its_own() -> None:
    seen: list[RoutedRequest] = []
    world = ShadowWorld()
    dispatch = world.mirroring.dispatch

    async def spy(routed: RoutedRequest) -> Any:
        seen.append(routed)
        return await dispatch(routed)

    world.mirroring.copies.plain = spy
    asked = world.ask(1, deadline_s=0.5, priority=1, request_id="r", size_bytes=64)
    world.settle()
    [copy] = seen
    assert (copy.assignment, copy.shadows) == (None, ())
    assert copy.request.inputs[0].tolist() == [[1, 0]]
    assert copy.request.deadline_s == 10.0
    assert copy.request.priority > 1000  # behind everything, wherever that is looked at
    assert copy.request.trace is None
    assert asked.endings[0].servable is world.servables["3"]


def test_copies_share_batches() -> None:
    world = ShadowWorld()
    for value in range(5):
        world.ask(value)
    world.turn()
    assert len(world.worker.jobs) == 1
    world.settle()
    assert world.mirroring.meters.lanes()["delays", "4"].batches == 1
    assert world.outcomes == {"equal": 5}
