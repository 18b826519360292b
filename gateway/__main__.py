"""The gateway process: which kind of process it is. Everything else is built by its composition root."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import uvloop

from foundation.settings import SettingsError
from gateway.settings import GatewaySettings
from gateway.telemetry import tracing
from gateway.telemetry.logs import configure


def run(settings: GatewaySettings, version: str, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. ``say`` prints a line for the person at the terminal."""
    configure(settings.telemetry.log_level, settings.telemetry.log_format)
    try:
        tracing.check(settings.telemetry)
    except SettingsError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if settings.server.workers > 1:  # a supervisor needs no runtime of models
            from gateway import several_processes
            from gateway.supervised_app import SupervisedGateway

            return runner.run(
                several_processes.serve(SupervisedGateway(settings, version, say), say)
            )
        from gateway import one_process
        from gateway.app import Gateway

        return runner.run(one_process.serve(Gateway(settings, version), say))
