"""The gateway process: signals, printing, exit codes. Everything else is built by ``app.py``."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable

import uvloop

from backends.errors import RepositoryError
from backends.manager import Progress
from gateway.app import Gateway
from gateway.edge.listeners import ListenError
from gateway.settings import GatewaySettings
from gateway.telemetry.logs import configure

logger = logging.getLogger("headrace")

GC_ALLOCATIONS_PER_SWEEP = 20_000
"""Requests make no reference cycles; Python's default of 700 allocations would sweep every few of them."""


class LoadingStopped(BaseException):
    """Ends a load that nobody wants any more; no ``Exception``, which would count as the model's failure."""


def run(settings: GatewaySettings, version: str, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. ``say`` prints a line for the person at the terminal."""
    configure(settings.telemetry.log_level, settings.telemetry.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(Gateway(settings, version), say))


async def _serve(gateway: Gateway, say: Callable[[str], None]) -> int:
    stop, force = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop, force)

    def tell(progress: Progress) -> None:
        if stop.is_set():  # between two steps of a load, on the loading thread
            raise LoadingStopped
        loop.call_soon_threadsafe(_tell, say, progress)

    try:
        repository = await gateway.load(tell)
        await asyncio.sleep(0)
        for bad in repository.desired.problems:  # what could not even be tried
            say(f"{'/'.join(filter(None, (bad.name, bad.version)))} REFUSED: {bad.reason}")
        if stop.is_set():
            return 0
        await gateway.start()
    except LoadingStopped:
        say("stopped while loading")
        return 0
    except (RepositoryError, ListenError) as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS_PER_SWEEP, 20, 50)
    for name, address in gateway.addresses.items():
        say(f"{name:5} {address}")
    refused = len(repository.refused)
    say(
        f"ready {len(repository.loaded)} model version{'s' * (len(repository.loaded) != 1)}"
        + (f", {refused} refused (reasons: {gateway.addresses['admin']}/status)" if refused else "")
    )
    await stop.wait()
    say("stopping: finishing the calls inside (again to stop at once)")
    clean = await gateway.stop(force=force)
    say("stopped" if clean else "stopped; some calls were cut off")
    if not gateway.serving.idle:
        # A batch still runs on its thread, and the interpreter cannot end beneath it: the process would abort.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _on_signal(stop: asyncio.Event, force: asyncio.Event) -> None:
    """The first signal asks politely, the second does not."""
    (force if stop.is_set() else stop).set()


def _tell(say: Callable[[str], None], progress: Progress) -> None:
    where = f"[{progress.position}/{progress.total}] {progress.name}/{progress.version}"
    if progress.stage == "ready":
        say(f"{where} loaded")
    elif progress.stage == "refused":
        say(f"{where} REFUSED: {progress.reason}")
