"""Servers that answer the login with nonsense: the link stays, says why it is down, and goes on trying."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address, Login
from featurecache.sources.node_link import FindAddress, NodeLink, always
from featurecache.sources.sentinel import SentinelResolver
from featurecache.sources.source_limits import SourceLimits

TEST_S = 20.0
LIMITS = SourceLimits(connect_timeout_s=5.0, read_timeout_s=5.0, backoff_min_s=0.001)
RESP2 = (b"-ERR unknown command 'HELLO'\r\n", b"+OK\r\n")
"""The first replies of a server that knows no RESP3."""


class Answers:
    """Answers each command of each connection with the next of ``replies``; a context."""

    def __init__(self, replies: Sequence[bytes]) -> None:
        self._replies = replies
        self.connections = 0
        self.third = asyncio.Event()
        """Set when somebody has come three times."""

    async def __aenter__(self) -> Address:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.connections == 3:
            self.third.set()
        for reply in self._replies:
            if not await reader.read(4096):
                break
            writer.write(reply)
        await reader.read()  # until the link hangs up
        writer.close()


def link_to(find: FindAddress) -> NodeLink:
    return NodeLink(find, Login(must_be_master=True), LIMITS, "the store", lambda: 0.5)


async def why_down(link: NodeLink) -> str:
    """What somebody who asks is told."""
    told: asyncio.Future[SourceError | None] = asyncio.get_running_loop().create_future()
    link.submit(b"", 1, lambda _replies, error: told.set_result(error))
    return str(await told)


@pytest.mark.parametrize("role", [b"$-1\r\n", b"*0\r\n", b":1\r\n", b"*1\r\n$5\r\nslave\r\n"])
def test_an_odd_answer_about_the_role_ends_no_link(role: bytes) -> None:
    async def test() -> None:
        server = Answers([*RESP2, role])
        async with asyncio.timeout(TEST_S), server as address:
            link = link_to(always(address))
            await link.start()
            assert not link.is_up
            assert "no master" in await why_down(link)
            await server.third.wait()
            await link.close()

    asyncio.run(test())


def test_a_sentinel_that_makes_up_an_address_ends_no_link() -> None:
    async def test() -> None:
        hello = b"%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n"
        for reply in (
            b"*2\r\n$1\r\n\xff\r\n$1\r\n1\r\n",
            b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n99999\r\n",
        ):
            server = Answers([hello, reply])
            async with asyncio.timeout(TEST_S), server as address:
                link = link_to(SentinelResolver([address], "main", Login(), LIMITS))
                await link.start()
                assert not link.is_up
                assert "the store: " in await why_down(link)
                await server.third.wait()
                await link.close()

    asyncio.run(test())


def test_what_nobody_thought_of_ends_no_link() -> None:
    async def test() -> None:
        tries = 0
        third = asyncio.Event()

        async def find() -> Address:
            nonlocal tries
            tries += 1
            if tries == 3:
                third.set()
            raise ZeroDivisionError("odd")

        async with asyncio.timeout(TEST_S):
            link = link_to(find)
            await link.start()
            assert await why_down(link) == "the store: ZeroDivisionError('odd')"
            await third.wait()
            await link.close()

    asyncio.run(test())
