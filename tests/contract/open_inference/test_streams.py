"""``ModelStreamInfer``, health and reflection, as the usual clients ask for them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.utils import InferenceServerException

from protos.inference import ModelStreamInferResponse
from tests.support.infer_streams import STREAM
from tests.support.raw_h2 import infer_message
from tests.support.server_process import ServerProcess

TIMEOUT_S = 30.0
REQUESTS = 50

Answered = tuple[Any, InferenceServerException | None]


def url(server: ServerProcess) -> str:
    return "{}:{}".format(*server.grpc)


def row(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((1, 4), value, np.float32)


def given(value: float) -> list[Any]:
    tensor = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(row(value))
    return [tensor]


@pytest.fixture
def server(grpc_server: ServerProcess) -> ServerProcess:
    """Both fronts, one after the other."""
    return grpc_server


class Client:
    """``tritonclient``'s stream, with its callbacks in a queue."""

    def __init__(self, server: ServerProcess) -> None:
        self.triton = tritonclient.grpc.InferenceServerClient(url(server))
        self._answers: queue.Queue[Answered] = queue.Queue()

    def start(self, **options: Any) -> None:
        self.triton.start_stream(
            lambda result, error: self._answers.put((result, error)), **options
        )

    def next(self) -> Answered:
        return self._answers.get(timeout=TIMEOUT_S)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    one = Client(server)
    yield one
    one.triton.stop_stream(cancel_requests=True)
    one.triton.close()


def test_answers_come_in_order(client: Client) -> None:
    client.start()
    for number in range(REQUESTS):
        client.triton.async_stream_infer("identity_fp32", given(number), request_id=str(number))
    client.triton.stop_stream()
    for number in range(REQUESTS):
        result, error = client.next()
        assert error is None
        assert result.get_response().id == str(number)
        np.testing.assert_array_equal(result.as_numpy("y"), row(number))


def test_an_error_does_not_end_the_stream(client: Client) -> None:
    client.start()
    client.triton.async_stream_infer("absent", given(1), request_id="lost")
    _, error = client.next()
    assert error is not None
    assert "absent" in error.message()
    assert error.status() is None, "in the stream"
    client.triton.async_stream_infer("identity_fp32", given(2))
    result, error = client.next()
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), row(2))


def test_an_error_ends_the_stream_of_who_asks_for_that(client: Client) -> None:
    client.start(headers={"triton_grpc_error": "true"})
    client.triton.async_stream_infer("identity_fp32", given(1))
    client.triton.async_stream_infer("absent", given(2))
    assert client.next()[1] is None
    _, error = client.next()
    assert error is not None
    assert error.status() == "StatusCode.NOT_FOUND"


def test_the_stream_has_a_deadline(client: Client) -> None:
    client.start(stream_timeout=0.2)
    _, error = client.next()
    assert error is not None
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_compressed_stream(client: Client) -> None:
    client.start(compression_algorithm="gzip")
    for number in range(5):
        client.triton.async_stream_infer("identity_fp32", given(number))
    for number in range(5):
        result, _ = client.next()
        np.testing.assert_array_equal(result.as_numpy("y"), row(number))


def test_the_last_response_is_marked(client: Client) -> None:
    client.start()
    client.triton.async_stream_infer("identity_fp32", given(1), enable_empty_final_response=True)
    result, _ = client.next()
    assert result.get_response().parameters["triton_final_response"].bool_param
    np.testing.assert_array_equal(result.as_numpy("y"), row(1))


def test_the_aio_client(server: ServerProcess) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(REQUESTS):
            model = "absent" if number == 3 else "identity_fp32"
            yield {"model_name": model, "inputs": given(number), "request_id": str(number)}

    async def ask() -> list[Answered]:
        async with tritonclient.grpc.aio.InferenceServerClient(url(server)) as aio:
            answers = aio.stream_infer(requests(), stream_timeout=TIMEOUT_S)
            return [one async for one in answers]

    found = asyncio.run(ask())
    assert len(found) == REQUESTS
    assert [number for number, (_, error) in enumerate(found) if error] == [3]
    np.testing.assert_array_equal(found[-1][0].as_numpy("y"), row(REQUESTS - 1))


def test_an_error_says_whose_it_is(server: ServerProcess) -> None:
    """``tritonclient`` throws the id away; others do not."""
    with grpc.insecure_channel(url(server)) as channel:
        call: Any = channel.stream_stream(
            STREAM, response_deserializer=ModelStreamInferResponse.FromString
        )
        wrong = infer_message("identity_fp32", bytes(4), [1, 4], request_id="mine")
        right = infer_message("identity_fp32", bytes(16), [1, 4], request_id="yours")
        bad, good = call(iter([wrong, right]), timeout=TIMEOUT_S)
    assert bad.infer_response.id == "mine"
    assert "16" in bad.error_message
    assert (good.infer_response.id, good.error_message) == ("yours", "")


@pytest.mark.parametrize(
    ("service", "status"),
    [
        ("", health_pb2.HealthCheckResponse.SERVING),
        ("inference.GRPCInferenceService", health_pb2.HealthCheckResponse.SERVING),
        ("identity_fp32", health_pb2.HealthCheckResponse.SERVING),
        ("broken", health_pb2.HealthCheckResponse.NOT_SERVING),
    ],
)
def test_health(server: ServerProcess, service: str, status: int) -> None:
    asked = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(url(server)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(asked, timeout=TIMEOUT_S).status == status
        watch = stub.Watch(asked, timeout=TIMEOUT_S)
        assert next(watch).status == status
        watch.cancel()


def test_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(url(server)) as channel:
        found = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= found
