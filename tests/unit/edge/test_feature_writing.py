"""Pushes of one process: how many are inside, how long they may take, and what is told when the writing fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from featurecache.errors import RowError, SourceError
from featurecache.sources.memory_source import MemorySource
from gateway.errors import ErrorCode, HeadraceError
from gateway.feature_writing import FeaturePushes, NoPushes, open_pushes
from gateway.live_manifest import LiveManifest
from gateway.messages import PushOutcome
from gateway.ports import PushedRows, ReadRows
from gateway.pushed_rows import PushedRowsWriter, Written
from gateway.settings import FeatureSettings
from tests.support import feature_rows, loops

KEYS = [b"k1", b"k2"]


class Writer:
    """Writes what it is told to when ``go`` is set; counts."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.began = 0
        self.error: Exception | None = None
        self.closed = False

    def write(self, read: ReadRows, max_rows: int) -> Written:
        self.began += 1
        assert self.go.wait(loops.TIMEOUT_S)
        if self.error is not None:
            raise self.error
        view, rows = read(max_rows)
        return Written(view, PushOutcome(created=len(rows), older=1), KEYS)

    def close(self) -> None:
        self.closed = True


class World:
    """Pushes before a writer, and a reading side that says what it was told to forget."""

    def __init__(self, **settings: Any) -> None:
        self.writer = Writer()
        self.forgotten: list[Sequence[bytes] | None] = []
        self.source = MemorySource()
        self.source.on_invalidated = self.forgotten.append
        self.pushes = FeaturePushes(
            FeatureSettings(push=True, **settings),
            cast("PushedRowsWriter", self.writer),
            self.source,
        )

    async def __aenter__(self) -> World:
        await self.source.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.go.set()
        await self.pushes.close()
        assert self.writer.closed
        await self.source.close()

    def push(self) -> asyncio.Task[PushOutcome]:
        return asyncio.ensure_future(self.pushes.push(read))


def read(max_rows: int) -> PushedRows:
    return "v", [{}, {}]


async def refusal(push: asyncio.Task[PushOutcome]) -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        await push
    return refused.value


def test_a_push_is_written_counted_and_its_copies_forgotten() -> None:
    async def test() -> None:
        async with World() as world:
            assert await world.push() == PushOutcome(created=2, older=1)
            assert world.forgotten == [KEYS]
            assert world.pushes.rows == {("v", "created"): 2, ("v", "older"): 1}
            assert world.pushes.calls == {"ok": 1}

    loops.run(test)


def test_only_so_many_are_inside_and_those_whose_callers_left_count() -> None:
    async def test() -> None:
        async with World(max_pushes_in_flight=2) as world:
            world.writer.go.clear()
            first, second = world.push(), world.push()
            await loops.until(lambda: world.writer.began == 1)
            assert (await refusal(world.push())).code is ErrorCode.OVERLOADED
            with pytest.raises(HeadraceError, match="max_pushes_in_flight"):
                world.pushes.check()
            first.cancel()  # the thread has it: it stays inside
            await asyncio.sleep(0)
            assert (await refusal(world.push())).retry_after_s == 1.0
            second.cancel()  # nobody has begun with it: its place is free
            await loops.until(second.cancelled)
            third = world.push()
            world.writer.go.set()
            assert (await third).created == 2
            assert world.writer.began == 2
            assert world.pushes.calls == {"overloaded": 3, "ok": 1}

    loops.run(test)


def test_nobody_waits_for_longer_than_it_may_take() -> None:
    async def test() -> None:
        async with World(push_timeout_ms=20.0) as world:
            world.writer.go.clear()
            begun = world.push()
            await loops.until(lambda: world.writer.began == 1)
            waiting = world.push()
            first, second = await refusal(begun), await refusal(waiting)
            assert {first.code, second.code} == {ErrorCode.NOT_READY}
            assert first.retry_after_s == second.retry_after_s == 1.0
            assert "did not answer within 20 ms" in first.message
            assert "nothing of this push was written" in second.message
            world.writer.go.set()
            await loops.until(lambda: not world.pushes._inside)
            assert world.writer.began == 1

    loops.run(test)


def test_a_store_that_is_away_is_not_tried() -> None:
    async def test() -> None:
        async with World() as world:
            world.source.fail()
            error = await refusal(world.push())
            assert (error.code, error.retry_after_s) == (ErrorCode.NOT_READY, 1.0)
            assert world.writer.began == 0

    loops.run(test)


def test_what_the_store_says_goes_to_the_log_and_not_to_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with World() as world:
            world.writer.error = SourceError("redis://10.9.8.7:6379 is full")
            for _ in range(3):
                error = await refusal(world.push())
                assert error.code is ErrorCode.NOT_READY
                assert "10.9.8.7" not in error.message
            assert not world.forgotten

    loops.run(test)
    assert caplog.text.count("10.9.8.7") == 1


def test_mistakes_in_rows_are_the_callers() -> None:
    async def test() -> None:
        async with World() as world:
            world.writer.error = RowError("row 3: no")
            error = await refusal(world.push())
            assert (error.code, error.message) == (ErrorCode.INVALID_ARGUMENT, "row 3: no")
            world.writer.error = HeadraceError(ErrorCode.PERMISSION_DENIED, "not yours")
            assert (await refusal(world.push())).code is ErrorCode.PERMISSION_DENIED
            assert world.pushes.calls == {"invalid_argument": 1, "permission_denied": 1}

    loops.run(test)


@pytest.mark.parametrize(
    ("settings", "code", "word"),
    [
        (FeatureSettings(), ErrorCode.PERMISSION_DENIED, "HEADRACE_FEATURES_PUSH=true"),
        (FeatureSettings(push=True), ErrorCode.UNIMPLEMENTED, "set manifest"),
    ],
)
def test_where_nothing_may_be_pushed(settings: FeatureSettings, code: ErrorCode, word: str) -> None:
    pushes = open_pushes(settings, None, None)
    assert isinstance(pushes, NoPushes)
    with pytest.raises(HeadraceError, match=word) as refused:
        pushes.check()
    assert refused.value.code is code
    loops.run(pushes.close)


# ---- the manifest while the gateway runs ---------------------------------------------------------


def test_a_manifest_is_read_again_when_it_changed_and_not_lost_when_it_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveManifest(FeatureSettings(manifest=str(tmp_path)))
    with pytest.raises(HeadraceError, match="cannot be read") as refused:
        live.get()
    assert refused.value.code is ErrorCode.NOT_READY
    feature_rows.apply(tmp_path)
    first = live.get()
    assert live.get() is first
    more = (
        feature_rows.DEFINITIONS
        + 'other = FeatureView("other", entity=user, columns=[Column("a", Int64)])\n'
    )
    feature_rows.apply(tmp_path, more)
    second = live.get()
    assert [one.name for one in second.views][-1:] == ["other"]
    (tmp_path / "manifest.json").write_text("{")
    caplog.clear()
    assert live.get() is live.get() is second
    assert caplog.text.count("the one before stays") == 1


def test_a_manifest_that_becomes_readable_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature_rows.apply(tmp_path)
    live = LiveManifest(FeatureSettings(manifest=str(tmp_path)))
    with (
        monkeypatch.context() as without_rights
    ):  # who runs the tests may be root, who may read anything
        without_rights.setattr(Path, "read_bytes", _refuse)
        with pytest.raises(HeadraceError, match="cannot be read"):
            live.get()
    (tmp_path / "manifest.json").chmod(0o640)
    assert live.get().project == "shop"


def _refuse(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


def test_an_unknown_view_tells_nothing_of_the_others(tmp_path: Path) -> None:
    feature_rows.apply(tmp_path)
    live = LiveManifest(FeatureSettings(manifest=str(tmp_path)))
    writer = PushedRowsWriter("redis://127.0.0.1:1", live, 1.0)
    with pytest.raises(Exception, match="no feature view 'nothing'") as refused:
        writer.write(lambda max_rows: ("nothing", []), 5)
    assert "profile" not in str(refused.value)
