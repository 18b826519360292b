"""The reference front on grpcio: what the contract suite cannot ask, and what its module names as different."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.inference import ModelInferResponse
from tests.support import raw_h2
from tests.support.api_keys import Keys
from tests.support.certificates import Authority
from tests.support.lanes import wait_until_running
from tests.support.raw_h2 import INFER, RawGrpc, frame, infer_message
from tests.support.restless_clients import message, row
from tests.support.served_models import SLOW_WIDTH
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

LIMIT_BYTES = 100_000
TIMEOUT_S = 30.0
GRPCIO = {"grpc.server": "grpcio"}


@pytest.fixture(scope="module")
def server(stress_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(
        stress_models,
        GRPCIO | {"grpc.max_message_bytes": LIMIT_BYTES, "admission.max_requests": 64},
    ) as running:
        yield running


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with open_channel(server) as opened:
        yield opened


def open_channel(server: ServerProcess) -> grpc.Channel:
    return grpc.insecure_channel("{}:{}".format(*server.grpc), [("grpc.enable_retries", 0)])


def infer(channel: grpc.Channel) -> Any:
    return channel.unary_unary(INFER, None, ModelInferResponse.FromString)


def refusal(channel: grpc.Channel, request: bytes, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel)(request, timeout=options.pop("timeout", TIMEOUT_S), **options)
    return refused.value


def assert_at_rest(server: ServerProcess) -> None:
    eventually(
        "nothing is inside any more",
        lambda: (
            not (
                server.metric("headrace_inflight_requests")
                + server.metric("headrace_inflight_bytes")
            )
        ),
        within_s=20,
    )


def test_calls_are_counted(server: ServerProcess, channel: grpc.Channel) -> None:
    before = server.metric("headrace_infer_calls_total", protocol="grpc", outcome="ok")
    assert infer(channel)(message("identity", 4), timeout=TIMEOUT_S).raw_output_contents == [row(4)]
    assert server.metric("headrace_infer_calls_total", protocol="grpc", outcome="ok") == before + 1
    assert refusal(channel, message("nobody", 4)).code() is grpc.StatusCode.NOT_FOUND
    assert server.metric("headrace_infer_calls_total", protocol="grpc", outcome="not_found") == 1


def test_an_unknown_method(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(raw_h2.SERVICE + "Nothing")(b"", timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == f"no such method: {raw_h2.SERVICE}Nothing"


def test_a_deadline_ends_the_call(server: ServerProcess, channel: grpc.Channel) -> None:
    error = refusal(channel, message("slow", SLOW_WIDTH), timeout=0.05)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert_at_rest(server)


def test_a_cancel_storm_leaves_nothing_and_the_channel_lives(server: ServerProcess) -> None:
    async def storm() -> bytes:
        async with grpc.aio.insecure_channel("{}:{}".format(*server.grpc)) as aio:
            ask: Any = aio.unary_unary(INFER, None, ModelInferResponse.FromString)
            for _ in range(10):
                calls = [ask(message("slow", SLOW_WIDTH)) for _ in range(20)]
                await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
            reply = await ask(message("identity", 4), timeout=TIMEOUT_S)
            return bytes(reply.raw_output_contents[0])

    assert asyncio.run(storm()) == row(4)
    assert_at_rest(server)


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    too_long = infer_message("wide", bytes(LIMIT_BYTES), [1, LIMIT_BYTES // 4])
    assert refusal(channel, too_long).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = refusal(channel, too_long, compression=grpc.Compression.Gzip)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "it is small on the wire only"


def test_a_message_that_is_compressed_nobody_knows_how(server: ServerProcess) -> None:
    """As ``test_grpc_refused_calls.py`` has it for our own front."""
    with RawGrpc(server.grpc) as connection:
        stream_id = connection.open()
        connection.send(stream_id, frame(gzip.compress(message("identity", 4)), flag=1))
        assert connection.outcome(stream_id).status == raw_h2.INTERNAL


def test_overload_says_when_to_try_again(server: ServerProcess, channel: grpc.Channel) -> None:
    with open_channel(server) as other:
        calls = [infer(other).future(message("slow", SLOW_WIDTH)) for _ in range(64)]
        eventually("the process is full", lambda: server.metric("headrace_inflight_requests") == 64)
        error = refusal(channel, message("slow", SLOW_WIDTH))
        for call in calls:
            call.cancel()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert_at_rest(server)


def test_many_messages_of_a_stream_are_held_back_and_answered(server: ServerProcess) -> None:
    """More at once than a stream may have inside, so that it is not listened to for a while."""
    answers: list[bytes] = []
    with tritonclient.grpc.InferenceServerClient("{}:{}".format(*server.grpc)) as client:
        client.start_stream(lambda result, error: answers.append(result.as_numpy("y").tobytes()))
        for number in range(500):
            given = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
            given.set_data_from_numpy(np.full((1, 4), number, np.float32))
            client.async_stream_infer("identity", [given])
        client.stop_stream()
    assert answers == [np.full(4, number, np.float32).tobytes() for number in range(500)]


# ---- starting and stopping -------------------------------------------------------------------------


def test_a_stop_answers_who_is_inside(stress_models: Path) -> None:
    with ServerProcess(stress_models, GRPCIO) as server, open_channel(server) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        call = infer(channel).future(message("slow", SLOW_WIDTH))
        wait_until_running(server)
        began_s = time.monotonic()
        server.terminate()
        assert len(call.result(timeout=TIMEOUT_S).raw_output_contents) == 1
        with pytest.raises(grpc.RpcError) as left:
            list(watch)
        assert left.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0
        assert "some calls were cut off" not in server.output
        assert time.monotonic() - began_s < 60


def test_calls_that_take_too_long_are_cut_off(stress_models: Path) -> None:
    with ServerProcess(stress_models, GRPCIO | {"drain.timeout_s": 0.1}) as server:
        with open_channel(server) as channel:
            calls = [infer(channel).future(message("slow", SLOW_WIDTH)) for _ in range(30)]
            eventually("they run", lambda: server.metric("headrace_inflight_requests") == 30)
            server.terminate()
            assert any(call.exception(timeout=TIMEOUT_S) for call in calls)
        assert server.wait() == 0
        assert "some calls were cut off" in server.output


def test_a_second_instance_on_the_same_port_is_refused(
    server: ServerProcess, stress_models: Path
) -> None:
    port = server.grpc[1]
    ports = ["--http-port", "0", "--grpc-port", str(port), "--admin-port", "0"]
    second = ServerProcess(stress_models, GRPCIO, ports).launch()
    assert second.wait() == 2
    assert f"headrace: grpcio cannot listen on 127.0.0.1:{port}; stop what" in second.output
    second.forget()


def test_workers_share_the_port(stress_models: Path) -> None:
    with ServerProcess(stress_models, GRPCIO | {"server.workers": 2}) as server:
        for _ in range(8):
            with open_channel(server) as channel:
                reply = infer(channel)(message("identity", 4), timeout=TIMEOUT_S)
                assert reply.raw_output_contents == [row(4)]
        victim = server.status()["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        eventually(
            "the worker is back",
            lambda: (
                server.status()["workers"][0]["pid"] not in (None, victim)
                and server.status()["workers"][0]["serving"]
            ),
            within_s=30,
        )
        for _ in range(8):
            with open_channel(server) as channel:
                infer(channel)(message("identity", 4), timeout=TIMEOUT_S)


# ---- who gets in -----------------------------------------------------------------------------------


def test_tls_with_client_certificates(stress_models: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair, own = authority.sign("server"), authority.sign("client")
    files = {
        "tls.cert_file": pair.certificate,
        "tls.key_file": pair.key,
        "tls.client_ca_file": authority.file,
    }
    with ServerProcess(stress_models, GRPCIO | files) as server:
        target, ca = "{}:{}".format(*server.grpc), authority.file.read_bytes()
        known = grpc.ssl_channel_credentials(ca, own.key.read_bytes(), own.certificate.read_bytes())
        with grpc.secure_channel(target, known) as channel:
            reply = infer(channel)(message("identity", 4), timeout=TIMEOUT_S)
            assert reply.raw_output_contents == [row(4)]
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(ca)) as channel:
            error = refusal(channel, message("identity", 4))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_keys_and_their_quotas(stress_models: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.toml")
    keys.make("once", requests_per_s=0.01, burst_requests=1)
    more = GRPCIO | {"access.api_keys_file": keys.file}
    with ServerProcess(stress_models, more) as server, open_channel(server) as channel:
        assert refusal(channel, message("identity", 4)).code() is grpc.StatusCode.UNAUTHENTICATED
        named = keys.grpc("once")
        infer(channel)(message("identity", 4), timeout=TIMEOUT_S, metadata=named)
        error = refusal(channel, message("identity", 4), metadata=named)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
