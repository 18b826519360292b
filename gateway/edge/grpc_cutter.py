"""Cuts what arrives on a stream of gRPC messages into those messages. Pure.

Decides nothing but where a message ends and whether it is too large. It must never copy what it holds more than once,
however finely the peer slices its bytes.
"""

from __future__ import annotations

from gateway.edge.grpc_wire import PREFIX_BYTES, message_length


class MessageCutter:
    """The bytes that arrived and are not yet cut. Messages above ``limit_bytes`` are refused by their prefix."""

    __slots__ = ("_at", "_block", "_later", "_limit_bytes", "_needed_bytes", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.size_bytes = 0
        """What is held."""
        self._limit_bytes = limit_bytes
        self._needed_bytes = PREFIX_BYTES
        self._block = b""
        self._at = 0
        self._later: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Bytes in the order of their arrival."""
        if self.size_bytes:
            self._later.append(data)
        else:
            self._block = data
            self._at = 0
        self.size_bytes += len(data)

    def cut(self) -> tuple[int, bytes] | None:
        """The next message with its flag (1: compressed), or None before it is whole. TOO_LARGE by its prefix."""
        while self.size_bytes >= self._needed_bytes:
            at = self._at
            if len(self._block) - at < self._needed_bytes:
                self._block = b"".join((self._block[at:], *self._later))
                self._later.clear()
                self._at = at = 0
            end = at + PREFIX_BYTES + message_length(self._block, at, self._limit_bytes)
            if end > len(self._block):
                self._needed_bytes = end - at
                continue
            self._needed_bytes = PREFIX_BYTES
            self._at = end
            self.size_bytes -= end - at
            return self._block[at], self._block[at + PREFIX_BYTES : end]
        return None

    def clear(self) -> None:
        """Forget everything."""
        self.size_bytes = 0
        self._block = b""
        self._later.clear()
