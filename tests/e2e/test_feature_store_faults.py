"""A real store that is absent, dies, hangs, is slow or keeps its doors shut: fetches fail in time and clearly, and all
is well again without a restart of anything.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
import uvloop

from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from tests.support import loops
from tests.support.certificates import Authority
from tests.support.redis_servers import ValkeyServer, free_ports
from tests.support.row_sources import Asked, Changes, opened
from tests.support.tcp_proxy import TcpProxy

LIMITS = SourceLimits(connect_timeout_s=0.5, read_timeout_s=0.4, backoff_max_s=0.2)
IN_TIME_S = LIMITS.read_timeout_s + 0.3
"""The read timeout, and what a busy machine adds."""


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


async def until_up(source: RowSource) -> None:
    await loops.until(lambda: source.is_up)


async def answers(source: RowSource, key: bytes = b"k") -> list[bytes | None]:
    await until_up(source)
    return await Asked(source, [key], track=True).rows()


def write(server: ValkeyServer, key: str = "k", row: str = "row") -> None:
    with server.client() as client:
        client.set(key, row)


def on_both_loops(test: Callable[[], Awaitable[None]]) -> None:
    loops.run(test)

    async def bounded() -> None:
        await asyncio.wait_for(test(), loops.TIMEOUT_S)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def test_an_absent_store_refuses_at_once_and_is_found_when_it_starts() -> None:
    server = ValkeyServer(port=free_ports(1)[0])

    async def test() -> None:
        async with opened(server.url, LIMITS) as source:
            assert not source.is_up
            began_s = time.monotonic()
            assert "refused" in await Asked(source, [b"k"]).error()
            assert time.monotonic() - began_s < 0.1, "it waited for what is not there"
            await asyncio.to_thread(server.start)
            write(server)
            assert await answers(source) == [b"row"]
            assert source.tracks

    try:
        loops.run(test)
    finally:
        server.close()


def test_a_store_that_is_killed_and_started_again_works_again(server: ValkeyServer) -> None:
    async def test() -> None:
        async with opened(server.socket_url, LIMITS) as source:
            changes = Changes(source)
            for _ in range(3):
                write(server)
                assert await answers(source) == [b"row"]
                with server.frozen():  # so that the reads are under way when it dies
                    waiting = [Asked(source, [b"k"]) for _ in range(5)]
                    await asyncio.sleep(0)
                    server.kill()
                for one in waiting:
                    assert "connection" in await one.error()
                await changes.of_all()
                changes.heard.clear()
                assert not source.tracks
                assert server.socket_url in await Asked(source, [b"k"]).error()
                await asyncio.to_thread(server.start)
            write(server)
            assert await answers(source) == [b"row"]

    loops.run(test)


def test_a_store_that_hangs_fails_reads_in_time_and_works_again_later(
    server: ValkeyServer,
) -> None:
    async def test() -> None:
        write(server)
        async with opened(server.url, LIMITS) as source:
            changes = Changes(source)
            assert await answers(source) == [b"row"]
            with server.frozen():
                began_s = time.monotonic()
                asked = [Asked(source, [b"k"]) for _ in range(3)]
                for one in asked:
                    assert "no reply within 400 ms" in await one.error()
                took_s = time.monotonic() - began_s
                assert LIMITS.read_timeout_s - 0.01 <= took_s < IN_TIME_S
                assert changes.heard == [None], "copies are no longer watched over"
                # The kernel still accepts connections; nobody may take that for a store.
                began_s = time.monotonic()
                while time.monotonic() - began_s < 2 * LIMITS.read_timeout_s:
                    assert not source.is_up
                    assert "no reply" in await Asked(source, [b"k"]).error()
                    await asyncio.sleep(0.05)
            assert await answers(source) == [b"row"]
            assert source.tracks

    loops.run(test)


def test_an_idle_connection_that_died_is_noticed_without_any_read(server: ValkeyServer) -> None:
    """Else copies would be served on, and nobody would say that they changed."""

    async def test() -> None:
        with TcpProxy(server.port) as proxy:
            async with opened(f"redis://127.0.0.1:{proxy.port}", LIMITS) as source:
                changes = Changes(source)
                assert await answers(source) == [None]
                proxy.swallows = True
                began_s = time.monotonic()
                await changes.of_all()
                assert time.monotonic() - began_s < 3 * LIMITS.read_timeout_s + 0.3
                proxy.swallows = False
                assert await answers(source) == [None]

    loops.run(test)


def test_an_idle_connection_that_lives_is_kept(server: ValkeyServer) -> None:
    async def test() -> None:
        limits = msgspec.structs.replace(LIMITS, heartbeat_s=0.05)
        with TcpProxy(server.port) as proxy:
            async with opened(f"redis://127.0.0.1:{proxy.port}", limits) as source:
                await until_up(source)
                changes = Changes(source)
                await asyncio.sleep(2 * limits.read_timeout_s)
                assert source.is_up
                assert changes.heard == []
                assert proxy.accepted == 1

    loops.run(test)


def test_a_store_that_is_slow_within_the_timeout_is_waited_for(server: ValkeyServer) -> None:
    async def test() -> None:
        write(server)
        with TcpProxy(server.port) as proxy:
            async with opened(f"redis://127.0.0.1:{proxy.port}", LIMITS) as source:
                await until_up(source)
                proxy.delay_s = 0.1
                began_s = time.monotonic()
                asked = [Asked(source, [b"k"]) for _ in range(20)]
                for one in asked:
                    assert await one.rows() == [b"row"]
                assert time.monotonic() - began_s >= 0.1
                assert proxy.accepted == 1

    loops.run(test)


def test_a_server_busy_for_longer_than_the_timeout_costs_one_connection(
    server: ValkeyServer,
) -> None:
    async def test() -> None:
        write(server)
        async with opened(server.url, LIMITS) as source:
            await until_up(source)
            with server.client() as client:
                # Nobody waits for its reply: the command keeps the server's only thread busy.
                busy = asyncio.create_task(
                    asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", "1.2")
                )
                await asyncio.sleep(0.1)
                assert "no reply within 400 ms" in await Asked(source, [b"k"]).error()
                await busy
            assert await answers(source) == [b"row"]

    loops.run(test)


def test_a_loop_that_was_busy_itself_does_not_blame_the_store(server: ValkeyServer) -> None:
    async def test() -> None:
        write(server)
        async with opened(server.url, LIMITS) as source:
            await until_up(source)
            changes = Changes(source)
            asked = Asked(source, [b"k"])
            time.sleep(2 * LIMITS.read_timeout_s)  # noqa: ASYNC251  a callback that takes too long
            assert await asked.rows() == [b"row"]
            assert changes.heard == []

    on_both_loops(test)


def test_a_refused_read_is_no_missing_row(server: ValkeyServer) -> None:
    async def test() -> None:
        async with opened(server.url, LIMITS) as source:
            await until_up(source)
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "-mget")
            for track in (True, False):
                assert "NOPERM" in await Asked(source, [b"k"], track=track).error()
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "+mget")
            assert await answers(source) == [None]

    loops.run(test)


def test_a_server_that_forgets_to_track_is_no_longer_relied_on(server: ValkeyServer) -> None:
    async def test() -> None:
        write(server)
        async with opened(server.url, LIMITS) as source:
            await until_up(source)
            changes = Changes(source)
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "-client|caching")
            assert await Asked(source, [b"k"], track=True).rows() == [b"row"]
            assert not source.tracks
            assert changes.heard == [None]
            assert await Asked(source, [b"k"], track=True).rows() == [b"row"]

    loops.run(test)


# -- doors -------------------------------------------------------------------------------------------

READER = ["on", ">s3cret", "%R~hr:*", "+mget", "+ping", "+client|tracking", "+client|caching"]


def test_a_user_needs_four_commands_and_its_keys(server: ValkeyServer) -> None:
    async def test() -> None:
        with server.client() as client:
            client.set("hr:p:{a:1}:v", "row")
            client.execute_command("ACL", "SETUSER", "reader", *READER)
            client.execute_command("ACL", "SETUSER", "default", "off")
        url = f"redis://reader:s3cret@127.0.0.1:{server.port}"
        limits = msgspec.structs.replace(LIMITS, heartbeat_s=0.05)
        async with opened(url, limits) as source:
            assert await answers(source, b"hr:p:{a:1}:v") == [b"row"]
            assert source.tracks
            await asyncio.sleep(0.2)  # some pings
            assert "NOPERM" in await Asked(source, [b"else"]).error()
            with (
                server.client(username="reader", password="s3cret") as client,
                pytest.raises(redis.exceptions.NoPermissionError),
            ):
                client.set("hr:p:{a:1}:v", "forged")

    loops.run(test)


def test_a_user_without_tracking_reads_and_copies_live_by_their_time(server: ValkeyServer) -> None:
    async def test() -> None:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "plain", "on", ">s3cret", "~*", "+mget")
        url = f"redis://plain:s3cret@127.0.0.1:{server.port}"
        async with opened(url, LIMITS) as source:
            assert await answers(source) == [None]
            assert source.is_up
            assert not source.tracks

    loops.run(test)


@pytest.mark.parametrize(
    ("login", "said"),
    [("", "NOAUTH"), (":wrong@", "WRONGPASS"), ("nobody:s3cret@", "WRONGPASS")],
)
def test_a_wrong_password_is_said_and_not_repeated(login: str, said: str) -> None:
    async def test() -> None:
        async with opened(f"redis://{login}127.0.0.1:{server.port}", LIMITS) as source:
            error = await Asked(source, [b"k"]).error()
            assert said in error
            assert "refused to log in" in error
            assert "wrong" not in error
            assert "s3cret" not in error

    with ValkeyServer(requirepass="s3cret") as server:
        loops.run(test)


def test_a_database_is_chosen_and_a_missing_one_is_said(server: ValkeyServer) -> None:
    async def test() -> None:
        with server.client(db=3) as client:
            client.set("k", "third")
        async with opened(f"{server.url}/3", LIMITS) as source:
            assert await answers(source) == [b"third"]
        async with opened(f"{server.url}/99", LIMITS) as source:
            assert "refused to take database 99" in await Asked(source, [b"k"]).error()

    loops.run(test)


def test_tls_with_our_own_authority(server: ValkeyServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("store")
    other = Authority(tmp_path / "other").file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    limits = msgspec.structs.replace(LIMITS, connect_timeout_s=3.0)

    async def test() -> None:
        write(server)
        with TcpProxy(server.port, context) as proxy:
            address = f"127.0.0.1:{proxy.port}"
            async with opened(f"rediss://{address}?ca={authority.file}", limits) as source:
                assert await answers(source) == [b"row"]
                assert source.tracks
            async with opened(f"rediss://{address}?ca={other}", limits) as source:
                assert "certificate was not accepted" in await Asked(source, [b"k"]).error()
            named = f"rediss://{address}?ca={authority.file}&server_name=elsewhere.example"
            async with opened(named, limits) as source:
                assert "certificate was not accepted" in await Asked(source, [b"k"]).error()
        async with opened(f"rediss://127.0.0.1:{server.port}", LIMITS) as source:
            assert not source.is_up, "a server without TLS"
            assert f"127.0.0.1:{server.port}" in await Asked(source, [b"k"]).error()

    on_both_loops(test)
