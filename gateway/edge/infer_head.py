"""What the head of an infer request says, and which heads are plain enough for the fast lane.

Pure: bytes that llhttp has already split come in, a plan or None goes out. It must never accept what it does not fully
understand: anything unusual gets no plan and takes the ASGI route, which knows how to word errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

INFER_URL = re.compile(rb"/v2/models/([A-Za-z0-9_.\-]+)(?:/versions/([A-Za-z0-9_.\-]+))?/infer")
MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048
"""Longer request heads are parsed each time instead of being remembered."""

_UNUSUAL = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
_MAX_LENGTH_DIGITS = 12
_UPGRADE = re.compile(rb"\nupgrade(?=[ \t]*:)", re.IGNORECASE)


class InferPlan(msgspec.Struct, frozen=True):
    """All that the head of an infer request says. Equal heads have equal plans, so plans are remembered."""

    model: str
    version: str
    content_length: int
    header_length: int | None
    """``Inference-Header-Content-Length``: bytes of JSON before the binary tensors."""
    keep_alive: bool
    compression: str
    """"gzip", "deflate" or "" for the answer."""


class HeadMemory:
    """Heads that llhttp has parsed, with their plans. Bounded; forgets everything when it is full."""

    __slots__ = ("_plans", "plan_of")

    def __init__(self) -> None:
        self._plans: dict[bytes, InferPlan] = {}
        self.plan_of = self._plans.get

    def remember(self, head: bytes, plan: InferPlan) -> None:
        """The next request with the same bytes need not be parsed again."""
        if len(head) > MAX_HEAD_BYTES:
            return
        if len(self._plans) >= MAX_HEADS:
            self._plans.clear()
        self._plans[head] = plan


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """``Content-Length`` in bytes; llhttp has refused anything but digits."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def without_upgrade(data: bytes, end: int) -> bytes:
    """A request whose head ends at ``end``, with an offer to leave HTTP/1.1 renamed: we always decline
    (RFC 9110, section 7.8).

    llhttp would take everything behind such a head for the other protocol, the body of the request included. Java's
    client makes the offer with its first request.
    """
    if _UPGRADE.search(data, 0, end) is None:
        return data
    return _UPGRADE.sub(b"\nx-upgrade", data[:end]) + data[end:]


def plan_of_head(
    url: bytes, headers: list[tuple[bytes, bytes]], *, keep_alive: bool
) -> InferPlan | None:
    """The plan of a plain HTTP/1.1 POST to an infer route; None when anything about it is unusual."""
    match = INFER_URL.fullmatch(url)
    length_bytes = content_length(headers)
    if match is None or length_bytes is None:
        return None
    header_length: int | None = None
    offers: list[str] = []
    for name, value in headers:
        if name in _UNUSUAL:
            return None
        if name == b"inference-header-content-length":
            if header_length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                return None
            header_length = int(value)
        elif name == b"accept-encoding":
            offers.append(value.decode("latin-1"))
    return InferPlan(
        model=match[1].decode("ascii"),
        version=(match[2] or b"").decode("ascii"),
        content_length=length_bytes,
        header_length=header_length,
        keep_alive=keep_alive,
        compression=wanted_compression(",".join(offers)),
    )


def wanted_compression(accept_encoding: str) -> str:
    """The first of gzip and deflate that the header allows; "" for none (RFC 9110, section 12.5.3)."""
    for name in ("gzip", "deflate"):
        for offer in accept_encoding.lower().split(","):
            token, _, weight = offer.partition(";")
            if token.strip() == name and weight.replace(" ", "").rstrip("0.") != "q=":
                return name
    return ""
