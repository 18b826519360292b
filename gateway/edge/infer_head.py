"""What the head of an infer request says, and which heads are plain enough for the fast lane.

Pure: bytes that llhttp has already split come in, a plan or None goes out. It must never accept what it does not fully
understand: anything unusual gets no plan and takes the ASGI route, which knows how to word errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from gateway.edge.access import KeyHolder

INFER_URL = re.compile(rb"/v2/models/([A-Za-z0-9_.\-]+)(?:/versions/([A-Za-z0-9_.\-]+))?/infer")
MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048
"""Longer request heads are parsed each time instead of being remembered."""
MAX_HEADERS = 64
"""Likewise heads with more headers: split, each takes some hundred bytes."""

Headers: TypeAlias = list[tuple[bytes, bytes]]
FindHolder: TypeAlias = "Callable[[Headers, str], KeyHolder | None]"
"""(headers, model) → the holder of the key that came along, if that may ask the model."""

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
    traceparent: bytes = b""
    """The caller's span (W3C Trace Context); it differs with each request, so such heads are not remembered."""
    tracestate: bytes = b""
    holder: KeyHolder | None = None
    """Whose API key came along; None where keys are not asked for."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """All of them, as llhttp has split them: which of them a servable wants, only the servable knows."""


class HeadMemory:
    """Heads that llhttp has parsed, with their plans. Bounded; forgets everything when it is full.

    A head is remembered the second time that it comes: those in which a header differs with each request, the id of
    a request or of a user, never come twice, and may not drive out the others.
    """

    __slots__ = ("_plans", "_seen", "plan_of")

    def __init__(self) -> None:
        self._plans: dict[bytes, InferPlan] = {}
        self._seen: set[int] = set()  # hashes; those who share one are remembered a little early
        self.plan_of = self._plans.get

    def remember(self, head: bytes, plan: InferPlan) -> None:
        """Requests with the same bytes need not be parsed any more; with a ``traceparent`` there are none."""
        if len(head) > MAX_HEAD_BYTES or len(plan.headers) > MAX_HEADERS or plan.traceparent:
            return
        seen, once = self._seen, hash(head)
        if once not in seen:
            if len(seen) >= MAX_HEADS:
                seen.clear()
            seen.add(once)
            return
        if len(self._plans) >= MAX_HEADS:
            self._plans.clear()
        self._plans[head] = plan

    def forget(self) -> None:
        """What heads mean has changed: the next ones are parsed again."""
        self._plans.clear()


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
    url: bytes,
    headers: Headers,
    *,
    keep_alive: bool,
    find_holder: FindHolder | None = None,
) -> InferPlan | None:
    """The plan of a plain HTTP/1.1 POST to an infer route; None when anything about it is unusual.

    ``find_holder`` is there where API keys are asked for: without a holder there is no plan.
    """
    match = INFER_URL.fullmatch(url)
    length_bytes = content_length(headers)
    if match is None or length_bytes is None:
        return None
    header_length: int | None = None
    offers: list[str] = []
    traceparent = tracestate = b""
    for name, value in headers:
        if name in _UNUSUAL:
            return None
        if name == b"inference-header-content-length":
            if header_length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                return None
            header_length = int(value)
        elif name == b"accept-encoding":
            offers.append(value.decode("latin-1"))
        elif name == b"traceparent":
            traceparent = _joined(traceparent, value)
        elif name == b"tracestate":
            tracestate = _joined(tracestate, value)
    model = match[1].decode("ascii")
    holder = None
    if find_holder is not None:
        holder = find_holder(headers, model)
        if holder is None:
            return None
    return InferPlan(
        model=model,
        version=(match[2] or b"").decode("ascii"),
        content_length=length_bytes,
        header_length=header_length,
        keep_alive=keep_alive,
        compression=wanted_compression(",".join(offers)),
        traceparent=traceparent,
        tracestate=tracestate,
        holder=holder,
        headers=headers,
    )


def _joined(value: bytes, more: bytes) -> bytes:
    """A header's value with that of the same header's next line; two parents make an invalid one, as they should."""
    return b"%b,%b" % (value, more) if value else more


def wanted_compression(accept_encoding: str) -> str:
    """The first of gzip and deflate that the header allows; "" for none (RFC 9110, section 12.5.3)."""
    for name in ("gzip", "deflate"):
        for offer in accept_encoding.lower().split(","):
            token, _, weight = offer.partition(";")
            if token.strip() == name and weight.replace(" ", "").rstrip("0.") != "q=":
                return name
    return ""
