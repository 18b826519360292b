"""The audit log's file: opened, locked, and its end read.

Decides who waits for whom: a writer holds the file's own lock alone, a reader holds it for a moment, to see a size at
which no line is half written. Every wait has an end. Nothing here may change what stands in the file.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from foundation.audit_record import (
    GENESIS,
    MAX_LINE_BYTES,
    MAX_RECORD_BYTES,
    LineError,
    is_torn,
    parse_line,
)

FILE_MODE = 0o640
"""Its group may read it."""
LOCK_TIMEOUT_S = 10.0
_LOCK_EVERY_S = 0.001
_FIRST_WINDOW_BYTES = 4096


class AuditError(Exception):
    """The log cannot be used, and nothing was recorded; the message is for the operator."""


class DamagedLogError(AuditError):
    """The log is not as it was written: cut, changed or replaced. It is left as it is, for whoever looks into it."""


class Head(NamedTuple):
    """The last record, whose hash stands for all before it; ``seq`` 0 and ``GENESIS`` where there is none."""

    seq: int
    hash: str


class Tail(NamedTuple):
    """Where a log ends."""

    head: Head
    torn: bytes
    """What stands after the last end of line: a writer died in the middle."""


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """The regular file's descriptor. Raises ``FileNotFoundError`` and, for all other trouble, ``AuditError``."""
    try:
        # Non-blocking: to open a pipe that nobody writes to would wait for ever.
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror or error}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuditError(f"{path}: not a regular file; name the file of the audit log")
        yield fd
    finally:
        os.close(fd)


def lock(fd: int, path: Path, *, shared: bool, timeout_s: float) -> None:
    """Hold the file's lock until it is closed. Raises ``AuditError`` when somebody has it for too long."""
    until_s = time.monotonic() + timeout_s
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        try:
            fcntl.flock(fd, how)
            break
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise AuditError(
                    f"{path}: another process has held its lock for {timeout_s:g} s; if one hangs, end it and try again"
                ) from None
            time.sleep(_LOCK_EVERY_S)
        except OSError as error:
            raise AuditError(
                f"{path}: {error.strerror or error}; the audit log needs a file system with locks"
            ) from None


def settled_size(fd: int, path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> int:
    """The file's size in bytes at a moment when nobody is writing to it."""
    lock(fd, path, shared=True, timeout_s=timeout_s)
    size = os.fstat(fd).st_size
    fcntl.flock(fd, fcntl.LOCK_UN)
    return size


def read_tail(fd: int, path: Path, size: int) -> Tail:
    """The last record, and what is torn after it. Raises ``DamagedLogError`` for an end that no writer left."""
    line, torn = _last_line(fd, path, size)
    if line is None:
        head = Head(0, GENESIS)
    else:
        try:
            record = parse_line(line).record
        except LineError as error:
            raise DamagedLogError(f"{path}: its last whole line {error}; {_ADVICE}") from None
        head = Head(record.seq, record.hash)
    if torn and not is_torn(torn, head.seq + 1):
        raise DamagedLogError(
            f"{path}: the {len(torn)} bytes after its last whole line are not what a crash leaves; {_ADVICE}"
        )
    return Tail(head, torn)


_ADVICE = (
    "look with: headrace audit verify FILE; to go on, keep this file aside and begin a new one"
)


def _last_line(fd: int, path: Path, size: int) -> tuple[bytes | None, bytes]:
    """The last line that has an end, without it, and what stands after."""
    window = _FIRST_WINDOW_BYTES
    while True:
        start = max(0, size - window)
        data = os.pread(fd, size - start, start)
        end = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, max(end, 0))
        if end >= 0 and (before >= 0 or start == 0):
            return data[before + 1 : end], data[end + 1 :]
        if start == 0:
            return None, data
        if window > MAX_LINE_BYTES + MAX_RECORD_BYTES + 2:
            raise DamagedLogError(
                f"{path}: its end is longer than any record and its torn bytes; {_ADVICE}"
            )
        window *= 4
