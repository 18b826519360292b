"""The gRPC limit: ngh2 and uvloop answer every call with one fixed V2 reply and status 0.

No protobuf is read, no model runs: what remains is the price of HTTP/2 and of the socket. It
must never look at the message, or it stops being the floor that other servers are compared with.
"""

import asyncio
import signal
from typing import cast

import ngh2
import uvloop

from loadtests import models, protobuf_payload
from loadtests.baselines import announce

_REPLY = protobuf_payload.framed(protobuf_payload.infer_response(models.TINY, 0.12345679))
_HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_TRAILERS = ((b"grpc-status", b"0"),)


class EchoProtocol(asyncio.Protocol):
    """One HTTP/2 connection; replies when a stream's body has ended."""

    def __init__(self) -> None:
        self._http2 = ngh2.Connection(ngh2.Role.SERVER)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the settings."""
        # uvloop's transports have the methods but not the class.
        self._transport = cast("asyncio.Transport", transport)
        self._http2.initiate_connection({ngh2.Setting.MAX_CONCURRENT_STREAMS: 1000})
        self._transport.write(self._http2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Answers all streams that one read completed with one write."""
        http2 = self._http2
        http2.receive_data(data)
        for event in http2.events():
            if isinstance(event, (ngh2.DataReceived, ngh2.RequestReceived)) and event.end_stream:
                stream = event.stream_id
                http2.send_response(stream, _HEAD)
                http2.send_data(stream, _REPLY)
                http2.send_trailers(stream, _TRAILERS)
        out = http2.data_to_send()
        if out and self._transport is not None:
            self._transport.write(out)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, "127.0.0.1", 0)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    announce.ready("grpc", server.sockets[0].getsockname()[1])
    await stopping.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
