"""The gateway's own counters against the book's outcomes, when the day is over.

Decides whether what operators will read is what happened. A call that is cancelled while the gateway hands out the
answers of its batch may be counted as either; how many of those there were is known exactly.
"""

from __future__ import annotations

from collections import Counter

from gateway.core.batch import RefusalReason
from gateway.serving import Serving
from tests.sim.lane_book import LaneBook

AFTER_ADMISSION = ("expired", "finished_late", "cancelled", "failed")


def metrics_problem(lane: LaneBook, outcomes: Counter[str], unclear: int) -> str:
    """What is wrong with the counters of one lane; ``unclear`` calls may be counted as cancelled or not."""
    meters = lane.meters
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
    return _batches_problem(lane, answered)


def _batches_problem(lane: LaneBook, answered: int) -> str:
    meters = lane.meters
    batches, rows = meters.batches.total(), int(meters.batch_rows.total)
    if (batches, rows) != (lane.batches, lane.batched_rows):
        return f"{batches} batches of {rows} rows, were {lane.batches} of {lane.batched_rows}"
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
