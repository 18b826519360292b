"""Locks on files that the kernel lets go of when the last process that holds them ends, however it ends.

They belong to an opened file and everybody who inherited it. Not for network file systems, where the lock of an
inherited file may be another one. Nothing here waits.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """An opened lock file; closing it lets go, unless a child process has it too."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self, *, shared: bool = False) -> bool:
        """Whether it is held now. What was held before in the other way is lost, also when this fails."""
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """For a child that shall hold it too; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Let go; again is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_lock(path: Path) -> FileLock | None:
    """The lock, held alone; None when somebody has it. Raises ``OSError`` when the file cannot be opened."""
    lock = FileLock(path)
    if lock.take():
        return lock
    lock.close()
    return None


def can_lock(path: Path) -> bool:
    """Whether nobody holds it."""
    lock = try_lock(path)
    if lock is None:
        return False
    lock.close()
    return True
