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

from gateway.supervisor.seat import ACCEPT_AT_ONCE, Seat

logger = logging.getLogger("headrace.supervisor")

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
                self._watched.discard(listener.fileno())
                self._loop.remove_reader(listener.fileno())

    def _accept(self, protocol: str, listener: socket.socket) -> None:
        takers = [seat for seat in self._seats() if seat.serving]
        if not takers:
            # Nobody could take them: they wait in the kernel, for the next worker.
            self._watched.discard(listener.fileno())
            self._loop.remove_reader(listener.fileno())
            return
        for _ in range(ACCEPT_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except OSError as error:
                if error.errno == errno.EINVAL:  # grpcio's: it only holds the port, and never listens
                    self._watched.discard(listener.fileno())
                    self._loop.remove_reader(listener.fileno())
                return
            with accepted:
                first = next(self._turns)
                if any(
                    takers[(first + step) % len(takers)].take(protocol, accepted)
                    for step in range(len(takers))
                ):
                    self.handed_on += 1
                else:
                    logger.warning("a connection was lost: no worker could take it")
