"""Reading a request body for the ASGI routes: bounded, counted, and decompressed without surprises.

Decides when a body is too much: by the bytes that arrive, and by the bytes that they expand to. It must never hold
more than the limit, and it gives back what it reserved.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from gateway.core.admission import Admission
from gateway.errors import ErrorCode, HeadraceError, invalid

INFLATE_STEP_BYTES = 1024 * 1024
RESERVE_FROM_BYTES = 64 * 1024
"""Larger bodies are counted by admission while they arrive, on both fronts."""
OFF_LOOP_FROM_BYTES = 128 * 1024
"""Compressed bodies above this are expanded on a thread; zlib lets go of the interpreter lock while it works."""
INLINE_EXPANDED_BYTES = 1024 * 1024
"""So are smaller ones that expand beyond this: 64 KiB of zeros would hold the loop for a tenth of a second."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}


async def request_body(request: Request, limit_bytes: int, admission: Admission) -> bytes:
    """The whole body of a request, expanded; TOO_LARGE as soon as that can be known."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large(limit_bytes)
    body = await read_body(request.stream(), limit_bytes, admission)
    encodings = request.headers.getlist("content-encoding")
    return await expand(body, ",".join(encodings).strip().lower(), limit_bytes)


async def read_body(
    chunks: AsyncIterator[bytes], max_body_bytes: int, admission: Admission
) -> bytes:
    """All of a body, or TOO_LARGE above the limit, OVERLOADED when the process is full."""
    kept: list[bytes] = []
    size_bytes = 0
    try:
        async for chunk in chunks:
            if not chunk:
                continue
            if size_bytes + len(chunk) > max_body_bytes:
                raise too_large(max_body_bytes)
            if not admission.reserve_bytes(len(chunk)):
                raise HeadraceError(
                    ErrorCode.OVERLOADED,
                    "the gateway holds too many bytes of requests; try again later",
                    retry_after_s=1.0,
                )
            size_bytes += len(chunk)
            kept.append(chunk)
        return b"".join(kept)
    finally:
        admission.release_bytes(size_bytes)


def too_large(max_body_bytes: int) -> HeadraceError:
    """The refusal for a body above the limit."""
    return HeadraceError(
        ErrorCode.TOO_LARGE,
        f"the body is larger than the {max_body_bytes} bytes that this server takes (http.max_body_bytes)",
    )


async def expand(body: bytes, encoding: str, max_body_bytes: int) -> bytes:
    """The body behind ``Content-Encoding``; the limit counts expanded bytes, so a bomb stays small."""
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW_BITS:
        raise HeadraceError(
            ErrorCode.UNIMPLEMENTED,
            f"content encoding '{encoding}' is not supported; use gzip, deflate or none",
        )
    expanded = inflate_small(body, encoding, max_body_bytes)
    if expanded is not None:
        return expanded
    return await asyncio.to_thread(inflate, body, encoding, max_body_bytes)


def inflate_small(body: bytes, encoding: str, max_body_bytes: int) -> bytes | None:
    """As ``inflate``, at once; None when that would hold the loop for too long."""
    if len(body) >= OFF_LOOP_FROM_BYTES:
        return None
    if max_body_bytes <= INLINE_EXPANDED_BYTES:
        return inflate(body, encoding, max_body_bytes)
    return _expanded(body, encoding, INLINE_EXPANDED_BYTES)


def inflate(body: bytes, encoding: str, max_body_bytes: int) -> bytes:
    """``body`` expanded; INVALID_ARGUMENT when it is broken or cut short, TOO_LARGE beyond the limit."""
    expanded = _expanded(body, encoding, max_body_bytes)
    if expanded is None:
        raise too_large(max_body_bytes)
    return expanded


def _expanded(body: bytes, encoding: str, max_body_bytes: int) -> bytes | None:
    """None when it expands beyond the limit."""
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    pieces: list[bytes] = []
    room_bytes = max_body_bytes
    data = body
    try:
        while True:
            piece = unpacker.decompress(data, min(INFLATE_STEP_BYTES, room_bytes + 1))
            room_bytes -= len(piece)
            if room_bytes < 0:
                return None
            pieces.append(piece)
            data = unpacker.unconsumed_tail
            if unpacker.eof or not (data or piece):
                break
    except zlib.error as error:
        raise invalid(f"the body is not valid {encoding}: {error}") from None
    if not unpacker.eof:
        raise invalid(f"the {encoding} body ends too early")
    if unpacker.unused_data:
        raise invalid(f"{len(unpacker.unused_data)} bytes follow the end of the {encoding} body")
    return b"".join(pieces)
