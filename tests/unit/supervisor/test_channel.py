from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.errors import ErrorCode, HeadraceError
from gateway.supervisor.channel import MAX_CALLS_AT_ONCE, Channel, ChannelClosedError, Handler
from tests.support.loops import TIMEOUT_S, run


async def _deaf(method: str, value: Any) -> Any:
    raise AssertionError("nobody calls this side")


@asynccontextmanager
async def pair(here: Handler, there: Handler = _deaf) -> AsyncIterator[tuple[Channel, Channel]]:
    first, second = socket.socketpair()
    one, other = Channel(first, there), Channel(second, here)
    await one.open()
    await other.open()
    running = [asyncio.create_task(one.run()), asyncio.create_task(other.run())]
    try:
        yield one, other
    finally:
        one.close()
        other.close()
        await asyncio.gather(*running)


async def echo(method: str, value: Any) -> Any:
    return [method, value]


def test_a_call_is_answered() -> None:
    async def test() -> None:
        async with pair(echo) as (one, _):
            answer = await one.call("say", {"x": [1, None, "é"]}, timeout_s=TIMEOUT_S)
            assert answer == ["say", {"x": [1, None, "é"]}]

    run(test)


def test_answers_find_their_callers_in_any_order() -> None:
    release: dict[int, asyncio.Event] = {}

    async def slow(method: str, value: int) -> int:
        await release[value].wait()
        return value

    async def test() -> None:
        release.update({number: asyncio.Event() for number in range(20)})
        async with pair(slow) as (one, _):
            calls = [
                asyncio.create_task(one.call("wait", number, timeout_s=TIMEOUT_S))
                for number in range(20)
            ]
            for number in reversed(range(20)):
                release[number].set()
            assert await asyncio.gather(*calls) == list(range(20))

    run(test)


def test_both_sides_may_call_while_they_are_called() -> None:
    async def test() -> None:
        channels: list[Channel] = []

        async def asks_back(method: str, value: Any) -> Any:
            return await channels[1].call("back", value, timeout_s=TIMEOUT_S)

        async with pair(asks_back, echo) as both:
            channels += both
            assert await both[0].call("there", 7, timeout_s=TIMEOUT_S) == ["back", 7]

    run(test)


def test_an_error_keeps_its_code_and_words() -> None:
    async def refuses(method: str, value: Any) -> Any:
        raise HeadraceError(ErrorCode.NOT_FOUND, "no such thing")

    async def test() -> None:
        async with pair(refuses) as (one, _):
            with pytest.raises(HeadraceError, match="no such thing") as refused:
                await one.call("get", timeout_s=TIMEOUT_S)
            assert refused.value.code is ErrorCode.NOT_FOUND

    run(test)


def test_what_nobody_expected_is_logged_here_and_not_told_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks(method: str, value: Any) -> Any:
        raise ZeroDivisionError("a secret")

    async def test() -> None:
        async with pair(breaks) as (one, _):
            with pytest.raises(HeadraceError) as refused:
                await one.call("get", timeout_s=TIMEOUT_S)
            assert refused.value.code is ErrorCode.INTERNAL
            assert "secret" not in refused.value.message

    run(test)
    assert "a secret" in caplog.text


def test_calls_end_when_the_peer_goes() -> None:
    async def never(method: str, value: Any) -> Any:
        await asyncio.Event().wait()

    async def test() -> None:
        async with pair(never) as (one, other):
            waiting = asyncio.create_task(one.call("wait", timeout_s=TIMEOUT_S))
            await asyncio.sleep(0)
            other.close()
            with pytest.raises(ChannelClosedError):
                await waiting
            assert not one.is_open
            with pytest.raises(ChannelClosedError):
                await one.call("again", timeout_s=TIMEOUT_S)
            one.tell("this")  # nobody hears it, and nothing happens

    run(test)


def test_a_late_answer_is_dropped() -> None:
    release = asyncio.Event()

    async def slow(method: str, value: Any) -> Any:
        await release.wait()
        return "late"

    async def test() -> None:
        async with pair(slow) as (one, _):
            with pytest.raises(TimeoutError):
                await one.call("wait", timeout_s=0.01)
            release.set()
            assert await one.call("wait", timeout_s=TIMEOUT_S) == "late"

    run(test)


def test_too_many_calls_at_once_are_refused() -> None:
    release = asyncio.Event()

    async def slow(method: str, value: Any) -> Any:
        await release.wait()

    async def test() -> None:
        async with pair(slow) as (one, _):
            calls = [
                asyncio.create_task(one.call("wait", timeout_s=TIMEOUT_S))
                for _ in range(MAX_CALLS_AT_ONCE + 5)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            release.set()
            await asyncio.wait(calls)
            refused = [call for call in calls if call.exception() is not None]
            assert len(refused) == 5
            assert all("too many" in str(call.exception()) for call in refused)

    run(test)
