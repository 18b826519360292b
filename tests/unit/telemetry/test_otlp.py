"""Ended traces on their way to a collector: the real exporter, and a collector that reads what it sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foundation.settings import SettingsError
from gateway.errors import ErrorCode
from gateway.messages import Trace
from gateway.settings import TelemetrySettings
from gateway.telemetry.otlp import OtlpSpans
from gateway.telemetry.tracing import Tracer, check, open_tracer, traces_url
from tests.support.otlp_collector import OtlpCollector, Span

WALL_OFFSET_S = 1_700_000_000.0
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WITHIN_S = 20.0


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as one:
        yield one


def a_trace(**fields: object) -> Trace:
    known: dict[str, object] = {
        "protocol": "http",
        "trace_id": 0xABC,
        "parent_id": 0,
        "state": "",
        "received_s": 1.0,
        "decoded_s": 2.0,
        "queued_s": 3.0,
        "started_s": 4.0,
        "ran_s": 5.0,
        "written_s": 6.0,
        "method": "/v2/models/{model}/infer",
        "model": "m",
        "version": "3",
        "rows": 2,
        "batch_rows": 8,
        "batch_reason": "full",
        "execution": "inline",
        "status": 200,
    }
    return Trace(**(known | fields))  # type: ignore[arg-type]


def sent(collector: OtlpCollector, *traces: Trace) -> list[Span]:
    spans = OtlpSpans(traces_url(collector.endpoint), "front-door", "1.2.3", WALL_OFFSET_S)
    for trace in traces:
        spans.emit(trace)
    assert spans.close(WITHIN_S)
    return collector.spans


def test_the_stages_stand_below_the_call_each_where_the_last_ended(
    collector: OtlpCollector,
) -> None:
    *stages, root = sent(collector, a_trace())
    assert [span.name for span in stages] == ["decode", "admit", "queue", "run", "answer"]
    start_ns = int((WALL_OFFSET_S + 1) * 1e9)
    assert [(span.start_ns - start_ns) // 10**9 for span in stages] == [0, 1, 2, 3, 4]
    assert [(span.end_ns - start_ns) // 10**9 for span in stages] == [1, 2, 3, 4, 5]
    assert (root.name, root.kind, root.start_ns, root.end_ns) == (
        "infer",
        2,
        start_ns,
        start_ns + 5 * 10**9,
    )
    assert {span.parent_id for span in stages} == {root.span_id}
    assert {span.trace_id for span in (*stages, root)} == {f"{0xABC:032x}"}
    assert len({span.span_id for span in (*stages, root)}) == 6
    assert root.parent_id == ""
    assert collector.paths == {"/v1/traces"}


def test_the_call_says_what_it_was(collector: OtlpCollector) -> None:
    *_, root = sent(collector, a_trace(request_id="r-7"))
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "headrace.model": "m",
        "headrace.model_version": "3",
        "headrace.rows": 2,
        "headrace.outcome": "ok",
        "headrace.request_id": "r-7",
        "headrace.queue_age_us": 1_000_000,
        "headrace.batch.rows": 8,
        "headrace.batch.reason": "full",
        "headrace.batch.execution": "inline",
    }
    assert root.error is None
    assert root.resource["service.name"] == "front-door"
    assert root.resource["service.version"] == "1.2.3"


def test_a_grpc_call_says_so(collector: OtlpCollector) -> None:
    *_, root = sent(
        collector,
        a_trace(protocol="grpc", method="inference.GRPCInferenceService/ModelInfer", status=0),
    )
    assert root.attributes["rpc.system"] == "grpc"
    assert root.attributes["rpc.service"] == "inference.GRPCInferenceService"
    assert root.attributes["rpc.method"] == "ModelInfer"
    assert root.attributes["rpc.grpc.status_code"] == 0
    assert not [key for key in root.attributes if key.startswith("http.")]


def test_the_callers_span_is_the_parent(collector: OtlpCollector) -> None:
    *stages, root = sent(collector, a_trace(parent_id=0xDEF, state="vendor=1,other=x"))
    assert root.parent_id == f"{0xDEF:016x}"
    assert {span.state for span in (*stages, root)} == {"vendor=1,other=x"}


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ({"decoded_s": 0.0, "queued_s": 0.0, "started_s": 0.0, "ran_s": 0.0}, ["decode"]),
        ({"queued_s": 0.0, "started_s": 0.0, "ran_s": 0.0}, ["decode", "admit"]),
        ({"started_s": 0.0, "ran_s": 0.0}, ["decode", "admit", "queue"]),
        ({"ran_s": 0.0}, ["decode", "admit", "queue", "run"]),
    ],
)
def test_the_stage_in_which_a_call_ended_is_the_last(
    collector: OtlpCollector, reached: dict[str, object], expected: list[str]
) -> None:
    failed = {"outcome": "overloaded", "message": "full", "status": 503}
    *stages, root = sent(collector, a_trace(**(reached | failed)))
    assert [span.name for span in stages] == expected
    assert stages[-1].end_ns == root.end_ns


@pytest.mark.parametrize("code", ErrorCode)
def test_only_what_is_our_fault_is_an_error(collector: OtlpCollector, code: ErrorCode) -> None:
    *_, root = sent(collector, a_trace(outcome=code.value, message="what went wrong"))
    ours = {"unimplemented", "not_ready", "overloaded", "deadline_exceeded", "internal"}
    assert root.error == ("what went wrong" if code.value in ours else None)
    assert root.attributes["error.type"] == code.value


def test_a_collector_that_is_away_costs_a_bounded_wait() -> None:
    with OtlpCollector() as gone:
        url = traces_url(gone.endpoint)
    spans = OtlpSpans(url, "s", "1", 0.0)
    for _ in range(1000):
        spans.emit(a_trace())
    assert spans.close(0.0) is False


# -- the tracer -----------------------------------------------------------------------------------


def test_a_tracer_from_settings_to_the_collector(collector: OtlpCollector) -> None:
    settings = TelemetrySettings(otlp_endpoint=collector.endpoint, trace_sample_ratio=0.0)
    tracer = open_tracer(settings, "1", 0.0)
    assert isinstance(tracer, Tracer)
    assert tracer.begin("http", b"", b"", 1.0) is None
    trace = tracer.begin("http", PARENT, b"vendor=1", 1.0)
    assert trace is not None
    assert (trace.trace_id, trace.parent_id) == (
        0x4BF92F3577B34DA6A3CE929D0E0E4736,
        0x00F067AA0BA902B7,
    )
    trace.written_s = 2.0
    tracer.end(trace)
    assert tracer.close(WITHIN_S)
    assert tracer.counts() == {"taken": 1, "over_limit": 0}
    assert [span.name for span in collector.spans] == ["decode", "infer"]


def test_a_trace_that_begins_here_has_an_id_of_its_own_and_no_foreign_state(
    collector: OtlpCollector,
) -> None:
    settings = TelemetrySettings(
        otlp_endpoint=collector.endpoint, trace_sample_ratio=1.0, trace_max_per_s=100.0
    )
    tracer = open_tracer(settings, "1", 0.0)
    assert tracer is not None
    made = [tracer.begin("grpc", b"", b"vendor=1", 1.0) for _ in range(20)]
    assert len({trace.trace_id for trace in made if trace is not None}) == 20
    assert {trace.state for trace in made if trace is not None} == {""}
    tracer.close(WITHIN_S)


def test_a_state_that_is_too_long_is_not_passed_on(collector: OtlpCollector) -> None:
    tracer = open_tracer(TelemetrySettings(otlp_endpoint=collector.endpoint), "1", 0.0)
    assert tracer is not None
    trace = tracer.begin("http", PARENT, b"a=" + b"x" * 600, 1.0)
    assert trace is not None
    assert trace.state == ""
    tracer.close(WITHIN_S)


def test_without_an_endpoint_there_is_no_tracer() -> None:
    assert open_tracer(TelemetrySettings(), "1", 0.0) is None
    check(TelemetrySettings())


def test_the_address_may_or_may_not_name_the_path() -> None:
    assert traces_url("http://c:4318") == "http://c:4318/v1/traces"
    assert traces_url("https://c/otlp/") == "https://c/otlp/v1/traces"
    assert traces_url("http://c:4318/v1/traces") == "http://c:4318/v1/traces"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://c:4317", "/v1/traces"])
def test_an_address_that_is_none_is_refused_before_anything_starts(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="otlp_endpoint must begin with http"):
        check(TelemetrySettings(otlp_endpoint=endpoint))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.telemetry.tracing.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="extra 'tracing'"):
        check(TelemetrySettings(otlp_endpoint="http://c:4318"))
