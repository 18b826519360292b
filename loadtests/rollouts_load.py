"""Decides how a row of the rollouts bench has users call: in a process on the load's core, waited for within limits.

It must never take a client for ready that has not said so, nor leave one behind.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence

from loadtests import client_process, operations_client, rollouts_client
from loadtests.failures import RowError
from loadtests.operations_load import Client
from loadtests.server_process import ServerProcess
from loadtests.workbench import Workbench

_READY_WITHIN_S = 15.0
KEPT = 32
"""Connections: more than are busy at half of the capacity."""


@contextlib.contextmanager
def users(
    bench: Workbench,
    gateways: Sequence[ServerProcess],
    *,
    model: str,
    rows: int,
    count: int,
    rate: float,
    seconds: float,
    seed: int = 1,
) -> Iterator[Client]:
    """Users that call all gateways, ``rate`` times a second; they are ended with the block."""
    addresses = [one.address("http") for one in gateways]
    options = {
        "addresses": ",".join(f"{host}:{port}" for host, port in addresses),
        "model": model,
        "rows": rows,
        "users": count,
        "rate": rate,
        "seconds": seconds,
        "kept": KEPT,
        "seed": seed,
    }
    line = client_process.command(bench.load_core, rollouts_client.__name__, options)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines))
    reader.start()
    try:
        try:
            first = lines.get(timeout=_READY_WITHIN_S)
        except queue.Empty:
            raise RowError("the users did not connect in time") from None
        if first.strip() != operations_client.READY:
            raise RowError("the users could not connect")
        yield Client(process, lines)
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put("")
