"""Connections of an empty seat, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.seat import Seat
from tests.support.loops import TIMEOUT_S, run, until


class FakeSeat(SimpleNamespace):
    """Takes connections as long as it has room."""

    def __init__(self, listener: socket.socket | None = None, room: int = 100) -> None:
        super().__init__(
            listeners={} if listener is None else {"http": listener},
            serving=True,
            leaving=False,
            room=room,
            taken=0,
        )

    def close_listeners(self) -> None:
        for one in self.listeners.values():
            one.close()

    def take(self, protocol: str, accepted: socket.socket) -> bool:
        if self.room <= self.taken:
            return False
        self.taken += 1
        return True


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def listen(opened: ExitStack) -> socket.socket:
    listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    return listener


def connect(opened: ExitStack, listener: socket.socket, count: int) -> None:
    for _ in range(count):
        opened.enter_context(socket.create_connection(listener.getsockname(), TIMEOUT_S))


def shelter(*seats: Any) -> Orphanage:
    return Orphanage(asyncio.get_running_loop(), lambda: cast("list[Seat]", list(seats)))


def test_the_living_get_them_in_turn(sockets: ExitStack) -> None:
    async def test() -> None:
        empty = FakeSeat(listen(sockets))
        empty.serving = False
        living = [FakeSeat(), FakeSeat()]
        orphans = shelter(empty, *living)
        orphans.watch(cast("Seat", empty))
        connect(sockets, empty.listeners["http"], 6)
        await until(lambda: orphans.handed_on == 6)
        assert [one.taken for one in living] == [3, 3]
        orphans.leave(cast("Seat", empty))

    run(test)


def test_one_that_is_leaving_gets_none(sockets: ExitStack) -> None:
    async def test() -> None:
        leaving = FakeSeat(listen(sockets))
        leaving.leaving = True
        living = FakeSeat()
        orphans = shelter(leaving, living)
        orphans.watch(cast("Seat", leaving))
        connect(sockets, leaving.listeners["http"], 3)
        await until(lambda: orphans.handed_on == 3)
        assert (leaving.taken, living.taken) == (0, 3)
        orphans.leave(cast("Seat", leaving))

    run(test)


def test_no_connection_is_lost_when_there_is_no_room(
    sockets: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        empty = FakeSeat(listen(sockets))
        empty.serving = False
        full = FakeSeat(room=2)
        orphans = shelter(empty, full)
        orphans.watch(cast("Seat", empty))
        connect(sockets, empty.listeners["http"], 5)
        await until(lambda: full.taken == 2)
        full.room = 5
        await until(lambda: orphans.handed_on == 5)
        orphans.leave(cast("Seat", empty))

    run(test)
    assert "lost" not in caplog.text


def test_while_nobody_serves_they_wait_in_the_kernel(sockets: ExitStack) -> None:
    async def test() -> None:
        empty = FakeSeat(listen(sockets))
        empty.serving = False
        other = FakeSeat()
        other.serving = False
        orphans = shelter(empty, other)
        orphans.watch(cast("Seat", empty))
        connect(sockets, empty.listeners["http"], 2)
        for _ in range(20):
            await asyncio.sleep(0)
        other.serving = True
        orphans.watch(cast("Seat", empty))  # the supervisor looks again when somebody serves
        await until(lambda: orphans.handed_on == 2)
        orphans.leave(cast("Seat", empty))
        with suppress(OSError):
            empty.listeners["http"].close()
        orphans.leave(cast("Seat", empty))

    run(test)


@pytest.mark.parametrize("others", [0, 1])
def test_at_the_end_who_waits_goes_to_anybody_who_still_answers(
    sockets: ExitStack, others: int
) -> None:
    async def test() -> None:
        leaving = FakeSeat(listen(sockets))
        leaving.leaving = True
        living = [FakeSeat() for _ in range(others)]
        orphans = shelter(leaving, *living)
        orphans.watch(cast("Seat", leaving))
        connect(sockets, leaving.listeners["http"], 3)
        orphans.give_up(cast("Seat", leaving))
        assert orphans.handed_on == 3
        assert [leaving.taken, *(one.taken for one in living)] == ([0, 3] if others else [3])
        assert leaving.listeners["http"].fileno() == -1

    run(test)


def test_whom_nobody_can_take_at_the_end_is_said_to_be_lost(
    sockets: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        empty = FakeSeat(listen(sockets))
        empty.serving = False
        orphans = shelter(empty)
        connect(sockets, empty.listeners["http"], 2)
        orphans.give_up(cast("Seat", empty))
        assert orphans.handed_on == 0

    run(test)
    assert caplog.text.count("a connection was lost") == 2
