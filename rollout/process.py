"""A controller as a process of its own: settings, the store, the audit log, signals, and a few lines for people.

Decides what the process says and which exit code it ends with. What a controller does is in ``rollout.driver``. It must
never serve a port, nor print what may be a password.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from foundation.audit import DEFAULT_FILE
from foundation.settings import SettingsError, load
from foundation.store import Store, StoreError, StoreSettings, open_store
from rollout.change_log import open_change_log
from rollout.driver import Driver
from rollout.redis_rollouts import RedisRollouts
from rollout.settings import RolloutSettings

STOPPED, FAILED, WRONG_START = 0, 1, 2
TEND_EVERY_S = 1.0
LOOK_EVERY_S = 0.1
"""How soon a change of its role is said."""


class LogSettings(msgspec.Struct, frozen=True):
    """Of ``[telemetry]``, what a controller has use for."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ControllerSettings(msgspec.Struct, frozen=True):
    """The sections that a controller reads."""

    store: StoreSettings = StoreSettings()
    rollout: RolloutSettings = RolloutSettings()
    telemetry: LogSettings = LogSettings()


class _Anything(msgspec.Struct, frozen=True):
    """A section of the gateway's, which may stand in the same file."""


def read_settings(file: Path | None, environment: dict[str, str]) -> ControllerSettings:
    """File and variables. Raises ``SettingsError``.

    A file of the gateway's will do: what it says to the gateway alone is left out.
    """
    return load(ControllerSettings, file=file, environment=environment, overrides={})


def audit_file(settings: RolloutSettings) -> Path:
    """Where changes are recorded."""
    return Path(settings.audit_file or Path(settings.state_dir) / DEFAULT_FILE)


def run(settings: ControllerSettings, say: Callable[[str], None]) -> int:
    """Control rollouts until SIGTERM or SIGINT; the exit code."""
    _configure_logs(settings.telemetry.log_level)
    path = audit_file(settings.rollout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = open_store(settings.store)
    except OSError as error:
        return _refuse(f"{path.parent}: {error.strerror or error}; name another [rollout] state_dir")
    except StoreError as error:
        return _refuse(str(error))
    try:
        asyncio.run(_control(settings.rollout, store, path, say))
    finally:
        with suppress(StoreError):  # it is somebody else's by now, or will be ended by its next user
            store.close()
    say("stopped")
    return STOPPED


async def _control(
    settings: RolloutSettings, store: Store, path: Path, say: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    rollouts = RedisRollouts(lambda: store.url, timeout_s=settings.store_timeout_ms / 1000)
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    driver = Driver(rollouts, open_change_log(path), settings, owner=owner)
    say(f"controls the rollouts in {store.name}, and records changes in {path}")
    telling = asyncio.create_task(_tell(driver, say))
    tending = asyncio.create_task(_tend(store))
    try:
        await driver.run(stop)
    finally:
        telling.cancel()
        tending.cancel()
        await asyncio.gather(telling, tending, return_exceptions=True)
        await rollouts.close()


async def _tell(driver: Driver, say: Callable[[str], None]) -> None:
    """Say which of the two it is, each time that changes."""
    said = ""
    while True:
        shown = driver.snapshot()
        if "store" in shown.troubles:
            line = f"waits for the store: {shown.troubles['store']}"
        elif shown.is_leader:
            line = "leads: this controller moves the weights"
        else:
            line = "stands by: another controller leads, this one takes over when it is gone"
        is_known = shown.is_leader or bool(shown.troubles) or driver.has_asked
        if is_known and line.partition(":")[0] != said:
            said = line.partition(":")[0]
            say(line)
        await asyncio.sleep(LOOK_EVERY_S)


async def _tend(store: Store) -> None:
    while True:
        store.tend(time.monotonic())
        await asyncio.sleep(TEND_EVERY_S)


def _configure_logs(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    form = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _refuse(problem: str) -> int:
    print(f"rollout: {problem}", file=sys.stderr)
    return WRONG_START


__all__ = ["ControllerSettings", "SettingsError", "audit_file", "read_settings", "run"]
