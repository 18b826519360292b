"""Changes that are pushed, and the end of that when the connection is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rollout.plan import Event
from rollout.ports import StoreAwayError
from rollout.redis_rollouts import RedisRollouts
from tests.contract.rollout.conftest import TIMEOUT_S
from tests.support.loops import run
from tests.support.redis_servers import ValkeyServer
from tests.unit.rollout.plans import after, draft, proposal

FIRST = draft(now_s=1.0)
SECOND = after(FIRST, Event.START)
FARES = draft(proposal(model="fares"))


def test_each_model_first_and_then_each_change(place: Any) -> None:
    async def test() -> None:
        store, writer = place.connect(), place.connect()
        await writer.write(FIRST, 0, 0)
        one, other = store.changes(), store.changes()
        assert await anext(one) == "delays"
        assert await anext(other) == "delays"
        await writer.write(FARES, 0, 0)
        await writer.write(SECOND, 1, 0)
        assert {await anext(one), await anext(one)} == {"delays", "fares"}
        assert {await anext(other), await anext(other)} == {"delays", "fares"}
        await one.aclose()
        await other.aclose()
        await store.close()
        await writer.close()

    run(test)


def test_what_was_not_written_is_no_change(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.write(FIRST, 0, 0)
        changes = store.changes()
        assert await anext(changes) == "delays"
        await store.write(FIRST, 0, 0)
        await store.write(draft(now_s=2.0), 0, 0)
        await store.write(FARES, 0, 0)
        assert await anext(changes) == "fares"
        await changes.aclose()
        await store.close()

    run(test)


def test_they_end_when_the_store_goes_and_begin_again_when_it_is_back(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.write(FIRST, 0, 0)
        changes = store.changes()
        assert await anext(changes) == "delays"
        waiting = asyncio.ensure_future(anext(changes, "the end"))
        await asyncio.sleep(0)
        place.go_away()
        assert await waiting == "the end"
        with pytest.raises(StoreAwayError):
            await anext(store.changes())
        place.come_back()
        await store.write(FARES, 0, 0)
        again = store.changes()
        while await anext(again) != "fares":
            pass
        await store.write(after(FARES, Event.START), 1, 0)
        assert await anext(again) == "fares"
        await again.aclose()
        await store.close()

    run(test)


def test_a_store_that_says_nothing_any_more_ends_them_too(server: ValkeyServer) -> None:
    quick_s = 0.2

    async def test() -> None:
        store = RedisRollouts(server.socket_url, timeout_s=quick_s)
        patient = RedisRollouts(server.socket_url, timeout_s=TIMEOUT_S)
        await patient.write(FIRST, 0, 0)
        changes = store.changes()
        assert await anext(changes) == "delays"
        waiting = asyncio.ensure_future(anext(changes, "the end"))
        began_s = time.monotonic()
        while time.monotonic() < began_s + 4 * quick_s:
            await patient.models()
        assert not waiting.done(), "a quiet store that answers is no lost one"
        with server.frozen():
            assert await waiting == "the end"
        await store.close()
        await patient.close()

    with server.client() as client:
        client.flushall()
    run(test)


def test_a_connection_that_the_store_closes_ends_them(server: ValkeyServer) -> None:
    async def test() -> None:
        store = RedisRollouts(server.socket_url, timeout_s=TIMEOUT_S)
        await store.write(FIRST, 0, 0)
        changes = store.changes()
        assert await anext(changes) == "delays"
        waiting = asyncio.ensure_future(anext(changes, "the end"))
        await asyncio.sleep(0)
        with server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await waiting == "the end", "over a new connection, changes in between were missed"
        await store.close()

    with server.client() as client:
        client.flushall()
    run(test)
