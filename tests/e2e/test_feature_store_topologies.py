"""Sentinels and clusters of real servers: the source follows them through a failover, a restart and a moved slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from featurecache.sources.cluster_slots import slot_of
from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from tests.support.redis_servers import SentinelTrio, ValkeyCluster, ValkeyServer
from tests.support.row_sources import PATIENT, Asked, Changes, opened

LIMITS = SourceLimits(
    connect_timeout_s=0.5, read_timeout_s=0.4, backoff_max_s=0.2, topology_refresh_s=60.0
)
KEYS = [b"hr:p:{a:%d}:v" % number for number in range(60)]


def run(test: Callable[[], Awaitable[None]], within_s: float = 40.0) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), within_s)

    asyncio.run(bounded())


async def rows_again(source: RowSource, keys: list[bytes]) -> list[bytes | None]:
    """The first answer; errors until then are what the fault is about."""
    while True:
        asked = Asked(source, keys, track=True)
        if await asked.succeeds():
            return await asked.rows()
        await asyncio.sleep(0.02)


# -- sentinels ---------------------------------------------------------------------------------------


@pytest.fixture
def trio() -> Iterator[SentinelTrio]:
    with SentinelTrio() as running:
        yield running


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_a_failover_is_followed_to_the_new_master(trio: SentinelTrio, fault: str) -> None:
    async def test() -> None:
        with trio.master.client() as client:
            client.set("k", "old")
            client.wait(1, 5000)
        async with opened(trio.url, LIMITS) as source:
            changes = Changes(source)
            assert await Asked(source, [b"k"], track=True).rows() == [b"old"]
            if fault == "killed":
                trio.master.kill()
                await moved(source, changes)
            else:
                with trio.master.frozen():
                    asked = Asked(source, [b"k"])
                    assert "no reply within 400 ms" in await asked.error()
                    await moved(source, changes)

    async def moved(source: RowSource, changes: Changes) -> None:
        await changes.of_all()
        assert await rows_again(source, [b"k"]) == [b"old"], "the replica had it too"
        assert trio.master_is(trio.replica.port)
        assert source.tracks
        changes.heard.clear()
        with trio.replica.client() as client:
            client.set("k", "new")
        await changes.of(b"k")
        assert await Asked(source, [b"k"]).rows() == [b"new"]

    run(test)


def test_sentinels_that_are_gone_or_do_not_know_are_said(trio: SentinelTrio) -> None:
    async def test() -> None:
        trio.sentinels[0].kill()
        async with opened(trio.url, LIMITS) as source:
            assert await rows_again(source, [b"k"]) == [None], "one of three is enough"
        async with opened(trio.url.replace("/main", "/other"), LIMITS) as source:
            error = await Asked(source, [b"k"]).error()
            assert "knows no master 'other'" in error
            assert "Connection refused" in error
        async with opened(trio.sentinels[1].url, LIMITS) as source:
            assert "say redis+sentinel://" in await Asked(source, [b"k"]).error()

    run(test)


def test_a_replica_is_not_taken_for_the_master() -> None:
    """A sentinel that was cut off names a server that has been demoted since."""

    async def test() -> None:
        with ValkeyServer() as master, ValkeyServer() as demoted:
            watch = f"sentinel monitor main 127.0.0.1 {demoted.port} 2"
            with ValkeyServer(sentinel=watch, bind="127.0.0.1") as misled:
                url = f"redis+sentinel://127.0.0.1:{misled.port}/main"
                async with opened(url, LIMITS) as source:
                    assert source.is_up
                    changes = Changes(source)
                    with demoted.client() as client:
                        client.replicaof("127.0.0.1", master.port)
                        client.client_kill_filter(_type="normal", skipme=True)
                    await changes.of_all()
                    assert "no master" in await later_error(source)

    run(test)


async def later_error(source: RowSource) -> str:
    """What is said once a new connection was tried."""
    while True:
        error = await Asked(source, [b"k"]).error()
        if "closed the connection" not in error:
            return error
        await asyncio.sleep(0.02)


# -- clusters ----------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as running:
        yield running


def fill(cluster: ValkeyCluster) -> list[bytes | None]:
    with cluster.client() as client:
        for key in KEYS:
            client.set(key, b"row of " + key)
    return [b"row of " + key for key in KEYS]


def test_a_node_that_is_killed_and_started_again_answers_again(cluster: ValkeyCluster) -> None:
    async def test() -> None:
        expected = fill(cluster)
        async with opened(cluster.url, LIMITS) as source:
            changes = Changes(source)
            assert await Asked(source, KEYS, track=True).rows() == expected
            victim = cluster.nodes[0]  # the first of the two that the address names
            victim.kill()
            await changes.of_all()
            assert str(victim.port) in await Asked(source, KEYS).error()
            assert not source.tracks
            here = [key for key in KEYS if slot_of(key) > cluster.SLOTS // 3 + 1]
            assert 0 < len(here) < len(KEYS)
            assert len(await rows_again(source, here)) == len(here), "the others answer"
            await asyncio.to_thread(victim.start)
            back = await rows_again(source, KEYS)
            for key, before, row in zip(KEYS, expected, back, strict=True):
                assert row == (before if key in here else None)  # it kept nothing on disk

    run(test)


def test_a_node_that_hangs_fails_reads_in_time(cluster: ValkeyCluster) -> None:
    async def test() -> None:
        expected = fill(cluster)
        async with opened(cluster.url, LIMITS) as source:
            assert await Asked(source, KEYS).rows() == expected
            with cluster.nodes[1].frozen():
                began_s = time.monotonic()
                error = await Asked(source, KEYS).error()
                assert "no reply within 400 ms" in error
                assert time.monotonic() - began_s < LIMITS.read_timeout_s + 0.3
            assert await rows_again(source, KEYS) == expected

    run(test)


def test_a_change_told_before_the_whole_answer_is_told_again_after_it(
    cluster: ValkeyCluster,
) -> None:
    """One node answered, then told of a change; the other was late. Copies of the answer would be old for good."""

    async def test() -> None:
        expected = fill(cluster)
        third = cluster.SLOTS // 3 + 1
        quick = next(number for number, key in enumerate(KEYS) if slot_of(key) < third)
        async with opened(cluster.url, PATIENT) as source:
            changes = Changes(source)
            with cluster.nodes[1].frozen():
                asked = Asked(source, KEYS, track=True)
                with cluster.nodes[0].client() as client:
                    while KEYS[quick] not in changes.keys:
                        client.set(KEYS[quick], b"new")
                        await asyncio.sleep(0.01)
                assert asked.told == []
                changes.heard.clear()
            rows = await asked.rows()
            assert len(rows) == len(expected)
            assert KEYS[quick] in changes.keys

    run(test)


def test_slots_that_move_are_followed_within_the_fetch(cluster: ValkeyCluster) -> None:
    async def test() -> None:
        expected = fill(cluster)
        key = KEYS[7]
        async with opened(cluster.url, LIMITS) as source:
            changes = Changes(source)
            assert await Asked(source, KEYS, track=True).rows() == expected
            await asyncio.to_thread(move_slot, cluster, slot_of(key))
            await changes.of(key)  # the old node let go of it
            assert await Asked(source, KEYS, track=True).rows() == expected
            await changes.of_all()
            changes.heard.clear()
            assert await rows_again(source, [key]) == [b"row of " + key]
            with cluster.client() as client:
                client.set(key, b"changed at the new node")
            await changes.of(key)
            assert await Asked(source, [key]).rows() == [b"changed at the new node"]

    run(test)


def test_a_slot_on_its_way_is_asked_for_at_its_new_node(cluster: ValkeyCluster) -> None:
    async def test() -> None:
        expected = fill(cluster)
        async with opened(cluster.url, LIMITS) as source:
            assert await Asked(source, KEYS).rows() == expected
            await asyncio.to_thread(move_slot, cluster, slot_of(KEYS[7]), finish=False)
            assert await Asked(source, KEYS, track=True).rows() == expected

    run(test)


def move_slot(cluster: ValkeyCluster, slot: int, *, finish: bool = True) -> None:
    """As an operator's tool does it: announce, copy the keys, tell everybody."""
    third = cluster.SLOTS // 3 + 1
    old, new = cluster.nodes[slot // third], cluster.nodes[(slot // third + 1) % 3]
    with old.client() as giving, new.client() as taking:
        ids = [one.execute_command("CLUSTER", "MYID").decode() for one in (giving, taking)]
        taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        keys = giving.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        assert keys
        giving.execute_command("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)
        if finish:
            for node in (taking, giving):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])


def test_addresses_of_the_wrong_kind_say_which_is_right(cluster: ValkeyCluster) -> None:
    async def test() -> None:
        async with opened(cluster.nodes[0].url, LIMITS) as source:
            assert "say redis+cluster://" in await Asked(source, [b"k"]).error()
        with ValkeyServer() as single:
            async with opened(f"redis+cluster://127.0.0.1:{single.port}", LIMITS) as source:
                assert "say redis://" in await Asked(source, [b"k"]).error()

    run(test)


def test_a_cluster_that_is_not_there_yet_is_found_later() -> None:
    cluster = ValkeyCluster()

    async def test() -> None:
        async with opened(cluster.url, LIMITS) as source:
            assert not source.is_up
            assert "Connection refused" in await Asked(source, [b"k"]).error()
            await asyncio.to_thread(cluster.__enter__)
            expected = await asyncio.to_thread(fill, cluster)
            assert await rows_again(source, KEYS) == expected

    try:
        run(test)
    finally:
        cluster.__exit__(None, None, None)
