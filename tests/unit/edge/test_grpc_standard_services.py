"""Health and reflection, asked by grpcio's own clients and by hand."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protos import health, reflection
from tests.support.grpc_in_thread import GrpcInThread
from tests.support.raw_h2 import INVALID_ARGUMENT, OK, UNAVAILABLE, RawGrpc, frame

WATCH = "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
INFERENCE = "inference.GRPCInferenceService"


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
def front() -> Iterator[GrpcInThread]:
    with GrpcInThread() as running:
        yield running


@pytest.fixture
def channel(front: GrpcInThread) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel("{}:{}".format(*front.address)) as one:
        yield one


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", INFERENCE, "identity"])
def test_what_serves(front: GrpcInThread, stub: Any, service: str) -> None:
    assert stub.Check(asked(service), timeout=10).status == SERVING
    front.info.draining = True
    assert stub.Check(asked(service), timeout=10).status == NOT_SERVING


def test_what_could_not_be_loaded(stub: Any) -> None:
    assert stub.Check(asked("broken"), timeout=10).status == NOT_SERVING


def test_what_nobody_knows(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(asked("absent"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_everything_at_once(front: GrpcInThread) -> None:
    with RawGrpc(front.address) as connection:
        outcome = connection.ask(b"", "/grpc.health.v1.Health/List")
    found = health.HealthListResponse.FromString(outcome.body[5:]).statuses
    assert {name: one.status for name, one in found.items()} == {
        "": SERVING,
        INFERENCE: SERVING,
        "broken": NOT_SERVING,
        "identity": SERVING,
    }


def test_a_watch_tells_changes(front: GrpcInThread, stub: Any) -> None:
    watch = stub.Watch(asked("identity"), timeout=20)
    assert next(watch).status == SERVING
    front.sweep()
    front.run(lambda: front.table.remove(front.table.find("identity", "")))
    front.sweep()
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_of_what_is_not_there_yet(stub: Any) -> None:
    watch = stub.Watch(asked("absent"), timeout=20)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_does_not_hold_up_the_end(front: GrpcInThread) -> None:
    with RawGrpc(front.address) as connection:
        stream = connection.start(asked("").SerializeToString(), WATCH)
        while not connection.peek(stream).body:
            connection.pump()
        front.info.draining = True
        front.sweep()
        front.run(front.front.refuse_new_streams)
        outcome = connection.outcome(stream)
        assert outcome.status == UNAVAILABLE
        assert outcome.body == frame(b"\x08\x01") + frame(b"\x08\x02")
        connection.pump_until_closed()


@pytest.mark.parametrize("wire", [b"", frame(b"") * 2, frame(b"\xff")])
def test_a_watch_takes_exactly_one_message(front: GrpcInThread, wire: bytes) -> None:
    with RawGrpc(front.address) as connection:
        stream = connection.open(WATCH)
        connection.send(stream, wire)
        assert connection.outcome(stream).status == INVALID_ARGUMENT


# -- reflection -----------------------------------------------------------------------------------


def test_grpcios_database_finds_everything(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        INFERENCE,
        "headrace.v1.FeatureService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    service: Any = pool.FindServiceByName(INFERENCE)
    assert "ModelStreamInfer" in service.methods_by_name
    method = service.methods_by_name["ServerLive"]
    call: Any = channel.unary_unary(
        f"/{INFERENCE}/ServerLive",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    assert call(GetMessageClass(method.input_type)(), timeout=10).live
    assert pool.FindMessageTypeByName("grpc.health.v1.HealthCheckRequest").fields_by_name


def questions() -> list[reflection_pb2.ServerReflectionRequest]:
    kind = reflection_pb2.ServerReflectionRequest
    return [
        kind(file_containing_symbol="inference.ModelInferRequest.InferInputTensor"),
        kind(file_by_filename="health.proto"),
        kind(all_extension_numbers_of_type="inference.ModelInferRequest"),
        kind(file_containing_symbol="absent.Thing"),
        kind(file_by_filename="absent.proto"),
        kind(all_extension_numbers_of_type="absent.Thing"),
        kind(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="inference.ModelInferRequest", extension_number=1
            )
        ),
        kind(),
    ]


ANSWERS = ["file_descriptor_response"] * 2 + ["all_extension_numbers_response"]


def test_questions_on_one_stream(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    found = list(stub.ServerReflectionInfo(iter(questions()), timeout=10))
    assert [one.WhichOneof("message_response") for one in found] == (
        ANSWERS + ["error_response"] * 5
    )
    assert [one.original_request for one in found] == questions()
    assert [one.error_response.error_code for one in found[3:]] == [5, 5, 5, 5, 3]


def test_the_new_name_answers_alike(front: GrpcInThread) -> None:
    path = reflection.ServerReflection["ServerReflectionInfo"].path
    with RawGrpc(front.address) as connection:
        stream = connection.open(path, [("grpc-encoding", "gzip")])
        for question in questions():
            packed = gzip.compress(question.SerializeToString())
            connection.send(stream, frame(packed, flag=1), end_stream=False)
        connection.send(stream, b"")
        outcome = connection.outcome(stream)
    assert outcome.status == OK
    kinds, body = [], outcome.body
    while body:
        end = 5 + int.from_bytes(body[1:5], "big")
        reply = reflection.ServerReflectionResponse.FromString(body[5:end])
        kinds.append(reply.WhichOneof("message_response"))
        body = body[end:]
    assert kinds == ANSWERS + ["error_response"] * 5


def test_a_question_that_is_none(front: GrpcInThread) -> None:
    path = reflection.ServerReflection["ServerReflectionInfo"].path
    with RawGrpc(front.address) as connection:
        stream = connection.open(path)
        connection.send(stream, frame(b"\xff"), end_stream=False)
        assert connection.outcome(stream).status == INVALID_ARGUMENT
