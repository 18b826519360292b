"""A request that fails leaves at once, with all its bytes: nothing waits for the garbage collector.

Errors hold the frames that they passed, and those hold the request; were the error held in turn, each failed request
would stay until some later collection.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.e2e.conftest import StartServer
from tests.support import raw_h2
from tests.support.lanes import lane, occupied, wait_until_queued
from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.raw_http import RawHttp, post_infer, post_infer_chunked
from tests.support.served_models import SLOW_WIDTH, write_slow
from tests.support.server_process import ServerProcess

LENGTH = "Inference-Header-Content-Length"
TIMES = 12
LARGE_BYTES = 4 * 1024 * 1024
ALLOWED_BYTES = 5 * LARGE_BYTES
"""Room for what is in flight and for what an allocator keeps; a leak would be twelve."""

BAD_IDS = np.full(LARGE_BYTES // 8, 1000, np.int64)
ROWS = LARGE_BYTES // 4 // SLOW_WIDTH
SNAIL_TURNS = 1_500_000
"""About 4.5 s a batch: longer than three dozen callers need to give up."""


def _http(model: str, name: str, datatype: str, shape: list[int], data: bytes) -> tuple[str, bytes]:
    one = {"name": name, "datatype": datatype, "shape": shape}
    one |= {"parameters": {"binary_data_size": len(data)}}  # type: ignore[dict-item]
    text = json.dumps({"inputs": [one]}).encode()
    return str(len(text)), text + data


def _wrong_size() -> tuple[str, bytes]:
    return _http("wide", "x", "FP32", [1, 7], bytes(LARGE_BYTES))


def _refused_by_the_model() -> tuple[str, bytes]:
    return _http("embedding", "ids", "INT64", [1, BAD_IDS.size], BAD_IDS.tobytes())


HTTP = {"wide": _wrong_size, "embedding": _refused_by_the_model}


@pytest.mark.parametrize("make", [post_infer, post_infer_chunked], ids=["lane", "asgi"])
@pytest.mark.parametrize("model", HTTP)
def test_refused_over_http(server: ServerProcess, model: str, make: Callable[..., bytes]) -> None:
    length, body = HTTP[model]()
    request = make(model, body, [(LENGTH, length)])

    def fail(connection: RawHttp) -> None:
        assert connection.ask(request).status == 400

    with RawHttp(server.http) as connection:
        _assert_stays_small(server, lambda: fail(connection))


def test_refused_after_expanding(server: ServerProcess) -> None:
    length, body = _refused_by_the_model()
    fields = [(LENGTH, length), ("content-encoding", "gzip")]
    request = post_infer("embedding", gzip.compress(body, 1), fields)

    def fail(connection: RawHttp) -> None:
        assert connection.ask(request).status == 400

    with RawHttp(server.http) as connection:
        _assert_stays_small(server, lambda: fail(connection))


@pytest.mark.parametrize("model", HTTP)
def test_refused_over_grpc(server: ServerProcess, model: str) -> None:
    name, datatype, shape, data = {
        "wide": ("x", "FP32", [1, 7], bytes(LARGE_BYTES)),
        "embedding": ("ids", "INT64", [1, BAD_IDS.size], BAD_IDS.tobytes()),
    }[model]
    message = infer_message(model, data, shape, name=name, datatype=datatype)

    def fail(connection: RawGrpc) -> None:
        assert connection.ask(message).status == raw_h2.INVALID_ARGUMENT

    with RawGrpc(server.grpc) as connection:
        _assert_stays_small(server, lambda: fail(connection))


@pytest.fixture
def snail_server(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> ServerProcess:
    root = tmp_path_factory.mktemp("snail")
    write_slow(root, "snail", turns=SNAIL_TURNS)
    return start_server(root)


def test_given_up_while_queued(snail_server: ServerProcess) -> None:
    """The callers go away; what they sent goes too, although the model is still busy with somebody else's."""
    with occupied(snail_server, "snail"):
        for give_up in (_give_up_lane, _give_up_asgi, _give_up_grpc):
            _assert_stays_small(snail_server, lambda: give_up(snail_server))  # noqa: B023
        assert lane(snail_server, "snail")["running_batches"] == 1, "the model had finished before"


def _give_up_lane(server: ServerProcess, make: Callable[..., bytes] = post_infer) -> None:
    length, body = _http("snail", "x", "FP32", [ROWS, SLOW_WIDTH], bytes(LARGE_BYTES))
    with RawHttp(server.http) as http:
        http.send(make("snail", body, [(LENGTH, length)]))
        wait_until_queued(server, 1, "snail")
    wait_until_queued(server, 0, "snail")


def _give_up_asgi(server: ServerProcess) -> None:
    _give_up_lane(server, post_infer_chunked)


def _give_up_grpc(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as grpc:
        stream = grpc.start(infer_message("snail", bytes(LARGE_BYTES), [ROWS, SLOW_WIDTH]))
        wait_until_queued(server, 1, "snail")
        grpc.cancel(stream)
        wait_until_queued(server, 0, "snail")


def _assert_stays_small(server: ServerProcess, fail: Callable[[], None]) -> None:
    for _ in range(3):
        fail()
    before = server.rss_bytes
    for _ in range(TIMES):
        fail()
    grown = server.rss_bytes - before
    assert grown < ALLOWED_BYTES, f"{grown >> 20} MiB more after {TIMES} failures"
    assert server.metric("headrace_inflight_bytes") < LARGE_BYTES
