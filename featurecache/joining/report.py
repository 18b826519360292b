"""What a caller is told about the features of one request, when it asks.

Decides the words of the report only.
"""

from __future__ import annotations

import msgspec
import numpy as np

from featurecache.joining.resolve import Completed, ServicePlan
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


def report(plan: ServicePlan, completed: Completed, now_us: int) -> str:
    """JSON: statuses, ages (seconds at ``now_us``) and nulls of each view of a completed request."""
    views: dict[str, ViewReport] = {}
    for use, view in zip(plan.uses, completed.views, strict=True):
        table = use.table(view.rows)
        given = view.statuses
        statuses = given if given is not None else np.zeros(completed.rows, np.uint8)
        counts = np.bincount(statuses, minlength=len(Status)).tolist()
        # Defaults stand in rows that no writer ever made: both of their times are 0.
        event_us = table.event_us
        written_us = event_us[(event_us != 0) | (table.write_us != 0)]
        nulls = {name: int(table.nulls(name).sum()) for name in use.columns}
        views[use.title] = ViewReport(
            {status.name: counts[status] for status in Status if counts[status]},
            round(max(0, now_us - int(written_us.min())) / 1e6, 6) if len(written_us) else None,
            [Status(one).name for one in statuses[:MAX_LISTED_ROWS]] if statuses.any() else [],
            {name: count for name, count in nulls.items() if count},
        )
    fraction = round(completed.defaulted_fraction, 6)
    return msgspec.json.encode(FeatureReport(fraction, views)).decode()
