r"""One record of the audit log, and the line that holds it.

A line is JSON in UTF-8 without spaces, its fields in the order of ``AuditRecord``, the keys of ``details`` sorted, and
``hash`` last. The hash is the SHA-256 of the line's bytes without ``,"hash":"…"``, so that nobody has to agree with us
about how JSON is written, and a shell can check it:

    sed -n 7p audit.jsonl | sed 's/,"hash":"[0-9a-f]*"}$/}/' | tr -d '\n' | sha256sum

``prev`` is the hash of the record before, so a record cannot be changed, taken out or moved without everything after
it being written anew. Record N stands in line N.

A writer that dies in the middle leaves a line without its end: the torn line. The next writer does not take it away;
it goes on in the same line with a record that says how many bytes before it are torn, and their hash. So each state in
which a writer can die is a log whose last line has no end, and every line that has one must hold a record.

This module decides what a line means. It must never read a clock or a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

GENESIS = "0" * 64
"""What the first record names as the one before it."""
MAX_RECORD_BYTES = 64 * 1024
"""Of a record in its line; as much may be torn before it."""
MAX_LINE_BYTES = 2 * MAX_RECORD_BYTES
TORN_LINE_ACTION = "audit.torn_line"
RESERVED_ACTIONS = "audit."
"""What actions of the log itself begin with."""

_START = b'{"seq":'
_HASH_FIELD_BYTES = len(',"hash":""}') + 64
_HASH_FIELD = re.compile(rb',"hash":"[0-9a-f]{64}"}')

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9:+/=._-]{0,127})?$")]
Who = Annotated[str, Meta(min_length=1, max_length=256)]


class AuditRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who did what to what, when and why. The order of the fields is that of the line."""

    seq: Annotated[int, Meta(ge=1)]
    at: Annotated[datetime, Meta(tz=True)]
    author: Who
    """A holder's name, or the part of the product that decided by itself."""
    role: Annotated[str, Meta(max_length=64)]
    """The author's at that moment; empty for the product itself."""
    action: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=128)]
    target: Who
    """What was changed, such as a model's name."""
    reason: Annotated[str, Meta(max_length=8192)]
    before_digest: Digest
    """Of the document before, as ``digest`` makes it; empty where there was none."""
    after_digest: Digest
    details: dict[str, Any]
    prev: Hash
    hash: Hash


class LineError(Exception):
    """A line that is no record, or was changed; the message says which, without the line's number."""


class Line(NamedTuple):
    """A record as it stands in its line, and what is torn before it."""

    record: AuditRecord
    torn: bytes
    text: bytes
    """The record's JSON, without what is torn and without the end of the line."""


def digest(document: bytes) -> str:
    """How documents are named in ``before_digest`` and ``after_digest``: ``sha256:`` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def seal(
    *,
    seq: int,
    at: datetime,
    author: str,
    role: str,
    action: str,
    target: str,
    reason: str,
    before_digest: str,
    after_digest: str,
    details: Mapping[str, Any],
    prev: str,
) -> bytes:
    """The record's JSON with its hash, without an end of line. Raises ``ValueError`` for what a record cannot hold.

    What is not plain JSON (NaN, objects) is refused rather than changed on the way; tuples become lists.
    """
    try:
        plain = json.loads(json.dumps(dict(details), sort_keys=True, allow_nan=False))
        fields = {
            "seq": seq,
            "at": at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "author": author,
            "role": role,
            "action": action,
            "target": target,
            "reason": reason,
            "before_digest": before_digest,
            "after_digest": after_digest,
            "details": plain,
            "prev": prev,
        }
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no text; take it out") from None
    except (TypeError, RecursionError) as error:
        raise ValueError(f"details must be plain JSON values: {error}") from None
    text = body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    if len(text) > MAX_RECORD_BYTES:
        raise ValueError(
            f"the record has {len(text)} bytes; {MAX_RECORD_BYTES} are allowed: shorten reason or details, "
            "or store the document elsewhere and give its digest"
        )
    try:
        record = _decode(text)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"details must be plain JSON values: {error}") from None
    if record.details != plain:
        raise ValueError("details must be plain JSON values; give large numbers as text")
    return text


def parse_line(line: bytes) -> Line:
    """What the line (without its end) holds. Raises ``LineError`` unless it is exactly what a writer wrote."""
    if len(line) > MAX_LINE_BYTES:
        raise LineError(f"is longer than any record, which has at most {MAX_LINE_BYTES} bytes")
    try:
        record = _record(line)
    except LineError as error:
        # The record after a torn one begins where its first field does: inside of JSON text, quotes are escaped.
        start = line.rfind(_START)
        if start <= 0:
            raise
        torn, text = line[:start], line[start:]
        try:
            record = _record(text)
        except LineError:
            raise error from None
    else:
        if record.action == TORN_LINE_ACTION:
            raise LineError("names torn bytes before its record, and there are none")
        return Line(record, b"", line)
    if record.action != TORN_LINE_ACTION or record.details != torn_details(torn):
        raise LineError(f"has {start} bytes before its record that the record does not name")
    return Line(record, torn, text)


def torn_details(torn: bytes) -> dict[str, Any]:
    """What the record that follows torn bytes in their line says of them."""
    return {"torn_bytes": len(torn), "torn_sha256": hashlib.sha256(torn).hexdigest()}


def is_torn(tail: bytes, seq: int) -> bool:
    """Whether the bytes after the last end of line are what dying writers of record ``seq`` can leave.

    A power loss may leave NULs where bytes did not reach the disk.
    """
    written = tail.strip(b"\0")
    if len(tail) > MAX_RECORD_BYTES or not _may_begin(written, seq):
        return False
    # After a whole record only another writer's bytes can stand: anything else was put there by somebody.
    ends = (found.end() for found in _HASH_FIELD.finditer(written))
    return all(_may_begin(written[end:], seq) for end in ends if _is_record(written[:end]))


def _may_begin(written: bytes, seq: int) -> bool:
    start = _START + str(seq).encode() + b',"at":"'
    return written.startswith(start) or start.startswith(written)


def _is_record(text: bytes) -> bool:
    try:
        parse_line(text)
    except LineError:
        return False
    return True


def _record(text: bytes) -> AuditRecord:
    try:
        record = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # also JSON, but no record
        raise LineError("holds no record") from None
    body = text[:-_HASH_FIELD_BYTES] + b"}"
    if hashlib.sha256(body).hexdigest() != record.hash or not text.endswith(
        b',"hash":"' + record.hash.encode() + b'"}'
    ):
        raise LineError("was changed: its hash is not that of what it says")
    return record


_decode = msgspec.json.Decoder(AuditRecord).decode
