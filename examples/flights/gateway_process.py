"""A gateway as a child process: started, read, stopped.

Decides when a gateway counts as started (it printed its addresses and ``ready``) and how it is
stopped (SIGTERM, then patience). It must never leave a child behind, and never wait without a
limit.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADDRESS = re.compile(r"^(http|grpc|admin)\s+(?:http://)?([\d.]+):(\d+)")
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - compared with what the gateway prints, never bound
_LAST_LINES = 20
_READER_LIMIT_S = 5.0


class GatewayError(Exception):
    """The gateway did not start or did not stop as it should. The message holds its last words."""


@dataclass(frozen=True)
class Stop:
    """How the gateway ended: exit code, and seconds from SIGTERM."""

    exit_code: int
    seconds: float


class GatewayProcess:
    """A running gateway. Its output is read all the time: a full pipe would block it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._news: queue.Queue[str | None] = queue.Queue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self, limit_s: float) -> Mapping[str, str]:
        """``host:port`` of each front: ``http``, ``grpc``, ``admin``. Raises ``GatewayError``."""
        until = time.monotonic() + limit_s
        addresses: dict[str, str] = {}
        while True:
            try:
                line = self._news.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise self.failure(f"was not ready after {limit_s:g} s") from None
            if line is None:
                raise self.failure(f"ended with exit code {self._process.wait()} while starting")
            if found := _ADDRESS.match(line):
                front, host, port = found.groups()
                addresses[front] = f"{'127.0.0.1' if host == _EVERYWHERE else host}:{port}"
            elif line.startswith("ready"):
                if missing := {"http", "grpc"} - addresses.keys():
                    raise self.failure(f"said ready without an address for {sorted(missing)}")
                return addresses

    def stop(self, limit_s: float) -> Stop:
        """Ask it to stop and wait. Raises ``GatewayError`` if it does not; it is killed then."""
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            exit_code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.failure(f"was still running {limit_s:g} s after SIGTERM") from None
        return Stop(exit_code, time.monotonic() - started)

    def kill(self) -> None:
        """End it and its own children now, if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(_READER_LIMIT_S)

    def failure(self, what: str) -> GatewayError:
        """An error about this gateway, with the last lines that it printed."""
        if self._process.poll() is not None:
            self._reader.join(_READER_LIMIT_S)
        said = "\n".join(f"  | {line}" for line in self._last) or "  | (it printed nothing)"
        return GatewayError(f"the gateway {what}; its last lines:\n{said}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last.append(line.rstrip())
            self._news.put(line.strip())
        self._news.put(None)


@contextmanager
def running(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """Run ``command`` as a gateway; whatever happens, it is gone afterwards.

    ``folder`` and ``environment`` are this process's own where nothing is said. Raises ``GatewayError`` if it
    cannot be started.
    """
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a process group of its own, so that it can be ended whole
        )
    except OSError as error:
        raise GatewayError(f"the gateway did not start: {error}") from error
    with child:
        process = GatewayProcess(child)
        try:
            yield process
        finally:
            process.kill()
