"""Decides what the odd clients of a soak do: every kind of call that a real day brings, at a steady pace.

Good calls, calls that must be refused, deadlines that cannot be met, callers that hang up, connections that come and
go, connections that say nothing, uploads that drip. Each knows which answers it may get; any other is a failure. It
must never be the load itself: some hundred calls a second, beside the load generators.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio

from loadtests import json_payload, models, probe, protobuf_payload, soak_requests
from loadtests.failures import BenchError
from loadtests.soak_verdict import Provoked

Address = tuple[str, int]

MOST_FAILURES = 50
IDLE_CONNECTIONS = 40
_ANSWER_WITHIN_S = 30.0
_DRIP_PIECES = 20
_DRIP_ROWS = 1024
_BY_HAND = (b"GET\r\n\r\n", b"POST /v2 HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_OK = frozenset({"OK"})
_LATE = frozenset({"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"})


class SurpriseError(BenchError):
    """An answer that nobody provoked."""


class HttpPeer:
    """One HTTP/1.1 connection that is opened when it is needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send a request, read its answer, and return the status."""
        reader, writer = await self.opened()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        lengths = [line[15:] for line in fields if line.startswith(b"content-length:")]
        try:
            status, length = int(head[9:12]), int(lengths[0])
        except (IndexError, ValueError) as problem:
            raise SurpriseError(f"an answer that cannot be read: {head[:200]!r}") from problem
        await reader.readexactly(length)
        if b"connection: close" in fields:
            self.close()
        return status

    async def opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection's two ends."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        return self._streams

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class OddClients:
    """All of them, as tasks on one loop, until ``stop``."""

    def __init__(self, http: Address, grpc_address: Address) -> None:
        self._http = http
        self._grpc = grpc_address
        self._tasks: list[asyncio.Task[None]] = []
        self._peers: list[HttpPeer] = []
        self._channel: Any = None
        self._infer: Any = None
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.provoked = Provoked()
        self.plain_s: list[float] = []
        """How long plain calls took since the list was last emptied."""

    async def start(self) -> None:
        """Begin."""
        self._channel = grpc.aio.insecure_channel("{}:{}".format(*self._grpc))
        self._infer = self._channel.unary_unary(protobuf_payload.INFER_PATH)
        paced: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("http json", 20, self._asking_http(soak_requests.json_requests(models.TINY))),
            ("http binary", 20, self._asking_http(soak_requests.binary_requests())),
            ("http heavy", 2, self._asking_http(soak_requests.json_requests(models.HEAVY))),
            ("http facts", 5, self._asking_http(soak_requests.gets())),
            ("http refused", 10, self._refused_http()),
            ("http broken", 2, self._broken_http()),
            ("http deadline", 5, self._late_http()),
            ("http hang-up", 5, self._hangs_up()),
            ("http churn", 10, self._churn("http")),
            ("http drip", 0.5, self._drips),
            ("grpc plain", 40, self._plain_grpc()),
            ("grpc refused", 10, self._refused_grpc()),
            ("grpc deadline", 10, self._late_grpc),
            ("grpc cancel", 10, self._cancels()),
            ("grpc churn", 10, self._churn("grpc")),
        ]
        self._tasks = [asyncio.create_task(self._keep(*one), name=one[0]) for one in paced]
        for address, first in ((self._http, b""), (self._grpc, _PREFACE)):
            self._tasks += [
                asyncio.create_task(self._idle(address, first), name="idle")
                for _ in range(IDLE_CONNECTIONS)
            ]

    async def stop(self) -> None:
        """End them all and close what they opened; a client that ended before is a failure."""
        await self._end_tasks()
        for peer in self._peers:
            peer.close()
        await self._channel.close()

    async def _end_tasks(self) -> None:
        """In a frame of its own: how a task ended holds its last call, and that the channel's connection."""
        for task in self._tasks:
            task.cancel()
        endings = await asyncio.gather(*self._tasks, return_exceptions=True)
        for task, ending in zip(self._tasks, endings, strict=True):
            if isinstance(ending, Exception):
                self._fail(task.get_name(), f"a client ended: {ending!r}")

    async def _keep(self, kind: str, per_s: float, act: Callable[[], Awaitable[None]]) -> None:
        """Do one thing again and again; a stall of ours is not made up for by a burst."""
        step_s = 1 / per_s
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + step_s, time.monotonic() - step_s)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    await act()
                self.counts[kind] += 1
            except BenchError as problem:
                self._fail(kind, str(problem))
            except (OSError, EOFError, TimeoutError, grpc.RpcError) as problem:
                self._fail(kind, repr(problem))

    def _fail(self, kind: str, words: str) -> None:
        self.counts["failures"] += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"{kind}: {words}"[:300])

    # -- HTTP -------------------------------------------------------------------------------------

    def _kept_peer(self) -> HttpPeer:
        self._peers.append(HttpPeer(self._http))
        return self._peers[-1]

    def _asking_http(self, requests: Iterator[bytes]) -> Callable[[], Awaitable[None]]:
        peer = self._kept_peer()

        async def act() -> None:
            began_s = time.monotonic()
            await _expect(peer, next(requests), {200})
            self.plain_s.append(time.monotonic() - began_s)

        return act

    def _refused_http(self) -> Callable[[], Awaitable[None]]:
        peer = self._kept_peer()
        bad = itertools.cycle(soak_requests.bad_requests())

        async def act() -> None:
            request, status, is_infer = next(bad)
            self.provoked.bad += is_infer
            await _expect(peer, request, {status})

        return act

    def _broken_http(self) -> Callable[[], Awaitable[None]]:
        broken = itertools.cycle(_BY_HAND)

        async def act() -> None:
            peer = HttpPeer(self._http)
            try:
                await _expect(peer, next(broken), {400})
            finally:
                peer.close()

        return act

    def _late_http(self) -> Callable[[], Awaitable[None]]:
        peer = self._kept_peer()
        requests = [
            soak_requests.post(models.HEAVY, json_payload.infer_body(timeout_us))
            for timeout_us in (1, 1500, 4000)
        ]
        turns = itertools.cycle(requests)

        async def act() -> None:
            self.provoked.late += 1
            await _expect(peer, next(turns), {200, 503, 504})

        return act

    def _hangs_up(self) -> Callable[[], Awaitable[None]]:
        request = soak_requests.post(models.HEAVY, json_payload.infer_body())
        waits_s = itertools.cycle((0.0, 0.0005, 0.002))

        async def act() -> None:
            peer = HttpPeer(self._http)
            try:
                _, writer = await peer.opened()
                writer.write(request)
                await asyncio.sleep(next(waits_s))
            finally:
                peer.close()

        return act

    def _churn(self, protocol: Any) -> Callable[[], Awaitable[None]]:
        address = self._http if protocol == "http" else self._grpc

        async def act() -> None:
            await asyncio.to_thread(probe.check, protocol, address, models.TINY, None)

        return act

    async def _drips(self) -> None:
        request = soak_requests.binary(_DRIP_ROWS)
        size = len(request) // _DRIP_PIECES + 1
        peer = HttpPeer(self._http)
        try:
            _, writer = await peer.opened()
            for at in range(0, len(request) - size, size):
                writer.write(request[at : at + size])
                await writer.drain()
                await asyncio.sleep(0.05)
            await _expect(peer, request[at + size :], {200})
        finally:
            peer.close()

    # -- gRPC -------------------------------------------------------------------------------------

    def _plain_grpc(self) -> Callable[[], Awaitable[None]]:
        message = protobuf_payload.infer_request(models.TINY)

        async def act() -> None:
            began_s = time.monotonic()
            await self._call(message, _ANSWER_WITHIN_S, _OK)
            self.plain_s.append(time.monotonic() - began_s)

        return act

    def _refused_grpc(self) -> Callable[[], Awaitable[None]]:
        good = protobuf_payload.infer_request(models.TINY)
        bad = itertools.cycle(
            [
                (protobuf_payload.infer_request("nobody"), "NOT_FOUND"),
                (good[:-4], "INVALID_ARGUMENT"),
                (b"\xff" * 40, "INVALID_ARGUMENT"),
                (good.replace(b"FP32", b"FP64"), "INVALID_ARGUMENT"),
            ]
        )

        async def act() -> None:
            message, code = next(bad)
            self.provoked.bad += 1
            await self._call(message, _ANSWER_WITHIN_S, {code})

        return act

    async def _late_grpc(self) -> None:
        self.provoked.late += 1
        await self._call(protobuf_payload.infer_request(models.HEAVY), 0.002, _LATE)

    def _cancels(self) -> Callable[[], Awaitable[None]]:
        message = protobuf_payload.infer_request(models.HEAVY)
        waits_s = itertools.cycle((0.0, 0.0005, 0.002))

        async def act() -> None:
            call = self._infer(message, timeout=_ANSWER_WITHIN_S)
            await asyncio.sleep(next(waits_s))
            call.cancel()
            await _code(call, _OK | {"CANCELLED"})

        return act

    async def _call(self, message: bytes, timeout_s: float, expected: Sequence[str] | Any) -> None:
        await _code(self._infer(message, timeout=timeout_s), expected)

    # -- silence ----------------------------------------------------------------------------------

    async def _idle(self, address: Address, first: bytes) -> None:
        """Hold a connection and say nothing more; when the server has enough of it, hold another."""
        while True:
            try:
                reader, writer = await asyncio.open_connection(*address)
            except OSError as problem:
                self._fail("idle", repr(problem))
                await asyncio.sleep(1)
                continue
            try:
                writer.write(first)
                with contextlib.suppress(ConnectionError):
                    while await reader.read(4096):
                        pass
                self.counts["idle"] += 1
            finally:
                writer.close()


async def _expect(peer: HttpPeer, request: bytes, statuses: set[int]) -> None:
    try:
        status = await peer.ask(request)
    except BaseException:
        peer.close()
        raise
    if status not in statuses:
        raise SurpriseError(f"HTTP {status}")


async def _code(call: Any, expected: Any) -> None:
    try:
        code = (await call.code()).name
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        code = "CANCELLED"
    if code not in expected:
        raise SurpriseError(f"{code}: {await call.details()}")
