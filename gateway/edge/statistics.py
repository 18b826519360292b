"""Statistics in the protocol's own words.

A plain dictionary, which the HTTP side writes as JSON and the gRPC side parses into a message, so that both say the
same. It must never measure anything; ``core/statistics.py`` says what each figure stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.core.statistics import DurationSum, RequestDurations, VersionStatistics

_NOTHING = DurationSum()


def model_statistics(statistics: Iterable[VersionStatistics]) -> dict[str, Any]:
    """``GET /v2/models[/{m}[/versions/{v}]]/stats`` and ``ModelStatistics``."""
    return {"model_stats": [_version(one) for one in statistics]}


def _version(one: VersionStatistics) -> dict[str, Any]:
    requests = one.requests
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {
            **{
                name: _duration(getattr(requests, name))
                for name in RequestDurations.__struct_fields__
            },
            # Answers are never taken from a cache.
            "cache_hit": _duration(_NOTHING),
            "cache_miss": _duration(_NOTHING),
        },
        "response_stats": {},  # of models that answer a request more than once: there are none
        "batch_stats": [_batch(rows, runs) for rows, runs in sorted(one.batches.items())],
        "memory_usage": [],
    }


def _batch(rows: int, runs: DurationSum) -> dict[str, Any]:
    # Rows are copied together and apart within the run: the time of both is part of it.
    copied = _duration(DurationSum(runs.count, 0))
    return {
        "batch_size": rows,
        "compute_input": copied,
        "compute_infer": _duration(runs),
        "compute_output": copied,
    }


def _duration(one: DurationSum) -> dict[str, int]:
    return {"count": one.count, "ns": one.ns}
