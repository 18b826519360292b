"""Stopping: SIGTERM under load loses no call, takes bounded time, and ends with exit code 0."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import raw_h2
from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.raw_http import (
    ClosedError,
    RawHttp,
    floats_json,
    get,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.lanes import lane, wait_until_running
from tests.support.restless_clients import (
    RestlessChannel,
    RestlessClient,
    RestlessGrpc,
    RestlessHttp,
    message,
    row,
)
from tests.support.served_models import SLOW_TURNS, SLOW_WIDTH, slow_answer
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

READY = "/v2/health/ready"
DELAY_S = 0.4


def _crowd(server: ServerProcess) -> list[RestlessClient]:
    """Fast and slow callers on every way in."""
    slow_row = np.arange(SLOW_WIDTH, dtype=np.float32).reshape(1, -1)
    slow_bytes = slow_answer(slow_row, SLOW_TURNS).tobytes()
    slow_json = b'"model_name":"slow"'
    quick_json = b'"data":[0.0,1.0,2.0,3.0]'
    clients: list[RestlessClient] = []
    for number in range(3):
        for way, make in (("lane", post_infer), ("asgi", post_infer_chunked)):
            quick = make("identity", floats_json())
            slow = make("slow", floats_json(width=SLOW_WIDTH))
            clients += [
                RestlessHttp(server, f"{way} {number}", quick, quick_json),
                RestlessHttp(server, f"slow {way} {number}", slow, slow_json),
            ]
    clients += [
        RestlessGrpc(server, "grpc", message("identity", 4), row(4), streams=8),
        RestlessGrpc(server, "slow grpc", message("slow", SLOW_WIDTH), slow_bytes, streams=20),
        RestlessChannel(server, "grpcio", message("identity", 4), calls=8),
        RestlessChannel(server, "slow grpcio", message("slow", SLOW_WIDTH), calls=8),
    ]
    return clients


@pytest.mark.parametrize("delay_s", [0, DELAY_S])
def test_under_load_no_call_is_lost(stress_models: Path, delay_s: float) -> None:
    with ServerProcess(stress_models, {"drain.delay_s": delay_s}) as server:
        clients = _crowd(server)
        for client in clients:
            client.start()
        eventually(
            "everybody was answered", lambda: all(one.answered > 1 for one in clients), within_s=15
        )
        began_s = time.monotonic()
        server.terminate()
        code = server.wait()
        took_s = time.monotonic() - began_s
        for client in clients:
            client.finish()
    failures = [failure for client in clients for failure in client.failures]
    assert not failures, "\n".join(failures)
    assert code == 0
    assert "some calls were cut off" not in server.said
    assert took_s < delay_s + 6, f"it took {took_s:.1f} s"
