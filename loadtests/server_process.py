"""Decides when a server under test counts as started, and ends it again.

A server is ready when it has printed its addresses and a line that begins with `ready`. It is
pinned to its core before its first instruction. It must never end a process that it did not
start, nor leave one behind when the bench stops.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtests import process_tree
from loadtests.failures import BenchError

_ADDRESS = re.compile(r"^(http|grpc|admin)\s+(?:http://)?([\d.]+):(\d+)", re.MULTILINE)
_READY = re.compile(r"^ready", re.MULTILINE)
_POLL_S = 0.002


@dataclass(slots=True)
class ServerProcess:
    """One running server and where it listens."""

    name: str
    process: subprocess.Popen[bytes]
    started_at: float
    stderr: Path
    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The root of the process tree."""
        return self.process.pid

    def address(self, front: str) -> tuple[str, int]:
        """Host and port of one front."""
        if front not in self.addresses:
            raise BenchError(f"{self.name} printed no {front} address")
        return self.addresses[front]

    def cpu_seconds(self) -> float:
        """User plus system time of the whole tree so far."""
        self.check_alive()
        return process_tree.cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """Resident memory of the whole tree now."""
        self.check_alive()
        return process_tree.resident_bytes(self.pid)

    def check_alive(self) -> None:
        """A server that died under load fails its row with its own last words."""
        if self.process.poll() is not None:
            raise BenchError(
                f"{self.name} ended with status {self.process.returncode}\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self.stderr.read_text(errors="replace")[-2000:].strip()


@contextlib.contextmanager
def running(
    name: str, command: list[str], core: int | str, logs: Path, timeout: float = 60.0
) -> Iterator[ServerProcess]:
    """Starts the server on its core, waits until it is ready, and stops it at the end.

    `core` may be a list of cores, as `taskset` reads it.
    """
    logs.mkdir(parents=True, exist_ok=True)
    said, stderr = logs / f"{name}.out", logs / f"{name}.err"
    with said.open("wb") as out, stderr.open("wb") as err:
        started_at = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # A group of its own: a Ctrl-C reaches the bench, and the bench stops its servers.
            start_new_session=True,
        )
    server = ServerProcess(name, process, started_at, stderr)
    try:
        _await_ready(server, said, timeout)
        yield server
    finally:
        _stop(process)


def _await_ready(server: ServerProcess, said: Path, timeout: float) -> None:
    while time.perf_counter() - server.started_at < timeout:
        text = said.read_text(errors="replace")
        if _READY.search(text):
            for front, host, port in _ADDRESS.findall(text):
                server.addresses[front] = (host, int(port))
            return
        server.check_alive()
        time.sleep(_POLL_S)
    raise BenchError(f"{server.name} was not ready after {timeout:.0f} s\n{server.last_words()}")


def _stop(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """Asks first; what has not gone after the grace is ended with its whole group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    # The group is the server's own, made when it was started: nobody else is in it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(grace)
