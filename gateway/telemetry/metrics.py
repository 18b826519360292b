"""Every metric of the gateway, declared here and nowhere else.

The request path adds to plain numbers, once per batch where it can; ``Metrics.collect`` names them for Prometheus
when the admin port is scraped. Nothing here may lock, format or look up labels on the request path.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.core.statistics import DurationSum, RequestDurations, VersionStatistics
from gateway.telemetry.histogram import LATENCY_BOUNDS_S, ROWS_BOUNDS, Histogram

if TYPE_CHECKING:
    from gateway.core.admission import Admission
    from gateway.core.batch import Batch

Reader = Callable[[], Iterable[tuple[tuple[str, ...], float]]]

_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]

MAX_RETIRED_VERSIONS = 64
"""Versions that are no longer served, but whose counters are still shown."""
MAX_BATCH_SIZES = 1024
"""Batch sizes that are counted apart for each version; what comes after them only counts as a whole."""


class LaneMetrics:
    """What one servable's lane counts."""

    __slots__ = (
        "answer_s",
        "answer_total_s",
        "batch_rows",
        "batches",
        "decode_s",
        "duration_s",
        "infer_total_s",
        "labels",
        "last_ended_s",
        "late_answers",
        "queue_age_s",
        "run_s",
        "runs_by_rows",
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
        self.last_ended_s: float | None = None
        self.infer_total_s = 0.0
        """Runs of batches, each counted once for every request that it answered."""
        self.answer_total_s = 0.0
        self.runs_by_rows: dict[int, list[float]] = {}
        """[batches, seconds] by rows in the batch."""

    def batch(self, batch: Batch[Any], ended_s: float, *, inline: bool) -> None:
        """One batch ran."""
        self.batches[batch.reason.value, "inline" if inline else "worker"] += 1
        rows, run_s = batch.rows, ended_s - batch.started_s
        self.batch_rows.observe(rows)
        self.run_s.observe(run_s)
        self.last_ended_s = ended_s
        runs = self.runs_by_rows.get(rows)
        if runs is not None:
            runs[0] += 1
            runs[1] += run_s
        elif len(self.runs_by_rows) < MAX_BATCH_SIZES:
            self.runs_by_rows[rows] = [1, run_s]

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
        self.infer_total_s += (ended_s - started_s) * len(times_s)
        self.answer_total_s += written_s - ended_s

    def shed(self, reason: str, count: int) -> None:
        """Requests left without an answer from the model."""
        self.shed_reasons[reason] += count

    def late_answer(self) -> None:
        """An answer was written after its deadline: this must stay zero."""
        self.late_answers += 1

    def statistics(self, wall_offset_s: float) -> VersionStatistics:
        """The same figures in Triton's terms; the offset leads from the monotonic clock to the wall's."""
        answered = sum(self.duration_s.counts)
        last_s = self.last_ended_s
        return VersionStatistics(
            name=self.labels[0],
            version=self.labels[1],
            last_inference_ms=0 if last_s is None else int((last_s + wall_offset_s) * 1e3),
            inference_count=int(self.batch_rows.total),
            execution_count=sum(self.batch_rows.counts),
            requests=RequestDurations(
                success=_duration(answered, self.duration_s.total),
                fail=DurationSum(self.shed_reasons.total()),
                queue=_duration(answered, self.queue_age_s.total),
                compute_input=_duration(answered, self.decode_s.total),
                compute_infer=_duration(answered, self.infer_total_s),
                compute_output=_duration(answered, self.answer_total_s),
            ),
            batches={
                rows: _duration(int(count), seconds)
                for rows, (count, seconds) in self.runs_by_rows.items()
            },
        )


class NullLaneMetrics:
    """Stands in for ``LaneMetrics`` where nothing is to be measured."""

    __slots__ = ()

    def batch(self, batch: Batch[Any], ended_s: float, *, inline: bool) -> None:
        return None

    def answered(
        self,
        times_s: Sequence[tuple[float, float]],
        started_s: float,
        ended_s: float,
        written_s: float,
    ) -> None:
        return None

    def shed(self, reason: str, count: int) -> None:
        return None

    def late_answer(self) -> None:
        return None


class FrontMetrics:
    """What the fronts count: one per process; fills the port ``FrontMeters``."""

    __slots__ = ("calls", "http_paths", "key_calls")

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """(protocol, outcome) of infer calls; the outcome is "ok" or an error code."""
        self.http_paths: Counter[str] = Counter()
        """Infer calls over HTTP by path: "fast_lane" or "asgi"."""
        self.key_calls: Counter[tuple[str, str]] = Counter()
        """(name of the API key, outcome) of infer calls; the keys file bounds the names."""


class Metrics(Collector):
    """All metrics of one process.

    A version that is loaded again goes on with its counters, which never fall while the process lives. Of versions
    that are not served any more, the last ``MAX_RETIRED_VERSIONS`` to go are still shown.
    """

    def __init__(self, admission: Admission, *, measure_lanes: bool = True) -> None:
        """Without ``measure_lanes`` there is nothing about models; the fronts' counts cost less than not counting."""
        self._measure_lanes = measure_lanes
        self._open_lanes: Counter[tuple[str, str]] = Counter()
        """Of each version: two while a reloaded one takes the place of its older self."""
        self._lanes: dict[tuple[str, str], LaneMetrics] = {}
        self._retired: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.fronts = FrontMetrics()
        self.traces: Callable[[], Mapping[str, int]] = dict
        """Traces by what became of them, where there are any."""
        self._admission = admission
        self._read: list[tuple[_Kind, str, str, tuple[str, ...], Reader]] = []

    def lane(self, model: str, version: str) -> LaneMetrics | NullLaneMetrics:
        """The meters of a new lane: those of the version's earlier lane, if it had one."""
        key = (model, version)
        self._open_lanes[key] += 1
        if not self._measure_lanes:
            return NullLaneMetrics()
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = lane = LaneMetrics(model, version)
        self._retired.pop(key, None)
        return lane

    def retire(self, model: str, version: str) -> None:
        """A lane of this version is gone; its counters stay, among those of the last versions that went."""
        key = (model, version)
        self._open_lanes[key] -= 1
        if self._open_lanes[key]:
            return
        del self._open_lanes[key]
        if not self._measure_lanes:
            return
        self._retired[key] = None
        if len(self._retired) > MAX_RETIRED_VERSIONS:
            oldest, _ = self._retired.popitem(last=False)
            del self._lanes[oldest]

    @property
    def lanes(self) -> list[LaneMetrics]:
        """Every version that has or had a lane, in the order of their first ones."""
        return list(self._lanes.values())

    def statistics(self, wall_offset_s: float) -> list[VersionStatistics]:
        """What the versions that have a lane now have done; the offset: wall clock minus monotonic clock."""
        if not self._measure_lanes:
            return [VersionStatistics(*key) for key in self._open_lanes]
        return [
            lane.statistics(wall_offset_s)
            for key, lane in self._lanes.items()
            if key in self._open_lanes
        ]

    def gauge(self, name: str, text: str, labels: tuple[str, ...], read: Reader) -> None:
        """A value that is read when somebody scrapes."""
        self._read.append((GaugeMetricFamily, name, text, labels, read))

    def counter(self, name: str, text: str, labels: tuple[str, ...], read: Reader) -> None:
        """A count that somebody else keeps, read when somebody scrapes."""
        self._read.append((CounterMetricFamily, name, text, labels, read))

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
        for kind, name, text, labels, read in self._read:
            family = kind(name, text, labels=labels)
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
        for lane in self._lanes.values():
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
        for lane in self._lanes.values():
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
        traces = CounterMetricFamily(
            "headrace_traces",
            "Calls that were picked for a trace: taken, or one too many in that second (over_limit).",
            labels=("outcome",),
        )
        for outcome, count in self.traces().items():
            traces.add_metric((outcome,), count)
        keys = CounterMetricFamily(
            "headrace_key_calls", "Infer calls by API key and outcome.", labels=("key", "outcome")
        )
        for key, count in self.fronts.key_calls.items():
            keys.add_metric(key, count)
        yield from (calls, paths, traces, keys)


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.total)


def _duration(count: int, seconds: float) -> DurationSum:
    return DurationSum(count, max(0, round(seconds * 1e9)))
