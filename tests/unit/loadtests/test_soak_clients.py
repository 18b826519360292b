"""What becomes of a soak's clients and loads that meet what nobody foresaw: it is told, and never lost."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import probe, soak_clients, soak_load
from loadtests.failures import BenchError, RowError
from loadtests.load_generators import LoadGenerator
from loadtests.soak_clients import Address, HttpPeer, OddClients, SurpriseError
from loadtests.soak_load import Front, SteadyLoad

LOOK_S = 0.6
"""Long enough for some turns of a client that acts ten times a second."""


@pytest.fixture
def nobody() -> Iterator[Address]:
    """An address at which every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()


@pytest.fixture
def all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_clients, "MOST_FAILURES", 10_000)
    monkeypatch.setattr(soak_clients, "IDLE_CONNECTIONS", 1)


def failures_of(address: Address) -> list[str]:
    async def soak() -> OddClients:
        clients = OddClients(address, address)
        await clients.start()
        await asyncio.sleep(LOOK_S)
        await clients.stop()
        return clients

    clients = asyncio.run(soak())
    assert clients.counts["failures"] == len(clients.failures)
    return clients.failures


@pytest.mark.usefixtures("all_are_told")
def test_a_client_whose_probe_fails_goes_on_and_each_time_is_a_failure(nobody: Address) -> None:
    told = failures_of(nobody)
    for kind in ("http churn", "grpc churn"):
        assert len([one for one in told if one.startswith(f"{kind}: no connection")]) >= 2
    assert not [one for one in told if "a client ended" in one]


@pytest.mark.usefixtures("all_are_told")
def test_a_client_that_ended_is_a_failure(nobody: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("nobody catches this")

    monkeypatch.setattr(probe, "check", break_down)
    ended = [one for one in failures_of(nobody) if "a client ended" in one]
    assert ended == [
        f"{kind} churn: a client ended: RuntimeError('nobody catches this')"
        for kind in ("http", "grpc")
    ]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 what\r\ncontent-length: 0\r\n\r\n"]
)
def test_an_answer_that_cannot_be_read_is_a_surprise(head: bytes) -> None:
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    async def ask() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            peer = HttpPeer(server.sockets[0].getsockname())
            try:
                await peer.ask(b"GET / HTTP/1.1\r\n\r\n")
            finally:
                peer.close()
                await gone.wait()

    with pytest.raises(SurpriseError, match="cannot be read"):
        asyncio.run(ask())
    assert issubclass(SurpriseError, BenchError)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (RowError("one wrong answer"), "one wrong answer"),
        (OSError("no process"), "OSError('no process')"),
        (KeyError("done"), "http load ended: KeyError('done')"),
    ],
)
def test_a_load_that_breaks_is_a_failure(
    problem: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise problem

    monkeypatch.setattr(soak_load, "drive", broken)
    load = SteadyLoad(LoadGenerator(Path("absent")), core=0, per_s={"http": 1.0})
    load.start([Front("http", "http://nowhere", (), 1)], time.monotonic() + 60)
    load.join()
    assert set(load.failures) == {words}
    assert load.answered == {"http": 0}
