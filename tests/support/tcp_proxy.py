"""Between a client and a server, in a thread of its own: ends TLS, delays what the server says, or swallows it.

What a delay holds back is bounded: the proxy reads no more from a side than its buffer takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType

START_WITHIN_S = 5.0
CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Listens on a free port of loopback and passes on to ``port``; with ``tls`` its clients must speak that."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.delay_s = 0.0
        """Added to every piece that comes from the server."""
        self.swallows = False
        """Nothing is passed on any more, in neither direction, and nobody is told."""
        self.accepted = 0
        self.port = 0
        self._server_port = port
        self._tls = tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        assert self._ready.wait(START_WITHIN_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_WITHIN_S)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        clients: set[asyncio.Task[None]] = set()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            task = asyncio.current_task()
            assert task is not None
            clients.add(task)
            # The stream's own callback would report a cancelled handler as a fault.
            with contextlib.suppress(asyncio.CancelledError):
                await self._pass_on(reader, writer)
            clients.discard(task)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for client in list(clients):
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.close()
            return
        try:
            both = [
                asyncio.create_task(self._copy(reader, back, delayed=False)),
                asyncio.create_task(self._copy(there, writer, delayed=True)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            for side in (writer, back):
                side.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await side.wait_closed()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if delayed and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.swallows:
                    writer.write(data)
                    await writer.drain()
