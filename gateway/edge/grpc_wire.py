"""gRPC's own framing over HTTP/2: prefixes, timeouts, status trailers. Pure functions on bytes.

Source: the gRPC over HTTP/2 protocol specification (PROTOCOL-HTTP2.md). It must never hold a connection.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

from google.protobuf.message import DecodeError, Message

from gateway.edge.status import GRPC_STATUS
from gateway.errors import ErrorCode, HeadraceError, invalid

PREFIX_BYTES = 5
"""One flag byte (1 = compressed) and the message's length, big-endian."""

Headers = list[tuple[bytes, bytes]]
MessageT = TypeVar("MessageT", bound=Message)

OK_HEADERS: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK_TRAILERS: Headers = [(b"grpc-status", b"0")]
NOT_GRPC_HEADERS: Headers = [(b":status", b"415"), (b"content-length", b"0")]

_ENCODINGS = {b"": "", b"identity": "", b"gzip": "gzip", b"deflate": "deflate"}
ACCEPT_ENCODING = b"identity,gzip,deflate"

_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Printable ASCII but the percent sign travels as it is in ``grpc-message``."""


def parse_timeout_s(value: bytes) -> float:
    """``grpc-timeout`` in seconds: at most eight digits and one unit letter."""
    unit_s = _UNIT_S.get(value[-1:])
    digits = value[:-1]
    if unit_s is None or not digits.isdigit() or len(digits) > 8:
        raise invalid(
            f"grpc-timeout '{value[:32].decode('latin-1')}' is not digits and a unit (HMSmun)"
        )
    return int(digits) * unit_s


def encoding_of(value: bytes) -> str:
    """How compressed messages of a call are, from ``grpc-encoding``: "gzip", "deflate" (RFC 1950), or "" for none."""
    found = _ENCODINGS.get(value)
    if found is None:
        raise HeadraceError(
            ErrorCode.UNIMPLEMENTED,
            f"grpc-encoding '{value[:32].decode('latin-1')}' is not supported; use gzip, deflate or identity",
        )
    return found


def message_length(data: bytes, offset: int, limit_bytes: int) -> int:
    """Bytes of the message whose prefix stands at ``offset``; TOO_LARGE above the limit."""
    length_bytes = int.from_bytes(data[offset + 1 : offset + PREFIX_BYTES], "big")
    if length_bytes > limit_bytes:
        raise HeadraceError(
            ErrorCode.TOO_LARGE,
            f"the message has {length_bytes} bytes; this server takes at most {limit_bytes}",
        )
    return length_bytes


def parse(kind: type[MessageT], message: bytes) -> MessageT:
    """The request of a small method; INVALID_ARGUMENT for bytes that are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise invalid("the message is not a valid protobuf of the method's request type") from None


def unknown_compression() -> HeadraceError:
    """The refusal for a message that is marked as compressed on a call that does not say how.

    INTERNAL, as gRPC's specification has it: no library sends this.
    """
    return HeadraceError(
        ErrorCode.INTERNAL,
        "the message is marked as compressed, but grpc-encoding does not say how",
    )


def frame(message: bytes) -> bytes:
    """An uncompressed message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def goaway(error_code: int) -> bytes:
    """A GOAWAY frame without a last stream: the peer cannot tell what was answered (RFC 9113, section 6.8)."""
    return b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0" + error_code.to_bytes(4, "big")


def error_headers(error: HeadraceError) -> Headers:
    """A trailers-only answer."""
    return [*OK_HEADERS, *error_trailers(error)]


def pushback_ms(retry_after_s: float) -> str:
    """The value of ``grpc-retry-pushback-ms``: at least 1, since 0 would mean at once."""
    return str(max(1, int(retry_after_s * 1e3)))


def error_trailers(error: HeadraceError) -> Headers:
    """The status, a readable message, and when to try again."""
    trailers = [
        (b"grpc-status", str(GRPC_STATUS[error.code]).encode()),
        (b"grpc-message", quote(error.message[:1024], safe=_PLAIN, errors="replace").encode()),
    ]
    if error.retry_after_s is not None:
        trailers.append((b"grpc-retry-pushback-ms", pushback_ms(error.retry_after_s).encode()))
    if error.code is ErrorCode.UNIMPLEMENTED:
        trailers.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
    return trailers
