"""What a caller is told about the features of one request, when it asks.

Decides the words of the report only.
"""

from __future__ import annotations

import msgspec
import numpy as np

from featurecache.resolve import Filled, ServicePlan
from featurecache.status import Status

MAX_LISTED_ROWS = 1000
"""Statuses row by row are told up to here; counts always."""


class ViewReport(msgspec.Struct, omit_defaults=True):
    """How one view fared."""

    status: dict[str, int]
    """Rows by status."""
    worst_age_s: float | None
    """Of the rows whose values were used; None when none was."""
    rows: list[str] = []
    """The status of each row, in order; empty when all are PRESENT."""
    nulls: dict[str, int] = {}
    """Rows whose value was written as null, by column."""


class FeatureReport(msgspec.Struct):
    """How all of them fared."""

    defaulted_fraction: float
    views: dict[str, ViewReport]


def report(plan: ServicePlan, filled: Filled, now_us: int) -> str:
    """JSON: statuses, ages (seconds at ``now_us``) and nulls of each view of a completed request."""
    views: dict[str, ViewReport] = {}
    for use, read in zip(plan.uses, filled.reads, strict=True):
        statuses = read.statuses if read.statuses is not None else np.zeros(filled.rows, np.uint8)
        counts = np.bincount(statuses, minlength=len(Status)).tolist()
        # Defaults stand in rows that no writer ever made: both of their times are 0.
        event_us = read.table.event_us
        written_us = event_us[(event_us != 0) | (read.table.write_us != 0)]
        nulls = {name: int(read.table.nulls(name).sum()) for name in use.columns}
        views[use.title] = ViewReport(
            {status.name: counts[status] for status in Status if counts[status]},
            round(max(0, now_us - int(written_us.min())) / 1e6, 6) if len(written_us) else None,
            [Status(one).name for one in statuses[:MAX_LISTED_ROWS]] if statuses.any() else [],
            {name: count for name, count in nulls.items() if count},
        )
    fraction = round(filled.defaulted_fraction, 6)
    return msgspec.json.encode(FeatureReport(fraction, views)).decode()
