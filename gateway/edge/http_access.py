"""Access over HTTP: the wall around the data port's application, the lane's calls with keys, and the admin port's wall.

Answers who may not pass; for everybody else it only notes who it is. It must never read a body: a refusal costs the
caller its head, and us no more. The lane takes only calls whose key is in force and fits the model, so that all other
refusals are worded here.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from gateway.core.quota import Quota
from gateway.edge import http_fast_lane
from gateway.edge.access import Access, KeyHolder
from gateway.edge.http_fast_lane import FastLaneProtocol, LaneCall
from gateway.edge.http_front import HttpFront, Reply, error_reply
from gateway.edge.infer_head import InferPlan
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Prediction

HOLDER = "headrace.key_holder"
"""Where the scope of a request names the holder of its key."""
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Load balancers have no keys."""
ALL_STATISTICS = "/v2/models/stats"
"""Names no model, though it looks like it."""
READ_BY_POST = "/v2/repository/index"
"""The protocol asks for the index with POST; it changes nothing."""
FOR_EVERY_KEY = "/v2"
"""What a key that is only for some models may ask besides them."""
FEATURES = "/v2/features/"
"""No models either: what a key may do there, the routes themselves ask its holder."""

_MODEL_PATH = re.compile(
    r"/v2/(?:repository/)?models/([^/]+)(?:/versions/([^/]+))?(?P<infer>/infer)?"
)


class KeyedLaneCall(LaneCall):
    """A call of the lane where keys are asked for: it holds a part of its key's quota from decode to answer."""

    __slots__ = ("_quota",)

    def serve(self, body: bytes) -> None:
        """As in the lane, if the quota has room."""
        holder = self._plan.holder
        assert holder is not None, "a head without a holder has no plan"
        self._quota: Quota | None = None
        try:
            self._quota = holder.enter(self._protocol.front.clock())
        except HeadraceError as error:
            self.finish(None, error)
            return
        super().serve(body)

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        """As in the lane, and the quota gets its part back."""
        if self._quota is not None:
            self._quota.leave()
            self._quota = None
        super().finish(result, error)


def bind(front: HttpFront) -> type[FastLaneProtocol]:
    """The lane's protocol class for a front, with keys or without."""
    return http_fast_lane.bind(front, LaneCall if front.access is None else KeyedLaneCall)


class KeysRequired:
    """ASGI middleware of the data port: finds the caller, or answers for the application."""

    def __init__(self, app: Any, access: Access, front: HttpFront) -> None:
        self._app = app
        self._access = access
        self._front = front

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        named = _MODEL_PATH.match(scope["path"])
        holder: KeyHolder | None = None
        try:
            holder = self._access.holder(dict(scope["headers"]))
            if scope["path"] != FOR_EVERY_KEY and not scope["path"].startswith(FEATURES):
                holder.allow(named[1] if named and scope["path"] != ALL_STATISTICS else "")
        except HeadraceError as error:
            await _answer(send, self._refusal(named, holder, error))
            return
        scope[HOLDER] = holder
        await self._app(scope, receive, send)

    def _refusal(
        self, named: re.Match[str] | None, holder: KeyHolder | None, error: HeadraceError
    ) -> Reply:
        if named is None or not named["infer"]:
            return error_reply(error)
        self._front.metrics.http_paths["asgi"] += 1
        plan = InferPlan(named[1], named[2] or "", 0, None, True, "", holder=holder)
        return self._front.reply(plan, None, None, None, error)


class MutationsFromLoopbackOnly:
    """ASGI middleware of the admin port: while it asks for no tokens, only this machine may change anything.

    Nor may others look features up: their values may be about persons.

    The connection's own address counts, never what a header says about it. Pages in the operator's browser may not
    send changes either: the browser tells in ``Origin`` where a page came from.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not _only_reads(scope):
            what = "features are shown to" if _shows_features(scope) else "changes are taken from"
            why = _why_not_here(scope, what)
            if why:
                error = HeadraceError(ErrorCode.PERMISSION_DENIED, why)
                await _answer(send, error_reply(error))
                return
        await self._app(scope, receive, send)


def _only_reads(scope: Any) -> bool:
    return scope["method"] in ("GET", "HEAD") or scope["path"] == READ_BY_POST


def _shows_features(scope: Any) -> bool:
    return bool(scope["path"].startswith(FEATURES))


def _why_not_here(scope: Any, what: str) -> str:
    """Why a change may not come from this peer; empty when it may."""
    client, server = scope.get("client"), scope.get("server")
    # A socket of the file system has a path and no port; a TCP peer that is gone already has no address.
    if not (server and server[1] is None) and not (client and _is_loopback(client[0])):
        return (
            f"{what} this machine only; run the command there, or reach this port through a tunnel, "
            "for example: ssh -L 8002:127.0.0.1:8002 HOST"
        )
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None and not _is_own_page(origin, headers.get(b"host", b"")):
        return "a page of another site may not change anything here; use the command line"
    return ""


def _is_own_page(origin: bytes, host: bytes) -> bool:
    """Whether a page came from here, by a name that nobody else can point at this machine."""
    try:
        page = urlsplit(origin.decode("latin-1"))
    except ValueError:
        return False
    if page.netloc.lower() != host.decode("latin-1").lower():
        return False
    return page.hostname == "localhost" or _is_loopback(page.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


async def _answer(send: Any, reply: Reply) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": reply.all_headers(),
        }
    )
    await send({"type": "http.response.body", "body": reply.body})
