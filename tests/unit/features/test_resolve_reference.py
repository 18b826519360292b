"""Hundreds of requests, each with its own definitions, schemas, store and faults, against the reference."""

from __future__ import annotations

from featurecache.status import Status
from tests.unit.features.request_days import RequestDay

DAYS = 500


def test_requests_are_completed_as_the_reference_says() -> None:
    ends = [RequestDay(seed).check() for seed in range(DAYS)]
    filled = [one for one in ends if one is not None]
    assert DAYS / 5 < len(filled) < DAYS * 4 / 5  # neither end is rare
    assert sum(one.defaulted_values > 0 for one in filled) > DAYS / 25
    reads = [read for one in filled for read in one.views]
    told = {
        status for read in reads if read.statuses is not None for status in read.statuses.tolist()
    }
    assert told == {Status.PRESENT, Status.MISSING, Status.STALE, Status.DEFAULTED, Status.ERROR}
