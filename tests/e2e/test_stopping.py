"""Stopping: SIGTERM under load loses no call, takes bounded time, and ends with exit code 0."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import models, raw_h2
from tests.support.lanes import wait_until_busy, wait_until_running
from tests.support.raw_h2 import RawGrpc
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
from tests.support.restless_clients import (
    RestlessChannel,
    RestlessClient,
    RestlessGrpc,
    RestlessHttp,
    message,
    row,
)
from tests.support.served_models import SLOW_TURNS, SLOW_WIDTH, slow_answer, write_slow
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
    for way, make in (("lane", post_infer), ("asgi", post_infer_chunked)):
        quick = make("identity", floats_json())
        slow = make("slow", floats_json(width=SLOW_WIDTH))
        clients.append(RestlessHttp(server, f"slow {way}", slow, slow_json))
        clients += [RestlessHttp(server, f"{way} {n}", quick, quick_json) for n in range(3)]
    clients += [
        RestlessGrpc(server, "grpc", message("identity", 4), row(4), streams=8),
        RestlessGrpc(server, "slow grpc", message("slow", SLOW_WIDTH), slow_bytes, streams=8),
        RestlessChannel(server, "grpcio", message("identity", 4), calls=8),
        RestlessChannel(server, "slow grpcio", message("slow", SLOW_WIDTH), calls=4),
    ]
    return clients


@pytest.mark.parametrize("delay_s", [0, DELAY_S])
def test_under_load_no_call_is_lost(stress_models: Path, delay_s: float) -> None:
    """A call is in flight once its bytes are written on an established connection: it is answered."""
    with ServerProcess(stress_models, {"drain.delay_s": delay_s}) as server:
        clients = _crowd(server)
        for client in clients:
            client.start()
        eventually(
            "everybody was answered", lambda: all(one.answered for one in clients), within_s=15
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


# ---- the order of things ---------------------------------------------------------------------------


@pytest.fixture
def patient(stress_models: Path) -> Iterator[ServerProcess]:
    """A server with a drain delay long enough to look at."""
    with ServerProcess(stress_models, {"drain.delay_s": DELAY_S}) as server:
        yield server


def test_first_it_is_not_ready_but_serves_on(patient: ServerProcess) -> None:
    """During the delay load balancers look away; whoever still comes is served, and asked to go elsewhere."""
    with RawHttp(patient.http) as old, RawGrpc(patient.grpc) as channel:
        assert not old.ask(post_infer("identity", floats_json())).closes
        assert channel.ask(message("identity", 4)).status == raw_h2.OK
        patient.terminate()
        eventually("it is not ready", lambda: _ready(patient.http) == 400, within_s=DELAY_S)
        assert _ready(patient.admin) == 400
        with RawGrpc(patient.grpc) as newcomer:
            outcome = newcomer.ask(b"", raw_h2.SERVICE + "ServerReady")
            assert outcome.status == raw_h2.OK
            assert outcome.body[5:] == b"", "ready: false"
        with RawHttp(patient.http) as live:
            response = live.ask(get("/v2/health/live"))
            assert response.status == 200
            assert response.closes
        for make in (post_infer, post_infer_chunked):
            with RawHttp(patient.http) as newcomer_http:
                response = newcomer_http.ask(make("identity", floats_json()))
                assert response.status == 200
                assert response.closes
                assert newcomer_http.expect_close() == b""
        with RawGrpc(patient.grpc) as newcomer:
            assert newcomer.ask(message("identity", 4)).status == raw_h2.OK
        response = old.ask(post_infer("identity", floats_json()))
        assert response.status == 200
        assert response.closes
        assert patient.wait(5) == 0


def _ready(address: tuple[str, int]) -> int:
    connection = http.client.HTTPConnection(*address, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", READY)
        return connection.getresponse().status


def test_goaway_comes_at_once(patient: ServerProcess) -> None:
    with RawGrpc(patient.grpc) as channel:
        assert channel.ask(message("identity", 4)).status == raw_h2.OK
        patient.terminate()
        began_s = time.monotonic()
        while channel.goaway is None:
            channel.pump()
        assert channel.goaway == 0
        assert channel.last_stream_id == 2**31 - 1, "nothing is refused yet"
        assert time.monotonic() - began_s < DELAY_S


def test_who_speaks_at_the_end_still_hears_goodbye(patient: ServerProcess) -> None:
    """A peer that stops when it is told finds the end of the connection, not a reset with words lost."""
    with RawGrpc(patient.grpc) as channel:
        patient.terminate()
        channel.socket.settimeout(0.0005)
        give_up_s = time.monotonic() + 5
        while channel.last_stream_id == 2**31 - 1 and time.monotonic() < give_up_s:
            channel.h2.ping(b"12345678")
            channel.flush()
            with contextlib.suppress(TimeoutError):
                channel.pump()
        assert channel.last_stream_id == 0, "no last goodbye"
        channel.socket.settimeout(5)
        assert channel.socket.recv(4096) == b""
    assert patient.wait(5) == 0


def test_idle_connections_hold_nothing_up(patient: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawHttp(patient.http)) for _ in range(50)]
        channels = [stack.enter_context(RawGrpc(patient.grpc)) for _ in range(50)]
        for connection in silent[:25]:
            assert connection.ask(get(READY)).status == 200
        for channel in channels[:25]:
            assert channel.ask(message("identity", 4)).status == raw_h2.OK
        began_s = time.monotonic()
        patient.terminate()
        assert patient.wait(5) == 0
        assert time.monotonic() - began_s < DELAY_S + 1.5
        for connection in silent:
            assert connection.expect_close() == b""


def test_slow_calls_are_waited_for(patient: ServerProcess) -> None:
    slow = floats_json(width=SLOW_WIDTH)
    with (
        RawHttp(patient.http) as lane_call,
        RawHttp(patient.http) as asgi,
        RawGrpc(patient.grpc) as channel,
    ):
        lane_call.send(post_infer("slow", slow))
        asgi.send(post_infer_chunked("slow", slow))
        eventually("they are inside", lambda: patient.metric("headrace_inflight_requests") == 2)
        streams = [channel.start(message("slow", SLOW_WIDTH)) for _ in range(20)]
        eventually("they are inside", lambda: patient.metric("headrace_inflight_requests") == 22)
        patient.terminate()
        assert lane_call.receive().status == 200
        assert asgi.receive().status == 200
        assert [channel.outcome(stream).status for stream in streams] == [raw_h2.OK] * 20
        assert patient.wait(5) == 0


def test_a_request_that_is_still_arriving_is_answered(patient: ServerProcess) -> None:
    whole = post_infer("identity", floats_json())
    body = floats_json()
    chunked_head = request("POST", infer_path("identity"), [("transfer-encoding", "chunked")])
    halves = [
        (whole[:10], whole[10:]),
        (whole[:-5], whole[-5:]),
        (chunked_head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    ]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(RawHttp(patient.http)) for _ in halves]
        for connection, (first, _) in zip(connections, halves, strict=True):
            connection.send(first)
        patient.terminate()
        time.sleep(DELAY_S + 0.3)  # the port is closed, and only these calls are left
        for connection, (_, second) in zip(connections, halves, strict=True):
            response = connection.ask(second)
            assert response.status == 200, response
            assert response.closes
        assert patient.wait(5) == 0


def test_the_port_is_free_for_the_next_one(tmp_path: Path) -> None:
    models.write_model(tmp_path, "identity", models.identity())
    with ServerProcess(tmp_path) as first:
        ports = {"--http-port": first.http, "--grpc-port": first.grpc, "--admin-port": first.admin}
    options = [word for name, (_, port) in ports.items() for word in (name, str(port))]
    with ServerProcess(tmp_path, options=options) as second, RawHttp(second.http) as connection:
        assert second.http == ports["--http-port"]
        assert connection.ask(post_infer("identity", floats_json())).status == 200


# ---- impatience ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snail_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("snail_models")
    write_slow(root, "snail", turns=1_000_000)
    return root


def test_a_second_signal_stops_at_once(snail_models: Path) -> None:
    with (
        ServerProcess(snail_models, {"drain.delay_s": 30}) as server,
        RawGrpc(server.grpc) as channel,
    ):
        channel.start(message("snail", SLOW_WIDTH))
        wait_until_running(server, "snail")
        server.terminate()
        eventually("it says so", lambda: "again to stop at once" in server.output)
        assert server.process.poll() is None
        began_s = time.monotonic()
        server.terminate()
        assert server.wait(10) == 0
        assert time.monotonic() - began_s < 4, (
            "a run of the model cannot be cut short, the rest can"
        )
    assert "some calls were cut off" in server.said


def test_calls_that_take_too_long_are_cut(snail_models: Path) -> None:
    settings = {"drain.delay_s": 0, "drain.timeout_s": 0.3}
    with ServerProcess(snail_models, settings) as server, RawHttp(server.http) as connection:
        connection.send(post_infer("snail", floats_json(rows=64, width=SLOW_WIDTH)))
        wait_until_busy(server, "snail")
        server.terminate()
        began_s = time.monotonic()
        with pytest.raises(ClosedError):
            connection.receive()
        assert time.monotonic() - began_s < 1.5
        assert server.wait(15) == 0
    assert "some calls were cut off" in server.said


def test_a_stalled_upload_does_not_hold_the_stop_for_ever(stress_models: Path) -> None:
    settings = {"drain.timeout_s": 0.5}
    with ServerProcess(stress_models, settings) as server, RawHttp(server.http) as connection:
        connection.send(post_infer("identity", floats_json())[:-3])
        began_s = time.monotonic()
        server.terminate()
        assert server.wait(10) == 0
        assert time.monotonic() - began_s < 3


def test_a_signal_during_the_start(snail_models: Path) -> None:
    server = ServerProcess(snail_models).launch()
    eventually("it has begun", lambda: server.catches_signals)
    server.terminate()
    assert server.wait(10) == 0
    server.forget()
