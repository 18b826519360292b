"""What a scrape shows: every name and label, and that counters count."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.batch import Batch, BatchReason
from gateway.core.statistics import VersionStatistics
from gateway.telemetry.metrics import (
    MAX_RETIRED_VERSIONS,
    FrontMetrics,
    LaneMetrics,
    Metrics,
    NullLaneMetrics,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

LANE = (("model", "m"), ("version", "1"))


class Scraped:
    """Metrics, and what Prometheus would read of them."""

    def __init__(self) -> None:
        self.admission = Admission(AdmissionLimits())
        self.metrics = Metrics(self.admission)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def types(self) -> dict[str, str]:
        return {family.name: family.type for family in text_string_to_metric_families(self.text())}

    def value(self, name: str, *labels: tuple[str, str]) -> float:
        return self.samples()[name, tuple(sorted(labels))]


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def ran(
    lane: LaneMetrics | NullLaneMetrics, rows: int, *, inline: bool = True, run_s: float = 0.001
) -> None:
    batch: Batch[Any] = Batch(None, 10.0)
    batch.rows = rows
    batch.reason = BatchReason.FULL
    lane.batch(batch, 10.0 + run_s, inline=inline)


# -- names ----------------------------------------------------------------------------------------


def test_every_metric_has_its_name_and_type_before_anything_happens(scraped: Scraped) -> None:
    scraped.metrics.gauge("headrace_connections", "Open.", ("protocol",), list)
    assert scraped.types() == {
        "headrace_request_duration_seconds": "histogram",
        "headrace_stage_duration_seconds": "histogram",
        "headrace_queue_age_seconds": "histogram",
        "headrace_batch_rows": "histogram",
        "headrace_batches": "counter",
        "headrace_shed_requests": "counter",
        "headrace_late_answers": "counter",
        "headrace_infer_calls": "counter",
        "headrace_http_infer_paths": "counter",
        "headrace_key_calls": "counter",
        "headrace_traces": "counter",
        "headrace_inflight_requests": "gauge",
        "headrace_inflight_bytes": "gauge",
        "headrace_connections": "gauge",
    }


def test_every_metric_says_what_it_is(scraped: Scraped) -> None:
    for family in text_string_to_metric_families(scraped.text()):
        assert family.documentation.endswith(".")
        assert family.name.startswith("headrace_")


def test_every_series_of_a_lane_names_its_model_and_version(scraped: Scraped) -> None:
    scraped.metrics.lane("m", "1")
    scraped.metrics.lane("m", "2")
    ran(scraped.metrics.lanes[0], 1)
    scraped.metrics.lanes[0].shed("expired", 1)
    of_lanes = [dict(labels) for name, labels in scraped.samples() if "_inflight_" not in name]
    assert of_lanes
    assert all(labels["model"] == "m" and labels["version"] in "12" for labels in of_lanes)


def test_labels_may_hold_anything(scraped: Scraped) -> None:
    scraped.metrics.lane('a"b\\c\nd', "1")
    assert (
        scraped.value("headrace_late_answers_total", ("model", 'a"b\\c\nd'), ("version", "1")) == 0
    )


# -- lanes ----------------------------------------------------------------------------------------


def test_batches_are_counted_by_reason_and_place(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    for inline in (True, True, False):
        ran(lane, 4, inline=inline)
    name = "headrace_batches_total"
    full = (*LANE, ("reason", "full"))
    assert scraped.value(name, *full, ("execution", "inline")) == 2
    assert scraped.value(name, *full, ("execution", "worker")) == 1
    assert scraped.value("headrace_batch_rows_count", *LANE) == 3
    assert scraped.value("headrace_batch_rows_sum", *LANE) == 12
    assert scraped.value("headrace_batch_rows_bucket", *LANE, ("le", "2.0")) == 0
    assert scraped.value("headrace_batch_rows_bucket", *LANE, ("le", "4.0")) == 3


def test_the_time_of_an_answered_request_is_shown_by_stage(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    ran(lane, 2, run_s=0.25)
    lane.answered([(8.0, 8.5), (9.0, 9.5)], started_s=10.0, ended_s=10.25, written_s=10.75)
    name = "headrace_stage_duration_seconds_sum"
    assert scraped.value(name, *LANE, ("stage", "decode")) == 1.0
    assert scraped.value(name, *LANE, ("stage", "run")) == 0.25
    assert scraped.value(name, *LANE, ("stage", "answer")) == 0.25
    assert scraped.value("headrace_queue_age_seconds_sum", *LANE) == 2.0
    assert scraped.value("headrace_request_duration_seconds_sum", *LANE) == 4.5
    assert scraped.value("headrace_request_duration_seconds_count", *LANE) == 2


def test_a_histogram_ends_with_everything(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    ran(lane, 100_000, run_s=1000.0)
    assert scraped.value("headrace_batch_rows_bucket", *LANE, ("le", "+Inf")) == 1
    run = (*LANE, ("stage", "run"))
    name = "headrace_stage_duration_seconds_bucket"
    assert scraped.value(name, *run, ("le", "10.0")) == 0
    assert scraped.value(name, *run, ("le", "+Inf")) == 1


def test_shed_requests_are_counted_by_reason(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    lane.shed("expired", 3)
    lane.shed("queue_full", 1)
    lane.shed("expired", 1)
    name = "headrace_shed_requests_total"
    assert scraped.value(name, *LANE, ("reason", "expired")) == 4
    assert scraped.value(name, *LANE, ("reason", "queue_full")) == 1


def test_late_answers_are_shown_even_when_there_are_none(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    assert scraped.value("headrace_late_answers_total", *LANE) == 0
    lane.late_answer()
    assert scraped.value("headrace_late_answers_total", *LANE) == 1


def test_lanes_are_kept_apart(scraped: Scraped) -> None:
    scraped.metrics.lane("m", "1").late_answer()
    scraped.metrics.lane("m", "2")
    assert scraped.value("headrace_late_answers_total", ("model", "m"), ("version", "2")) == 0


# -- the process ----------------------------------------------------------------------------------


def test_calls_are_counted_by_protocol_and_outcome(scraped: Scraped) -> None:
    fronts = scraped.metrics.fronts
    fronts.calls["http", "ok"] += 2
    fronts.calls["grpc", "overloaded"] += 1
    fronts.http_paths["fast_lane"] += 2
    name = "headrace_infer_calls_total"
    assert scraped.value(name, ("protocol", "http"), ("outcome", "ok")) == 2
    assert scraped.value(name, ("protocol", "grpc"), ("outcome", "overloaded")) == 1
    assert scraped.value("headrace_http_infer_paths_total", ("path", "fast_lane")) == 2


def test_traces_are_counted_where_there_are_any(scraped: Scraped) -> None:
    scraped.metrics.traces = lambda: {"taken": 3, "over_limit": 1}
    assert scraped.value("headrace_traces_total", ("outcome", "taken")) == 3
    assert scraped.value("headrace_traces_total", ("outcome", "over_limit")) == 1


def test_fronts_start_at_nothing() -> None:
    fronts = FrontMetrics()
    assert not fronts.calls
    assert not fronts.http_paths


def test_what_is_inside_is_read_when_somebody_looks(scraped: Scraped) -> None:
    assert scraped.value("headrace_inflight_requests") == 0
    scraped.admission.admit(100)
    assert scraped.value("headrace_inflight_requests") == 1
    assert scraped.value("headrace_inflight_bytes") == 100
    scraped.admission.release(100)
    assert scraped.value("headrace_inflight_bytes") == 0


def test_a_gauge_is_read_when_somebody_looks(scraped: Scraped) -> None:
    waiting = {"a": 1.0}
    scraped.metrics.gauge(
        "headrace_queue_requests",
        "Waiting.",
        ("model",),
        lambda: [((name,), count) for name, count in waiting.items()],
    )
    assert scraped.value("headrace_queue_requests", ("model", "a")) == 1
    waiting.update(a=5.0, b=2.0)
    assert scraped.value("headrace_queue_requests", ("model", "a")) == 5
    assert scraped.value("headrace_queue_requests", ("model", "b")) == 2


def test_counters_never_fall(scraped: Scraped) -> None:
    lane = scraped.metrics.lane("m", "1")
    before: Samples = {}
    for turn in range(3):
        ran(lane, turn + 1)
        lane.shed("expired", turn)
        lane.answered([(0.0, 0.1)], 0.2, 0.3, 0.4)
        scraped.metrics.fronts.calls["http", "ok"] += 1
        after = scraped.samples()
        assert all(after[series] >= value for series, value in before.items())
        before = after


# -- versions that come and go --------------------------------------------------------------------


def test_a_version_that_is_loaded_again_goes_on_counting(scraped: Scraped) -> None:
    scraped.metrics.lane("m", "1").late_answer()
    scraped.metrics.retire("m", "1")
    scraped.metrics.lane("m", "1").late_answer()
    name = "headrace_late_answers_total"
    assert scraped.value(name, *LANE) == 2
    assert scraped.text().count(name + "{") == 1


def test_a_version_stays_while_one_of_its_two_lanes_is_left(scraped: Scraped) -> None:
    metrics = scraped.metrics
    metrics.lane("m", "1")
    metrics.lane("m", "1")
    metrics.retire("m", "1")
    for number in range(2 * MAX_RETIRED_VERSIONS):
        metrics.lane("other", str(number))
        metrics.retire("other", str(number))
    assert ("m", "1") in {one.labels for one in metrics.lanes}
    assert [one.name for one in metrics.statistics(0.0)] == ["m"]


def test_versions_that_went_are_shown_up_to_a_limit_the_oldest_go_first(scraped: Scraped) -> None:
    metrics = scraped.metrics
    for number in range(MAX_RETIRED_VERSIONS + 2):
        metrics.lane("m", str(number))
        metrics.retire("m", str(number))
        if number == 1:
            metrics.lane("m", "0")  # it came back: now it may not be forgotten
    shown = {one.labels[1] for one in metrics.lanes}
    assert len(shown) == MAX_RETIRED_VERSIONS + 1
    assert "0" in shown
    assert "1" not in shown


def test_nothing_is_kept_where_nothing_is_to_be_measured() -> None:
    metrics = Metrics(Admission(AdmissionLimits()), measure_lanes=False)
    lane = metrics.lane("m", "1")
    ran(lane, 4)
    lane.answered([(0.0, 0.1)], 0.2, 0.3, 0.4)
    lane.shed("expired", 1)
    lane.late_answer()
    assert not metrics.lanes
    assert metrics.statistics(0.0) == [VersionStatistics("m", "1")]
    metrics.retire("m", "1")
    assert not metrics.statistics(0.0)
