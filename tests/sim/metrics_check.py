"""The gateway's own counters against the book's outcomes, when the day is over.

Decides whether what operators will read is what happened. A call that is cancelled while the gateway hands out the
answers of its batch may be counted as either; how many of those there were is known exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gateway.core.batch import RefusalReason
from gateway.serving import Serving
from gateway.supervisor.merge import SUMMED, Family
from tests.sim.lane_book import LaneBook

AFTER_ADMISSION = ("expired", "finished_late", "cancelled", "failed")


def metrics_problem(lanes: Sequence[LaneBook], outcomes: Counter[str], unclear: int) -> str:
    """What is wrong with the counters of one version; ``unclear`` calls may be counted as cancelled or not.

    ``lanes`` are all that the version has had: it goes on with its counters when it is loaded again.
    """
    meters = lanes[0].meters
    if any(one.meters is not meters for one in lanes):
        return "it started to count anew when it was loaded again"
    shed = meters.shed_reasons
    answered = sum(meters.duration_s.counts)
    known = {reason.value for reason in RefusalReason} | set(AFTER_ADMISSION)
    if set(shed) - known:
        return f"unknown reasons {set(shed) - known}"
    for reason in RefusalReason:
        if shed[reason.value] != outcomes[reason.value]:
            return f"{reason.value}: counted {shed[reason.value]}, were {outcomes[reason.value]}"
    offered = outcomes.total()
    if answered + shed.total() != offered:
        return f"{answered} answers + {dict(shed)} are not {offered} calls ({dict(outcomes)})"
    for what, counted, were in (
        ("answers", answered, outcomes["answer"]),
        ("late", shed["expired"] + shed["finished_late"], outcomes["deadline_exceeded"]),
        ("failed", shed["failed"], outcomes["internal"] + outcomes["invalid_argument"]),
    ):
        if not were <= counted <= were + unclear:
            return f"{what}: counted {counted}, were {were}, unclear {unclear}"
    if shed["cancelled"] + unclear != outcomes["cancelled"]:
        return f"cancelled: counted {shed['cancelled']}, were {outcomes['cancelled']} - {unclear}"
    return _batches_problem(lanes, answered)


def _batches_problem(lanes: Sequence[LaneBook], answered: int) -> str:
    meters = lanes[0].meters
    batches, rows = meters.batches.total(), int(meters.batch_rows.total)
    were = (sum(one.batches for one in lanes), sum(one.batched_rows for one in lanes))
    if (batches, rows) != were:
        return f"{batches} batches of {rows} rows, were {were[0]} of {were[1]}"
    if sum(meters.batch_rows.counts) != batches or sum(meters.run_s.counts) != batches:
        return "batches are not counted once each"
    for name in ("decode_s", "queue_age_s"):
        if sum(getattr(meters, name).counts) != answered:
            return f"{name} does not count every answer once"
    return ""


def exposition_problem(serving: Serving, outcomes: Counter[str]) -> str:
    """Whether what is scraped is what was counted."""
    scraped: Counter[str] = Counter()
    for family in serving.metrics.collect():
        for sample in family.samples:
            scraped[sample.name] += int(sample.value)
    if scraped["headrace_inflight_requests"] or scraped["headrace_inflight_bytes"]:
        return "something is in flight after the end"
    counted = scraped["headrace_request_duration_seconds_count"]
    counted += scraped["headrace_shed_requests_total"]
    return "" if counted == outcomes.total() else f"{counted} scraped, {outcomes.total()} calls"


class NeverBackwards:
    """Counters as they were read last: nothing of them may be less, or gone, when they are read again."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def problem(self, families: Iterable[Family]) -> str:
        """What fell since the last time; empty when nothing did."""
        now: dict[str, float] = {}
        for family in families:
            if family.kind in SUMMED:
                for name, labels, value in family.samples:
                    now[f"{name}{sorted(labels.items())}"] = value
        before, self._seen = self._seen, now
        for name, value in before.items():
            if now.get(name, 0.0) < value:
                return f"{name} fell from {value} to {now.get(name, 0.0)}"
        return ""
