"""A gateway in one process: load, serve until a signal, drain."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from backends.errors import RepositoryError
from backends.manager import Progress, RepositoryState
from foundation.access import AccessError
from foundation.store import StoreError
from gateway.app import Gateway
from gateway.edge.listeners import ListenError
from gateway.terminal import (
    STOPPED,
    STOPPED_WHILE_LOADING,
    STOPPING,
    WRONG_START,
    announce,
    watch_signals,
)

GC_ALLOCATIONS_PER_SWEEP = 20_000
"""Requests make no reference cycles; Python's default of 700 allocations would sweep every few of them."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from the loop, a load for one; Python's default of 5 ms is a slow call."""

WHAT_STOPS_A_START = (RepositoryError, ListenError, AccessError, StoreError)
"""What the person who started it has to mend."""


class LoadingStopped(BaseException):
    """Ends a load that nobody wants any more; no ``Exception``, which would count as the model's failure."""


async def serve(gateway: Gateway, say: Callable[[str], None]) -> int:
    """The whole life of the process; its exit code."""
    stop, force = watch_signals()
    code = await _start(gateway, stop, say)
    if code is not None:
        await gateway.abandon()
        return code
    calm_garbage_collection()
    share_the_interpreter()
    announce(gateway.addresses, gateway.serving.table.statuses, say)
    await stop.wait()
    say(STOPPING)
    clean = await gateway.stop(force=force)
    say(STOPPED[clean])
    if not gateway.idle:
        end_now(0)
    return 0


async def _start(gateway: Gateway, stop: asyncio.Event, say: Callable[[str], None]) -> int | None:
    """None once it serves; else the exit code of a start that came to nothing."""
    try:
        repository = await gateway.load(reporter(stop, say))
        await asyncio.sleep(0)
        for line in untried(repository):
            say(line)
        if stop.is_set():
            return 0
        gateway.build()
        await gateway.open()
    except LoadingStopped:
        say(STOPPED_WHILE_LOADING)
        return 0
    except WHAT_STOPS_A_START as error:
        print(f"headrace: {error}", file=sys.stderr)
        return WRONG_START
    return None


def reporter(stop: asyncio.Event, say: Callable[[str], None]) -> Callable[[Progress], None]:
    """For the loading thread: has its progress said on the loop, and ends the load once ``stop`` is set."""
    loop = asyncio.get_running_loop()

    def tell(progress: Progress) -> None:
        if stop.is_set():  # between two steps of a load
            raise LoadingStopped
        if line := describe(progress):
            loop.call_soon_threadsafe(say, line)

    return tell


def end_now(code: int) -> NoReturn:
    """Without the interpreter's own end: it would wait for a thread inside a load, and abort beneath a batch."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def untried(repository: RepositoryState) -> list[str]:
    """Lines about what could not even be tried; a load that failed has been told by its progress."""
    return [
        f"{'/'.join(filter(None, (bad.name, bad.version)))} REFUSED: {bad.reason}"
        for bad in repository.refused
        if not bad.fingerprint
    ]


def share_the_interpreter() -> None:
    """The loop gets its turn soon, whatever other threads compute."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def calm_garbage_collection() -> None:
    """What was made up to now stays for good, and sweeps come seldom: once everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS_PER_SWEEP, 20, 50)


def describe(progress: Progress) -> str:
    """A line for the person at the terminal, or nothing for what is over in a moment."""
    where = f"[{progress.position}/{progress.total}] {progress.name}/{progress.version}"
    if progress.stage == "ready":
        return f"{where} loaded"
    if progress.stage == "refused":
        return f"{where} REFUSED: {progress.reason}"
    return ""
