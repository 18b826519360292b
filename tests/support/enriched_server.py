"""Both data ports over real sockets, on a loop in a thread of the test, before a servable with an enrichment.

What the fronts hand to the hop that enriches, and what they make of its answer, can be seen here without features or a
store: in the place of that hop and of the model stands a service that tells in its reply what it was given.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Literal

from backends.signature import Signature, TensorSpec
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.servables import ServableTable, ServableVersion
from gateway.edge import data_ports, grpc_methods, grpc_streams, http_app
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.http_front import HttpFront
from gateway.edge.server_info import ServerInfo
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import LaneFacts, ModelStatus, Parameters, Prediction, RoutedRequest
from gateway.pipeline.admit import Admit
from gateway.pipeline.route import Route
from gateway.settings import GatewaySettings, GrpcLimits, ServerSettings
from tests.support.servables import WantedNames
from tests.support.server_process import Address

WAIT_S = 20.0
WANTED = WantedNames(("user", "tier"), ("x-tenant",))
ENRICHED, PLAIN = "enriched", "plain"
"""The models: what one wants, and one that wants nothing. Both answer with their input."""


class _Meters:
    """What the fronts count."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.key_calls: Counter[tuple[str, str]] = Counter()
        self.http_paths: Counter[str] = Counter()


class EnrichedServer:
    """Running fronts; ``grpc_server`` says whose HTTP/2 the gRPC port speaks."""

    def __init__(self, grpc_server: Literal["nghttp2", "grpcio"]) -> None:
        self.settings = GatewaySettings(
            server=ServerSettings(http_port=0, grpc_port=0, admin_port=0),
            grpc=GrpcLimits(server=grpc_server),
        )
        self.meters = _Meters()
        self.http: Address = ("", 0)
        self.grpc: Address = ("", 0)
        self.table = ServableTable([_model(ENRICHED, WANTED), _model(PLAIN, None)], _statuses())
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
        admission, info = Admission(AdmissionLimits()), ServerInfo(self.table, _facts, "0")
        service = Admit(admission, Route(self.table, self._tell))
        shared: dict[str, Any] = {
            "admission": admission,
            "metrics": self.meters,
            "clock": self._loop.time,
        }
        self.http_front = http = HttpFront(service, self.table, limits=self.settings.http, **shared)
        grpc = GrpcFront(
            service,
            self.table,
            grpc_methods.methods(info, None),
            grpc_streams.streams(info),
            limits=self.settings.grpc,
            **shared,
        )
        no_control: Any = None  # its routes are not asked
        ports = data_ports.DataPorts(
            http,
            grpc,
            http_app.build(http, info, no_control),
            data_ports.claim(self.settings),
            self.settings,
            None,
        )
        await ports.open()
        self.http = _address(ports.addresses["http"])
        self.grpc = _address(ports.addresses["grpc"])
        self._started.set()
        await self._stopping.wait()
        await ports.stop_accepting(0.0)
        await ports.stop_http(0.0, hand_over=False, on_closed=lambda: None, force=None)
        await ports.abort()
        for _ in range(3):  # the transports say goodbye in the next turns
            await asyncio.sleep(0)

    async def _tell(self, routed: RoutedRequest, /) -> Prediction:
        """The answer is the input; what came besides stands in its parameters. A negative input misses features."""
        request, servable = routed.request, routed.servable
        if request.inputs[0].min() < 0:
            raise HeadraceError(ErrorCode.FEATURES_MISSING, "3 of 4 features are missing")
        prediction = Prediction(servable, list(request.inputs))
        if request.context or request.wants_feature_status:
            told: Parameters = {"context": json.dumps(request.context), "values": 3}
            if request.wants_feature_status:
                told |= {"feature_status": "{}", "share": 0.5, "complete": True}
            prediction.parameters = told
        return prediction

    # -- the test's side --------------------------------------------------------------------------

    def __enter__(self) -> EnrichedServer:
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


def _model(name: str, wanted: WantedNames | None) -> ServableVersion:
    shape = (-1, 4)
    signature = Signature((TensorSpec("x", "FP32", shape),), (TensorSpec("y", "FP32", shape),))
    return ServableVersion(name, "1", signature, list, max_batch_size=8, enrichment=wanted)


def _statuses() -> list[ModelStatus]:
    return [ModelStatus(name, "1", "READY", "") for name in (ENRICHED, PLAIN)]


def _facts(servable: object) -> LaneFacts:
    return LaneFacts()


def _address(text: str) -> Address:
    host, _, port = text.removeprefix("http://").rpartition(":")
    return host, int(port)
