"""A store that goes away in the middle and comes back: errors in time, and then work as before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from foundation.store_url import unix_url
from rollout.plan import Event
from rollout.ports import Counters, StoreAwayError, WorkerBeat, Written
from rollout.redis_rollouts import RedisRollouts
from tests.contract.rollout.conftest import TIMEOUT_S
from tests.support.loops import run
from tests.support.redis_servers import ValkeyServer
from tests.unit.rollout.plans import after, draft

FIRST = draft(now_s=1.0)
SECOND = after(FIRST, Event.START)
SLACK_S = 1.0
"""For a machine that does other things too."""


def every_call(store: Any) -> list[Callable[[], Awaitable[object]]]:
    return [
        store.models,
        lambda: store.plan("delays"),
        lambda: store.write(SECOND, 1, 0),
        lambda: store.report("a", "delays", 1, Counters()),
        lambda: store.reports("delays", 1),
        lambda: store.beat(WorkerBeat("a", 1.0)),
        store.beats,
        lambda: store.take_lease("one", 1.0),
        lambda: store.keep_lease("one"),
        lambda: store.drop_lease("one"),
        lambda: anext(store.changes()),
    ]


async def all_fail(store: Any, words: str) -> None:
    async def one(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreAwayError, match=words):
            await call()

    began_s = time.monotonic()
    await asyncio.gather(*(one(call) for call in every_call(store)))
    assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S


def test_a_store_that_is_killed_is_away_and_then_works_again(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.write(FIRST, 0, 0)
        place.go_away()
        await all_fail(store, "away|cannot be reached")
        await all_fail(store, "away|cannot be reached")
        place.come_back()
        # What it had is what its settings say; here one of the two has lost everything.
        if await store.plan("delays") is None:
            assert await store.write(FIRST, 0, 0) == Written()
        assert await store.write(SECOND, 1, await store.take_lease("one", 1.0)) == Written()
        assert await store.keep_lease("one")
        await store.beat(WorkerBeat("a", 1.0))
        assert await store.beats() == [WorkerBeat("a", 1.0)]
        await store.close()

    run(test)


def test_a_frozen_store_is_away_in_time_and_no_late_answer_is_mistaken(
    server: ValkeyServer,
) -> None:
    async def test() -> None:
        store = RedisRollouts(server.socket_url, timeout_s=TIMEOUT_S)
        await store.write(FIRST, 0, 0)
        await store.beat(WorkerBeat("a", 1.0))
        with server.frozen():
            await all_fail(store, "does not answer in time")
        for _ in range(3):
            assert await store.models() == ["delays"]
            assert await store.beats() == [WorkerBeat("a", 1.0)]
            # The write that was given up may have come through or not; nothing else may be there.
            found = await store.plan("delays")
            assert found is not None
            assert found.plan in (FIRST, SECOND)
        await store.close()

    with server.client() as client:
        client.flushall()
    run(test)


def test_nobody_there_wrong_door_and_wrong_address() -> None:
    async def test() -> None:
        for url, words in (
            (unix_url("/nowhere/s"), "unix:///nowhere/s cannot be reached"),
            ("redis://127.0.0.1:1", "redis://127.0.0.1:1 cannot be reached"),
            ("nonsense://x", "must begin with one of redis://"),
            ("redis+cluster://127.0.0.1:1", "cannot be kept in a cluster yet"),
            ("redis+sentinel://127.0.0.1:1/main", "redis.sentinel://127.0.0.1:1/main "),
        ):
            store = RedisRollouts(url, timeout_s=TIMEOUT_S)
            await all_fail(store, words)
            await store.close()

    run(test)


def test_a_password_is_asked_for_and_never_shown() -> None:
    async def test() -> None:
        place = f"127.0.0.1:{server.port}"
        for url in (f"redis://{place}", f"redis://:wrong-secret@{place}"):
            store = RedisRollouts(url, timeout_s=TIMEOUT_S)
            with pytest.raises(StoreAwayError, match="does not let us in") as raised:
                await store.models()
            assert "secret" not in str(raised.value)
            await store.close()
        store = RedisRollouts(f"redis://:right-secret@{place}", timeout_s=TIMEOUT_S)
        assert await store.models() == []
        await store.close()

    # Ready once it answers that it wants a password.
    with ValkeyServer(requirepass="right-secret") as server:
        run(test)


def test_a_full_store_says_so(server: ValkeyServer) -> None:
    async def test() -> None:
        store = RedisRollouts(server.socket_url, timeout_s=TIMEOUT_S)
        with pytest.raises(StoreAwayError, match="is full"):
            await store.write(FIRST, 0, 0)
        with pytest.raises(StoreAwayError, match="is full"):
            await store.beat(WorkerBeat("a", 1.0))
        await store.close()

    with server.client() as client:
        client.flushall()
        client.config_set("maxmemory", 1)
        try:
            run(test)
        finally:
            client.config_set("maxmemory", 0)


def test_a_store_that_moves_is_followed(server: ValkeyServer) -> None:
    urls = [unix_url("/nowhere/s")]

    async def test() -> None:
        store = RedisRollouts(lambda: urls[-1], timeout_s=TIMEOUT_S)
        with pytest.raises(StoreAwayError):
            await store.models()
        urls.append(server.socket_url)
        assert await store.models() == []
        await store.close()

    with server.client() as client:
        client.flushall()
    run(test)
