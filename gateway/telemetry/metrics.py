"""Every metric of the gateway, declared here and nowhere else.

The request path adds to plain numbers, once per batch where it can; ``Metrics.collect`` names them for Prometheus
when the admin port is scraped. Nothing here may lock, format or look up labels on the request path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.telemetry.histogram import LATENCY_BOUNDS_S, ROWS_BOUNDS, Histogram

if TYPE_CHECKING:
    from gateway.core.admission import Admission
    from gateway.core.batch import Batch

GaugeReader = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class LaneMetrics:
    """What one servable's lane counts."""

    __slots__ = (
        "answer_s",
        "batch_rows",
        "batches",
        "decode_s",
        "duration_s",
        "labels",
        "late_answers",
        "queue_age_s",
        "run_s",
        "shed_reasons",
    )

    def __init__(self, model: str, version: str) -> None:
        self.labels = (model, version)
        self.decode_s = Histogram(LATENCY_BOUNDS_S)
        self.queue_age_s = Histogram(LATENCY_BOUNDS_S)
        self.run_s = Histogram(LATENCY_BOUNDS_S)
        self.answer_s = Histogram(LATENCY_BOUNDS_S)
        self.duration_s = Histogram(LATENCY_BOUNDS_S)
        self.batch_rows = Histogram(ROWS_BOUNDS)
        self.batches: Counter[tuple[str, str]] = Counter()
        self.shed_reasons: Counter[str] = Counter()
        self.late_answers = 0

    def batch(self, batch: Batch[Any], ended_s: float, *, inline: bool) -> None:
        """One batch ran."""
        self.batches[batch.reason.value, "inline" if inline else "worker"] += 1
        self.batch_rows.observe(batch.rows)
        self.run_s.observe(ended_s - batch.started_s)

    def answered(
        self,
        times_s: Sequence[tuple[float, float]],
        started_s: float,
        ended_s: float,
        written_s: float,
    ) -> None:
        """Requests of one batch were written; ``times_s`` are their (received, enqueued) times."""
        self.decode_s.observe_all([enqueued - received for received, enqueued in times_s])
        self.queue_age_s.observe_all([started_s - enqueued for _, enqueued in times_s])
        self.duration_s.observe_all([written_s - received for received, _ in times_s])
        self.answer_s.observe((written_s - ended_s) / len(times_s))

    def shed(self, reason: str, count: int) -> None:
        """Requests left without an answer from the model."""
        self.shed_reasons[reason] += count

    def late_answer(self) -> None:
        """An answer was written after its deadline: this must stay zero."""
        self.late_answers += 1


class FrontMetrics:
    """What the fronts count: one per process; fills the port ``FrontMeters``."""

    __slots__ = ("calls", "http_paths")

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """(protocol, outcome) of infer calls; the outcome is "ok" or an error code."""
        self.http_paths: Counter[str] = Counter()
        """Infer calls over HTTP by path: "fast_lane" or "asgi"."""


class Metrics(Collector):
    """All metrics of one process."""

    def __init__(self, admission: Admission) -> None:
        self.lanes: list[LaneMetrics] = []
        self.fronts = FrontMetrics()
        self._admission = admission
        self._gauges: list[tuple[str, str, tuple[str, ...], GaugeReader]] = []

    def lane(self, model: str, version: str) -> LaneMetrics:
        """The meters of a new lane."""
        lane = LaneMetrics(model, version)
        self.lanes.append(lane)
        return lane

    def gauge(self, name: str, text: str, labels: tuple[str, ...], read: GaugeReader) -> None:
        """A value that is read when somebody scrapes."""
        self._gauges.append((name, text, labels, read))

    def collect(self) -> Iterator[Metric]:
        """The families, for ``prometheus_client``'s exposition."""
        yield from self._histograms()
        yield from self._counters()
        admission = self._admission
        inside: tuple[tuple[str, str, float], ...] = (
            (
                "headrace_inflight_requests",
                "Requests inside the gateway.",
                admission.requests_inside,
            ),
            ("headrace_inflight_bytes", "Bytes of the requests inside.", admission.bytes_inside),
        )
        for name, text, value in inside:
            yield GaugeMetricFamily(name, text, value=value)
        for name, text, labels, read in self._gauges:
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in read():
                family.add_metric(values, value)
            yield family

    def _histograms(self) -> Iterator[Metric]:
        labels = ("model", "version")
        whole = HistogramMetricFamily(
            "headrace_request_duration_seconds",
            "From the last byte of a request received to its answer written.",
            labels=labels,
        )
        stages = HistogramMetricFamily(
            "headrace_stage_duration_seconds",
            "Time by stage: decode (received to queued), run (one batch), "
            "answer (encode and write: a batch's mean per request).",
            labels=(*labels, "stage"),
        )
        age = HistogramMetricFamily(
            "headrace_queue_age_seconds", "Time from queued to batch started.", labels=labels
        )
        rows = HistogramMetricFamily("headrace_batch_rows", "Rows in a batch.", labels=labels)
        for lane in self.lanes:
            _add(whole, lane.labels, lane.duration_s)
            _add(stages, (*lane.labels, "decode"), lane.decode_s)
            _add(stages, (*lane.labels, "run"), lane.run_s)
            _add(stages, (*lane.labels, "answer"), lane.answer_s)
            _add(age, lane.labels, lane.queue_age_s)
            _add(rows, lane.labels, lane.batch_rows)
        yield from (whole, stages, age, rows)

    def _counters(self) -> Iterator[Metric]:
        batches = CounterMetricFamily(
            "headrace_batches",
            "Batches by why they left the queue (full, idle, waited, deadline) and where they ran.",
            labels=("model", "version", "reason", "execution"),
        )
        shed = CounterMetricFamily(
            "headrace_shed_requests",
            "Requests that got no answer from the model, by reason.",
            labels=("model", "version", "reason"),
        )
        late = CounterMetricFamily(
            "headrace_late_answers",
            "Answers written after their deadline; must stay zero.",
            labels=("model", "version"),
        )
        for lane in self.lanes:
            for (reason, execution), count in lane.batches.items():
                batches.add_metric((*lane.labels, reason, execution), count)
            for reason, count in lane.shed_reasons.items():
                shed.add_metric((*lane.labels, reason), count)
            late.add_metric(lane.labels, lane.late_answers)
        yield from (batches, shed, late)
        calls = CounterMetricFamily(
            "headrace_infer_calls",
            "Infer calls by protocol and outcome.",
            labels=("protocol", "outcome"),
        )
        for key, count in self.fronts.calls.items():
            calls.add_metric(key, count)
        paths = CounterMetricFamily(
            "headrace_http_infer_paths",
            "Infer calls over HTTP by the path they took through the server.",
            labels=("path",),
        )
        for path, count in self.fronts.http_paths.items():
            paths.add_metric((path,), count)
        yield from (calls, paths)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.total)
