"""The composition root: the only module that knows concrete classes.

Builds a gateway from its settings, starts it inside-out (models, lanes, stack, fronts, ports last) and stops it
outside-in. It must never decide anything about a request.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from backends.manager import Fit, Progress, RepositoryState, fit_nothing, load_repository
from featurecache.sources.ports import RowSource
from foundation.core_wanted import cores_of_one, wanted_clocks
from foundation.store import Store, StoreError
from gateway.edge import admin, feature_push, grpc_methods, grpc_streams, http_app, tls
from gateway.edge.access import open_access
from gateway.edge.call_traces import CallTraces
from gateway.edge.data_ports import DataPorts, admin_server, check_grpcio, claim
from gateway.edge.grpc_front import GrpcFront
from gateway.edge.http_front import HttpFront
from gateway.edge.listeners import LOOP_TURN_S, HttpServer, listen
from gateway.edge.server_info import ServerInfo
from gateway.feast_serving import layout_of
from gateway.feature_looking import open_looking
from gateway.feature_serving import FeatureFit, FeatureServing, open_store_in_thread, row_source
from gateway.feature_writing import open_pushes
from gateway.mirroring import QuietWorker
from gateway.pipeline.workers import ThreadWorker
from gateway.ports import RepositoryControl
from gateway.process_view import make_registry, snapshot_of
from gateway.rollout_administering import RolloutAdministering, routes_of
from gateway.rollout_serving import RolloutServing, open_rollouts
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from gateway.supervisor.alone_instance import AloneInstance
from gateway.supervisor.control_mode import names_to_load
from gateway.supervisor.local_control import LocalControl, statuses_of
from gateway.supervisor.quiet_loader import QuietLoader
from gateway.telemetry.tracing import open_tracer

logger = logging.getLogger("headrace")

SWEEP_EVERY_S = 1.0
LAST_TRACES_S = 2.0
"""How long the collector of traces may take for the last ones."""


class Gateway:
    """The process: ``load``, ``build``, ``open``, ``stop``, each called on its loop, once.

    A worker of several gets its listening sockets and, as ``control``, a way to the supervisor, who has the admin port.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        version: str,
        *,
        listeners: Mapping[str, socket.socket] | None = None,
        control: RepositoryControl | None = None,
    ) -> None:
        self.settings = settings
        self._version = version
        self._listeners = listeners
        self._control = control
        self._admin_server: HttpServer | None = None
        self._poller: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self._source: RowSource | None = None
        self.features: FeatureServing | None = None
        self.rollouts: RolloutServing | None = None
        self._administering: RolloutAdministering | None = None
        self._planned: Mapping[str, Collection[int]] = {}
        self._started_s = time.monotonic()

    async def load(
        self,
        on_progress: Callable[[Progress], None],
        *,
        serve: Mapping[str, list[str]] | None = None,
    ) -> RepositoryState:
        """Step one: the models, off the loop. Raises ``RepositoryError`` for an unusable folder.

        What cannot be listened with is found before that, since models may take long: ``ListenError`` says why, and
        ``AccessError`` what is wrong with the API keys, ``StoreError`` why no store can be had.
        """
        check_grpcio(self.settings)
        self.tls = tls.load(self.settings.tls)
        self.access = open_access(self.settings)
        repository = self.settings.repository
        self._fit: Fit = fit_nothing
        if self.settings.needs_store:
            self._store = await open_store_in_thread(self.settings.store)
        if self._store is not None and self.settings.rollout.enabled:
            rollouts = open_rollouts(self.settings.rollout, self._store)
            self.rollouts = RolloutServing(self.settings.rollout, rollouts)
            self._planned = await self.rollouts.read()
        if self._store is not None and self.settings.features.manifest:
            self._source = row_source(self.settings.features, self._store)
            self._fit = FeatureFit(self.settings.features, layout_of(self._source))
        self.repository = await asyncio.to_thread(
            load_repository,
            Path(repository.models),
            intra_op_threads=self.settings.intra_op_threads,
            clock=time.perf_counter,
            on_progress=on_progress,
            only=names_to_load(repository) if serve is None else set(serve),
            fit=self._fit,
            versions=self._planned,
        )
        return self.repository

    def build(self) -> None:
        """Step two: lanes, stack and fronts."""
        settings, loop = self.settings, asyncio.get_running_loop()
        if self._source is not None:
            self.features = FeatureServing(
                settings.features,
                self._source,
                loop=loop,
                clock=time.monotonic,
                random_unit=random.random,
            )
        self.serving = serving = Serving(
            self.repository.loaded,
            statuses_of(self.repository),
            settings,
            loop=loop,
            clock=time.monotonic,
            make_worker=lambda name, threads: ThreadWorker(loop, threads, name),
            thread_clock=time.thread_time,
            wanted_clocks=wanted_clocks(cores_of_one(settings.server.workers)),
            features=self.features,
            shadow_worker=None if self.rollouts is None else QuietWorker(loop, 1, "shadow"),
        )
        self.pushes = open_pushes(settings.features, self._store, self._source)
        self.pushes.export(serving.metrics)
        self.looking = open_looking(settings.features, self.features)
        self.tracer = open_tracer(settings.telemetry, self._version, time.time() - time.monotonic())
        if self.tracer is not None:
            serving.metrics.traces = self.tracer.counts
        self.local_control = LocalControl(
            settings.repository,
            self.repository,
            QuietLoader(
                intra_op_threads=settings.intra_op_threads,
                clock=time.perf_counter,
                fit=self._fit,
            ),
            serving,
            drain_timeout_s=settings.drain.timeout_s,
            planned=self._planned,
        )
        if self.rollouts is not None:
            self.rollouts.attach(serving, self.local_control)
        self.control = self._control or self.local_control
        self.info = ServerInfo(serving.table, serving.lane_facts.__getitem__, self._version)
        shared = {
            "admission": serving.admission,
            "metrics": serving.metrics.fronts,
            "clock": time.monotonic,
            "access_log": settings.telemetry.access_log,
            "access": self.access,
        }
        self.http = HttpFront(
            serving.stack,
            serving.table,
            limits=settings.http,
            traces=self._traces("http"),
            **shared,  # type: ignore[arg-type]
        )
        self.grpc = GrpcFront(
            serving.stack,
            serving.table,
            {**grpc_methods.methods(self.info, self.control), **feature_push.methods(self.pushes)},
            grpc_streams.streams(self.info),
            limits=settings.grpc,
            traces=self._traces("grpc"),
            **shared,  # type: ignore[arg-type]
        )
        if self.access is not None:
            self.access.on_change = self.http.heads.forget

    def _traces(self, protocol: str) -> CallTraces | None:
        return None if self.tracer is None else CallTraces(protocol, self.tracer, time.monotonic)

    async def open(self) -> None:
        """Step three: the store, then the ports, last of all."""
        if self.features is not None:
            await self.features.start()
        server = self.settings.server
        admin_socket: socket.socket | None = None
        listeners = self._listeners
        if listeners is None:
            admin_socket = listen(server.host_of("admin"), server.admin_port, "--admin-port")
            try:
                listeners = claim(self.settings)
            except BaseException:
                admin_socket.close()
                raise
        self._ports = DataPorts(
            self.http,
            self.grpc,
            http_app.build(self.http, self.info, self.control, self.pushes),
            listeners,
            self.settings,
            self.tls,
        )
        self.addresses = self._ports.addresses
        self._registry = make_registry(self.serving, self._ports)
        if admin_socket is not None:
            if self._store is not None and self.settings.rollout.enabled:
                models = Path(self.settings.repository.models)
                self._administering = RolloutAdministering(
                    self.settings.rollout, self._store, models
                )
                self._administering.start()
            self.addresses["admin"], self._admin_server = admin_server(
                admin.build(self._alone(), self._version, routes_of(self._administering)),
                admin_socket,
                self.settings,
                self.tls,
            )
            await self._admin_server.start()
        if self.rollouts is not None:
            await self.rollouts.start()
        await self._ports.open()
        if self._control is None and self.settings.repository.control == "poll":
            self._poller = asyncio.create_task(self.local_control.poll())
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)

    def _alone(self) -> AloneInstance:
        return AloneInstance(
            self.control,
            self.looking,
            ready=self.info.ready,
            metrics=lambda: self.registry,
            snapshot=self.snapshot,
        )

    async def adopt(self, protocol: str, accepted: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        await self._ports.adopt(protocol, accepted)

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)
        now = time.monotonic()
        self.serving.reap()
        if self._store is not None:
            self._store.tend(now)
        if self.tls is not None:
            self.tls.reload_if_changed()
        if self.access is not None:
            self.access.sweep()
        if self._administering is not None:
            self._administering.sweep()
        if self.rollouts is not None:
            self.rollouts.access.sweep()
        for connection in (*self._ports.http_connections, *self._ports.grpc_connections):
            try:
                connection.sweep(now)
            except Exception:  # one connection's trouble may not end the watch over the others
                logger.exception("sweeping a connection failed; it is cut")
                connection.abort()

    async def stop(
        self,
        *,
        force: asyncio.Event | None = None,
        hand_over: Callable[[], bool] = lambda: False,
        on_closed: Callable[[], None] = lambda: None,
    ) -> bool:
        """Outside-in; True when every call inside was answered. ``force`` skips what is left of the waiting.

        ``hand_over``, asked when the ports close: somebody else holds their sockets too, and will take who waits there.
        ``on_closed`` is called as soon as nothing is accepted any more.
        """
        drain, ports = self.settings.drain, self._ports
        give_up_s = time.monotonic() + drain.delay_s + drain.timeout_s
        self.info.draining = True
        ports.announce_shutdown()
        await _sleep_unless(force, drain.delay_s)
        forced = force is not None and force.is_set()
        timeout_s = 0.1 if forced else max(0.1, give_up_s - time.monotonic())
        if self._listeners is None:
            ports.give_back_paths()
        await ports.stop_accepting(timeout_s)
        http_is_clean, _ = await asyncio.gather(
            ports.stop_http(timeout_s, hand_over=hand_over(), on_closed=on_closed, force=force),
            self._until(lambda: ports.grpc_idle, give_up_s, force),
        )
        clean = http_is_clean and ports.grpc_idle
        await ports.abort()
        self.serving.close()
        await self._until(lambda: self.serving.idle, give_up_s, force)
        self._sweeper.cancel()
        if self._poller is not None:
            self._poller.cancel()
        if self.serving.idle:  # else a thread is inside a batch that nobody waits for any more
            self.serving.close_workers()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close, LAST_TRACES_S)
        if self._admin_server is not None:
            await self._admin_server.stop(1.0)
        if self._administering is not None:
            await self._administering.close()
        await self.abandon()
        return clean

    async def abandon(self) -> None:
        """Let go of the store: the last step of ``stop``, and the end of a process that never served."""
        if self.rollouts is not None:
            await self.rollouts.close()
        if self.features is not None:
            await self.pushes.close()
            await self.features.close()
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.close)
            except StoreError as error:
                logger.warning("%s", error)

    async def _until(
        self, done: Callable[[], bool], give_up_s: float, force: asyncio.Event | None
    ) -> None:
        while not done() and time.monotonic() < give_up_s:
            if force is not None and force.is_set():
                return
            await asyncio.sleep(LOOP_TURN_S)

    @property
    def idle(self) -> bool:
        """No thread is inside a batch or a load; else the interpreter cannot end beneath it."""
        return self.serving.idle and not self.local_control.loading

    @property
    def registry(self) -> CollectorRegistry:
        """Every metric of the process."""
        return self._registry

    def snapshot(self) -> dict[str, Any]:
        """What ``/status`` shows: plain values, made when somebody asks."""
        return {
            "version": self._version,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "ready": self.info.ready()[0],
            "addresses": self.addresses,
            **snapshot_of(self.serving, self.features, self.rollouts, self.access),
            "settings": self.settings.shown,
        }


async def _sleep_unless(force: asyncio.Event | None, seconds: float) -> None:
    if force is None:
        await asyncio.sleep(seconds)
        return
    try:
        await asyncio.wait_for(force.wait(), seconds)
    except TimeoutError:
        return
