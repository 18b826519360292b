"""Statistics of several workers become those of one server."""

from __future__ import annotations

import msgspec

from gateway.core.statistics import DurationSum, RequestDurations, VersionStatistics, merge


def one(version: str, last_ms: int, rows: int) -> VersionStatistics:
    return VersionStatistics(
        name="m",
        version=version,
        last_inference_ms=last_ms,
        inference_count=rows,
        execution_count=1,
        requests=RequestDurations(
            success=DurationSum(rows, 100), fail=DurationSum(1, 0), queue=DurationSum(rows, 7)
        ),
        batches={rows: DurationSum(1, 50)},
    )


def test_equal_versions_are_summed() -> None:
    [found] = merge([[one("1", 500, 3)], [one("1", 900, 3)], [one("1", 700, 4)]])
    assert found.last_inference_ms == 900
    assert (found.inference_count, found.execution_count) == (10, 3)
    assert found.requests.success == DurationSum(10, 300)
    assert found.requests.fail == DurationSum(3, 0)
    assert found.requests.queue == DurationSum(10, 21)
    assert found.requests.compute_infer == DurationSum()
    assert found.batches == {3: DurationSum(2, 100), 4: DurationSum(1, 50)}


def test_what_one_worker_knows_is_kept_and_versions_are_in_order() -> None:
    found = merge([[one("10", 1, 1)], [], [one("2", 1, 1), one("9", 1, 1)]])
    assert [each.version for each in found] == ["2", "9", "10"]


def test_merging_changes_nothing_that_was_given() -> None:
    given = one("1", 1, 2)
    merge([[given], [one("1", 2, 5)]])
    assert given.batches == {2: DurationSum(1, 50)}


def test_they_survive_the_way_between_processes() -> None:
    given = [one("1", 1, 2), one("2", 1, 4)]
    sent = msgspec.msgpack.encode(given)
    assert msgspec.msgpack.decode(sent, type=list[VersionStatistics]) == given
    assert msgspec.json.decode(msgspec.json.encode(given), type=list[VersionStatistics]) == given
