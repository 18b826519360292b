"""Calls between the supervisor and a worker, over one socket: the control socket.

Both sides may call; answers find their callers by number. It must never block the loop, and a peer that has gone ends
every call that waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import msgspec

from gateway.errors import ErrorCode, HeadraceError

logger = logging.getLogger("headrace.supervisor")

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_CALLS_AT_ONCE = 256
"""That the peer may have running here."""

Handler = Callable[[str, Any], Awaitable[Any]]
"""(method, parameters) → result: anything that msgspec writes as JSON. The peer gets plain values."""


class ChannelClosedError(Exception):
    """The peer has gone."""


class Frame(msgspec.Struct, omit_defaults=True):
    """One message. A call has a method, its answer a result or an error, under the same number."""

    number: int
    method: str = ""
    value: Any = None
    error: tuple[str, str] | None = None
    """(code, message) of a ``HeadraceError``."""


class Channel:
    """One end of the control socket."""

    def __init__(self, end: socket.socket, handler: Handler) -> None:
        self._socket = end
        self._handler = handler
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Make calls possible; their answers come while ``run`` runs."""
        self._socket.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)

    async def run(self) -> None:
        """Take part until the peer closes. Every call that still waits then fails with ``ChannelClosedError``."""
        reader = self._reader
        assert reader is not None, "open it first"
        try:
            while True:
                size_bytes = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                if size_bytes > MAX_FRAME_BYTES:
                    raise ConnectionError(f"a frame of {size_bytes} bytes on the control socket")
                self._take(msgspec.json.decode(await reader.readexactly(size_bytes), type=Frame))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the socket; harmless when it has closed."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for call in self._waiting.values():
            if not call.done():
                call.set_exception(ChannelClosedError)
        self._waiting.clear()
        for task in self._running:
            task.cancel()

    @property
    def is_open(self) -> bool:
        """Whether the peer can be asked."""
        return self._writer is not None

    async def call(self, method: str, value: Any = None, *, timeout_s: float) -> Any:
        """The peer's answer. Raises its ``HeadraceError``, ``ChannelClosedError``, or ``TimeoutError``."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Frame(number, method, value))
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            self._waiting.pop(number, None)

    def tell(self, method: str, value: Any = None) -> None:
        """A call whose answer nobody waits for; nothing happens when the peer has gone."""
        if self._writer is not None:
            self._send(Frame(0, method, value))

    def _send(self, frame: Frame) -> None:
        if self._writer is None:
            raise ChannelClosedError
        data = msgspec.json.encode(frame)
        self._writer.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)

    def _take(self, frame: Frame) -> None:
        if frame.method:
            if len(self._running) >= MAX_CALLS_AT_ONCE:
                refused = ("overloaded", "too many control calls at once; try again later")
                self._send(Frame(frame.number, error=refused))
                return
            task = asyncio.create_task(self._answer(frame))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            return
        call = self._waiting.get(frame.number)
        if call is None or call.done():
            return  # it did not wait that long
        if frame.error is None:
            call.set_result(frame.value)
        else:
            code, message = frame.error
            call.set_exception(HeadraceError(ErrorCode(code), message))

    async def _answer(self, frame: Frame) -> None:
        try:
            answer = Frame(frame.number, value=await self._handler(frame.method, frame.value))
        except HeadraceError as error:
            answer = Frame(frame.number, error=(error.code.value, error.message))
        except ChannelClosedError:
            answer = Frame(frame.number, error=("not_ready", "the supervisor has gone"))
        except Exception:
            logger.exception("the control call '%s' failed", frame.method)
            answer = Frame(frame.number, error=("internal", "internal error; the log says more"))
        if frame.number and self._writer is not None:
            self._send(answer)
