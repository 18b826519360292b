"""The repository of one process, on real folders with invented models."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.supervisor.local_control import MAX_NAME_CHARACTERS
from tests.support.loops import run, until
from tests.unit.supervisor.control_stage import Stage, begun


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.write("m", 1, "one")
    return made


def test_nothing_is_served_before_the_commit(stage: Stage) -> None:
    async def test() -> None:
        await stage.control.prepare_load("m")
        assert stage.swapper.served == {}
        stage.control.commit()
        assert stage.swapper.served == {("m", "1"): "one"}
        stage.control.commit()  # nothing is prepared any more
        assert stage.state("m", "1") == ("READY", "")

    run(test)


def test_what_was_aborted_is_never_served(stage: Stage) -> None:
    async def test() -> None:
        await stage.control.prepare_load("m")
        stage.control.abort()
        stage.control.commit()
        assert stage.swapper.served == {}
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_an_abort_in_the_middle_of_a_load_counts(stage: Stage) -> None:
    async def test() -> None:
        stage.loader.gate.clear()
        preparing = asyncio.create_task(stage.control.prepare_load("m"))
        await begun(stage)
        assert stage.control.loading
        stage.control.abort()
        stage.loader.gate.set()
        with pytest.raises(HeadraceError, match="given up"):
            await preparing
        stage.control.commit()
        assert stage.swapper.served == {}
        assert not stage.control.loading

    run(test)


def test_a_load_that_was_given_up_does_not_take_the_place_of_the_next(stage: Stage) -> None:
    stage.write("slow", 1, "slow")

    async def test() -> None:
        stage.loader.gate.clear()
        first = asyncio.create_task(stage.control.prepare_load("slow"))
        await begun(stage)
        second = asyncio.create_task(stage.control.prepare_load("m"))
        await asyncio.sleep(0)
        stage.loader.gate.set()
        with pytest.raises(HeadraceError, match="given up"):
            await first
        await second
        stage.control.commit()
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_a_caller_who_hangs_up_leaves_no_half_of_a_load(stage: Stage) -> None:
    async def test() -> None:
        stage.loader.gate.clear()
        loading = asyncio.create_task(stage.control.load("m"))
        await begun(stage)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        stage.loader.gate.set()
        await stage.control.unload("m")  # its turn comes when the load has ended
        assert stage.swapper.served == {}
        assert stage.state("m", "1") == ("UNAVAILABLE", "unloaded")

    run(test)


def test_a_failed_load_keeps_the_old_and_says_why(stage: Stage) -> None:
    async def test() -> None:
        await stage.control.load("m")
        stage.write("m", 2, "bad weights")
        with pytest.raises(HeadraceError, match="failed to load 'm/2': bad weights"):
            await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one"}
        assert stage.state("m", "1")[0] == "READY"
        assert "bad weights" in stage.state("m", "1")[1]

    run(test)


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_CHARACTERS + 1)])
def test_names_that_cannot_be(stage: Stage, name: str) -> None:
    async def test() -> None:
        with pytest.raises(HeadraceError) as refused:
            await stage.control.load(name)
        assert refused.value.code is ErrorCode.INVALID_ARGUMENT

    run(test)


@pytest.mark.parametrize("name", ["nobody", "..", "m/1", "/", "\0", "é" * 200, "\udcff"])
def test_names_that_are_not_there(stage: Stage, name: str) -> None:
    async def test() -> None:
        for call in (stage.control.load, stage.control.unload):
            with pytest.raises(HeadraceError) as refused:
                await call(name)
            assert refused.value.code is ErrorCode.NOT_FOUND

    run(test)


def test_an_unload_that_takes_too_long_says_so_and_counts(stage: Stage) -> None:
    async def test() -> None:
        await stage.control.load("m")
        stage.swapper.holds = True
        with pytest.raises(HeadraceError, match="still draining") as late:
            await stage.control.unload("m")
        assert late.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert stage.swapper.served == {}
        stage.swapper.held["m", "1"]()  # its last caller leaves after all
        stage.swapper.holds = False
        await stage.control.load("m")
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_catching_up_serves_what_the_others_serve(stage: Stage) -> None:
    stage.write("extra", 1, "extra")

    async def test() -> None:
        await stage.control.load("extra")
        stage.write("m", 2, "two")
        await stage.control.catch_up({"m": ["1"]})
        assert stage.swapper.served == {("m", "1"): "one"}

    run(test)


def test_catching_up_with_what_is_gone_serves_the_rest(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.write("other", 1, "other")

    async def test() -> None:
        await stage.control.catch_up({"m": ["7"], "other": ["1"]})
        assert stage.swapper.served == {("other", "1"): "other"}

    run(test)
    assert "this one cannot" in caplog.text


def test_a_folder_that_is_away_stops_no_poll(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    root.mkdir()
    stage = Stage(root, "poll")
    stage.write("m", 1, "one")

    async def test() -> None:
        polling = asyncio.create_task(stage.control.poll())
        await until(lambda: ("m", "1") in stage.swapper.served)
        away = root.with_name("away")
        root.rename(away)
        await until(lambda: "cannot be read" in caplog.text)
        assert stage.swapper.served == {("m", "1"): "one"}
        away.rename(root)
        shutil.rmtree(root / "m")
        await until(lambda: not stage.swapper.served)
        polling.cancel()

    run(test)


def test_a_look_that_breaks_is_not_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, "poll")
    breaks = [ZeroDivisionError("odd"), None]

    async def refresh() -> None:
        if (error := breaks.pop(0)) is not None:
            raise error
        done.set()

    done = asyncio.Event()

    async def test() -> None:
        stage.control.prepare_refresh = refresh  # type: ignore[method-assign]
        polling = asyncio.create_task(stage.control.poll())
        await done.wait()
        polling.cancel()

    run(test)
    assert "odd" in caplog.text
