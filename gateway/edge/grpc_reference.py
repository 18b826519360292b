"""The reference front: the same gRPC service on grpcio, behind ``grpc.server = "grpcio"``.

For comparing our own front with the usual one, and for whoever trusts it more; it costs about twenty times the CPU.
It shares the service, the codecs, the status table and the metrics with ``grpc_front.py``; grpcio decides everything
about HTTP/2. It must never answer a call differently, but where grpcio leaves no choice:

- it binds its ports by address, since it takes no ready-made socket; several workers share one by ``SO_REUSEPORT``;
- a message is whole in memory before admission counts it, and a compressed one is expanded before it is measured;
- there is no access to connections: no count of them, no sweep, no limit on resets, no GOAWAY before the port closes;
- an unusable frame, header or encoding is answered in grpcio's words, or not at all.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gateway.core.quota import Quota
from gateway.edge.access import KeyHolder
from gateway.edge.grpc_access import ended, guarded, holder_of
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.grpc_methods import INFER_PATH, Method
from gateway.edge.http_app import FutureCall
from gateway.edge.grpc_wire import too_large_message
from gateway.edge.listeners import ListenError, host_and_port
from gateway.edge.proto_codec import decode_infer, encode_prediction
from gateway.edge.status import GRPC_STATUS, as_headrace_error
from gateway.edge.tls import Tls
from gateway.edge.unix_sockets import free_path, give_back
from gateway.errors import CallCancelled, ErrorCode, HeadraceError
from gateway.messages import Prediction, PredictRequest
from gateway.settings import GrpcLimits

Context = Any
"""``grpc.aio.ServicerContext``, whose types say nothing about bytes."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
ABORT_WITHIN_S = 5.0


def _options(limits: GrpcLimits, *, shares_port: bool) -> list[tuple[str, int]]:
    keepalive_ms = int(limits.keepalive_time_s * 1e3)
    return [
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_header_list_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.keepalive_time_ms", max(1, keepalive_ms)),
        ("grpc.keepalive_timeout_ms", max(1, int(limits.keepalive_timeout_s * 1e3))),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.server_handshake_timeout_ms", max(1, int(limits.preface_timeout_s * 1e3))),
    ]


class ReferenceServer:
    """The gRPC port on grpcio, with what ``GrpcServer`` offers. Made on the loop; it has its ports once it is made."""

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
        self._front = front
        self._path = path
        self._stopping: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(options=_options(front.limits, shares_port=shares_port))
        self._server.add_generic_rpc_handlers((_Handlers(front),))
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
        self._front.draining = True

    async def stop_accepting(self, timeout_s: float) -> None:
        """Close the ports and refuse new calls; those inside have ``timeout_s``."""
        self._stopping = asyncio.create_task(self._server.stop(timeout_s))
        await asyncio.sleep(0)

    @property
    def idle(self) -> bool:
        """Whether the last call has its answer."""
        return self._stopping is None or self._stopping.done()

    async def abort(self) -> None:
        """Cut what is left."""
        await asyncio.wait([asyncio.create_task(self._server.stop(None))], timeout=ABORT_WITHIN_S)
        if self._path:
            give_back(self._path)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a path; bytes in, bytes out."""

    def __init__(self, front: GrpcFront) -> None:
        unary = grpc.unary_unary_rpc_method_handler
        self._handlers: dict[str, Any] = {INFER_PATH.decode(): unary(_Infer(front).serve)}
        for path, method in front.methods.items():
            self._handlers[path.decode()] = unary(_Other(front, path, method).serve)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = str(details.method)
        return self._handlers.get(path) or grpc.unary_unary_rpc_method_handler(_Unknown(path).serve)


class _Infer:
    """ModelInfer."""

    def __init__(self, front: GrpcFront) -> None:
        self._front = front

    async def serve(self, message: bytes, context: Context) -> bytes:
        front = self._front
        request: PredictRequest | None = None
        holder: KeyHolder | None = None
        quota: Quota | None = None
        find = front.find
        try:
            holder = holder_of(front, INFER_PATH, _metadata(context))
        except HeadraceError as error:
            return await _refuse(context, error)
        try:
            if holder is not None:
                quota = holder.enter(front.clock())
                find = holder.guard(find)
            _check_size(message, front.limits)
            request = decode_infer(message, front.clock(), find)
            remaining_s = context.time_remaining()
            if remaining_s is not None:
                request.deadline_s = min(request.deadline_s, front.clock() + remaining_s)
            answer = encode_prediction(request, await _predict(front, request))
        except asyncio.CancelledError:
            self._count(request, _why_cancelled(front, request), holder, quota)
            raise
        except (Exception, CallCancelled) as error:  # noqa: BLE001  the status table words it
            ours = as_headrace_error(error)
        else:
            self._count(request, None, holder, quota)
            return answer
        self._count(request, ours, holder, quota)
        return await _refuse(context, ours)

    def _count(
        self,
        request: PredictRequest | None,
        error: HeadraceError | None,
        holder: KeyHolder | None,
        quota: Quota | None,
    ) -> None:
        front = self._front
        outcome = error.code.value if error else "ok"
        front.metrics.calls["grpc", outcome] += 1
        if holder is not None:
            ended(front, holder, quota, outcome)
        if front.access_log:
            front.log(request, error, holder=holder)


async def _predict(front: GrpcFront, request: PredictRequest) -> Prediction:
    call = FutureCall()
    call.start(front.service(request))
    try:
        prediction, error = await call.outcome
    finally:
        call.cancel()
    if error is not None:
        raise error
    assert prediction is not None
    return prediction


def _why_cancelled(front: GrpcFront, request: PredictRequest | None) -> HeadraceError:
    """grpcio ends a call alike when its caller leaves and when its deadline passes."""
    if request is not None and front.clock() >= request.deadline_s:
        return HeadraceError(ErrorCode.DEADLINE_EXCEEDED, "the deadline passed")
    return as_headrace_error(CallCancelled())


class _Other:
    """A unary call that is no prediction."""

    def __init__(self, front: GrpcFront, path: bytes, method: Method) -> None:
        self._front = front
        self._path = path
        self._method = method

    async def serve(self, message: bytes, context: Context) -> bytes:
        try:
            holder = holder_of(self._front, self._path, _metadata(context))
            method = self._method if holder is None else guarded(holder, self._path, self._method)
            _check_size(message, self._front.limits)
            reply = method(message)
            return reply if isinstance(reply, bytes) else await reply
        except Exception as error:  # noqa: BLE001  the status table words it
            ours = as_headrace_error(error)
        return await _refuse(context, ours)


class _Unknown:
    """A path that nobody serves."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def serve(self, message: bytes, context: Context) -> bytes:
        text = f"no such method: {self._path[:256]}"
        return await _refuse(context, HeadraceError(ErrorCode.UNIMPLEMENTED, text))


def _metadata(context: Context) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata()
    }


def _check_size(message: bytes, limits: GrpcLimits) -> None:
    """grpcio measures what arrives, not what it expands to."""
    if len(message) > limits.max_message_bytes:
        raise too_large_message(len(message), limits.max_message_bytes)


async def _refuse(context: Context, error: HeadraceError) -> bytes:
    trailers: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        trailers = (("grpc-retry-pushback-ms", str(max(1, int(error.retry_after_s * 1e3)))),)
    text = error.message[:1024].encode(errors="replace").decode()
    await context.abort(_CODES[GRPC_STATUS[error.code]], text, trailers)
    raise AssertionError("abort raises")


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
