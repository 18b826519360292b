"""Health and reflection are those of gRPC: their fields are the ones that grpcio's own packages have."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos import health, reflection, reflection_v1alpha

PAIRS = [(health, health_pb2), (reflection_v1alpha, reflection_pb2)]


def _file(module: Any) -> Any:
    return module.LANGUAGE.descriptor


def _fields(message: Any) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.name if field.message_type else None,
            field.enum_type.full_name if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["health", "reflection"])
def test_every_field_is_theirs(ours: ModuleType, theirs: ModuleType) -> None:
    mine, known = _file(ours), theirs.DESCRIPTOR
    assert mine.package == known.package
    assert known.message_types_by_name.keys() <= mine.message_types_by_name.keys()
    for name, message in known.message_types_by_name.items():
        assert _fields(mine.message_types_by_name[name]) == _fields(message)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["health", "reflection"])
def test_every_call_is_theirs(ours: ModuleType, theirs: ModuleType) -> None:
    for service, known in theirs.DESCRIPTOR.services_by_name.items():
        mine = _file(ours).services_by_name[service]
        for name, method in known.methods_by_name.items():
            found = mine.methods_by_name[name]
            assert found.input_type.full_name == method.input_type.full_name
            assert found.output_type.full_name == method.output_type.full_name
            assert found.client_streaming == method.client_streaming
            assert found.server_streaming == method.server_streaming


def test_every_status_is_theirs() -> None:
    theirs = health_pb2.HealthCheckResponse.ServingStatus
    assert health.HealthCheckResponse.ServingStatus.items() == theirs.items()


def test_both_reflections_are_the_same_but_for_their_names() -> None:
    old, new = _file(reflection_v1alpha), _file(reflection)
    assert (old.package, new.package) == ("grpc.reflection.v1alpha", "grpc.reflection.v1")
    assert old.message_types_by_name.keys() == new.message_types_by_name.keys()
    for name, message in old.message_types_by_name.items():
        assert _fields(message) == _fields(new.message_types_by_name[name])
    assert reflection.ServerReflection["ServerReflectionInfo"].path == (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    )
