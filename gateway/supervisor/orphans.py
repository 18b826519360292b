"""Connections of a worker that has died: taken from its sockets and handed to the living.

The kernel goes on dealing connections to a socket as long as somebody holds it, and the supervisor does. Without this,
every caller that is dealt to an empty seat would wait for the next worker.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from itertools import count

from foundation.closing_ports import accept_all
from gateway.supervisor.seat import ACCEPT_AT_ONCE, Seat

logger = logging.getLogger("headrace.supervisor")

RETRY_S = 0.02
"""How long the others get to take what they were handed, when there is no room for more."""
OWN_SOCKETS = ("http", "grpc")
"""Of each seat. Unix sockets are one for all: the living take what the dead leave."""


class Orphanage:
    """Watches the sockets of empty seats."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seats: Callable[[], Sequence[Seat]]
    ) -> None:
        self._loop = loop
        self._seats = seats
        self._watched: set[int] = set()
        self._turns = count()
        self.handed_on = 0

    def watch(self, empty: Seat) -> None:
        """The seat is empty from now on."""
        for protocol in OWN_SOCKETS:
            listener = empty.listeners.get(protocol)
            if listener is None:
                continue
            if listener.fileno() not in self._watched and listener.fileno() >= 0:
                self._watched.add(listener.fileno())
                self._loop.add_reader(listener.fileno(), self._accept, protocol, listener)

    def leave(self, taken: Seat) -> None:
        """The seat has a worker again, or is given up."""
        for listener in taken.listeners.values():
            if listener.fileno() in self._watched:
                self._unwatch(listener)

    def give_up(self, empty: Seat) -> None:
        """The instance ends: close the seat's ports, and hand who waits there to whoever still answers.

        A worker that is leaving takes them where nobody else is left: it answers as long as it drains.
        """
        self.leave(empty)
        for protocol in OWN_SOCKETS:
            listener = empty.listeners.get(protocol)
            if listener is None or listener.fileno() < 0:
                continue
            takers = self._last_takers()
            for accepted in accept_all(listener):
                if not (takers and self._hand_on(protocol, accepted, takers)):
                    _lose(accepted)
        empty.close_listeners()

    def _unwatch(self, listener: socket.socket) -> None:
        self._watched.discard(listener.fileno())
        self._loop.remove_reader(listener.fileno())

    def _accept(self, protocol: str, listener: socket.socket) -> None:
        takers = self._takers()
        if not takers:
            # Nobody could take them: they wait in the kernel, for the next worker.
            self._unwatch(listener)
            return
        for _ in range(ACCEPT_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self._unwatch(listener)  # grpcio's: it only holds the port, and never listens
                return
            if not self._hand_on(protocol, accepted, takers):
                self._pause(protocol, listener, accepted)
                return

    def _hand_on(self, protocol: str, accepted: socket.socket, takers: Sequence[Seat]) -> bool:
        first = next(self._turns)
        if not any(
            takers[(first + step) % len(takers)].take(protocol, accepted)
            for step in range(len(takers))
        ):
            return False
        with accepted:  # our copy goes
            self.handed_on += 1
        return True

    def _pause(self, protocol: str, listener: socket.socket, accepted: socket.socket) -> None:
        """They have too much of it now. This connection comes first, the others wait in the kernel."""
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(RETRY_S, self._go_on, protocol, listener, accepted)

    def _go_on(self, protocol: str, listener: socket.socket, accepted: socket.socket) -> None:
        takers = self._last_takers()
        if takers and not self._hand_on(protocol, accepted, takers):
            self._loop.call_later(RETRY_S, self._go_on, protocol, listener, accepted)
            return
        if not takers:
            _lose(accepted)
        if listener.fileno() in self._watched:
            self._loop.add_reader(listener.fileno(), self._accept, protocol, listener)

    def _last_takers(self) -> list[Seat]:
        return self._takers() or [seat for seat in self._seats() if seat.serving]

    def _takers(self) -> list[Seat]:
        return [seat for seat in self._seats() if seat.serving and not seat.leaving]


def _lose(accepted: socket.socket) -> None:
    with accepted:
        logger.warning("a connection was lost: no worker could take it")
