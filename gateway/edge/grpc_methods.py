"""The unary calls of ``GRPCInferenceService`` that are not predictions.

Each takes the request's bytes and gives the reply's bytes: most at once, since what is asked often is small, and those
that change the repository later, since every worker has to act first. Nothing here may block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from gateway.edge import grpc_wire
from gateway.edge.grpc_health import Health
from gateway.edge.request_options import refuse_load_parameters, refuse_unload_parameters
from gateway.edge.server_info import ServerInfo
from gateway.edge.statistics import model_statistics
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.ports import RepositoryControl
from protos import inference

SERVICE = "/inference.GRPCInferenceService/"
INFER_PATH = f"{SERVICE}ModelInfer".encode()
STREAM_PATH = f"{SERVICE}ModelStreamInfer".encode()

Method = Callable[[bytes], "bytes | Awaitable[bytes]"]
"""The request's bytes to the reply's, or to a promise of them. Raises ``HeadraceError``, in either."""


def methods(info: ServerInfo, control: RepositoryControl | None) -> dict[bytes, Method]:
    """Every answerable path but those of predictions. Without ``control`` the repository's calls are UNIMPLEMENTED."""

    def live(message: bytes) -> bytes:
        return inference.ServerLiveResponse(live=True).SerializeToString()

    def ready(message: bytes) -> bytes:
        return inference.ServerReadyResponse(ready=info.ready()[0]).SerializeToString()

    def model_ready(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.ModelReadyRequest, message)
        is_ready = info.model_ready(request.name, request.version)[0]
        return inference.ModelReadyResponse(ready=is_ready).SerializeToString()

    def server_metadata(message: bytes) -> bytes:
        return _fill(inference.ServerMetadataResponse(), info.server_metadata())

    def model_metadata(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.ModelMetadataRequest, message)
        return _fill(
            inference.ModelMetadataResponse(), info.model_metadata(request.name, request.version)
        )

    def model_config(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.ModelConfigRequest, message)
        config = info.model_config(request.name, request.version)
        return _fill(inference.ModelConfigResponse(), {"config": config})

    table: dict[str, Method] = {
        "ServerLive": live,
        "ServerReady": ready,
        "ModelReady": model_ready,
        "ServerMetadata": server_metadata,
        "ModelMetadata": model_metadata,
        "ModelConfig": model_config,
        **_repository(control),
    }
    return {
        **{f"{SERVICE}{name}".encode(): method for name, method in table.items()},
        **Health(info).methods(),
    }


def _repository(control: RepositoryControl | None) -> dict[str, Method]:
    """The calls that read and change what is served."""
    if control is None:
        return dict.fromkeys(
            ("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
            _no_control,
        )

    async def index(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.RepositoryIndexRequest, message)
        _only_one(request.repository_name)
        reply = inference.RepositoryIndexResponse()
        for status in await control.index():
            if status.state == "READY" or not request.ready:
                reply.models.add(**msgspec.structs.asdict(status))
        return reply.SerializeToString()

    async def load(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.RepositoryModelLoadRequest, message)
        _only_one(request.repository_name)
        refuse_load_parameters(request.parameters)
        await control.load(request.model_name)
        return inference.RepositoryModelLoadResponse().SerializeToString()

    async def unload(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.RepositoryModelUnloadRequest, message)
        _only_one(request.repository_name)
        refuse_unload_parameters(request.parameters)
        await control.unload(request.model_name)
        return inference.RepositoryModelUnloadResponse().SerializeToString()

    async def statistics(message: bytes) -> bytes:
        request = grpc_wire.parse(inference.ModelStatisticsRequest, message)
        found = await control.statistics(request.name, request.version)
        return _fill(inference.ModelStatisticsResponse(), model_statistics(found))

    return {
        "ModelStatistics": statistics,
        "RepositoryIndex": index,
        "RepositoryModelLoad": load,
        "RepositoryModelUnload": unload,
    }


def _no_control(message: bytes) -> bytes:
    raise HeadraceError(
        ErrorCode.UNIMPLEMENTED, "this server does not offer control of its repository"
    )


def _only_one(repository_name: str) -> None:
    if repository_name:
        raise invalid("repository_name must be empty: this server has one repository")


def _fill(reply: Message, values: dict[str, Any]) -> bytes:
    return ParseDict(values, reply).SerializeToString()
