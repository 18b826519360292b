"""Traces of real calls: from both fronts of a real process to a real collector."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.infer_streams import STREAM
from tests.support.models import identity, write_model
from tests.support.otlp_collector import OtlpCollector, Span
from tests.support.raw_h2 import INFER, infer_message
from tests.support.raw_http import (
    Fields,
    RawHttp,
    ask_once,
    floats_json,
    post_infer,
    post_infer_chunked,
)
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

WITHIN_S = 20.0
STAGES = ["decode", "admit", "queue", "run", "answer"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "identity", identity())
    return root


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as one:
        yield one


@pytest.fixture
def another_collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as one:
        yield one


@pytest.fixture(scope="module")
def traced(models: Path, collector: OtlpCollector) -> Iterator[ServerProcess]:
    """A server that traces what its callers ask it to, and nothing else."""
    with ServerProcess(models, settings(collector)) as server:
        yield server


def settings(collector: OtlpCollector, **more: object) -> dict[str, object]:
    return {
        "telemetry.otlp_endpoint": collector.endpoint,
        "telemetry.trace_sample_ratio": 0,
        "telemetry.trace_max_per_s": 1000,
        **{f"telemetry.{key}": value for key, value in more.items()},
    }


def parent(number: int, *, sampled: bool = True) -> tuple[str, str]:
    """(the header, the trace's id)."""
    trace_id = f"{0xABC0000 + number:032x}"
    return f"00-{trace_id}-00000000000000ff-0{int(sampled)}", trace_id


def ask_http(server: ServerProcess, headers: Fields, body: bytes = b"") -> int:
    asked = post_infer("identity", body or floats_json(), headers)
    return ask_once(server.http, asked).status


def message(model: str = "identity") -> bytes:
    return infer_message(model, bytes(16), [1, 4], request_id="r-1")


def ask_grpc(server: ServerProcess, metadata: Fields, model: str = "identity") -> None:
    host, port = server.grpc
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        call: Any = channel.unary_unary(INFER)
        call(message(model), metadata=metadata, timeout=10)


def trace_of(collector: OtlpCollector, trace_id: str) -> tuple[list[Span], Span]:
    """(stages, root) of a trace, once it has come."""
    found = eventually(
        f"trace {trace_id}", lambda: collector.traces().get(trace_id), within_s=WITHIN_S
    )
    [root] = [span for span in found if span.name == "infer"]
    stages = sorted((span for span in found if span is not root), key=lambda span: span.start_ns)
    assert {span.parent_id for span in stages} == {root.span_id}
    moments = [root.start_ns, *(t for s in stages for t in (s.start_ns, s.end_ns)), root.end_ns]
    assert moments == sorted(moments)
    return stages, root


# -- both fronts ----------------------------------------------------------------------------------


def test_an_http_call_in_the_fast_lane(traced: ServerProcess, collector: OtlpCollector) -> None:
    header, trace_id = parent(1)
    before = traced.metric("headrace_http_infer_paths_total", path="fast_lane")
    assert ask_http(traced, [("traceparent", header), ("tracestate", "vendor=1")]) == 200
    stages, root = trace_of(collector, trace_id)
    assert [span.name for span in stages] == STAGES
    assert root.parent_id == "00000000000000ff"
    assert root.state == "vendor=1"
    assert root.error is None
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["headrace.model"] == "identity"
    assert root.attributes["headrace.model_version"] == "1"
    assert root.attributes["headrace.batch.rows"] == 1
    assert root.resource["service.name"] == "headrace"
    assert traced.metric("headrace_http_infer_paths_total", path="fast_lane") == before + 1


def test_an_http_call_by_the_usual_way(traced: ServerProcess, collector: OtlpCollector) -> None:
    header, trace_id = parent(2)
    before = traced.metric("headrace_http_infer_paths_total", path="asgi")
    asked = post_infer_chunked("identity", floats_json(), [("traceparent", header)])
    assert ask_once(traced.http, asked).status == 200
    stages, root = trace_of(collector, trace_id)
    assert [span.name for span in stages] == STAGES
    assert root.parent_id == "00000000000000ff"
    assert traced.metric("headrace_http_infer_paths_total", path="asgi") == before + 1


def test_a_grpc_call(traced: ServerProcess, collector: OtlpCollector) -> None:
    header, trace_id = parent(3)
    ask_grpc(traced, [("traceparent", header), ("tracestate", "vendor=2")])
    stages, root = trace_of(collector, trace_id)
    assert [span.name for span in stages] == STAGES
    assert (root.parent_id, root.state) == ("00000000000000ff", "vendor=2")
    assert root.attributes["rpc.method"] == "ModelInfer"
    assert root.attributes["rpc.grpc.status_code"] == 0
    assert root.attributes["headrace.request_id"] == "r-1"


def test_each_message_of_a_stream_is_a_call_of_its_own(
    traced: ServerProcess, collector: OtlpCollector
) -> None:
    header, trace_id = parent(4)
    host, port = traced.grpc
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        call: Any = channel.stream_stream(STREAM)
        metadata = [("traceparent", header)]
        assert len(list(call(iter([message()] * 3), metadata=metadata, timeout=10))) == 3

    def roots() -> list[Span]:
        found = collector.traces().get(trace_id, [])
        return [span for span in found if span.name == "infer"]

    eventually("three calls", lambda: len(roots()) == 3, within_s=WITHIN_S)
    assert {span.parent_id for span in roots()} == {"00000000000000ff"}
    assert len({span.span_id for span in roots()}) == 3
    assert {span.attributes["rpc.method"] for span in roots()} == {"ModelStreamInfer"}


# -- how calls end --------------------------------------------------------------------------------


def test_a_broken_body_ends_in_decoding_and_is_no_error_of_ours(
    traced: ServerProcess, collector: OtlpCollector
) -> None:
    header, trace_id = parent(5)
    assert ask_http(traced, [("traceparent", header)], b"{") == 400
    stages, root = trace_of(collector, trace_id)
    assert [span.name for span in stages] == ["decode"]
    assert root.error is None
    assert root.attributes["error.type"] == "invalid_argument"
    assert root.attributes["http.response.status_code"] == 400


def test_a_passed_deadline_is_an_error(traced: ServerProcess, collector: OtlpCollector) -> None:
    header, trace_id = parent(6)
    document = json.loads(floats_json())
    document["parameters"] = {"timeout": 1}
    assert ask_http(traced, [("traceparent", header)], json.dumps(document).encode()) == 504
    _, root = trace_of(collector, trace_id)
    assert root.error
    assert root.attributes["error.type"] == "deadline_exceeded"


def test_an_unknown_model_over_grpc(traced: ServerProcess, collector: OtlpCollector) -> None:
    header, trace_id = parent(7)
    with pytest.raises(grpc.RpcError):
        ask_grpc(traced, [("traceparent", header)], "nothing")
    _, root = trace_of(collector, trace_id)
    assert root.attributes["error.type"] == "not_found"
    assert root.attributes["rpc.grpc.status_code"] == 5


# -- what is not traced ---------------------------------------------------------------------------


def test_what_nobody_asked_for_is_not_traced(
    models: Path, another_collector: OtlpCollector
) -> None:
    unsampled, _ = parent(8, sampled=False)
    header, trace_id = parent(9)
    with ServerProcess(models, settings(another_collector)) as server:
        for _ in range(20):
            assert ask_http(server, []) == 200
            assert ask_http(server, [("traceparent", unsampled)]) == 200
            assert ask_http(server, [("traceparent", "nonsense")]) == 200
        ask_grpc(server, [("traceparent", unsampled)])
        assert ask_http(server, [("traceparent", header)]) == 200
        server.stop()  # what was kept back would come now
    assert list(another_collector.traces()) == [trace_id]
    assert another_collector.paths == {"/v1/traces"}


def test_a_share_of_the_calls_begins_a_trace_and_the_log_names_it(
    models: Path, another_collector: OtlpCollector
) -> None:
    chosen = settings(
        another_collector,
        trace_sample_ratio=1,
        access_log="true",
        log_format="json",
    )
    with ServerProcess(models, chosen) as server:
        assert ask_http(server, []) == 200
        ask_grpc(server, [])
        assert server.metric("headrace_traces_total", outcome="taken") == 2
        server.stop()  # which sends what is left
        said = server.said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    logged = {
        line["trace_id"]: (line["protocol"], line["version"])
        for line in lines
        if line["event"] == "infer"
    }
    assert sorted(logged.values()) == [("grpc", "1"), ("http", "1")]
    assert set(another_collector.traces()) == set(logged)
    roots = [span for span in another_collector.spans if span.name == "infer"]
    assert {span.parent_id for span in roots} == {""}


def test_calls_with_a_parent_take_the_fast_lane(
    traced: ServerProcess, collector: OtlpCollector
) -> None:
    before = traced.metric("headrace_http_infer_paths_total", path="fast_lane")
    with RawHttp(traced.http) as connection:
        for number in range(100, 130):
            header, _ = parent(number, sampled=number % 2 == 0)
            asked = post_infer("identity", floats_json(), [("traceparent", header)])
            assert connection.ask(asked).status == 200
    sampled = {parent(number)[1] for number in range(100, 130, 2)}
    eventually("the traces", lambda: sampled <= set(collector.traces()), within_s=WITHIN_S)
    unsampled = {parent(number)[1] for number in range(101, 130, 2)}
    assert not unsampled & set(collector.traces())
    assert traced.metric("headrace_http_infer_paths_total", path="fast_lane") == before + 30


# -- a collector in trouble -----------------------------------------------------------------------


def test_a_collector_that_is_away_harms_nobody(models: Path) -> None:
    with OtlpCollector() as gone:
        chosen = settings(gone, trace_sample_ratio=1)
    with ServerProcess(models, chosen) as server:
        for _ in range(50):
            assert ask_http(server, []) == 200
        assert server.metric("headrace_traces_total", outcome="taken") == 50
        server.stop()  # in time, with exit code 0 and without a stack trace


def test_a_collector_that_never_answers_does_not_hold_up_the_end(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        chosen = {"telemetry.otlp_endpoint": endpoint, "telemetry.trace_sample_ratio": 1}
        with ServerProcess(models, chosen) as server:
            assert ask_http(server, []) == 200
            server.stop()


def test_an_endpoint_that_is_none_is_refused(models: Path) -> None:
    server = ServerProcess(models, {"telemetry.otlp_endpoint": "localhost:4317"}).launch()
    assert server.wait(WITHIN_S) == 2
    assert "otlp_endpoint must begin with http:// or https://" in server.output
    server.forget()
