from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.supervisor.in_turn import MAX_CHANGES, InTurn
from tests.support.loops import run


def test_one_after_the_other_in_the_order_of_their_coming() -> None:
    seen: list[str] = []

    async def test() -> None:
        changes = InTurn()

        def change(name: str) -> Callable[[], Awaitable[None]]:
            async def make() -> None:
                seen.append(f"{name} begins")
                await asyncio.sleep(0)
                seen.append(f"{name} ends")

            return make

        await asyncio.gather(changes.run(change("a")), changes.run(change("b")))

    run(test)
    assert seen == ["a begins", "a ends", "b begins", "b ends"]


def test_a_change_goes_on_when_its_caller_hangs_up() -> None:
    async def test() -> None:
        changes, release, done = InTurn(), asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            await release.wait()
            done.set()

        caller = asyncio.create_task(changes.run(slow))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert changes.lock.locked()
        release.set()
        await done.wait()
        async with changes.lock:
            pass

    run(test)


def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        changes, release = InTurn(), asyncio.Event()

        async def fails() -> None:
            await release.wait()
            raise HeadraceError(ErrorCode.NOT_FOUND, "no such model")

        caller = asyncio.create_task(changes.run(fails))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        release.set()
        async with changes.lock:
            pass
        await asyncio.sleep(0)

    run(test)
    assert "no such model" in caplog.text


def test_a_failure_reaches_the_caller_and_not_the_next() -> None:
    async def test() -> None:
        changes = InTurn()

        async def fails() -> None:
            raise HeadraceError(ErrorCode.NOT_FOUND, "no such model")

        async def works() -> None:
            return None

        first, second = await asyncio.gather(
            changes.run(fails), changes.run(works), return_exceptions=True
        )
        assert isinstance(first, HeadraceError)
        assert second is None

    run(test)


def test_too_many_are_refused_at_once() -> None:
    async def test() -> None:
        changes, release = InTurn(), asyncio.Event()

        async def waits() -> None:
            await release.wait()

        callers = [asyncio.create_task(changes.run(waits)) for _ in range(MAX_CHANGES)]
        await asyncio.sleep(0)
        with pytest.raises(HeadraceError) as refused:
            await changes.run(waits)
        assert refused.value.code is ErrorCode.OVERLOADED
        release.set()
        await asyncio.gather(*callers)
        await changes.run(waits)

    run(test)
