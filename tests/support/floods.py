"""What abuse has in common: bytes poured into a socket without manners, and what a server must show afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

from tests.support.neighbour import Neighbour
from tests.support.server_process import Address, ServerProcess
from tests.support.waiting import eventually

MB = 1024 * 1024
READ_BYTES = 256 * 1024


def open_files(server: ServerProcess) -> int:
    """File descriptors of the process."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@contextlib.contextmanager
def endured(server: ServerProcess, *, grows_bytes: int = 24 * MB) -> Iterator[Neighbour]:
    """Somebody else is served while it lasts; afterwards memory and descriptors are as before, and nobody is inside."""
    files, resident_bytes = open_files(server), server.rss_bytes
    with Neighbour(server) as neighbour:
        yield neighbour
    eventually("descriptors are given back", lambda: open_files(server) <= files, within_s=15)
    eventually(
        "nothing is left inside",
        lambda: (
            server.metric("headrace_inflight_requests")
            == server.metric("headrace_inflight_bytes")
            == 0
        ),
        within_s=15,
    )
    grown = server.rss_bytes - resident_bytes
    assert grown < grows_bytes, f"{grown / MB:.1f} MiB more"


def dial(address: Address, *, buffer_bytes: int | None = None) -> socket.socket:
    """A connection; ``buffer_bytes`` makes its receive buffer small."""
    made = socket.socket()
    if buffer_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    made.settimeout(10)
    made.connect(address)
    return made


def cut(connection: socket.socket) -> None:
    """Close with RST: nothing stays behind on this side."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def pour(
    connection: socket.socket,
    burst: Callable[[], bytes],
    most_bytes: int,
    *,
    reads: bool = True,
    listens_s: float = 5.0,
) -> tuple[bool, bytes]:
    """Write bursts until the peer has enough or ``most_bytes`` are written.

    Returns whether the peer cut the connection within ``listens_s`` of silence, and what it said; with ``reads`` it is
    listened to meanwhile.
    """
    heard: list[bytes] = []
    written_bytes = 0
    connection.settimeout(5)
    try:
        while written_bytes < most_bytes:
            data = burst()
            connection.sendall(data)
            written_bytes += len(data)
            if reads:
                heard.append(_there(connection))
    except TimeoutError:
        return False, b"".join(heard)  # it stopped reading from us
    except ConnectionError:
        pass
    connection.settimeout(listens_s)
    try:
        while data := connection.recv(READ_BYTES):
            heard.append(data)
    except TimeoutError:
        return False, b"".join(heard)
    except ConnectionError:
        pass
    return True, b"".join(heard)


def _there(connection: socket.socket) -> bytes:
    """What has arrived, without waiting."""
    return connection.recv(READ_BYTES) if select.select([connection], [], [], 0)[0] else b""
