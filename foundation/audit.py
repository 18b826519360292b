"""The audit log: who changed what, when and why, so that nobody can change it afterwards unseen.

A file of lines, one record each, chained by hashes; ``foundation/audit_record.py`` says what a line is and
``foundation/audit_verifying.py`` tells whether a log is whole. Several processes may append to one file. It is never
rewritten, nor rotated: a record has about 500 bytes, so that a million are half a gigabyte.

What the chain cannot show by itself: whoever may write the file can cut whole lines off its end, or write everything
from some line on anew. Both are seen by who kept the head's hash elsewhere (``AuditLog.head``), and by a living
``AuditLog``, which remembers the last record that it saw and refuses to append to a log that lacks it.

``append`` must never return before the record is on the disk, nor append to a log whose end was tampered with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foundation.audit_file import (
    LOCK_TIMEOUT_S,
    AuditError,
    DamagedLogError,
    Head,
    lock,
    opened,
    read_tail,
    settled_size,
)
from foundation.audit_record import (
    GENESIS,
    RESERVED_ACTIONS,
    TORN_LINE_ACTION,
    AuditRecord,
    digest,
    parse_line,
    seal,
    torn_details,
)

__all__ = [
    "DEFAULT_FILE",
    "GENESIS",
    "AuditError",
    "AuditLog",
    "AuditRecord",
    "DamagedLogError",
    "Head",
    "digest",
]

DEFAULT_FILE = "audit.jsonl"
AUTHOR = "headrace"
"""Of what the log says about itself."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """A log that records are appended to; the first one makes the file. Threads and processes may share it."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = _utc_now,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._now = now
        self._lock_timeout_s = lock_timeout_s
        self._seen = Head(0, GENESIS)

    def append(
        self,
        *,
        author: str,
        role: str,
        action: str,
        target: str,
        reason: str = "",
        before_digest: str = "",
        after_digest: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> AuditRecord:
        """The record, which is on the disk by now. Blocks for the lock and the disk: not for an event loop's thread.

        Raises ``ValueError`` for what a record cannot hold, ``AuditError`` when it was not recorded, and its
        ``DamagedLogError`` when the log's end is not as it was written. A torn line that a crash left is answered by
        a record of its own before this one.
        """
        if action.startswith(RESERVED_ACTIONS):
            raise ValueError(f"actions that begin with '{RESERVED_ACTIONS}' are the log's own")

        def sealed(after: Head) -> bytes:
            return seal(
                seq=after.seq + 1,
                at=self._now(),
                author=author,
                role=role,
                action=action,
                target=target,
                reason=reason,
                before_digest=before_digest,
                after_digest=after_digest,
                details=details or {},
                prev=after.hash,
            )

        sealed(Head(0, GENESIS))  # a record that cannot be must not leave an empty file
        try:
            with opened(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:
                return self._append(fd, sealed)
        except FileNotFoundError:
            raise AuditError(
                f"{self._path}: its folder is not there; make it first: mkdir -p {self._path.parent}"
            ) from None

    def head(self) -> Head:
        """The last record's number and hash, to be kept elsewhere; a log that is not there yet has the first head."""
        try:
            with opened(self._path, os.O_RDONLY) as fd:
                size = settled_size(fd, self._path, self._lock_timeout_s)
                return read_tail(fd, self._path, size).head
        except FileNotFoundError:
            return Head(0, GENESIS)

    def _append(self, fd: int, sealed: Callable[[Head], bytes]) -> AuditRecord:
        lock(fd, self._path, shared=False, timeout_s=self._lock_timeout_s)
        self._must_be_ours(fd)
        size = os.fstat(fd).st_size
        tail = read_tail(fd, self._path, size)
        self._must_go_on(tail.head)
        before, text = tail.head, b""
        if tail.torn:
            text = self._about_torn(tail.torn, before)
            record = parse_line(tail.torn + text).record
            before, text = Head(record.seq, record.hash), text + b"\n"
        line = sealed(before)
        self._write(fd, text + line + b"\n", size)
        record = parse_line(line).record
        self._seen = Head(record.seq, record.hash)
        return record

    def _must_be_ours(self, fd: int) -> None:
        """Somebody may have moved the file away while we waited for its lock."""
        here, there = os.fstat(fd), None
        with suppress(OSError):
            there = self._path.stat()
        if there is None or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise AuditError(f"{self._path}: was moved away or replaced just now; try again")

    def _must_go_on(self, head: Head) -> None:
        if head.seq < self._seen.seq or (head.seq == self._seen.seq and head != self._seen):
            raise DamagedLogError(
                f"{self._path}: ends with record {head.seq}, but this process has seen record {self._seen.seq} "
                f"with the hash {self._seen.hash}; the log was cut or replaced: bring it back, or begin a new one "
                "and restart"
            )

    def _about_torn(self, torn: bytes, before: Head) -> bytes:
        return seal(
            seq=before.seq + 1,
            at=self._now(),
            author=AUTHOR,
            role="",
            action=TORN_LINE_ACTION,
            target=self._path.name,
            reason="a writer died before its record was whole; its first bytes stand before this record",
            before_digest="",
            after_digest="",
            details=torn_details(torn),
            prev=before.hash,
        )

    def _write(self, fd: int, text: bytes, size: int) -> None:
        """All of it, onto the disk; what did not get there whole is taken back, as its caller hears of no record."""
        try:
            written = 0
            while written < len(text):
                written += os.write(fd, text[written:])
            os.fsync(fd)
            if size == 0:
                _sync_folder(self._path)
        except OSError as error:
            with suppress(
                OSError
            ):  # an append-only file keeps it, and the next record says that it is torn
                os.ftruncate(fd, size)
            raise AuditError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from None


def _sync_folder(path: Path) -> None:
    """So that a new file's name is on the disk too."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
