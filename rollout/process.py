"""A controller as a process of its own: settings, the store, the audit log, signals, and a few lines for people.

Decides what the process says and which exit code it ends with. What a controller does is in ``rollout.driver``. It must
never serve a port, nor print what may be a password.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
import tomllib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from foundation.audit import DEFAULT_FILE
from foundation.settings import ENV_PREFIX, Sections, SettingsError, known_keys, load
from foundation.store import Store, StoreError, StoreSettings, open_store
from rollout.change_log import open_change_log
from rollout.driver import Driver
from rollout.driver_status import STORE
from rollout.redis_rollouts import RedisRollouts
from rollout.settings import RolloutSettings

STOPPED, WRONG_START = 0, 2
TEND_EVERY_S = 1.0
LOOK_EVERY_S = 0.1
"""How soon a change of its role is said."""
_ROLES = {
    "leads": "leads: this controller moves the weights",
    "stands by": "stands by: another controller leads, and this one takes over when it is gone",
}


class ControllerSettings(msgspec.Struct, frozen=True):
    """The sections that a controller reads."""

    store: StoreSettings = StoreSettings()
    rollout: RolloutSettings = RolloutSettings()


def read_settings(file: Path | None, environment: Mapping[str, str]) -> ControllerSettings:
    """File and variables, of which the latter win. Raises ``SettingsError``.

    The gateway's own will do: sections that are for the gateway alone are left out.
    """
    known = known_keys(ControllerSettings)
    ours = tuple(f"{ENV_PREFIX}{section}_".upper() for section in known)
    variables = {name: value for name, value in environment.items() if name.startswith(ours)}
    overrides = {} if file is None else _from_file(file, known)
    for section, values in overrides.items():
        for key in [key for key in values if f"{ENV_PREFIX}{section}_{key}".upper() in variables]:
            del values[key]
    try:
        return load(ControllerSettings, file=None, environment=variables, overrides=overrides)
    except SettingsError as error:
        raise SettingsError(re.sub("^command line:", f"{file}:", str(error))) from None


def _from_file(file: Path, known: Mapping[str, Collection[str]]) -> Sections:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    found: Sections = {}
    for section, keys in known.items():
        found[section] = values = content.get(section, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{file}: [{section}] must be a section")
        for key in values:
            if key not in keys:
                raise SettingsError(
                    f"{file}: unknown key '{key}' in [{section}]; known: {', '.join(keys)}"
                )
    return found


def audit_file(settings: RolloutSettings) -> Path:
    """Where changes are recorded."""
    return Path(settings.audit_file or Path(settings.state_dir) / DEFAULT_FILE)


def run(settings: ControllerSettings, log_level: str, say: Callable[[str], None]) -> int:
    """Control rollouts until SIGTERM or SIGINT; the exit code."""
    _configure_logs(log_level)
    path = audit_file(settings.rollout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = open_store(settings.store)
    except OSError as error:
        return _refuse(
            f"{path.parent}: {error.strerror or error}; name another [rollout] state_dir"
        )
    except StoreError as error:
        return _refuse(str(error))
    try:
        asyncio.run(_control(settings.rollout, store, path, say))
    finally:
        with suppress(
            StoreError
        ):  # it is somebody else's by now, or will be ended by its next user
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
        state = STORE if STORE in shown.troubles else shown.role
        if state and state != said:
            said = state
            say(
                f"waits for the store: {shown.troubles[STORE]}" if state == STORE else _ROLES[state]
            )
        await asyncio.sleep(LOOK_EVERY_S)


async def _tend(store: Store) -> None:
    while True:
        store.tend(time.monotonic())
        await asyncio.sleep(TEND_EVERY_S)


def _configure_logs(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    form = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    form.converter = time.gmtime
    handler.setFormatter(form)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _refuse(problem: str) -> int:
    print(f"rollout: {problem}", file=sys.stderr)
    return WRONG_START
