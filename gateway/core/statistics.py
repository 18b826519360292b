"""What one version of a model has done since the process started, in the terms of Triton's statistics extension.

Values and their sum over several workers; nothing here measures. How our stages stand for Triton's:

- ``success``: answered requests, from the last byte received to the answer written;
- ``fail``: requests that got no answer from the model, for whatever reason; their time is not kept (0 ns);
- ``queue``: from queued to the batch started;
- ``compute_input``: from received to queued, which is decoding, admission and routing;
- ``compute_infer``: the run of the request's batch, with copying its rows together and apart;
- ``compute_output``: encoding and writing, a batch's mean for each of its requests.

As in Triton, ``queue`` and the three ``compute`` figures count a batch once for each request that it answered;
``execution_count`` and the figures by batch size count it once. A request that was cut into several batches counts
with its last one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class DurationSum(msgspec.Struct, frozen=True):
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: DurationSum) -> DurationSum:
        return DurationSum(self.count + other.count, self.ns + other.ns)


class RequestDurations(msgspec.Struct, frozen=True):
    """Where the requests of one version spent their time."""

    success: DurationSum = DurationSum()
    fail: DurationSum = DurationSum()
    queue: DurationSum = DurationSum()
    compute_input: DurationSum = DurationSum()
    compute_infer: DurationSum = DurationSum()
    compute_output: DurationSum = DurationSum()

    def __add__(self, other: RequestDurations) -> RequestDurations:
        return RequestDurations(
            **{
                name: getattr(self, name) + getattr(other, name)
                for name in RequestDurations.__struct_fields__
            }
        )


class VersionStatistics(msgspec.Struct, frozen=True):
    """One version of one model."""

    name: str
    version: str
    last_inference_ms: int = 0
    """When the last batch ended, since 1970; 0 before the first."""
    inference_count: int = 0
    """Rows that ran."""
    execution_count: int = 0
    """Batches that ran."""
    requests: RequestDurations = RequestDurations()
    batches: dict[int, DurationSum] = {}
    """Runs by rows in the batch."""


def merge(workers: Iterable[Iterable[VersionStatistics]]) -> list[VersionStatistics]:
    """The sum over several workers: one entry for each version, by name, older versions first."""
    found: dict[tuple[str, str], VersionStatistics] = {}
    for worker in workers:
        for one in worker:
            key = (one.name, one.version)
            known = found.get(key)
            found[key] = one if known is None else _sum(known, one)
    return sorted(found.values(), key=_by_name)


def _sum(one: VersionStatistics, other: VersionStatistics) -> VersionStatistics:
    batches = dict(one.batches)
    for rows, runs in other.batches.items():
        batches[rows] = batches.get(rows, DurationSum()) + runs
    return VersionStatistics(
        name=one.name,
        version=one.version,
        last_inference_ms=max(one.last_inference_ms, other.last_inference_ms),
        inference_count=one.inference_count + other.inference_count,
        execution_count=one.execution_count + other.execution_count,
        requests=one.requests + other.requests,
        batches=batches,
    )


def _by_name(one: VersionStatistics) -> tuple[str, int, str]:
    return one.name, int(one.version) if one.version.isdecimal() else 0, one.version
