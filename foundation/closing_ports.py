"""The last connections of a port that is about to close.

Decides how nobody who has already been let in by the kernel is turned away. It must never close the port itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

SO_ATTACH_FILTER = 26
BPF_RETURN = 0x06


def accept_all(listening: socket.socket) -> list[socket.socket]:
    """Every connection that waits to be accepted, before the listener closes and resets what it has not accepted.

    Between the last ``accept`` and ``close`` more might come: so first the kernel drops new ones at the door, by a
    packet filter of one instruction, "keep 0 bytes". They try again and find the port closed, or its next owner.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
    with contextlib.suppress(OSError):  # without filters, a few may be reset
        listening.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
        )
    accepted = []
    while True:
        try:
            accepted.append(listening.accept()[0])
        except OSError:
            return accepted
