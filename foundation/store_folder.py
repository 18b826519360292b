"""The folder of a private store: what lies in it, who may enter, and where its socket is.

Decides paths and permissions only; it must never start, ask or stop a server, nor remove data.

``<state_dir>/store/`` (mode 0700, one user's) holds

- ``users.lock``    every process that uses the store holds it shared; whoever holds it alone may stop the server
- ``server.lock``   held by the server itself, so that the kernel knows whether one lives
- ``store.sock``    the server's only door; there is no TCP port
- ``socket.path``   where the socket is, if the path above is too long for a socket
- ``server.log``, ``server.log.1``, ``server.pid``, ``appendonlydir/``   the server's own
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foundation.store_url import MAX_SOCKET_PATH_BYTES

MAX_LOG_BYTES = 1024 * 1024
"""A longer log is put aside when a server starts; of those put aside the last one is kept."""
MAX_LOG_TAIL_BYTES = 16 * 1024
LOG_TAIL_LINES = 12

SOCKET_NAME = "store.sock"
LOG_NAME = "server.log"
PID_NAME = "server.pid"


class StoreError(Exception):
    """A store that cannot be had; the message says what to do, and holds no password."""


class StoreFolder:
    """The paths of one private store. ``prepare`` makes the folder."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        # Resolved, so that two spellings of a folder agree on whether its socket's path is too long.
        self.path = Path(os.path.realpath(state_dir)) / "store"
        self.users_lock = self.path / "users.lock"
        self.server_lock = self.path / "server.lock"
        self.log = self.path / LOG_NAME
        self.pid_file = self.path / PID_NAME
        self._socket_record = self.path / "socket.path"
        inside = self.path / SOCKET_NAME
        self._inside = inside if _fits(inside) else None

    def prepare(self) -> None:
        """Make the folder, for this user only; raises ``StoreError``."""
        with self._said_with_advice():
            Path(self.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.path)

    @property
    def socket(self) -> Path:
        """Where the server listens, as far as is known: whoever starts one next decides with ``place_socket``."""
        if self._inside is not None:
            return self._inside
        try:
            return Path(os.fsdecode(self._socket_record.read_bytes()))
        except OSError:
            return self._outside()

    def place_socket(self) -> Path:
        """Settle where a new server shall listen, and take a dead one's socket away. Only with ``server.lock`` held.

        A path too long for a socket is replaced by one in a private folder under the temporary directory, named by a
        digest. It is written down, as other processes may have another temporary directory.
        """
        with self._said_with_advice():
            place = self.socket
            if self._inside is None:
                if not place.parent.parent.is_dir():  # what is written down is of another day
                    place = self._outside()
                if not _fits(place):
                    raise StoreError(
                        f"{self.state_dir} and {tempfile.gettempdir()} are both too long for a socket "
                        f"({MAX_SOCKET_PATH_BYTES} bytes); set [store] state_dir to a shorter one"
                    )
                _make_private(place.parent)
                new = self._socket_record.with_suffix(".new")
                new.write_bytes(os.fsencode(place))
                new.replace(self._socket_record)
            with suppress(FileNotFoundError):
                place.unlink()
        return place

    def make_room_in_log(self) -> None:
        """Put a long log aside; raises ``StoreError``."""
        with self._said_with_advice(), suppress(FileNotFoundError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))

    def log_bytes(self) -> int:
        """How long the log is now."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def last_words(self, since_bytes: int = 0) -> str:
        """The end of the server's log, for an error's message; of what was written after its first ``since_bytes``."""
        try:
            with self.log.open("rb") as opened:
                opened.seek(max(since_bytes, self.log_bytes() - MAX_LOG_TAIL_BYTES))
                text = opened.read(MAX_LOG_TAIL_BYTES).decode(errors="replace")
        except OSError as error:
            return f"{self.log}: {error.strerror or error}"
        lines = [line for line in text.splitlines() if line.strip()][-LOG_TAIL_LINES:]
        return (
            f"{self.log} ends with:\n  " + "\n  ".join(lines) if lines else f"{self.log} is silent"
        )

    def _outside(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"headrace-{os.geteuid()}-{digest}" / SOCKET_NAME

    @contextmanager
    def _said_with_advice(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the private store cannot use {error.filename or self.path}: {error.strerror or error}; make it "
                "writable, set [store] state_dir to a folder that is, or set [store] redis_url"
            ) from None


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES


def _make_private(folder: Path) -> None:
    """A folder that is ours alone. One that is another's, or a link, is not entered: it may be a trap."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} is no folder; move it away")
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"{folder} belongs to user {found.st_uid}, this process runs as user {os.geteuid()}; run it as that user, "
            "or set [store] state_dir to another folder"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))
