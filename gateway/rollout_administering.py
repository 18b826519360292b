"""Rollouts in the process that has the admin port: people's changes, the controller, and who may do what.

Part of the composition root. The controller runs on a loop and a thread of its own, so that what it weighs holds up no
prediction; of all that run anywhere, one leads. It must never be there where rollouts are not enabled.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from backends.repository import existing_versions
from foundation.access import AccessError
from foundation.audit import DEFAULT_FILE, AuditLog
from foundation.store import Store
from gateway.edge.rollout_access import RolloutAccess
from gateway.edge.rollout_routes import RolloutRoutes
from gateway.rollout_serving import open_rollouts
from gateway.supervisor.quiet_loader import step_back
from rollout.administration import Administration
from rollout.change_log import open_change_log
from rollout.checking import Facts
from rollout.driver import Driver
from rollout.ports import StoreAwayError
from rollout.settings import RolloutSettings

logger = logging.getLogger("headrace.rollouts")

END_TIMEOUT_S = 5.0


class Controller:
    """A driver on a thread and a loop of its own, from ``start`` to ``stop``."""

    def __init__(self, settings: RolloutSettings, store: Store, audit_file: Path) -> None:
        self._settings = settings
        self._store = store
        self._audit_file = audit_file
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._driver: Driver | None = None
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)

    def start(self) -> None:
        """Take part in the election from now on."""
        self._thread.start()

    def _run(self) -> None:
        step_back()
        try:
            asyncio.run(self._control())
        except (
            Exception
        ):  # the gateway serves on; another controller takes over, or nobody moves a weight
            logger.exception("the controller of rollouts has ended")

    async def _control(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        rollouts = open_rollouts(self._settings, self._store)
        owner = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._driver = Driver(
            rollouts, open_change_log(self._audit_file), self._settings, owner=owner
        )
        try:
            await self._driver.run(self._stop)
        finally:
            with suppress(StoreAwayError):
                await rollouts.close()

    async def stop(self) -> None:
        """Let the lease go, so that the next one may lead at once."""
        if self._thread.ident is None:  # it was never started
            return
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(stop.set)
        await asyncio.to_thread(self._thread.join, END_TIMEOUT_S)

    def snapshot(self) -> Any:
        """What ``/status`` shows."""
        driver = self._driver
        return None if driver is None else msgspec.to_builtins(driver.snapshot())


class RolloutAdministering:
    """What the admin port offers of rollouts, and the controller beside it."""

    def __init__(self, settings: RolloutSettings, store: Store, models: Path) -> None:
        """``models``: the repository's folder. Raises ``AccessError`` for a tokens file or folder that is of no use."""
        folder = Path(settings.state_dir)
        audit_file = Path(settings.audit_file or folder / DEFAULT_FILE)
        self._models = models
        self._rollouts = open_rollouts(settings, store)
        tokens = Path(settings.tokens_file) if settings.tokens_file else None
        self.access = RolloutAccess(tokens, max_changes_per_min=settings.max_changes_per_min)
        try:
            audit_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AccessError(
                f"the audit log {audit_file} cannot be kept: {error.strerror}; name another rollout.state_dir"
            ) from None
        self._administration = Administration(
            self._rollouts, AuditLog(audit_file), self._facts, time.time
        )
        self.routes = RolloutRoutes(self._administration, self.access)
        self.controller = Controller(settings, store, audit_file) if settings.control else None

    async def _facts(self, model: str) -> Facts:
        found = await asyncio.to_thread(existing_versions, self._models, model)
        return Facts(versions=frozenset(map(str, found)))

    def start(self) -> None:
        """Begin to control, if that is asked for."""
        if self.controller is not None:
            self.controller.start()

    def sweep(self) -> None:
        """To be called about once a second."""
        self.access.sweep()

    async def close(self) -> None:
        """Changes that were begun are written and recorded first."""
        if self.controller is not None:
            await self.controller.stop()
        await self._administration.settle()
        with suppress(StoreAwayError):
            await self._rollouts.close()


def routes_of(administering: RolloutAdministering | None) -> RolloutRoutes | None:
    """What the admin port has to mount."""
    return None if administering is None else administering.routes
