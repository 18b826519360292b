"""Decides whether a server answers correctly, with one call before and one after each load.

A load generator counts answers; only a probe reads one. It must never be part of the load.
"""

import math
import select
import time

from loadtests import json_payload, protobuf_payload
from loadtests.failures import RowError
from loadtests.grpc_connection import GrpcConnection
from loadtests.http_connection import HttpConnection
from loadtests.replies import Connection, Reply
from loadtests.servers import Protocol

_TIMEOUT_S = 15.0


def call(protocol: Protocol, address: tuple[str, int], model: str, rows: int = 1) -> Reply:
    """One inference; an exception only when no connection can be made."""
    connection: Connection
    if protocol == "grpc":
        message = protobuf_payload.infer_request(model, rows)
        connection = GrpcConnection(address, message, deadline_ms=None)
    else:
        path, body = json_payload.infer_path(model), json_payload.infer_body(rows=rows)
        connection = HttpConnection(address, path, body)
    return one_call(connection)


def one_call(connection: Connection) -> Reply:
    """The reply to a connection's only call."""
    try:
        return _one_reply(connection)
    finally:
        connection.close()


def check(
    protocol: Protocol,
    address: tuple[str, int],
    model: str,
    expected: float | None,
    rows: int = 1,
) -> Reply:
    """The reply of one call that must succeed, with the expected number where one is given."""
    try:
        reply = call(protocol, address, model, rows)
    except OSError as problem:
        raise RowError(f"no connection for a probe: {problem}") from problem
    if reply.outcome != "answered":
        raise RowError(f"a probe got {reply.detail}: {reply.body[:300]!r}")
    if expected is not None:
        answer = _answer(protocol, reply.body)
        if not math.isclose(answer, expected, rel_tol=1e-3, abs_tol=1e-5):
            raise RowError(f"a probe got the answer {answer}, expected {expected}")
    return reply


def _answer(protocol: Protocol, body: bytes) -> float:
    try:
        if protocol == "grpc":
            return protobuf_payload.answer_of(protobuf_payload.unframed(body))
        return json_payload.answer_of(body)
    except (KeyError, IndexError, TypeError, ValueError) as problem:
        raise RowError(f"a probe got a reply that cannot be read: {body[:300]!r}") from problem


def _one_reply(connection: Connection) -> Reply:
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    connection.send(0)
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        poller.poll(100)
        connection.flush()
        replies = connection.receive()
        if replies:
            return replies[0]
    return Reply(0, "unanswered", f"no reply within {_TIMEOUT_S:.0f} s", b"")
