"""Tells whether an audit log is whole, and reads its last records.

Decides what the first broken place is and how it is named: a line that was changed, lines that were taken out, moved
or repeated, a record that does not follow the one before, an end that no crash leaves. A log is read as a stream: its
size costs time, never memory. Nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from foundation.audit_file import AuditError, Head, opened, settled_size
from foundation.audit_record import (
    GENESIS,
    MAX_LINE_BYTES,
    MAX_RECORD_BYTES,
    Line,
    LineError,
    is_torn,
    parse_line,
)

MAX_TORN_LINES_NAMED = 20
MAX_LAST_RECORDS = 10_000
_BLOCK_BYTES = 1 << 20
_PROGRESS_EVERY_LINES = 4096

Progress = Callable[[int, int], None]
"""Told the records read so far, and about how many there are."""


class Finding(msgspec.Struct, frozen=True):
    """The first broken place."""

    line: int
    """From 1, as editors count."""
    problem: str


class Verification(msgspec.Struct, frozen=True):
    """What a log's reading came to."""

    records: int
    """How many are sound: all, or those before the finding."""
    head: str
    """The hash of the last of them."""
    torn_lines: int
    """How often a crash tore a line and a record says so; sound."""
    torn_lines_named: tuple[int, ...]
    """The lines of the first of these."""
    torn_tail_bytes: int
    """Of a last line without its end; the next record will say so. A cut in the middle of a line looks the same."""
    finding: Finding | None = None

    @property
    def is_sound(self) -> bool:
        """Whether no line is broken. That nothing is missing at the end, only a head that was kept elsewhere shows."""
        return self.finding is None


def verify(
    path: Path, *, expect_head: str | None = None, progress: Progress = lambda _done, _total: None
) -> Verification:
    """Read the whole log as it is now, without keeping writers waiting. Raises ``AuditError`` if it cannot be read.

    ``expect_head`` is a head's hash that was kept elsewhere: one of the records must have it, as the log may have
    grown since.
    """
    try:
        with opened(path, os.O_RDONLY) as fd:
            size = settled_size(fd, path)
            with open(fd, "rb", buffering=_BLOCK_BYTES, closefd=False) as file:
                reading = _Reading(file, size, expect_head, progress)
                return reading.result(reading.finding())
    except FileNotFoundError:
        raise AuditError(f"{path}: no such file; name the audit log's file") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Reading:
    """One pass over a log, up to the first broken place."""

    def __init__(
        self, file: BinaryIO, size: int, expect_head: str | None, progress: Progress
    ) -> None:
        self._file = file
        self._size = size
        self._expect_head = expect_head
        self._is_expected_seen = expect_head in (None, GENESIS)
        self._progress = progress
        self._read_bytes = 0
        self._head = Head(0, GENESIS)
        self._torn_lines: list[int] = []
        self._torn_count = 0
        self._torn_tail_bytes = 0

    def result(self, finding: Finding | None) -> Verification:
        return Verification(
            records=self._head.seq,
            head=self._head.hash,
            torn_lines=self._torn_count,
            torn_lines_named=tuple(self._torn_lines),
            torn_tail_bytes=self._torn_tail_bytes,
            finding=finding,
        )

    def finding(self) -> Finding | None:
        for raw in self._lines():
            problem = self._problem(raw)
            if problem:
                return Finding(self._head.seq + 1, problem)
        if not self._is_expected_seen:
            return Finding(
                self._head.seq + 1,
                f"is where the log ends, and none of its {self._head.seq} records has the expected head "
                f"{self._expect_head}: lines were cut off the end, or written anew",
            )
        return None

    def _lines(self) -> Iterator[bytes]:
        """Each line with its end, up to the size that the log had; the last piece may lack one."""
        while self._read_bytes < self._size:
            left = self._size - self._read_bytes
            raw = self._file.readline(min(MAX_LINE_BYTES + 1, left))
            self._read_bytes += len(raw)
            yield raw
            if self._head.seq % _PROGRESS_EVERY_LINES == 0:
                done = self._head.seq
                self._progress(done, max(done, round(done * self._size / self._read_bytes)))
            if not raw:
                return

    def _problem(self, raw: bytes) -> str:
        """What is wrong with the next line; nothing: it is taken in."""
        if not raw.endswith(b"\n"):
            return self._problem_of_the_end(raw)
        try:
            line = parse_line(raw[:-1])
        except LineError as error:
            return str(error)
        record = line.record
        if record.seq != self._head.seq + 1:
            return self._misplaced(record.seq)
        if record.prev != self._head.hash:
            return (
                f"does not follow the line before: it names {record.prev} as that one's hash, which is "
                f"{self._head.hash}; one of the two was written anew"
            )
        self._head = Head(record.seq, record.hash)
        if line.torn:
            self._torn_count += 1
            if len(self._torn_lines) < MAX_TORN_LINES_NAMED:
                self._torn_lines.append(record.seq)
        if record.hash == self._expect_head:
            self._is_expected_seen = True
        return ""

    def _problem_of_the_end(self, raw: bytes) -> str:
        if not raw:
            return "was cut off while the log was read; try again"
        if self._read_bytes < self._size:
            return f"is longer than any record, which has at most {MAX_LINE_BYTES} bytes"
        if not is_torn(raw, self._head.seq + 1):
            return f"has no end, and its {len(raw)} bytes are not what a crash leaves"
        self._torn_tail_bytes = len(raw)
        return ""

    def _misplaced(self, seq: int) -> str:
        """Where the record of this line went, which takes a look at all lines after it."""
        wanted = self._head.seq + 1
        if seq < wanted:
            return f"holds record {seq}, which belongs into line {seq}: it was repeated or moved"
        start = f'{{"seq":{wanted},'.encode()
        for number, raw in enumerate(self._lines(), start=wanted + 1):
            if raw.startswith(start):
                return (
                    f"holds record {seq}, and record {wanted} stands in line {number}: "
                    "lines were moved"
                )
        if seq == wanted + 1:
            return f"holds record {seq}: record {wanted} is missing"
        return f"holds record {seq}: records {wanted} to {seq - 1} are missing"


# -- the last records -----------------------------------------------------------------------------


class LastLine(NamedTuple):
    """One of a log's last lines."""

    offset_bytes: int
    """Where it begins in the file."""
    content: Line | LineError


def last_lines(path: Path, count: int) -> Iterator[LastLine]:
    """The last lines, oldest first, each looked at by itself: that they are a chain is for ``verify`` to tell.

    Raises ``AuditError`` if the log cannot be read, or ``count`` is not in 1 to ``MAX_LAST_RECORDS``.
    """
    if not 1 <= count <= MAX_LAST_RECORDS:
        raise AuditError(f"{count} records cannot be shown; ask for 1 to {MAX_LAST_RECORDS}")
    try:
        with opened(path, os.O_RDONLY) as fd:
            size = settled_size(fd, path)
            start = _start_of_last(fd, size, count)
            with open(fd, "rb", buffering=_BLOCK_BYTES, closefd=False) as file:
                file.seek(start)
                yield from _contents(file, start, size)
    except FileNotFoundError:
        raise AuditError(f"{path}: no such file; name the audit log's file") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from None


def _start_of_last(fd: int, size: int, count: int) -> int:
    """Where the last ``count`` lines begin: after the end of the one before them."""
    wanted, end = count + 1, size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        block = os.pread(fd, end - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + at + 1
        end = start
    return 0


def _contents(file: BinaryIO, start: int, size: int) -> Iterator[LastLine]:
    while start < size:
        raw = file.readline(min(MAX_LINE_BYTES + 1, size - start))
        if not raw:
            return
        content: Line | LineError
        try:
            if not raw.endswith(b"\n"):
                raise LineError(
                    "has no end: a crash tore it, or it was cut off"
                    if len(raw) <= MAX_RECORD_BYTES
                    else "is longer than any record"
                )
            content = parse_line(raw[:-1])
        except LineError as error:
            content = error
        yield LastLine(start, content)
        start += len(raw)
