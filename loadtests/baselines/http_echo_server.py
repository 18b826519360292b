"""The HTTP limit: httptools and uvloop answer every request with one fixed V2 reply.

No JSON is read, no model runs: what remains is the price of parsing HTTP and of the socket. It
must never look at the body, or it stops being the floor that other servers are compared with.
"""

import asyncio
import signal
from typing import cast

import httptools
import uvloop

from loadtests import json_payload, models
from loadtests.baselines import announce

_BODY = json_payload.infer_reply(models.TINY, 0.12345679)
_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    + f"content-length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)


class EchoProtocol(asyncio.Protocol):
    """One connection; replies when the parser says that a request is complete."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport; uvloop has set TCP_NODELAY on it."""
        # uvloop's transports have the methods but not the class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls back below."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Head and body leave in one write."""
        assert self._transport is not None
        self._transport.write(_REPLY)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, "127.0.0.1", 0)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    announce.ready("http", server.sockets[0].getsockname()[1])
    await stopping.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
