"""A request that fails leaves at once, with all its bytes: nothing waits for the garbage collector.

Errors hold the frames that they passed, and those hold the request; were the error held in turn, each failed request
would stay until some later collection.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests.support import raw_h2
from tests.support.raw_h2 import RawGrpc, frame, infer_message
from tests.support.raw_http import RawHttp, post_infer, post_infer_chunked
from tests.support.served_models import SLOW_WIDTH
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

LENGTH = "Inference-Header-Content-Length"
TIMES = 12
LARGE_BYTES = 4 * 1024 * 1024
ALLOWED_BYTES = 5 * LARGE_BYTES
"""Room for what is in flight and for what an allocator keeps; a leak would be twelve."""

BAD_IDS = np.full(LARGE_BYTES // 8, 1000, np.int64)
ROWS = LARGE_BYTES // 4 // SLOW_WIDTH


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


@pytest.mark.parametrize("front", ["http-lane", "http-asgi", "grpc"])
def test_given_up_while_queued(server: ServerProcess, front: str) -> None:
    """The callers go away; what they sent goes too, although the model is still busy with somebody else's."""
    busy = threading.Event()
    keeper = threading.Thread(target=_keep_slow_busy, args=(server, busy), daemon=True)
    keeper.start()
    eventually("the slow model is busy", lambda: _lane(server, "slow")["running_batches"])
    try:
        _assert_stays_small(server, lambda: _give_up(server, front))
    finally:
        busy.set()
        keeper.join(10)
    eventually("the queue is empty", lambda: not _lane(server, "slow")["queued_requests"])


def _give_up(server: ServerProcess, front: str) -> None:
    data = bytes(LARGE_BYTES)
    if front == "grpc":
        with RawGrpc(server.grpc) as grpc:
            stream = grpc.open()
            grpc.send(stream, frame(infer_message("slow", data, [ROWS, SLOW_WIDTH])))
            eventually("it waits", lambda: _lane(server, "slow")["queued_requests"])
            grpc.cancel(stream)
            eventually("it left", lambda: not _lane(server, "slow")["queued_requests"])
        return
    length, body = _http("slow", "x", "FP32", [ROWS, SLOW_WIDTH], data)
    make = post_infer if front == "http-lane" else post_infer_chunked
    with RawHttp(server.http) as http:
        http.send(make("slow", body, [(LENGTH, length)]))
        eventually("it waits", lambda: _lane(server, "slow")["queued_requests"])
    eventually("it left", lambda: not _lane(server, "slow")["queued_requests"])


def _keep_slow_busy(server: ServerProcess, enough: threading.Event) -> None:
    row = np.zeros((1, SLOW_WIDTH), np.float32)
    message = infer_message("slow", row.tobytes(), list(row.shape))
    with RawGrpc(server.grpc) as connection:
        streams = [connection.start(message) for _ in range(2)]
        while not enough.is_set():
            connection.outcome(streams.pop(0))
            streams.append(connection.start(message))
        for stream in streams:
            connection.outcome(stream)


def _lane(server: ServerProcess, model: str) -> dict[str, int]:
    found: dict[str, int] = next(one for one in server.status()["lanes"] if one["model"] == model)
    return found


def _assert_stays_small(server: ServerProcess, fail: Callable[[], None]) -> None:
    for _ in range(3):
        fail()
    before = server.rss_bytes
    for _ in range(TIMES):
        fail()
    grown = server.rss_bytes - before
    assert grown < ALLOWED_BYTES, f"{grown >> 20} MiB more after {TIMES} failures"
    assert server.metric("headrace_inflight_bytes") < LARGE_BYTES
