"""Quotas of API keys on both data ports: who is over them, and who gives their place back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.e2e.conftest import StartServer
from tests.support.api_keys import HTTP_WAYS, Keys
from tests.support.infer_streams import STREAM
from tests.support.raw_h2 import RESOURCE_EXHAUSTED, UNAUTHENTICATED, RawGrpc, infer_message
from tests.support.raw_http import RawHttp, floats_json, request
from tests.support.served_models import SLOW_WIDTH
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

ROW = np.zeros((1, 4), np.float32)
QUICK = infer_message("identity", ROW.tobytes(), [1, 4])
SLOW = infer_message("slow", bytes(4 * SLOW_WIDTH), [1, SLOW_WIDTH])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.toml")
    for way in ("fast_lane", "asgi", "grpc", "stream"):
        made.make(f"few-{way}", requests_per_s=0.01, burst_requests=2)
        made.make(f"one-{way}", max_concurrent_requests=1)
    return made


@pytest.fixture(scope="module")
def guarded(start_server: StartServer, keys: Keys) -> ServerProcess:
    return start_server(access__api_keys_file=keys.file)


@pytest.fixture
def grpc_connection(guarded: ServerProcess) -> Iterator[RawGrpc]:
    with RawGrpc(guarded.grpc) as one:
        yield one


# -- quotas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", HTTP_WAYS)
def test_calls_per_second_over_http(guarded: ServerProcess, keys: Keys, way: str) -> None:
    name = f"few-{way}"
    refused = guarded.metric("headrace_infer_calls_total", outcome="quota_exceeded")
    asked = HTTP_WAYS[way]("identity", floats_json(), keys.http(name))
    with RawHttp(guarded.http) as connection:
        answers = [connection.ask(asked) for _ in range(4)]
        metadata = connection.ask(request("GET", "/v2/models/identity", keys.http(name)))
    assert [one.status for one in answers] == [200, 200, 429, 429]
    assert metadata.status == 200, "only infer calls count"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 100
    assert answers[2].error.startswith(
        f"the key '{name}' is over its quota of 0.01 calls per second"
    )
    assert not answers[3].closes
    counted = guarded.metric("headrace_infer_calls_total", outcome="quota_exceeded")
    assert counted == refused + 2
    assert guarded.metric("headrace_key_calls_total", key=name, outcome="quota_exceeded") == 2


def test_calls_per_second_over_grpc(
    guarded: ServerProcess, grpc_connection: RawGrpc, keys: Keys
) -> None:
    headers = keys.grpc("few-grpc")
    outcomes = [grpc_connection.ask(QUICK, headers=headers) for _ in range(3)]
    assert [one.status for one in outcomes] == [0, 0, RESOURCE_EXHAUSTED]
    assert 0 < int(outcomes[2].headers["grpc-retry-pushback-ms"]) <= 100_000
    assert guarded.metric("headrace_key_calls_total", key="few-grpc") == 3


def test_each_message_of_a_stream_counts(guarded: ServerProcess, keys: Keys) -> None:
    host, port = guarded.grpc
    answers: list[Any] = []
    client = tritonclient.grpc.InferenceServerClient(f"{host}:{port}")
    try:
        one = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
        one.set_data_from_numpy(ROW)
        client.start_stream(
            lambda result, error: answers.append(error or result),
            headers={"x-api-key": keys["few-stream"]},
        )
        for _ in range(3):
            client.async_stream_infer("identity", [one])
        eventually("three answers", lambda: len(answers) == 3)
        client.stop_stream()
    finally:
        client.close()
    assert np.array_equal(answers[1].as_numpy("y"), ROW)
    assert "is over its quota" in str(answers[2])
    assert guarded.metric("headrace_key_calls_total", key="few-stream", outcome="ok") == 2


def test_a_stream_needs_a_key(grpc_connection: RawGrpc) -> None:
    assert grpc_connection.ask(b"", STREAM).status == UNAUTHENTICATED


def _inside(server: ServerProcess, name: str) -> int:
    shown = {one["name"]: one["calls_inside"] for one in server.status()["keys"]}
    return int(shown[name])


@pytest.mark.parametrize("way", HTTP_WAYS)
@pytest.mark.parametrize("end", [RawHttp.close, RawHttp.reset], ids=["close", "reset"])
def test_calls_at_once_over_http(
    guarded: ServerProcess, keys: Keys, way: str, end: Callable[[RawHttp], None]
) -> None:
    name = f"one-{way}"
    quick = HTTP_WAYS[way]("identity", floats_json(), keys.http(name))
    slow = HTTP_WAYS[way]("slow", floats_json(width=SLOW_WIDTH), keys.http(name))
    with RawHttp(guarded.http) as first, RawHttp(guarded.http) as second:
        first.send(slow)
        eventually("the first call is inside", lambda: _inside(guarded, name) == 1)
        refused = second.ask(quick)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        assert "1 calls at once" in refused.error
        end(first)
        eventually("who hung up leaves the quota", lambda: _inside(guarded, name) == 0)
        assert second.ask(quick).status == 200
        assert second.ask(slow).status == 200
        assert second.ask(quick).status == 200
        wrong = HTTP_WAYS[way]("identity", b"{", keys.http(name))
        assert second.ask(wrong).status == 400
    assert _inside(guarded, name) == 0


def test_calls_at_once_over_grpc(
    guarded: ServerProcess, grpc_connection: RawGrpc, keys: Keys
) -> None:
    headers = keys.grpc("one-grpc")
    slow = grpc_connection.start(SLOW, headers=headers)
    eventually("the first call is inside", lambda: _inside(guarded, "one-grpc") == 1)
    assert grpc_connection.ask(QUICK, headers=headers).status == RESOURCE_EXHAUSTED
    grpc_connection.cancel(slow)
    eventually("who cancelled leaves the quota", lambda: _inside(guarded, "one-grpc") == 0)
    assert grpc_connection.ask(SLOW, headers=headers).status == 0
    assert grpc_connection.ask(b"\xff", headers=headers).status == 3
    late = [*headers, ("grpc-timeout", "1n")]
    assert grpc_connection.ask(QUICK, headers=late).status == 4
    assert _inside(guarded, "one-grpc") == 0


def test_a_connection_that_ends_leaves_the_quota(guarded: ServerProcess, keys: Keys) -> None:
    with RawGrpc(guarded.grpc) as connection:
        connection.start(SLOW, headers=keys.grpc("one-grpc"))
        eventually("the call is inside", lambda: _inside(guarded, "one-grpc") == 1)
    eventually("nobody is inside", lambda: _inside(guarded, "one-grpc") == 0)
