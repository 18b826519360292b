"""The calls with more than one message, by path: predictions, health and reflection."""

from __future__ import annotations

from functools import partial

from gateway.edge import grpc_reflection
from gateway.edge.grpc_front import MakeStream
from gateway.edge.grpc_health import WATCH_PATH, Health
from gateway.edge.grpc_infer_stream import InferStream
from gateway.edge.grpc_methods import STREAM_PATH
from gateway.edge.grpc_stream import Conversation
from gateway.edge.grpc_watch import Watch
from gateway.edge.server_info import ServerInfo


def streams(info: ServerInfo) -> dict[bytes, MakeStream]:
    """What makes the call of each path, for ``GrpcFront``."""
    table: dict[bytes, MakeStream] = {
        path: partial(Conversation, reply)
        for path, reply in grpc_reflection.conversations().items()
    }
    table[STREAM_PATH] = InferStream
    table[WATCH_PATH] = partial(Watch, Health(info))
    return table
