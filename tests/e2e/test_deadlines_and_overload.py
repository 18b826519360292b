"""Deadlines are kept by the clock, not by the model; what cannot be answered in time is refused at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.support import models, raw_h2
from tests.support.lanes import (
    lane,
    occupied,
    wait_until_idle,
    wait_until_queued,
)
from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.raw_http import RawHttp, floats_json, post_infer, post_infer_chunked
from tests.support.served_models import SLOW_WIDTH, write_slow
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

SNAIL_TURNS = 500_000
"""About 1.5 s a batch."""
WAYS = {"lane": post_infer, "asgi": post_infer_chunked}


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    root = tmp_path_factory.mktemp("models")
    models.write_model(root, "identity", models.identity())
    write_slow(root, "slow")
    write_slow(root, "snail", turns=SNAIL_TURNS)
    write_slow(root, "narrow", batching="max_queue_requests = 2")
    write_slow(root, "few_rows", batching="max_queue_rows = 16")
    write_slow(root, "hasty", more="[deadline]\ndefault_timeout_ms = 60\n")
    return start_server(root)


def _http(**more: Any) -> bytes:
    return floats_json(width=SLOW_WIDTH, **more)


def _grpc(model: str, *, rows: int = 1, timeout_us: int | None = None) -> bytes:
    data = bytes(4 * rows * SLOW_WIDTH)
    return infer_message(model, data, [rows, SLOW_WIDTH], timeout_us=timeout_us)


# ---- deadlines -------------------------------------------------------------------------------------


def test_grpc_timeout_is_kept_while_the_model_runs(server: ServerProcess) -> None:
    wait_until_idle(server, "snail")
    with RawGrpc(server.grpc) as connection:
        began_s = time.monotonic()
        outcome = connection.ask(_grpc("snail"), headers=[("grpc-timeout", "150m")])
        took_s = time.monotonic() - began_s
        assert outcome.status == raw_h2.DEADLINE_EXCEEDED, outcome
        assert 0.1 < took_s < 0.6
        assert lane(server, "snail")["running_batches"] == 1, "the model was still at it"


@pytest.mark.parametrize("way", WAYS)
def test_the_timeout_parameter_is_kept_while_the_model_runs(
    server: ServerProcess, way: str
) -> None:
    wait_until_idle(server, "snail")
    with RawHttp(server.http) as connection:
        began_s = time.monotonic()
        body = _http(parameters={"timeout": 150_000})
        response = connection.ask(WAYS[way]("snail", body))
        took_s = time.monotonic() - began_s
        refused_at_once = response.status == 503  # it has learned how slow the model is
        assert refused_at_once or (response.status == 504 and 0.1 < took_s < 0.6), response
        assert took_s < 0.6
        assert connection.ask(post_infer("identity", floats_json())).status == 200


@pytest.mark.parametrize("way", [*WAYS, "grpc", "grpc-timeout"])
def test_a_deadline_passes_in_the_queue(server: ServerProcess, way: str) -> None:
    """Behind a batch that takes longer than was thought, the wait ends with the deadline."""
    with RawGrpc(server.grpc) as connection, RawHttp(server.http) as http:
        wait_until_idle(server, "hasty")
        with occupied(server, "slow"):
            began_s = time.monotonic()
            if way in WAYS:
                body = _http(parameters={"timeout": 100_000})
                response = http.ask(WAYS[way]("slow", body))
                assert response.status in (504, 503), response
                assert response.error
            else:
                message = _grpc("slow", timeout_us=100_000 if way == "grpc" else None)
                headers = [("grpc-timeout", "100m")] if way == "grpc-timeout" else []
                outcome = connection.ask(message, headers=headers)
                late = (raw_h2.DEADLINE_EXCEEDED, raw_h2.UNAVAILABLE)
                assert outcome.status in late, outcome
            assert time.monotonic() - began_s < 0.25


def test_the_earlier_of_two_deadlines_counts(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as connection:
        for headers, timeout_us in (
            ([("grpc-timeout", "1n")], 10_000_000),
            ([("grpc-timeout", "10S")], 1),
        ):
            message = infer_message("identity", bytes(16), [1, 4], timeout_us=timeout_us)
            outcome = connection.ask(message, headers=headers)
            assert outcome.status in (raw_h2.DEADLINE_EXCEEDED, raw_h2.UNAVAILABLE), outcome
        message = infer_message("identity", bytes(16), [1, 4], timeout_us=10_000_000)
        assert connection.ask(message, headers=[("grpc-timeout", "10S")]).status == 0


def test_the_model_has_a_deadline_for_callers_without_one(server: ServerProcess) -> None:
    wait_until_idle(server, "hasty")
    with RawGrpc(server.grpc) as connection, RawHttp(server.http) as http:
        began_s = time.monotonic()
        first = connection.ask(_grpc("hasty"))
        assert first.status == raw_h2.DEADLINE_EXCEEDED, first
        assert time.monotonic() - began_s < 0.25
        for make in WAYS.values():
            response = http.ask(make("hasty", _http()))
            assert response.status in (503, 504), response
        # Who names a deadline, or none, overrules the model's.
        wait_until_idle(server, "hasty")
        assert http.ask(post_infer("hasty", _http(parameters={"timeout": 0}))).status == 200
        assert connection.ask(_grpc("hasty", timeout_us=20_000_000)).status == 0


def test_hopeless_calls_are_refused_at_once(server: ServerProcess) -> None:
    """Once the model's pace is known, nobody waits for what cannot be."""
    with RawHttp(server.http) as http, RawGrpc(server.grpc) as grpc:
        assert http.ask(post_infer("slow", _http())).status == 200
        began_s = time.monotonic()
        for make in WAYS.values():
            response = http.ask(make("slow", _http(parameters={"timeout": 20_000})))
            assert response.status == 503, response
            assert "could not answer before the deadline" in response.error
            assert int(response.headers["retry-after"]) >= 1
        outcome = grpc.ask(_grpc("slow"), headers=[("grpc-timeout", "20m")])
        assert outcome.status == raw_h2.UNAVAILABLE, outcome
        assert int(outcome.headers["grpc-retry-pushback-ms"]) >= 1
        assert time.monotonic() - began_s < 0.15
    assert server.metric("headrace_late_answers_total") == 0


# ---- overload --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS, "grpc"])
def test_a_full_queue_refuses_at_once(server: ServerProcess, way: str) -> None:
    with RawGrpc(server.grpc) as grpc, RawHttp(server.http) as http:
        with occupied(server, "narrow"):
            waiting = [grpc.start(_grpc("narrow")) for _ in range(2)]
            wait_until_queued(server, 2, "narrow")
            began_s = time.monotonic()
            if way == "grpc":
                outcome = grpc.ask(_grpc("narrow"))
                assert outcome.status == raw_h2.UNAVAILABLE
                assert "is full" in outcome.message
                assert int(outcome.headers["grpc-retry-pushback-ms"]) >= 1
            else:
                response = http.ask(WAYS[way]("narrow", _http()))
                assert response.status == 503
                assert "is full" in response.error
                assert int(response.headers["retry-after"]) >= 1
            assert time.monotonic() - began_s < 0.15
            # Full is one model's queue, not the server.
            assert http.ask(post_infer("identity", floats_json())).status == 200
        for stream in waiting:
            assert grpc.outcome(stream).status == 0, "what was inside is answered"
    assert server.metric("headrace_shed_requests_total", model="narrow", reason="queue_full") >= 1


def test_a_place_that_is_given_up_can_be_taken(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as grpc, occupied(server, "narrow"):
        first = grpc.start(_grpc("narrow"))
        grpc.start(_grpc("narrow"))
        wait_until_queued(server, 2, "narrow")
        grpc.cancel(first)
        wait_until_queued(server, 1, "narrow")
        stream = grpc.start(_grpc("narrow"))
        wait_until_queued(server, 2, "narrow")
        assert grpc.outcome(stream).status == 0


def test_more_rows_than_any_queue_holds(server: ServerProcess) -> None:
    with RawGrpc(server.grpc) as grpc, RawHttp(server.http) as http:
        outcome = grpc.ask(_grpc("few_rows", rows=17))
        assert outcome.status == raw_h2.INVALID_ARGUMENT
        assert "max_queue_rows" in outcome.message
        response = http.ask(post_infer("few_rows", _http(rows=17)))
        assert response.status == 400
        assert grpc.ask(_grpc("few_rows", rows=16)).status == 0


def test_a_full_process_refuses_at_once(start_server: StartServer) -> None:
    server = start_server(admission__max_requests=3)
    with RawGrpc(server.grpc) as grpc, RawHttp(server.http) as http:
        streams = [grpc.start(_grpc("slow")) for _ in range(3)]
        eventually("all three are inside", lambda: server.metric("headrace_inflight_requests") == 3)
        for make in WAYS.values():
            response = http.ask(make("identity", floats_json()))
            assert response.status == 503
            assert "the gateway is full" in response.error
            assert response.headers["retry-after"] == "1"
        outcome = grpc.ask(infer_message("identity", bytes(16), [1, 4]))
        assert outcome.status == raw_h2.UNAVAILABLE
        assert [grpc.outcome(stream).status for stream in streams] == [0, 0, 0]
        assert http.ask(post_infer("identity", floats_json())).status == 200


def test_too_many_bytes_at_once(start_server: StartServer) -> None:
    """Bodies that still arrive count: a flood of large uploads is refused before it is in memory."""
    server = start_server(admission__max_bytes=8 * 1024 * 1024)
    half = bytes(3 * 1024 * 1024)
    body = json.dumps({"pad": "x" * (6 * 1024 * 1024)}).encode()
    with (
        RawHttp(server.http) as first,
        RawHttp(server.http) as second,
        RawHttp(server.http) as http,
    ):
        for connection in (first, second):
            connection.send(post_infer("identity", body)[: len(half)])
        response = http.ask(post_infer("identity", body))
        assert response.status == 503, response
        assert "too many bytes" in response.error
        assert response.headers["retry-after"] == "1"
    with RawHttp(server.http) as again:
        assert again.ask(post_infer("identity", floats_json())).status == 200


@pytest.fixture(autouse=True)
def _at_rest(server: ServerProcess) -> None:
    for model in ("slow", "narrow", "few_rows", "hasty"):
        wait_until_idle(server, model)
