"""Processes that use a private store, to be sent away or killed; and what is seen of its server from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import redis

from foundation.flocks import can_lock
from foundation.store import Store, StoreSettings, open_store
from foundation.store_folder import StoreFolder
from foundation.store_server import send_signal, server_pid
from tests.support.waiting import eventually

CHECKOUT = Path(__file__).resolve().parents[2]
OPEN_WITHIN_S = 20.0
GO_WITHIN_S = 20.0

# Opens the store, says so, and tends it until its standard input ends; with "count" it counts up meanwhile and says
# how often the server confirmed that.
_PROGRAM = """
import select, sys, time
import redis
from foundation.store import StoreSettings, open_store

state_dir, counts = sys.argv[1], sys.argv[2] == "count"
with open_store(StoreSettings(state_dir=state_dir)) as store:
    print("open", store.url, flush=True)
    client = redis.Redis.from_url(store.url, socket_timeout=2)
    while not select.select([sys.stdin], [], [], 0.002 if counts else 0.02)[0]:
        store.tend(time.monotonic())
        if counts:
            try:
                client.incr("count")
            except redis.RedisError:
                continue
            print("counted", flush=True)
    client.close()
print("left", flush=True)
"""


class StoreUser:
    """One process with the private store of ``state_dir`` open."""

    def __init__(self, state_dir: Path, *, counts: bool = False) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as the process lives
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(state_dir), "count" if counts else "stay"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        """All that it has said so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def await_open(self) -> StoreUser:
        """Wait until it has the store."""
        eventually(
            "the store is open",
            lambda: self.output.startswith("open ") or self.process.poll() is not None,
            within_s=OPEN_WITHIN_S,
        )
        assert self.output.startswith("open "), self.output
        return self

    @property
    def url(self) -> str:
        """What it was given."""
        return self.output.splitlines()[0].split()[1]

    @property
    def counted(self) -> int:
        """How often the server confirmed a count."""
        return self.output.count("counted")

    def leave(self) -> None:
        """Let it close the store and end, as it should."""
        self.ask_to_leave()
        self.await_left()

    def ask_to_leave(self) -> None:
        """The same without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def await_left(self) -> None:
        """Wait for the end that was asked for."""
        code = self.process.wait(GO_WITHIN_S)
        assert code == 0, self.output
        assert self.output.endswith("left\n"), self.output

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(GO_WITHIN_S)

    def __enter__(self) -> StoreUser:
        return self.await_open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"the user's output:\n{self.output}")
        self.dispose()

    def dispose(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._log.close()


class ServerSeen:
    """The server of a state folder, looked at from outside and ended at last if it is still there."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = StoreFolder(str(state_dir))

    @property
    def pid(self) -> int:
        """The process that holds the server's lock."""
        found = server_pid(self.folder)
        assert found is not None, "no server"
        return found

    @property
    def is_there(self) -> bool:
        """Whether anything holds the server's lock."""
        return self.folder.path.is_dir() and not can_lock(self.folder.server_lock)

    @property
    def starts(self) -> int:
        """How often a server was started, by its log."""
        return self.folder.log.read_text().count("Server initialized")

    @property
    def process(self) -> psutil.Process:
        """For a closer look."""
        return psutil.Process(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """To the server."""
        send_signal(self.folder, number)

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has let go of its lock."""
        killed = self.pid
        self.signal(signal.SIGKILL)
        eventually(
            "the server is gone",
            lambda: not self.is_there or server_pid(self.folder) not in (None, killed),
        )

    def __enter__(self) -> ServerSeen:
        return self

    def __exit__(self, *_: object) -> None:
        eventually("nothing is left", self._killed)

    def _killed(self) -> bool:
        # Each time anew: one that only comes up cannot be told yet.
        if self.is_there:
            self.signal(signal.SIGKILL)
        return not self.is_there


def client_of(url: str) -> redis.Redis:
    """A client with an end to every wait."""
    found: redis.Redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    return found


def opened(state_dir: Path, **settings: Any) -> Store:
    """The store in this process."""
    return open_store(StoreSettings(state_dir=str(state_dir), **settings))


def put(store: Store, **values: str) -> None:
    """Write, confirmed."""
    with closing(client_of(store.url)) as client:
        for key, value in values.items():
            assert client.set(key, value)


def got(url: str, key: str) -> str | None:
    """What is kept there."""
    with closing(client_of(url)) as client:
        value = client.get(key)
    assert value is None or isinstance(value, bytes)
    return None if value is None else value.decode()
