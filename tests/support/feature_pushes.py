"""One push or lookup by every way in: REST with the standard library, gRPC with grpcio and our own language."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from protos import headrace
from tests.support.server_process import Address, ServerProcess

TIMEOUT_S = 20.0
CODES = {
    "INVALID_ARGUMENT": "400",
    "RESOURCE_EXHAUSTED": "400",
    "NOT_FOUND": "404",
    "UNAUTHENTICATED": "401",
    "PERMISSION_DENIED": "403",
    "UNIMPLEMENTED": "501",
    "UNAVAILABLE": "503",
    "OK": "200",
}
"""What a status of gRPC is over REST. TOO_LARGE is RESOURCE_EXHAUSTED there, and 400 here."""


class Said(NamedTuple):
    """The answer to a push."""

    status: str
    """As REST has it, whichever way it came."""
    counts: dict[str, int]
    message: str
    retry_after: bool
    """Whether it says when to come again."""


class RestPusher:
    """Over REST."""

    def __init__(self, server: ServerProcess) -> None:
        self._address = server.http

    def push(
        self,
        view: str,
        rows: Sequence[Mapping[str, Any]],
        headers: Mapping[str, str] | None = None,
    ) -> Said:
        body = json.dumps({"rows": rows}).encode()
        status, answer, fields = post(self._address, f"/v2/features/{view}/push", body, headers)
        found = json.loads(answer)
        return Said(
            str(status),
            {} if "error" in found else found,
            found.get("error", ""),
            "retry-after" in fields,
        )

    def close(self) -> None:
        """Nothing is kept."""


class GrpcPusher:
    """Over gRPC."""

    def __init__(self, server: ServerProcess) -> None:
        self._channel = grpc.insecure_channel("{}:{}".format(*server.grpc))
        method = headrace.FeatureService["Push"]
        self._push = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )

    def push(
        self,
        view: str,
        rows: Sequence[Mapping[str, Any]],
        headers: Mapping[str, str] | None = None,
    ) -> Said:
        request = headrace.PushRequest(view=view, rows=[grpc_row(one) for one in rows])
        try:
            reply: Any = self._push(
                request, timeout=TIMEOUT_S, metadata=tuple((headers or {}).items())
            )
        except grpc.RpcError as error:
            told: Any = error
            trailers = dict(told.trailing_metadata() or ())
            return Said(
                CODES[told.code().name], {}, told.details(), "grpc-retry-pushback-ms" in trailers
            )
        counts = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}
        return Said("200", counts, "", False)

    def close(self) -> None:
        self._channel.close()


def grpc_row(row: Mapping[str, Any]) -> headrace.Row:
    """The row in our own language; ``event_time`` as JSON has it."""
    made = headrace.Row(
        values={name: _value(value) for name, value in row.items() if name != "event_time"}
    )
    time = row.get("event_time")
    if isinstance(time, int):
        made.event_time_us = time
    elif time is not None:
        made.event_time_text = time
    return made


def _value(value: Any) -> headrace.Value:
    if isinstance(value, bool):
        return headrace.Value(bool_value=value)
    if isinstance(value, int):
        return headrace.Value(int_value=value)
    if isinstance(value, float):
        return headrace.Value(float_value=value)
    if isinstance(value, str):
        return headrace.Value(string_value=value)
    if isinstance(value, list):
        if any(isinstance(one, float) for one in value):
            return headrace.Value(floats=headrace.FloatList(values=value))
        return headrace.Value(ints=headrace.IntList(values=value))
    assert value is None
    return headrace.Value()


Pusher = RestPusher | GrpcPusher
COUNTS = ("created", "newer", "rewritten", "older", "expired", "duplicates")


def counted(**counts: int) -> dict[str, int]:
    """The counts of an answer, zeros included."""
    return dict.fromkeys(COUNTS, 0) | counts


def profile(user: str, age: float = 1.5, **more: Any) -> dict[str, Any]:
    """A row of the view ``profile`` of the tests' shop."""
    row = {
        "user_id": user,
        "age": age,
        "score": 2.5,
        "spend": 3.5,
        "recent": [0.5, 0.25, 0.125],
        "tier": "gold ü",
        "is_vip": True,
    }
    return row | more


def now_us() -> int:
    """Since 1970."""
    return time.time_ns() // 1000


def post(
    address: Address, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers (names in lower case) of a POST."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response.read(), fields
    finally:
        connection.close()


def look_up(server: ServerProcess, path: str, asked: Any) -> tuple[int, Any]:
    """Status and JSON of a lookup at the admin port."""
    status, body, _ = post(server.admin, f"/v2/features/{path}/lookup", json.dumps(asked).encode())
    return status, json.loads(body)
