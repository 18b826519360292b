"""The composition root: the only module that knows concrete classes.

Builds a gateway from its settings, starts it inside-out (models, lanes, stack, fronts, ports last) and stops it
outside-in. It must never decide anything about a request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from backends.manager import Progress, RepositoryState, load_repository
from gateway.edge import admin, grpc_methods, http_app, http_fast_lane
from gateway.edge.grpc_connection import GrpcConnection
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.http_front import HttpFront
from gateway.edge.listeners import BACKLOG, LOOP_TURN_S, HttpServer, address_of, listen
from gateway.edge.server_info import ServerInfo
from gateway.messages import ModelStatus
from gateway.pipeline.workers import ThreadWorker
from gateway.ports import Servable
from gateway.serving import Serving
from gateway.settings import GatewaySettings

logger = logging.getLogger("headrace")

SWEEP_EVERY_S = 1.0


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
        self.info = ServerInfo(serving.table, lambda one: serving.lane_facts[one][:2], self._version)
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
                    "batchable": serving.lane_facts[one].why_batched,
                    **msgspec.to_builtins(lane.queue.snapshot()),
                }
                for one, lane in serving.lanes.items()
            ],
            "settings": msgspec.to_builtins(self.settings),
        }


async def _sleep_unless(force: asyncio.Event | None, seconds: float) -> None:
    if force is None:
        await asyncio.sleep(seconds)
        return
    try:
        await asyncio.wait_for(force.wait(), seconds)
    except TimeoutError:
        return
