"""The reference front: the same gRPC service on grpcio, behind ``grpc.server = "grpcio"``.

For comparing our own front with the usual one, and for whoever trusts it more; it costs many times the CPU.
grpcio decides everything about HTTP/2. What a call is, the same classes decide that serve our own front; to them a
``_Line`` plays the connection. It must never answer differently, but where grpcio leaves no choice:

- it binds its ports by address, since it takes no ready-made socket: several workers share one by ``SO_REUSEPORT``;
- a message is whole, and expanded, before it is measured and counted with admission;
- connections cannot be seen: no count of them, no sweep, no bound on resets, no GOAWAY before the port closes;
- an unusable frame, header or encoding is refused in grpcio's words, or without any;
- a call whose deadline passes is cancelled by grpcio as if its caller had left, and may be counted so.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from gateway.edge import grpc_wire
from gateway.edge.grpc_call import GrpcCall
from gateway.edge.grpc_exchange import Exchange
from gateway.edge.grpc_front import GrpcFront, MakeStream
from gateway.edge.grpc_stream import MessageStream
from gateway.edge.listeners import ListenError, host_and_port
from gateway.edge.status import GRPC_STATUS
from gateway.edge.tls import Tls
from gateway.edge.unix_sockets import free_path, give_back
from gateway.errors import HeadraceError
from gateway.settings import GrpcLimits

Context = Any
"""``grpc.aio.ServicerContext``; its types cannot say that messages are bytes."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
ABORT_WITHIN_S = 5.0
SWEEP_EVERY_S = 1.0


def _options(limits: GrpcLimits, *, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_header_list_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.keepalive_time_ms", max(1, int(limits.keepalive_time_s * 1e3))),
        ("grpc.keepalive_timeout_ms", max(1, int(limits.keepalive_timeout_s * 1e3))),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.server_handshake_timeout_ms", max(1, int(limits.preface_timeout_s * 1e3))),
    ]


class ReferenceServer:
    """The gRPC port on grpcio, with what ``GrpcServer`` offers. Made on the loop; it has its ports from then on."""

    connections: frozenset[Any] = frozenset()
    """grpcio keeps them to itself."""

    def __init__(
        self,
        front: GrpcFront,
        host: str,
        port: int,
        *,
        tls: Tls | None = None,
        shares_port: bool = False,
        path: str = "",
        path_mode: int = 0o660,
    ) -> None:
        self._path = path
        self._stopping: asyncio.Task[None] | None = None
        self._handlers = _Handlers(front)
        self._server = grpc.aio.server(options=_options(front.limits, shares_port=shares_port))
        self._server.add_generic_rpc_handlers((self._handlers,))
        self.address = host_and_port(host, self._bind(host_and_port(host, port), tls))
        if path:
            free_path(path, "server.grpc_unix_socket")
            self._bind(f"unix:{path}", None)
            Path(path).chmod(path_mode)

    def _bind(self, address: str, tls: Tls | None) -> int:
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(tls))
        except RuntimeError:
            raise ListenError(
                f"grpcio cannot listen on {address}; stop what listens there or choose another with --grpc-port"
            ) from None

    async def start(self) -> None:
        """Accept connections."""
        await self._server.start()

    async def adopt(self, accepted: socket.socket) -> None:
        """grpcio takes no connection from others: this one ends, and its peer comes anew."""
        accepted.close()

    def drain(self) -> None:
        """Readiness says it; grpcio has no GOAWAY that leaves the port open."""

    async def stop_accepting(self, timeout_s: float) -> None:
        """Close the ports and refuse new calls; those inside go on until ``abort``, which comes after ``timeout_s``."""
        grace_s = timeout_s + ABORT_WITHIN_S
        self._stopping = asyncio.create_task(self._server.stop(grace_s))
        self._handlers.leave()
        await asyncio.sleep(0)  # so that the ports are closed

    @property
    def idle(self) -> bool:
        """Whether the last call has its answer."""
        return self._stopping is not None and self._stopping.done()

    async def abort(self) -> None:
        """Cut what is left."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._server.stop(None), ABORT_WITHIN_S)
        if self._path:
            give_back(self._path)


class _Handlers(grpc.GenericRpcHandler):
    """The handler of every path, known or not; bytes in, bytes out."""

    def __init__(self, front: GrpcFront) -> None:
        self._front = front
        self._streams: set[Exchange] = set()

    def leave(self) -> None:
        """The server takes no more calls: those that would never end by themselves end now."""
        for stream in list(self._streams):
            stream.leave()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = str(details.method).encode()
        make = self._front.streams.get(path)

        async def ask(message: bytes, context: Context) -> bytes:
            return await self._ask(path, message, context)

        if make is None:
            return grpc.unary_unary_rpc_method_handler(ask)
        make_stream = make

        async def talk(messages: AsyncIterator[bytes], context: Context) -> None:
            await self._talk(path, make_stream, messages, context)

        return grpc.stream_stream_rpc_method_handler(talk)

    async def _ask(self, path: bytes, message: bytes, context: Context) -> bytes:
        """A call of one message."""
        line = _Line(self._front)
        call = GrpcCall(line, 0)  # type: ignore[arg-type]  # plays the part of a connection
        try:
            if line.open(call, path, context):
                line.take(call, message)
                if not call.answered:
                    call.message_is_complete()
            said = await line.said.get()
            if isinstance(said, bytes):
                return said
        finally:
            call.abandon()
        await _refuse(context, said)
        raise AssertionError("a refusal ends the call")

    async def _talk(
        self, path: bytes, make: MakeStream, messages: AsyncIterator[bytes], context: Context
    ) -> None:
        """A call of many messages."""
        line = _Line(self._front)
        stream = make(line, 0)  # type: ignore[arg-type]  # plays the part of a connection
        self._streams.add(stream)
        helpers = [
            asyncio.create_task(line.listen(stream, messages)),
            asyncio.create_task(line.watch(stream)),
        ]
        try:
            if not line.open(stream, path, context):
                helpers[0].cancel()
            while isinstance(said := await line.said.get(), bytes):
                line.unsaid_bytes -= len(said)
                await context.write(said)
                line.resume(stream)
        finally:
            self._streams.discard(stream)
            for helper in helpers:
                helper.cancel()
            stream.abandon()
        if said.error is not None:
            await _refuse(context, said)


class _End(NamedTuple):
    """The last word of a call."""

    error: HeadraceError | None


class _Line:
    """One call of grpcio's. To the classes that serve calls it looks like our connection and its stream writer."""

    def __init__(self, front: GrpcFront) -> None:
        self.front = front
        self.streams = self
        self.choked: set[Exchange] = set()
        self.said: asyncio.Queue[bytes | _End] = asyncio.Queue()
        """What the peer is to be told; a stream's messages are bounded by ``choked``."""
        self.unsaid_bytes = 0
        self._may_listen = asyncio.Event()
        self._may_listen.set()

    # -- from grpcio to the call ------------------------------------------------------------------

    def open(self, call: Exchange, path: bytes, context: Context) -> bool:
        """Show the call its headers; False when they end it."""
        headers = {
            name.encode(): value if isinstance(value, bytes) else value.encode()
            for name, value in context.invocation_metadata()
        }
        headers[b":path"] = path
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            headers[b"grpc-timeout"] = _timeout(remaining_s)
        try:
            call.open(headers)
        except HeadraceError as error:
            self.answer_error(call, error)
            return False
        return True

    def take(self, call: Exchange, message: bytes) -> None:
        """Show the call a message as it would have come over the wire."""
        try:
            call.receive(grpc_wire.frame(message))
        except HeadraceError as error:
            call.fail(error)

    async def listen(self, stream: Exchange, messages: AsyncIterator[bytes]) -> None:
        """Show a stream all its messages, as fast as it takes them."""
        try:
            async for message in messages:
                if stream.answered:
                    return
                self.take(stream, message)
                await self._may_listen.wait()
            if not stream.answered:
                stream.message_is_complete()
        except Exception as error:  # noqa: BLE001  the status table words it
            stream.fail(error)

    async def watch(self, stream: Exchange) -> None:
        """The once-a-second look that a connection's sweep gives its calls."""
        while not stream.answered:
            await asyncio.sleep(SWEEP_EVERY_S)
            stream.sweep(self.front.clock())

    def resume(self, stream: MessageStream | Exchange) -> None:
        """Some answers are out."""
        assert isinstance(stream, MessageStream)
        if self.unsaid_bytes <= self.front.limits.stream_window_bytes:
            self.choked.discard(stream)
        if stream.held and not self.choked:
            stream.resume()

    # -- from the call to grpcio ------------------------------------------------------------------

    def answer(self, call: Exchange, message: bytes) -> None:
        """The one answer of a call."""
        call.answered = True
        self.said.put_nowait(message)

    def answer_error(self, call: Exchange, error: HeadraceError) -> None:
        """A status without an answer."""
        call.answered = True
        self.said.put_nowait(_End(error))

    def will_speak(self, stream: MessageStream) -> None:
        """The stream has something to say at the end of this turn of the loop."""
        asyncio.get_running_loop().call_soon(stream.speak)

    def say(self, stream: MessageStream, framed: bytes, messages: int) -> None:
        """Some messages of a stream."""
        stream.begun = True
        start = 0
        for _ in range(messages):
            length_bytes = int.from_bytes(framed[start + 1 : start + grpc_wire.PREFIX_BYTES], "big")
            end = start + grpc_wire.PREFIX_BYTES + length_bytes
            self.said.put_nowait(framed[start + grpc_wire.PREFIX_BYTES : end])
            self.unsaid_bytes += length_bytes
            start = end
        if self.unsaid_bytes > self.front.limits.stream_window_bytes:
            self.choked.add(stream)

    def shut_window(self, stream: MessageStream) -> None:
        """Read no more of the peer's messages for now."""
        self._may_listen.clear()

    def open_window(self, stream: MessageStream) -> None:
        """Read on."""
        self._may_listen.set()

    def end(self, stream: MessageStream, error: HeadraceError | None) -> None:
        """The stream's status, after what was said before."""
        stream.answered = True
        stream.forget()
        self._may_listen.set()
        self.said.put_nowait(_End(error))

    def refuse_the_rest(self, stream: MessageStream) -> None:
        """grpcio does."""


def _timeout(remaining_s: float) -> bytes:
    """A ``grpc-timeout``, which grpcio has read and put away."""
    milliseconds = int(max(0.0, remaining_s) * 1e3)
    return b"%dm" % milliseconds if milliseconds < 10**8 else b"%dH" % (milliseconds // 3_600_000)


async def _refuse(context: Context, end: _End) -> None:
    error = end.error
    assert error is not None
    trailers: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        trailers = (("grpc-retry-pushback-ms", grpc_wire.pushback_ms(error.retry_after_s)),)
    text = error.message[:1024].encode(errors="replace").decode()
    await context.abort(_CODES[GRPC_STATUS[error.code]], text, trailers)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Asked again for every connection, so that a new certificate is shown as soon as it is read."""

    def now() -> grpc.ServerCertificateConfiguration:
        pair = tls.pair
        return grpc.ssl_server_certificate_configuration(
            [(pair.key, pair.certificate)], root_certificates=tls.client_ca
        )

    return grpc.dynamic_ssl_server_credentials(
        now(), now, require_client_authentication=tls.client_ca is not None
    )
