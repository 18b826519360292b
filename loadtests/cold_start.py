"""Decides how long a server takes from its start to its first answer.

The clock runs from the spawn to the first 200 on an infer call, so readiness that was announced
too early does not help. It must never count the stop of the server before.
"""

import time

from loadtests import models, probe
from loadtests.failures import RowError
from loadtests.server_process import running
from loadtests.servers import Kind
from loadtests.workbench import Workbench

STARTS = 5
_PATIENCE_S = 30.0


def measure(bench: Workbench, kind: Kind) -> float:
    """Seconds of one start; files are in the page cache from earlier starts."""
    command = bench.servers.command(kind)
    with running(kind, command, bench.server_core, bench.logs) as server:
        detail = "nothing"
        while time.perf_counter() - server.started_at < _PATIENCE_S:
            try:
                reply = probe.call("http", server.address("http"), models.TINY)
            except OSError as problem:
                detail = str(problem)
            else:
                if reply.outcome == "answered":
                    return time.perf_counter() - server.started_at
                detail = reply.detail
            time.sleep(0.005)
    raise RowError(f"no answer within {_PATIENCE_S:.0f} s of the start; the last was: {detail}")
