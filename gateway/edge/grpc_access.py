"""Access over gRPC: whose key came with a call, what it may ask, and what a call was in the end.

The three kinds of calls (one message, a stream, the reference front) ask here, so that they agree. A call is refused
with its headers, before its message is received. Health stays open: who watches over processes has no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.edge import grpc_health, grpc_wire
from gateway.edge.access import KeyHolder
from gateway.edge.feature_push import PushMethod
from gateway.edge.grpc_methods import INFER_PATH, SERVICE, STREAM_PATH, Method
from gateway.errors import HeadraceError
from protos import inference

if TYPE_CHECKING:
    from gateway.core.quota import Quota
    from gateway.edge.grpc_front import GrpcFront

OPEN_PATHS = frozenset(
    {
        f"{SERVICE}ServerLive".encode(),
        f"{SERVICE}ServerReady".encode(),
        f"{grpc_health.SERVICE}Check".encode(),
        grpc_health.WATCH_PATH,
    }
)
"""``List`` is not among them: it names every model."""
FOR_EVERY_KEY = f"{SERVICE}ServerMetadata".encode()
"""What a key that is only for some models may ask besides them."""

_NAMING: dict[bytes, tuple[Any, str]] = {
    f"{SERVICE}{method}".encode(): (message, field)
    for method, message, field in (
        ("ModelReady", inference.ModelReadyRequest, "name"),
        ("ModelMetadata", inference.ModelMetadataRequest, "name"),
        ("ModelConfig", inference.ModelConfigRequest, "name"),
        ("ModelStatistics", inference.ModelStatisticsRequest, "name"),
        ("RepositoryModelLoad", inference.RepositoryModelLoadRequest, "model_name"),
        ("RepositoryModelUnload", inference.RepositoryModelUnloadRequest, "model_name"),
    )
}
"""Which field of a method's request names the model."""


def holder_of(front: GrpcFront, path: bytes, headers: Mapping[bytes, bytes]) -> KeyHolder | None:
    """Whose call it is; None where nobody is asked. Raises UNAUTHENTICATED, which is counted here."""
    access = front.access
    if access is None or path in OPEN_PATHS:
        return None
    try:
        return access.holder(headers)
    except HeadraceError as error:
        if path in (INFER_PATH, STREAM_PATH):
            front.metrics.calls["grpc", error.code.value] += 1
            if front.access_log:
                front.log(None, error)
        raise


def guarded(holder: KeyHolder, path: bytes, method: Method) -> Method:
    """A unary method that is no prediction, for the models that the holder may ask and the views granted to it."""
    if isinstance(method, PushMethod):
        return method.held_by(holder)
    if not holder.is_limited_to_models or path == FOR_EVERY_KEY:
        return method

    def only_allowed(message: bytes) -> Any:
        kind, field = _NAMING.get(path, (None, ""))
        holder.allow("" if kind is None else getattr(grpc_wire.parse(kind, message), field))
        return method(message)

    return only_allowed


def ended(front: GrpcFront, holder: KeyHolder, quota: Quota | None, outcome: str) -> None:
    """A prediction has its outcome: "ok" or an error code. Its place in the quota, if it got one, is free again."""
    front.metrics.key_calls[holder.name, outcome] += 1
    if quota is not None:
        quota.leave()
