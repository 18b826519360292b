"""The composition root: the only module that knows concrete classes.

Builds a gateway from its settings, starts it inside-out (models, lanes, stack, fronts, ports last) and stops it
outside-in. It must never decide anything about a request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from backends.manager import LoadedModel, Progress, RepositoryState, load_repository
from gateway.core.admission import Admission
from gateway.core.batch import BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.servables import ModelStatus, ServableTable, ServableVersion
from gateway.core.service_time import ServiceTime
from gateway.edge import admin, grpc_methods, http_app, http_fast_lane
from gateway.edge.grpc_connection import GrpcConnection
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.http_front import HttpFront
from gateway.edge.listeners import BACKLOG, LOOP_TURN_S, HttpServer, address_of, listen
from gateway.edge.server_info import ServerInfo
from gateway.messages import PredictRequest
from gateway.pipeline.admit import Admit
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.lane import Lane, Loop, Worker
from gateway.pipeline.route import Route
from gateway.pipeline.workers import ThreadWorker
from gateway.ports import Clock, Servable, Service
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger("headrace")

SWEEP_EVERY_S = 1.0
MakeWorker = Callable[[str, int], Worker]
"""(name, threads) → where batches of a lane run when they are too long for the loop."""


class Serving:
    """Models, their lanes and the stack of hops: everything between the fronts and the backends.

    The simulator builds exactly this with a loop, a clock, backends and workers of its own.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        statuses: Sequence[ModelStatus],
        settings: GatewaySettings,
        *,
        loop: Loop,
        clock: Clock,
        make_worker: MakeWorker,
        thread_clock: Clock | None = None,
    ) -> None:
        self.admission = Admission(settings.admission)
        self.metrics = Metrics(self.admission)
        self.lanes: dict[Servable, Lane] = {}
        self.delays_us: dict[Servable, tuple[int, int]] = {}
        self._workers: list[Worker] = []
        self._thread_clock = thread_clock
        for model in models:
            self._add(model, loop, clock, make_worker)
        self.table = ServableTable([lane.servable for lane in self.lanes.values()], statuses)  # type: ignore[misc]
        self.stack: Service[PredictRequest] = Admit(
            self.admission, Route(self.table, Dispatch(self.lanes))
        )

    def _add(self, model: LoadedModel, loop: Loop, clock: Clock, make_worker: MakeWorker) -> None:
        servable = make_servable(model)
        batching, execution = model.settings.batching, model.settings.execution
        learned, run_cost = ServiceTime(), ServiceTime()
        for timing in model.warmup_timings:
            learned.observe(timing.rows, timing.seconds)
            run_cost.observe(timing.rows, timing.seconds)
        if not model.warmup_timings:  # it may take any time: not on the loop, until it was seen
            run_cost.observe(1, 2e-6 * execution.inline_limit_us + 1e-3)
        worker = make_worker(f"{model.name}-{model.version}", execution.instances)
        self._workers.append(worker)
        self.lanes[servable] = Lane(
            servable,
            BatchQueue(
                BatchLimits(
                    max_batch_rows=max(1, servable.max_batch_size),
                    batched=servable.max_batch_size > 0,
                    max_queue_requests=batching.max_queue_requests,
                    max_queue_rows=batching.max_queue_rows,
                    max_queue_delay_us=batching.max_queue_delay_us,
                    instances=execution.instances,
                    priority_levels=model.settings.priority.levels,
                ),
                learned,
            ),
            loop=loop,
            clock=clock,
            worker=worker,
            meters=self.metrics.lane(model.name, model.version),
            inline_limit_s={
                "auto": execution.inline_limit_us * 1e-6,
                "always": inf,
                "never": -1.0,
            }[execution.inline],
            run_cost=run_cost,
            thread_clock=self._thread_clock,
        )
        self.delays_us[servable] = (execution.instances, batching.max_queue_delay_us)

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing running in any lane."""
        return all(lane.queue.idle for lane in self.lanes.values())

    def close(self) -> None:
        """Refuse everything new; what is inside is still answered."""
        for lane in self.lanes.values():
            lane.close()

    def close_workers(self) -> None:
        """The last step: let the threads go."""
        for worker in self._workers:
            worker.close()


def make_servable(model: LoadedModel) -> ServableVersion:
    """What the gateway sees of a loaded model."""
    timeout_ms = model.settings.deadline.default_timeout_ms
    return ServableVersion(
        model.name,
        model.version,
        model.backend.signature,
        model.backend.run,
        platform=model.backend.platform,
        max_batch_size=model.batchability.max_batch_size,
        default_timeout_s=inf if timeout_ms is None else timeout_ms * 1e-3,
        default_priority=model.settings.priority.default,
    )


class Gateway:
    """The process, between ``start`` and ``stop``. Both are called on its loop, once."""

    def __init__(self, settings: GatewaySettings, version: str) -> None:
        self.settings = settings
        self._version = version
        self._started_s = time.monotonic()

    async def load(self, on_progress: Callable[[Progress], None]) -> RepositoryState:
        """Step one: the models, off the loop. Raises ``RepositoryError`` for an unusable folder."""
        repository = self.settings.repository
        self.repository = await asyncio.to_thread(
            load_repository,
            Path(repository.models),
            intra_op_threads=repository.effective_intra_op_threads,
            clock=time.perf_counter,
            on_progress=on_progress,
        )
        return self.repository

    async def start(self) -> None:
        """Step two: lanes, stack, fronts, and the ports last."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        self.serving = serving = Serving(
            self.repository.loaded,
            [ModelStatus(e.name, e.version, e.state, e.reason) for e in self.repository.index()],
            settings,
            loop=loop,
            clock=time.monotonic,
            make_worker=lambda name, threads: ThreadWorker(loop, threads, name),
            thread_clock=time.thread_time,
        )
        self.info = ServerInfo(serving.table, serving.delays_us.__getitem__, self._version)
        shared = {
            "admission": serving.admission,
            "metrics": serving.metrics.fronts,
            "clock": time.monotonic,
            "access_log": settings.telemetry.access_log,
        }
        self.http = HttpFront(serving.stack, serving.table, limits=settings.http, **shared)  # type: ignore[arg-type]
        self.grpc = GrpcFront(
            serving.stack,
            serving.table,
            grpc_methods.methods(self.info),
            limits=settings.grpc,
            **shared,  # type: ignore[arg-type]
        )
        await self._open_ports(loop)
        self._sweeper = loop.call_later(SWEEP_EVERY_S, self._sweep)

    async def _open_ports(self, loop: asyncio.AbstractEventLoop) -> None:
        server = self.settings.server
        claimed: list[socket.socket] = []
        try:
            for port, option in (
                (server.admin_port, "--admin-port"),
                (server.grpc_port, "--grpc-port"),
                (server.http_port, "--http-port"),
            ):
                claimed.append(listen(server.host, port, option))
        except Exception:
            for one in claimed:
                one.close()
            raise
        admin_socket, grpc_socket, http_socket = claimed
        self.addresses = {
            "http": f"http://{address_of(http_socket)}",
            "grpc": address_of(grpc_socket),
            "admin": f"http://{address_of(admin_socket)}",
        }
        keep_alive_s = self.settings.http.keep_alive_s
        self._admin_server = HttpServer(
            admin.build(self._registry(), self.info, self.snapshot),
            admin_socket,
            protocol="httptools",
            keep_alive_s=keep_alive_s,
        )
        self._http_server = HttpServer(
            http_app.build(self.http, self.info),
            http_socket,
            protocol=http_fast_lane.bind(self.http),
            keep_alive_s=keep_alive_s,
        )
        await self._admin_server.start()
        self._grpc_server = await loop.create_server(
            lambda: GrpcConnection(self.grpc), sock=grpc_socket, backlog=BACKLOG
        )
        await self._http_server.start()

    def _registry(self) -> CollectorRegistry:
        metrics = self.serving.metrics
        metrics.gauge(
            "headrace_connections",
            "Open connections by protocol.",
            ("protocol",),
            lambda: [
                (("http",), len(self._http_server.connections)),
                (("grpc",), len(self.grpc.connections)),
            ],
        )
        metrics.gauge(
            "headrace_queue_requests",
            "Requests waiting in a lane.",
            ("model", "version"),
            lambda: [
                ((one.name, one.version), lane.queue.queued_requests)
                for one, lane in self.serving.lanes.items()
            ],
        )
        metrics.gauge(
            "headrace_model_ready",
            "1 for a version that is served, 0 for one that could not be loaded.",
            ("model", "version"),
            lambda: [
                ((one.name, one.version), float(one.state == "READY"))
                for one in self.serving.table.statuses
            ],
        )
        registry = CollectorRegistry()
        registry.register(metrics)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)
        now = time.monotonic()
        for connection in (*self._http_server.connections, *self.grpc.connections):
            try:
                connection.sweep(now)
            except Exception:  # one connection's trouble may not end the watch over the others
                logger.exception("sweeping a connection failed; it is cut")
                connection.abort()

    async def stop(self, *, force: asyncio.Event | None = None) -> bool:
        """Outside-in; True when every call inside was answered. ``force`` skips what is left of the waiting."""
        drain = self.settings.drain
        give_up_s = time.monotonic() + drain.delay_s + drain.timeout_s
        self.info.draining = self.http.draining = True
        self.grpc.drain()
        await _sleep_unless(force, drain.delay_s)
        # A closing listener resets what it has not accepted; the loop accepts all of a backlog in one turn.
        await asyncio.sleep(LOOP_TURN_S)
        self._grpc_server.close()
        self.grpc.refuse_new_streams()
        forced = force is not None and force.is_set()
        http_is_clean, _ = await asyncio.gather(
            self._http_server.stop(0.1 if forced else max(0.1, give_up_s - time.monotonic())),
            self._until(lambda: not self.grpc.connections, give_up_s, force),
        )
        clean = http_is_clean and not self.grpc.connections
        self.grpc.abort()
        self.serving.close()
        await self._until(lambda: self.serving.idle, give_up_s, force)
        self._sweeper.cancel()
        if self.serving.idle:  # else a thread is inside a batch that nobody waits for any more
            self.serving.close_workers()
        await self._admin_server.stop(1.0)
        return clean

    async def _until(
        self, done: Callable[[], bool], give_up_s: float, force: asyncio.Event | None
    ) -> None:
        while not done() and time.monotonic() < give_up_s:
            if force is not None and force.is_set():
                return
            await asyncio.sleep(LOOP_TURN_S)

    def snapshot(self) -> dict[str, Any]:
        """What ``/status`` shows: plain values, made when somebody asks."""
        serving = self.serving
        return {
            "version": self._version,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "ready": self.info.ready()[0],
            "addresses": self.addresses,
            "admission": {
                "requests_inside": serving.admission.requests_inside,
                "bytes_inside": serving.admission.bytes_inside,
                "requests_refused": serving.admission.requests_refused,
            },
            "models": [msgspec.to_builtins(status) for status in serving.table.statuses],
            "lanes": [
                {
                    "model": one.name,
                    "version": one.version,
                    "max_batch_size": one.max_batch_size,
                    "batchable": _why_batched(self.repository, one),
                    **msgspec.to_builtins(lane.queue.snapshot()),
                }
                for one, lane in serving.lanes.items()
            ],
            "settings": msgspec.to_builtins(self.settings),
        }


def _why_batched(repository: RepositoryState, servable: Servable) -> str:
    for model in repository.loaded:
        if (model.name, model.version) == (servable.name, servable.version):
            return model.batchability.reason
    return ""


async def _sleep_unless(force: asyncio.Event | None, seconds: float) -> None:
    if force is None:
        await asyncio.sleep(seconds)
        return
    try:
        await asyncio.wait_for(force.wait(), seconds)
    except TimeoutError:
        return
