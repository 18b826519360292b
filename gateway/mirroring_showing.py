"""What people and Prometheus are told about shadows: numbers of their own, apart from those of live traffic.

Decides the names. It must never count anything itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.pipeline.shadow_copies import ShadowCopies
from gateway.pipeline.shadow_meters import ShadowMeters
from gateway.telemetry.metrics import Metrics


def export(copies: ShadowCopies, meters: ShadowMeters, metrics: Metrics) -> None:
    """Declare what is read when somebody scrapes."""
    labels = ("model", "version")
    metrics.counter(
        "headrace_shadow_copies",
        "Copies of requests that a shadow was asked, by how they ended: equal, differing, uncompared, failed, late, "
        "refused, too_large, dropped.",
        (*labels, "outcome"),
        lambda: [
            ((*key, outcome), n)
            for key, outcomes in meters.outcomes().items()
            for outcome, n in outcomes.items()
        ],
    )
    metrics.counter(
        "headrace_shadow_shed",
        "Copies that were not made, by reason.",
        ("reason",),
        lambda: [((reason,), n) for reason, n in meters.shed.items()],
    )
    metrics.gauge(
        "headrace_shadow_copies_in_flight",
        "Copies taken and not yet compared.",
        (),
        lambda: [((), copies.budget.copies_inside)],
    )
    metrics.gauge(
        "headrace_shadow_bytes",
        "Of the copies in flight: their inputs and both answers.",
        (),
        lambda: [((), copies.budget.bytes_inside)],
    )
    metrics.gauge(
        "headrace_shadow_differing_share",
        "Of compared answers, those that differ from the champion's; of the champion itself: noise.",
        labels,
        lambda: _shares(copies),
    )
    metrics.counter(
        "headrace_shadow_batches",
        "Batches of copies that ran.",
        labels,
        lambda: [(key, lane.batches) for key, lane in meters.lanes().items()],
    )
    metrics.counter(
        "headrace_shadow_run_seconds",
        "Time in which batches of copies ran.",
        labels,
        lambda: [(key, lane.run_s) for key, lane in meters.lanes().items()],
    )


def _shares(copies: ShadowCopies) -> Iterable[tuple[tuple[str, str], float]]:
    for model, followed in copies.models.items():
        for version, report in followed.reports.items():
            share = report.total.share_differing
            if share is not None:
                yield (model, version), share


def snapshot(copies: ShadowCopies, meters: ShadowMeters) -> dict[str, Any]:
    """For ``/status``."""
    return {
        "copies_in_flight": copies.budget.copies_inside,
        "bytes": copies.budget.bytes_inside,
        "shed": dict(meters.shed),
        "copies": [
            {"model": model, "version": version, **outcomes}
            for (model, version), outcomes in meters.outcomes().items()
            if outcomes
        ],
        "compared": [
            {
                "model": model,
                "version": version,
                "is_floor": report.is_floor,
                "answers": report.total.answers,
                "differing_share": report.total.share_differing,
                "flipped_share": report.total.share_flipped,
                "score_pairs": report.scores.pairs,
            }
            for model, followed in copies.models.items()
            for version, report in followed.reports.items()
        ],
    }
