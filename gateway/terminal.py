"""What every way of running the gateway shares towards the person who started it: signals, lines, the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

from gateway.messages import ModelStatus

WRONG_START = 2
"""Exit code of a process that could not use its settings or its models."""
NOT_LOADED = "not loaded"
"""The reason that the index gives for what nobody has asked to load."""
STOPPED_WHILE_LOADING = "stopped while loading"
STOPPING = "stopping: finishing the calls inside (again to stop at once)"
STOPPED = {True: "stopped", False: "stopped; some calls were cut off"}


def watch_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """(stop, force): the first signal asks politely, the second does not."""
    stop, force = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (force if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop, force


def announce(
    addresses: Mapping[str, str], index: Sequence[ModelStatus], say: Callable[[str], None]
) -> None:
    """Where the server is, and what it serves."""
    for name, address in addresses.items():
        say(f"{name:5} {address}")
    ready = sum(one.state == "READY" for one in index)
    idle = sum(one.reason == NOT_LOADED for one in index)
    refused = len(index) - ready - idle
    say(
        f"ready {ready} model version{'s' * (ready != 1)}"
        + (f", {refused} refused (reasons: {addresses['admin']}/status)" if refused else "")
        + (f", {idle} not loaded: POST /v2/repository/models/<model>/load" if idle else "")
    )
