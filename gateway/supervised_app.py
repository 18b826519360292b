"""The composition root of an instance with several workers: sockets, supervisor, admin port.

The supervisor's process loads no models and takes no predictions.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

from foundation.store import Store, StoreError
from gateway.edge import admin, tls
from gateway.edge.access import open_access
from gateway.edge.data_ports import (
    GRPC,
    HTTP,
    admin_server,
    check_grpcio,
    claim_paths,
    give_back_paths,
)
from gateway.edge.listeners import HttpServer, claim_shared, listen
from gateway.feature_serving import open_store_in_thread, row_source
from gateway.messages import ModelStatus
from gateway.rollout_administering import RolloutAdministering, routes_of
from gateway.settings import GatewaySettings
from gateway.supervisor.seat import Listeners
from gateway.supervisor.supervisor import Supervisor

TEND_EVERY_S = 1.0


class SupervisedGateway:
    """Several workers and the one who speaks for them: ``start``, then ``stop``."""

    def __init__(self, settings: GatewaySettings, version: str, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._version = version
        self._say = say
        self._held: list[socket.socket] = []
        self._paths: dict[str, socket.socket] = {}
        self._tending: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self._administering: RolloutAdministering | None = None
        self._admin_server: HttpServer | None = None
        self._supervisor: Supervisor | None = None

    async def start(self) -> list[ModelStatus]:
        """Everything up and serving; the index. Raises what stops a start: see ``several_processes``.

        What is wrong with certificates, keys and the store is found here, once, and not by every worker.
        """
        settings, server = self._settings, self._settings.server
        check_grpcio(settings)
        certificates = tls.load(settings.tls)
        open_access(settings)
        admin_socket = listen(server.host_of("admin"), server.admin_port, "--admin-port")
        self._held.append(admin_socket)
        try:
            listeners = self._claim()
        except BaseException:
            for one in self._held:
                one.close()
            raise
        self._supervisor = supervisor = Supervisor(settings, self._version, listeners, self._say)
        if settings.needs_store:
            self._store = await open_store_in_thread(settings.store)
        if self._store is not None and settings.rollout.enabled:
            models = Path(settings.repository.models)
            self._administering = RolloutAdministering(settings.rollout, self._store, models)
        address, self._admin_server = admin_server(
            admin.build(supervisor.spokesman, self._version, routes_of(self._administering)),
            admin_socket,
            settings,
            certificates,
        )
        await self._admin_server.start()  # who waits for the models may ask whether they are there
        if self._store is not None and settings.features.manifest:
            row_source(
                settings.features, self._store
            )  # the workers' to use; wrong words are told once
        watched = certificates if settings.tls.admin else None
        if watched is not None or self._store is not None:
            self._tending = asyncio.create_task(_tend(watched, self._store, self._administering))
        index = await supervisor.start()
        if self._administering is not None:
            self._administering.start()
        supervisor.spokesman.addresses["admin"] = address
        return index

    def _claim(self) -> list[Listeners]:
        """The sockets of every seat: one of its own for each port, the Unix sockets in common."""
        server = self._settings.server
        own: dict[str, list[socket.socket]] = {}
        for name, port in ((GRPC, server.grpc_port), (HTTP, server.http_port)):
            mark, *sockets = claim_shared(
                server.host_of(name), port, f"--{name}-port", server.workers
            )
            self._held += [mark, *sockets]
            own[name] = sockets
        self._paths = claim_paths(self._settings)
        self._held += self._paths.values()
        return [
            {name: sockets[seat] for name, sockets in own.items()} | self._paths
            for seat in range(server.workers)
        ]

    @property
    def addresses(self) -> dict[str, str]:
        """Where everything is."""
        assert self._supervisor is not None, "start it first"
        return self._supervisor.spokesman.addresses

    async def abandon(self) -> None:
        """The end of an instance that never served."""
        if self._supervisor is not None:
            await self._supervisor.abandon()
        give_back_paths(self._settings, self._paths)
        await self._close()

    async def stop(self, force: asyncio.Event) -> bool:
        """Drain every worker; True when all calls inside were answered."""
        assert self._supervisor is not None, "start it first"
        clean = await self._supervisor.stop(force)
        give_back_paths(self._settings, self._paths)
        await self._close()
        return clean

    async def _close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
        if self._admin_server is not None:
            await self._admin_server.stop(1.0)
        if self._administering is not None:
            await self._administering.close()
        if self._store is not None:  # the workers have gone: the last one out ends a private server
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._store.close)
        for one in self._held:
            one.close()


async def _tend(
    certificates: tls.Tls | None, store: Store | None, administering: RolloutAdministering | None
) -> None:
    """Keep the admin port's certificate and tokens up to date and a private store running, for ever.

    The workers see to the certificates of the data ports themselves.
    """
    while True:
        await asyncio.sleep(TEND_EVERY_S)
        if certificates is not None:
            certificates.reload_if_changed()
        if store is not None:
            store.tend(time.monotonic())
        if administering is not None:
            administering.sweep()
