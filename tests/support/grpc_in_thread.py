"""Our gRPC front on a loop in a thread of the test, over real sockets, with a service that answers when told to.

What a process with a model cannot show: which of two requests is answered first, and what is left when all are gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from backends.signature import Signature, TensorSpec
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.call import Promise
from gateway.core.servables import ServableTable, ServableVersion
from gateway.edge import grpc_methods, grpc_streams
from gateway.edge.grpc_connection import GrpcConnection
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.server_info import ServerInfo
from gateway.errors import CallCancelled
from gateway.messages import LaneFacts, ModelStatus, Prediction, PredictRequest
from gateway.ports import RepositoryControl
from gateway.settings import GrpcLimits
from tests.support.server_process import Address

WAIT_S = 20.0

T = TypeVar("T")


class Meters:
    """What the front counts."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.key_calls: Counter[tuple[str, str]] = Counter()
        self.http_paths: Counter[str] = Counter()


class HeldRequest(Promise[Prediction]):
    """A request inside the service."""

    def __init__(self, request: PredictRequest) -> None:
        self.request = request
        self.result = None
        self.error = None
        self.waiter = None
        self.settled = False
        self.cancelled = False


class GrpcInThread:
    """A running front. ``run`` executes on its loop; everything else may be called from the test's thread."""

    def __init__(
        self, limits: GrpcLimits | None = None, control: RepositoryControl | None = None
    ) -> None:
        self.limits = limits or GrpcLimits()
        self.meters = Meters()
        self.admission = Admission(AdmissionLimits())
        self.holds = False
        """False: every request is answered with its inputs at once. True: when ``settle`` says so."""
        self.held: list[HeldRequest] = []
        self.address: Address = ("", 0)
        spec = (TensorSpec("x", "FP32", (-1, 4)),)
        model = ServableVersion(
            "identity", "1", Signature(spec, (TensorSpec("y", "FP32", (-1, 4)),)), list
        )
        statuses = [
            ModelStatus("identity", "1", "READY", ""),
            ModelStatus("broken", "1", "UNAVAILABLE", "no such operator"),
        ]
        self.table = ServableTable([model], statuses)
        self.info = ServerInfo(self.table, lambda servable: LaneFacts(), "0")
        self._control = control
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()

    # -- the loop's side --------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._until_stopped())
        self._loop.close()

    async def _until_stopped(self) -> None:
        self._stopping = asyncio.Event()
        self.front = GrpcFront(
            self._answer,
            self.table,
            grpc_methods.methods(self.info, self._control),
            grpc_streams.streams(self.info),
            admission=self.admission,
            metrics=self.meters,
            clock=self._loop.time,
            limits=self.limits,
        )
        server = await self._loop.create_server(lambda: GrpcConnection(self.front), "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        self._started.set()
        await self._stopping.wait()
        server.close()
        self.front.abort()
        for _ in range(3):  # the transports say goodbye in the next turns
            await asyncio.sleep(0)

    async def _answer(self, request: PredictRequest) -> Prediction:
        if not self.holds:
            return self._echo(request)
        held = HeldRequest(request)
        with self._changed:
            self.held.append(held)
            self._changed.notify_all()
        try:
            return await held
        except CallCancelled:
            with self._changed:
                held.cancelled = True
                self._changed.notify_all()
            raise

    def _echo(self, request: PredictRequest) -> Prediction:
        return Prediction(self.table.find(request.model, request.version), list(request.inputs))

    # -- the test's side --------------------------------------------------------------------------

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the loop."""

        async def on_loop() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(WAIT_S)

    def until(self, what: str, look: Callable[[], bool]) -> None:
        """Wait for something that requests do when they come in or are cancelled."""
        with self._changed:
            assert self._changed.wait_for(look, WAIT_S), f"{what}: {self.held}"

    def until_held(self, requests: int) -> None:
        """Wait until so many requests are inside, ever."""
        self.until(f"{requests} requests are inside", lambda: len(self.held) >= requests)

    def settle(self, number: int, error: BaseException | None = None) -> None:
        """Answer the request that came in as the given one."""
        held = self.held[number]
        result = None if error is not None else self._echo(held.request)
        self.run(lambda: held.settle(result, error))

    def sweep(self, now: Callable[[float], float] = lambda now: now) -> None:
        """As the process does once a second; ``now`` moves the clock that is handed out."""

        def on_loop() -> None:
            for connection in list(self.front.connections):
                connection.sweep(now(self._loop.time()))

        self.run(on_loop)

    @property
    def counted(self) -> Mapping[str, int]:
        """Calls by outcome."""
        return {outcome: count for (_, outcome), count in self.meters.calls.items()}

    @property
    def open_calls(self) -> list[Any]:
        """The calls of all connections."""
        return self.run(lambda: [c for one in self.front.connections for c in one.calls.values()])

    def __enter__(self) -> GrpcInThread:
        self._thread.start()
        assert self._started.wait(WAIT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
