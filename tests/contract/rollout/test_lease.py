"""The lease: one owner at a time, and a fence that only rises."""

from __future__ import annotations

from typing import Any

from rollout.redis_rollouts import RedisRollouts
from tests.support.loops import run
from tests.support.redis_servers import ValkeyServer

NOW_S = 1_800_000_000.0
FLOOR = 1_800_000_000_000


def test_one_has_it_until_it_expires(place: Any) -> None:
    async def test() -> None:
        one, other = place.connect(), place.connect()
        first = await one.take_lease("one", NOW_S)
        assert first == FLOOR
        assert await other.take_lease("other", NOW_S) is None
        assert not await other.keep_lease("other")
        place.pass_time(2)
        assert await one.keep_lease("one")
        place.pass_time(2)
        assert await other.take_lease("other", NOW_S) is None, "it was kept"
        place.pass_time(2)
        assert not await one.keep_lease("one"), "too late"
        assert await other.take_lease("other", NOW_S) == FLOOR + 1
        assert not await one.keep_lease("one")
        assert await one.take_lease("one", NOW_S) is None
        await one.close()
        await other.close()

    run(test)


def test_only_its_owner_drops_it(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.take_lease("one", NOW_S)
        await store.drop_lease("other")
        assert await store.keep_lease("one")
        await store.drop_lease("one")
        assert not await store.keep_lease("one")
        assert await store.take_lease("other", NOW_S) == FLOOR + 1
        await store.close()

    run(test)


def test_an_owner_that_asks_again_has_it_with_a_new_fence(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.take_lease("one", NOW_S)
        place.pass_time(2)
        assert await store.take_lease("one", NOW_S) == FLOOR + 1
        place.pass_time(2)
        assert await store.keep_lease("one"), "taking it again began it again"
        await store.close()

    run(test)


def test_no_fence_comes_twice_even_from_a_store_that_lost_its_data(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        first = await store.take_lease("one", NOW_S)
        place.lose_data()
        assert not await store.keep_lease("one")
        second = await store.take_lease("other", NOW_S + 0.01)
        assert second > first
        await store.drop_lease("other")
        back = await store.take_lease("one", NOW_S - 1000)
        assert back == second + 1, "a clock set back takes no fence back"
        await store.drop_lease("one")
        assert await store.take_lease("one", float("nan")) == back + 1
        await store.close()

    run(test)


def test_a_real_lease_ends_by_itself(server: ValkeyServer) -> None:
    async def test() -> None:
        store = RedisRollouts(server.socket_url, lease_ms=30)
        first = await store.take_lease("one", NOW_S)
        held = None
        while held is None:  # bounded by the test's own end
            held = await store.take_lease("other", NOW_S)
        assert held == first + 1
        assert not await store.keep_lease("one")
        await store.close()

    with server.client() as client:
        client.flushall()
    run(test)
