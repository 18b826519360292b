"""Versions that a rollout's plan names, between loads, unloads and looks that somebody else asks for."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import HeadraceError
from tests.support.loops import TIMEOUT_S, run, until
from tests.unit.supervisor.control_stage import Stage, begun


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.write("m", 1, "one")
    return made


# -- a rollout's plan -----------------------------------------------------------------------------


def test_a_plans_versions_are_served_whatever_the_policy_says(stage: Stage) -> None:
    async def test() -> None:
        stage.write("m", 2, "two")
        stage.write("m", 3, "three")
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "3"): "three"}, "the policy keeps the newest"
        await stage.control.follow_plan("m", ["1", "2"])
        assert stage.swapper.served == {("m", "1"): "one", ("m", "2"): "two"}
        await stage.control.prepare_refresh()
        stage.control.commit()
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one", ("m", "2"): "two"}
        await stage.control.follow_plan("m", ["2"])
        assert stage.swapper.served == {("m", "2"): "two"}

    run(test)


def test_a_planned_version_that_fails_leaves_the_others_and_says_why(stage: Stage) -> None:
    async def test() -> None:
        stage.write("m", 2, "bad model")
        await stage.control.follow_plan("m", ["1", "2", "7"])
        assert stage.swapper.served == {("m", "1"): "one"}
        assert stage.state("m", "2") == ("UNAVAILABLE", "bad model")
        assert "version 7 is wanted, but not there" in stage.state("m", "7")[1]
        stage.write("m", 2, "better")
        await stage.control.follow_plan("m", ["1", "2", "7"])
        assert stage.swapper.served == {("m", "1"): "one", ("m", "2"): "better"}

    run(test)


def test_a_planned_version_that_failed_can_be_tried_again_as_it_is(stage: Stage) -> None:
    """Memory may have been short: the follower asks again, now and then."""

    async def test() -> None:
        stage.write("m", 2, "bad model")
        tries = 0
        attempt = stage.loader.attempt

        def counted(*asked: Any) -> Any:
            nonlocal tries
            tries += 1
            return attempt(*asked)

        stage.loader.attempt = counted  # type: ignore[method-assign, assignment]
        for _ in range(2):
            await stage.control.follow_plan("m", ["1", "2"])
        assert tries == 3, "version 1 once, version 2 each time"

    run(test)


def test_what_was_planned_at_the_start_is_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, planned={"m": [1]})
    stage.write("m", 1, "one")
    stage.write("m", 2, "two")

    async def test() -> None:
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_a_model_that_somebody_unloaded_is_not_brought_back_unasked(stage: Stage) -> None:
    async def test() -> None:
        await stage.control.follow_plan("m", ["1"])
        await stage.control.unload("m")
        await stage.control.follow_plan("m", ["1"])
        assert stage.swapper.served == {}
        stage.write("m", 2, "two")
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one"}, "as the plan says"

    run(test)


def test_a_plan_of_a_model_that_is_not_there(stage: Stage) -> None:
    async def test() -> None:
        with pytest.raises(HeadraceError):
            await stage.control.follow_plan("nobody", ["1"])
        await stage.control.follow_plan("m", ["1", "latest", "-1", ""])
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_versions_of_a_plan_wait_for_a_change_in_two_steps(stage: Stage) -> None:
    async def test() -> None:
        stage.write("n", 1, "another")
        await stage.control.prepare_load("n")
        following = asyncio.create_task(stage.control.follow_plan("m", ["1"]))
        for _ in range(5):
            await asyncio.sleep(0)
        assert stage.swapper.served == {}
        stage.control.commit()
        await following
        assert stage.swapper.served == {("m", "1"): "one", ("n", "1"): "another"}

    run(test)


def test_a_change_in_two_steps_during_the_load_of_a_plans_versions_is_not_forgotten(
    stage: Stage,
) -> None:
    async def test() -> None:
        stage.write("n", 1, "another")
        stage.loader.gate.clear()
        following = asyncio.create_task(stage.control.follow_plan("m", ["1"]))
        await begun(stage)
        preparing = asyncio.create_task(stage.control.prepare_load("n"))
        await until(lambda: stage.control._threads_inside == 2)
        stage.loader.gate.set()
        await preparing
        stage.control.commit()
        await following
        assert stage.swapper.served == {("m", "1"): "one", ("n", "1"): "another"}
        assert stage.state("n", "1") == ("READY", "")
        assert stage.state("m", "1") == ("READY", "")
        await stage.control.unload("n")
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def gates_of(stage: Stage) -> dict[str, threading.Event]:
    """Loads of each model wait for its own gate."""
    gates = {name: threading.Event() for name in ("m", "n")}
    attempt = stage.loader.attempt

    def gated(model: Any, *asked: Any) -> Any:
        assert gates[model.name].wait(TIMEOUT_S)
        return attempt(model, *asked)

    stage.loader.attempt = gated  # type: ignore[method-assign, assignment]
    return gates


def test_a_load_whose_thread_has_just_ended_is_another_change_still(stage: Stage) -> None:
    """Both loads end while the loop does something else: of the other's nothing is stored yet."""

    async def test() -> None:
        stage.write("n", 1, "another")
        gates = gates_of(stage)
        loop: Any = asyncio.get_running_loop()
        following = asyncio.create_task(stage.control.follow_plan("m", ["1"]))
        await until(lambda: stage.control._threads_inside == 1)
        preparing = asyncio.create_task(stage.control.prepare_load("n"))
        await until(lambda: stage.control._threads_inside == 2)
        for name in ("m", "n"):
            waiting = len(loop._ready)
            gates[name].set()
            give_up_s = time.monotonic() + TIMEOUT_S
            while len(loop._ready) == waiting:  # the loop stands still
                assert time.monotonic() < give_up_s
        await preparing
        stage.control.commit()
        await following
        assert stage.swapper.served == {("m", "1"): "one", ("n", "1"): "another"}
        assert stage.state("m", "1") == stage.state("n", "1") == ("READY", "")

    run(test)


def test_a_model_that_is_unloaded_during_the_load_of_its_versions_stays_unloaded(
    stage: Stage,
) -> None:
    async def test() -> None:
        await stage.control.load("m")
        stage.write("m", 2, "two")
        gates = gates_of(stage)
        following = asyncio.create_task(stage.control.follow_plan("m", ["1", "2"]))
        await until(lambda: stage.control._threads_inside == 1)
        await stage.control.drop("m")  # as the supervisor has it done, in nobody's turn
        gates["m"].set()
        await following
        assert stage.swapper.served == {}
        assert not stage.control.loading

    run(test)


def test_a_newcomer_keeps_what_its_plan_wants_beyond_what_the_others_serve(stage: Stage) -> None:
    async def test() -> None:
        stage.write("m", 2, "two")
        stage.write("m", 3, "three")
        await stage.control.follow_plan("m", ["1", "2"])
        await stage.control.catch_up({"m": ["1", "3"]})
        assert set(stage.swapper.served) == {("m", "1"), ("m", "2"), ("m", "3")}

    run(test)
