"""One answer from the answers of many workers.

Pure: metrics, readiness and index entries of each worker come in, those of the instance go out. It must never invent
a value: what a dead worker had counted is added from its last report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.messages import ModelStatus

Labels: TypeAlias = tuple[tuple[str, str], ...]
SampleKey: TypeAlias = tuple[str, Labels]

SUMMED = frozenset({"counter", "histogram"})
ALL_MUST = frozenset(
    {
        "headrace_model_ready",
        "headrace_feature_store_up",
        "headrace_rollout_store_up",
        "headrace_rollout_plan_revision",
    }
)
"""Gauges of which the instance has the least: ready is only what every worker serves."""
ANY_MAY = frozenset(
    {
        "headrace_feature_breaker_state",
        "headrace_rollout_plan_in_trouble",
        "headrace_rollout_state",
        "headrace_rollout_weight_percent",
        "headrace_rollout_sample_ratio_log_evidence",
        "headrace_shadow_differing_share",
    }
)
"""Gauges of which the instance has the most: one worker in trouble is what has to be seen."""
OF_THE_PROCESS = ("process_", "python_")
"""Metrics that mean nothing when they are added up: each worker's are shown under a label of its own."""


class Family(msgspec.Struct):
    """A metric with its samples, as it travels between processes."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


def families_of(collector: Collector) -> list[Family]:
    """What a collector has to say now."""
    return [
        Family(
            one.name,
            one.documentation,
            one.type,
            [(sample.name, dict(sample.labels), float(sample.value)) for sample in one.samples],
        )
        for one in collector.collect()
    ]


def merge_families(
    workers: Iterable[tuple[str, list[Family]]], departed: Iterable[Family] = ()
) -> list[Family]:
    """Metrics of the instance, from (worker's name, its families); ``departed`` are last words of the dead.

    Counters and histograms are added up over the living and the dead, gauges over the living,
    but for those that are no amounts (``ALL_MUST``, ``ANY_MAY``).
    """
    merged: dict[str, tuple[Family, dict[SampleKey, float]]] = {}
    for worker, families in workers:
        for family in families:
            _add(merged, family, worker)
    for family in departed:
        if family.kind in SUMMED and not family.name.startswith(OF_THE_PROCESS):
            _add(merged, family, "")
    return [
        Family(
            family.name,
            family.text,
            family.kind,
            [(name, dict(labels), value) for (name, labels), value in samples.items()],
        )
        for family, samples in merged.values()
    ]


def _add(
    merged: dict[str, tuple[Family, dict[SampleKey, float]]], family: Family, worker: str
) -> None:
    _, samples = merged.setdefault(family.name, (family, {}))
    of_the_process = family.name.startswith(OF_THE_PROCESS)
    for name, labels, value in family.samples:
        if of_the_process:
            labels = {**labels, "worker": worker}
        key = (name, tuple(sorted(labels.items())))
        if key not in samples:
            samples[key] = value
        elif family.name in ALL_MUST:
            samples[key] = min(samples[key], value)
        elif family.name in ANY_MAY:
            samples[key] = max(samples[key], value)
        else:
            samples[key] += value


class Families(Collector):
    """Families as ``prometheus_client`` wants them for its exposition."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The same samples, none of them checked again."""
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def merge_indexes(indexes: Sequence[list[ModelStatus]]) -> list[ModelStatus]:
    """The index of the instance: READY is what every worker has ready; else the reason of the first who has not."""
    found: dict[tuple[str, str], ModelStatus] = {}
    seen: dict[tuple[str, str], int] = {}
    for index in indexes:
        for status in index:
            key = (status.name, status.version)
            seen[key] = seen.get(key, 0) + 1
            known = found.setdefault(key, status)
            if known.state == "READY" and status.state != "READY":
                found[key] = status
    for key, status in found.items():
        if status.state == "READY" and seen[key] < len(indexes):
            found[key] = ModelStatus(
                status.name, status.version, "UNAVAILABLE", "not loaded by every worker yet"
            )
    return sorted(found.values(), key=lambda one: (one.name, -int(one.version or 0), one.version))


def merge_ready(answers: Sequence[tuple[bool, str]]) -> tuple[bool, str]:
    """Ready as long as one worker is: the others' connections are taken over. Why not, from the first."""
    for is_ready, why in answers:
        if is_ready:
            return True, why
    return answers[0] if answers else (False, "no worker is running")
