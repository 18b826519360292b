from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from gateway.messages import ModelStatus
from gateway.supervisor.merge import (
    Families,
    Family,
    families_of,
    merge_families,
    merge_indexes,
    merge_ready,
)


def worker(calls: int, waiting: int, ready: int, seconds: float) -> list[Family]:
    registry = CollectorRegistry()
    Counter("headrace_calls", "Calls.", ["outcome"], registry=registry).labels("ok").inc(calls)
    Gauge("headrace_queue_requests", "Waiting.", registry=registry).set(waiting)
    Gauge("headrace_model_ready", "Ready.", ["model"], registry=registry).labels("m").set(ready)
    Histogram("headrace_s", "Time.", buckets=[1, 2], registry=registry).observe(seconds)
    Gauge("process_open_fds", "Files.", registry=registry).set(7)
    return [
        Family(
            one.name,
            one.text,
            one.kind,
            [sample for sample in one.samples if not sample[0].endswith("_created")],
        )
        for one in families_of(registry)
    ]


def value(families: list[Family], name: str, **labels: str) -> float:
    [found] = [
        sample_value
        for family in families
        for sample_name, sample_labels, sample_value in family.samples
        if sample_name == name and sample_labels == labels
    ]
    return found


def test_counters_histograms_and_gauges_are_added_up() -> None:
    merged = merge_families([("0", worker(3, 2, 1, 0.5)), ("1", worker(4, 5, 1, 1.5))])
    assert value(merged, "headrace_calls_total", outcome="ok") == 7
    assert value(merged, "headrace_queue_requests") == 7
    assert value(merged, "headrace_s_bucket", le="1.0") == 1
    assert value(merged, "headrace_s_bucket", le="2.0") == 2
    assert value(merged, "headrace_s_sum") == 2.0
    assert value(merged, "headrace_s_count") == 2


def test_ready_is_what_every_worker_serves() -> None:
    merged = merge_families([("0", worker(0, 0, 1, 0)), ("1", worker(0, 0, 0, 0))])
    assert value(merged, "headrace_model_ready", model="m") == 0


def test_one_worker_in_trouble_is_seen() -> None:
    def store_of(up: float, breaker: float) -> list[Family]:
        return [
            Family(name, "", "gauge", [(name, {}, number)])
            for name, number in (
                ("headrace_feature_store_up", up),
                ("headrace_feature_breaker_state", breaker),
            )
        ]

    workers = [store_of(1, 0), store_of(0, 2), store_of(1, 1)]
    merged = merge_families([(str(seat), one) for seat, one in enumerate(workers)])
    assert value(merged, "headrace_feature_store_up") == 0
    assert value(merged, "headrace_feature_breaker_state") == 2


def test_what_belongs_to_a_process_keeps_its_worker() -> None:
    merged = merge_families([("0", worker(0, 0, 1, 0)), ("1", worker(0, 0, 1, 0))])
    assert value(merged, "process_open_fds", worker="0") == 7
    assert value(merged, "process_open_fds", worker="1") == 7


def test_what_the_dead_had_counted_stays_and_what_they_held_goes() -> None:
    merged = merge_families([("0", worker(3, 2, 1, 0.5))], worker(40, 50, 0, 1.5))
    assert value(merged, "headrace_calls_total", outcome="ok") == 43
    assert value(merged, "headrace_s_count") == 2
    assert value(merged, "headrace_queue_requests") == 2
    assert value(merged, "headrace_model_ready", model="m") == 1


def test_many_deaths_are_kept_as_one() -> None:
    deaths = merge_families((), [*worker(1, 1, 1, 1), *worker(2, 1, 1, 1)])
    assert [one.name for one in deaths] == ["headrace_calls", "headrace_s"]
    deaths = merge_families((), [*deaths, *worker(4, 1, 1, 1)])
    assert [one.name for one in deaths] == ["headrace_calls", "headrace_s"]
    merged = merge_families([("0", worker(8, 0, 1, 0))], deaths)
    assert value(merged, "headrace_calls_total", outcome="ok") == 15


def test_a_scrape_of_the_merged_reads_like_one_of_a_worker() -> None:
    one = worker(3, 2, 1, 0.5)
    text = generate_latest(Families(merge_families([("0", one)]))).decode()  # type: ignore[arg-type]
    assert 'headrace_calls_total{outcome="ok"} 3.0' in text
    assert "# TYPE headrace_s histogram" in text
    assert 'headrace_s_bucket{le="+Inf"} 1.0' in text


def ready(name: str, version: str = "1") -> ModelStatus:
    return ModelStatus(name, version, "READY", "")


def failed(name: str, reason: str) -> ModelStatus:
    return ModelStatus(name, "1", "UNAVAILABLE", reason)


def test_an_index_of_equal_workers_is_theirs() -> None:
    index = [ready("a", "2"), ready("a"), failed("b", "broken")]
    assert merge_indexes([index, index]) == index


def test_ready_is_only_what_every_worker_has_ready() -> None:
    [merged] = merge_indexes([[ready("a")], [failed("a", "no memory")]])
    assert (merged.state, merged.reason) == ("UNAVAILABLE", "no memory")
    [merged] = merge_indexes([[failed("a", "no memory")], [ready("a")]])
    assert (merged.state, merged.reason) == ("UNAVAILABLE", "no memory")
    [merged] = merge_indexes([[ready("a")], []])
    assert merged.state == "UNAVAILABLE"
    assert "every worker" in merged.reason


def test_the_instance_is_ready_as_long_as_one_worker_is() -> None:
    assert merge_ready([(False, "draining"), (True, "")]) == (True, "")
    assert merge_ready([(False, "draining"), (False, "other")]) == (False, "draining")
    assert merge_ready([]) == (False, "no worker is running")
