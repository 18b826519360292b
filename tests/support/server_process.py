"""A gateway in a process of its own: started on free ports, watched, and stopped with its exit code checked.

Nothing here reaches into the server; what a test wants to know it asks the ports, the metrics or ``/proc``.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.support.waiting import eventually

CHECKOUT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0

Address = tuple[str, int]

_ADDRESS = re.compile(
    r"^(http|grpc|admin) +(?:https?://)?\[?([\d.]+|[\da-f:]+)\]?:(\d+)$", re.MULTILINE
)
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class ServerProcess:
    """One ``headrace serve``. ``settings`` are keys such as ``"http.max_body_bytes"``."""

    def __init__(
        self,
        models: Path,
        settings: Mapping[str, object] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._command = [sys.executable, "-m", "headrace", "serve", "--models", str(models)]
        if not options:
            options = ("--http-port", "0", "--grpc-port", "0", "--admin-port", "0")
        self._command += options
        chosen = {"drain.delay_s": 0, **(settings or {})}
        inherited = {key: value for key, value in os.environ.items() if "HEADRACE_" not in key}
        self._environment = inherited | {
            "HEADRACE_" + key.replace(".", "_").upper(): str(value) for key, value in chosen.items()
        }
        self._addresses: dict[str, Address] = {}
        self.said = ""
        """All that the process said, once it was stopped."""
        self._process: subprocess.Popen[bytes] | None = None

    # -- life -------------------------------------------------------------------------------------

    def launch(self) -> ServerProcess:
        """Start the process without waiting for anything."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as the process lives
        self._process = subprocess.Popen(
            self._command,
            cwd=CHECKOUT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        return self

    def start(self) -> ServerProcess:
        """Start the process and wait until it says that it is ready."""
        self.launch()
        self.await_ready()
        return self

    def await_ready(self) -> None:
        """Wait until the process that was launched says that it is ready."""
        eventually("the server is ready", self._ready_or_dead, within_s=START_WITHIN_S)
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.output}")
        self._addresses = {
            name: (host, int(port)) for name, host, port in _ADDRESS.findall(self.output)
        }

    def _ready_or_dead(self) -> bool:
        return "\nready " in self.output or self.process.poll() is not None

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """The exit code; kills the process and fails when there is none in time."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no end after {within_s:g} s:\n{self.output}") from None

    def forget(self) -> None:
        """Let go of a process that has ended."""
        assert self.process.poll() is not None, "it still runs"
        self._process = None
        self._log.close()

    def stop(self) -> None:
        """SIGTERM, then insist on exit code 0 and on a log without stack traces."""
        if self._process is None:
            return
        try:
            if self.process.poll() is None:
                self.terminate()
            code = self.wait()
            self.said = output = self.output
            assert code == 0, f"exit code {code}:\n{output}"
            assert "Traceback" not in output, output
        finally:
            self._process = None
            self._log.close()

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
        elif self._process is not None:
            self.process.kill()
            self.wait()
            error.add_note(f"the server's output:\n{self.output}")
            self._process = None
            self._log.close()

    # -- looking ----------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process itself."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def output(self) -> str:
        """All that the process has said so far, both streams."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    @property
    def http(self) -> Address:
        """Where V2 REST is."""
        return self._addresses["http"]

    @property
    def grpc(self) -> Address:
        """Where V2 gRPC is."""
        return self._addresses["grpc"]

    @property
    def admin(self) -> Address:
        """Where metrics and status are."""
        return self._addresses["admin"]

    @property
    def rss_bytes(self) -> int:
        """Memory that the process has resident now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def catches_signals(self) -> bool:
        """Whether SIGTERM has a handler by now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def status(self) -> dict[str, Any]:
        """``/status`` of the admin port."""
        found: dict[str, Any] = json.loads(self.get_admin("/status"))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """A sample of ``/metrics``, added up over the labels that are not named; 0 when there is none."""
        total = 0.0
        for line in self.get_admin("/metrics").splitlines():
            sample = _SAMPLE.fullmatch(line)
            if sample is None or sample[1] != name:
                continue
            if labels.items() <= dict(_LABEL.findall(sample[2] or "")).items():
                total += float(sample[3])
        return total

    def get_admin(self, path: str) -> str:
        """The body of a GET on the admin port."""
        connection = http.client.HTTPConnection(*self.admin, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, f"{path}: {response.status} {body}"
            return body
        finally:
            connection.close()


def peak_rss(server: ServerProcess, what: str, done: Callable[[], bool], within_s: float) -> int:
    """The largest resident memory seen until ``done``, which is ``what`` must come in time."""
    peak = 0

    def look() -> bool:
        nonlocal peak
        peak = max(peak, server.rss_bytes)
        return done()

    eventually(what, look, within_s=within_s)
    return peak
