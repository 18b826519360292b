"""Decides how a client of the bench's own runs: as a process on the load's core, waited for within a limit.

It must never take what a client printed for a result when the client, or its server, did not end well.
"""

import subprocess
import sys
from collections.abc import Mapping

from loadtests.failures import RowError
from loadtests.server_process import ServerProcess

_GRACE_S = 60.0


def command(core: int, module: str, options: Mapping[str, object]) -> list[str]:
    """The command line of a client module, pinned to its core."""
    line = ["taskset", "--cpu-list", str(core), sys.executable, "-m", module]
    return [*line, *(f"--{key}={value}" for key, value in options.items())]


def printed(name: str, line: list[str], server: ServerProcess, seconds: float) -> str:
    """What a client printed that calls for some seconds; raises `RowError` when it failed or did not end."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise RowError(f"{name} did not end") from late
    server.check_alive()
    if done.returncode:
        raise RowError(f"{name} failed:\n{done.stderr[-2000:]}")
    return done.stdout
