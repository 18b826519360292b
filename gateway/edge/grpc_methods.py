"""The unary calls of ``GRPCInferenceService`` that are not predictions.

Each takes the request's bytes and gives the reply's bytes, at once. What is asked often is small; none of it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from gateway.edge.server_info import ServerInfo
from gateway.errors import invalid
from protos import inference

SERVICE = "/inference.GRPCInferenceService/"
INFER_PATH = f"{SERVICE}ModelInfer".encode()

Method = Callable[[bytes], bytes]


def methods(info: ServerInfo) -> dict[bytes, Method]:
    """Every answerable path but ModelInfer."""

    def live(message: bytes) -> bytes:
        return inference.ServerLiveResponse(live=True).SerializeToString()

    def ready(message: bytes) -> bytes:
        return inference.ServerReadyResponse(ready=info.ready()[0]).SerializeToString()

    def model_ready(message: bytes) -> bytes:
        request = _parse(inference.ModelReadyRequest(), message)
        is_ready = info.model_ready(request.name, request.version)[0]
        return inference.ModelReadyResponse(ready=is_ready).SerializeToString()

    def server_metadata(message: bytes) -> bytes:
        return _fill(inference.ServerMetadataResponse(), info.server_metadata())

    def model_metadata(message: bytes) -> bytes:
        request = _parse(inference.ModelMetadataRequest(), message)
        return _fill(
            inference.ModelMetadataResponse(), info.model_metadata(request.name, request.version)
        )

    def model_config(message: bytes) -> bytes:
        request = _parse(inference.ModelConfigRequest(), message)
        config = info.model_config(request.name, request.version)
        return _fill(inference.ModelConfigResponse(), {"config": config})

    table: dict[str, Method] = {
        "ServerLive": live,
        "ServerReady": ready,
        "ModelReady": model_ready,
        "ServerMetadata": server_metadata,
        "ModelMetadata": model_metadata,
        "ModelConfig": model_config,
    }
    return {f"{SERVICE}{name}".encode(): method for name, method in table.items()}


def _parse(request: Any, message: bytes) -> Any:
    try:
        request.ParseFromString(message)
    except DecodeError:
        raise invalid("the message is not a valid protobuf of the method's request type") from None
    return request


def _fill(reply: Message, values: dict[str, Any]) -> bytes:
    return ParseDict(values, reply).SerializeToString()
