"""Rows that callers push, on both wires: from JSON or protobuf to the same plain values, and the outcome back.

Decides what a push looks like on each wire, and how large it may be. What a value may be is not decided here: the same
reader judges the rows of both wires and of the command line. Bodies are parsed on the pusher's thread, never on the
loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge import grpc_wire
from gateway.edge.http_access import HOLDER
from gateway.edge.http_body import request_body
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.ports import FeaturePusher, PushedRows, ReadRows
from protos import headrace

if TYPE_CHECKING:
    from gateway.edge.access import KeyHolder
    from gateway.edge.grpc_methods import Method
    from gateway.edge.http_front import HttpFront

PUSH_PATH = headrace.FeatureService["Push"].path.encode()
EVENT_TIME = "event_time"


class _PushBody(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[Any]


# -- REST -----------------------------------------------------------------------------------------


class PushRoutes:
    """The route of the data port."""

    def __init__(self, pusher: FeaturePusher, front: HttpFront) -> None:
        self._pusher = pusher
        self._front = front

    async def push(self, request: Request) -> Response:
        """``POST /v2/features/{view}/push``."""
        view = request.path_params["view"]
        holder: KeyHolder | None = request.scope.get(HOLDER)
        if holder is not None:
            holder.allow_push(view)
        self._pusher.check()  # a body that nobody would look at need not come
        body = await self._body(request)
        outcome = await self._pusher.push(json_reader(view, body))
        return Response(
            orjson.dumps(msgspec.structs.asdict(outcome)), media_type="application/json"
        )

    async def _body(self, request: Request) -> bytes:
        limit_bytes = min(self._pusher.max_bytes, self._front.limits.max_body_bytes)
        try:
            return await request_body(request, limit_bytes, self._front.admission)
        except HeadraceError as error:
            if error.code is ErrorCode.TOO_LARGE:
                raise _too_large(limit_bytes) from None
            raise

    def routes(self) -> list[Route]:
        """Every path."""
        return [Route("/v2/features/{view}/push", self.push, methods=["POST"])]


def json_reader(view: str, body: bytes) -> ReadRows:
    """Reads ``{"rows": [{…}, …]}``."""

    def read(max_rows: int) -> PushedRows:
        try:
            rows = msgspec.json.decode(body, type=_PushBody).rows
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(
                f'the body must be JSON like {{"rows": [{{"KEY": …, "COLUMN": …, "event_time": …}}]}}: {error}'
            ) from None
        _check_count(len(rows), max_rows)
        return view, rows

    return read


# -- gRPC -----------------------------------------------------------------------------------------


class PushMethod:
    """``headrace.v1.FeatureService/Push``."""

    def __init__(self, pusher: FeaturePusher, holder: KeyHolder | None = None) -> None:
        self._pusher = pusher
        self._holder = holder

    def __call__(self, message: bytes) -> Awaitable[bytes]:
        """The request's bytes to the reply's."""
        self._pusher.check()
        if len(message) > self._pusher.max_bytes:
            raise _too_large(self._pusher.max_bytes)
        return self._push(message)

    def held_by(self, holder: KeyHolder) -> PushMethod:
        """The same for a caller who may push only what the key was granted."""
        return PushMethod(self._pusher, holder)

    async def _push(self, message: bytes) -> bytes:
        outcome = await self._pusher.push(self._reader(message))
        reply = headrace.PushResponse(**msgspec.structs.asdict(outcome))
        return reply.SerializeToString()

    def _reader(self, message: bytes) -> ReadRows:
        holder = self._holder

        def read(max_rows: int) -> PushedRows:
            request = grpc_wire.parse(headrace.PushRequest, message)
            if holder is not None:
                holder.allow_push(request.view)
            _check_count(len(request.rows), max_rows)
            return request.view, [_plain(row, n) for n, row in enumerate(request.rows, 1)]

        return read


def methods(pusher: FeaturePusher) -> dict[bytes, Method]:
    """The calls of the service."""
    return {PUSH_PATH: PushMethod(pusher)}


def _plain(row: headrace.Row, number: int) -> Mapping[str, Any]:
    """As the JSON of the same row would be."""
    found: dict[str, Any] = {name: _value(value) for name, value in row.values.items()}
    time = row.WhichOneof("event_time")
    if time is not None:
        if EVENT_TIME in found:
            raise invalid(f"row {number}: 'event_time' is given twice")
        found[EVENT_TIME] = row.event_time_us if time == "event_time_us" else row.event_time_text
    return found


def _value(value: headrace.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "floats" or kind == "ints":
        return list(getattr(value, kind).values)
    return getattr(value, kind)


# -- both -----------------------------------------------------------------------------------------


def _check_count(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise invalid(
            f"{rows} rows: a push takes at most {max_rows} (features.max_push_rows); send them in parts"
        )


def _too_large(limit_bytes: int) -> HeadraceError:
    return HeadraceError(
        ErrorCode.TOO_LARGE,
        f"the push is larger than the {limit_bytes} bytes that this server takes (features.max_push_bytes); "
        "send the rows in parts",
    )
