"""What one process shows of itself: the gauges that are read when somebody scrapes, and the snapshot for ``/status``.

Part of the composition root. It must never keep anything: all of it is made when somebody asks.
"""

from __future__ import annotations

from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from gateway.edge.access import Access
from gateway.edge.data_ports import DataPorts
from gateway.feature_serving import FeatureServing
from gateway.rollout_serving import RolloutServing
from gateway.serving import Serving


def make_registry(serving: Serving, ports: DataPorts) -> CollectorRegistry:
    """Every metric of the process."""
    metrics = serving.metrics
    metrics.gauge(
        "headrace_connections",
        "Open connections by protocol.",
        ("protocol",),
        lambda: [
            (("http",), len(ports.http_connections)),
            (("grpc",), len(ports.grpc_connections)),
        ],
    )
    metrics.gauge(
        "headrace_queue_requests",
        "Requests waiting in a lane.",
        ("model", "version"),
        lambda: [
            ((one.name, one.version), lane.queue.queued_requests)
            for one, lane in serving.lanes.items()
        ],
    )
    metrics.gauge(
        "headrace_model_ready",
        "1 for a version that is served, 0 for one that could not be loaded.",
        ("model", "version"),
        lambda: [
            ((one.name, one.version), float(one.state == "READY")) for one in serving.table.statuses
        ],
    )
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def snapshot_of(
    serving: Serving,
    features: FeatureServing | None,
    rollouts: RolloutServing | None,
    access: Access | None,
) -> dict[str, Any]:
    """Plain values about everything that goes on between the fronts and the backends."""
    return {
        "infer_calls": {
            f"{protocol} {outcome}": count
            for (protocol, outcome), count in serving.metrics.fronts.calls.items()
        },
        "admission": {
            "requests_inside": serving.admission.requests_inside,
            "bytes_inside": serving.admission.bytes_inside,
            "requests_refused": serving.admission.requests_refused,
        },
        "models": [msgspec.to_builtins(status) for status in serving.table.statuses],
        "lanes": [
            {
                "model": one.name,
                "version": one.version,
                "max_batch_size": one.max_batch_size,
                "batchable": serving.lane_facts[one].why_batched,
                **msgspec.to_builtins(lane.queue.snapshot()),
            }
            for one, lane in serving.lanes.items()
        ],
        "features": None if features is None else features.snapshot(),
        "rollouts": None if rollouts is None else rollouts.snapshot(),
        "keys": [] if access is None else access.snapshot(),
    }
