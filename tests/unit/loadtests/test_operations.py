"""What the operations bench makes of what its clients saw."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from loadtests.failures import BenchError, RowError
from loadtests.operations_client import Line, Seen
from loadtests.operations_kill import KillSample, losses_of
from loadtests.operations_load import Latency, latency_of
from loadtests.operations_models import TREES, TreesRepository
from loadtests.operations_report import write
from loadtests.operations_stream import StreamSample
from loadtests.operations_swap import SwapSample, phases
from loadtests.operations_verdict import NAMES, Results, judge
from loadtests.operations_workers import WorkersFigures, WorkersSample, placement
from loadtests.replies import Outcome
from loadtests.rows import select
from loadtests.telemetry_cost import Cost
from loadtests.verdict import Verdict

KILLED_S = 10.0


def seen(*calls: tuple[float, float, Outcome, int], lines: list[Line]) -> Seen:
    """Calls as (due and sent, ended, outcome, line)."""
    due = [call[0] for call in calls]
    return Seen(
        due_s=due,
        noticed_s=due,
        sent_s=due,
        ended_s=[call[1] for call in calls],
        outcome=[call[2] for call in calls],
        detail=["" for _ in calls],
        line=[call[3] for call in calls],
        lines=lines,
    )


# ---- whose fault a failed call is ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sent_s", "with_worker", "after_signal"),
    [
        (Line(1000, 1.0, True, 10.01), 9.99, 1, 0),
        (Line(1000, 1.0, True, 10.01), 10.005, 1, 1),
        (Line(1001, 1.0, True, 10.01), 9.99, 0, 0),  # a connection of the worker that lives
        (Line(1000, 1.0, True, None), 9.99, 0, 0),  # it did not break: an answer of the server
        (Line(1000, 1.0, True, 9.0), 8.9, 0, 0),  # it broke before
        (Line(1000, 10.1, True, 10.2), 10.15, 0, 0),  # a new one that got the same port
        (Line(2000, 9.99, False, 10.01), 9.99, 1, 0),  # made for this call, after the look
        (Line(2000, 10.1, False, 10.2), 10.1, 0, 0),
    ],
)
def test_only_what_broke_with_the_worker_is_lost_with_it(
    line: Line, sent_s: float, with_worker: int, after_signal: int
) -> None:
    losses = losses_of(seen((sent_s, sent_s, "failed", 0), lines=[line]), {1000}, KILLED_S)
    assert (losses.with_worker, losses.after_signal) == (with_worker, after_signal)
    assert sum(losses.beyond.values()) == 1 - with_worker


def test_answered_calls_are_no_losses_and_calls_without_a_connection_are() -> None:
    line = Line(1000, 1.0, True, 10.01)
    told = seen((9.0, 9.1, "answered", 0), (10.1, 10.1, "failed", -1), lines=[line])
    losses = losses_of(told, {1000}, KILLED_S)
    assert (losses.with_worker, losses.beyond) == (0, {"failed: ": 1})


# ---- before and during ---------------------------------------------------------------------------


def test_calls_between_two_loads_belong_to_neither_phase() -> None:
    calls = [(at / 10, at / 10 + 0.001, "answered", 0) for at in range(100)]
    told = seen(*calls, lines=[])
    before, during = phases(told, [(5.0, 6.0), (8.0, 8.5)])
    assert [told.due_s[at] for at in before] == [at / 10 for at in range(5, 50)]
    assert [told.due_s[at] for at in during] == pytest.approx(
        [at / 10 for at in (*range(50, 61), *range(80, 86))]
    )


def test_latency_counts_answers_from_their_due_time() -> None:
    told = seen((1.0, 1.010, "answered", 0), (2.0, 2.030, "answered", 0), lines=[])
    assert latency_of(told, [0, 1]) == Latency(2, 10.0, 30.0, 30.0)
    with pytest.raises(RowError, match="--seconds"):
        latency_of(seen((1.0, 1.0, "failed", -1), lines=[]), [0])


# ---- where workers run ---------------------------------------------------------------------------


def test_workers_are_judged_where_the_generator_has_a_core_left() -> None:
    assert placement({0, 1, 2}, 1) == ("0", "0,2", True)
    assert placement({0, 1, 2, 3}, 3) == ("0", "0,1", True)
    assert placement({0, 1}, 1) == ("0", "0,1", False)


# ---- verdicts ------------------------------------------------------------------------------------


def swap(during_ms: float, failed: int = 0) -> SwapSample:
    before, during = Latency(100, 1.0, 2.0, 3.0), Latency(100, 1.0, during_ms, 9.0)
    return SwapSample(
        "swap-http", 1, 2000.0, 1000.0, before, during, (0.1, 0.1), 3, 0.5, failed, {}, 0.7, 0.0
    )


def kill(beyond: int, back_s: float) -> KillSample:
    latency = Latency(100, 1.0, 2.0, 3.0)
    return KillSample(
        "kill-grpc",
        1,
        2000.0,
        1000.0,
        100,
        5,
        1,
        beyond,
        {},
        4,
        4,
        0,
        back_s,
        latency,
        latency,
        0.5,
    )


def workers(several: float, *, measurable: bool) -> WorkersSample:
    one, two = WorkersFigures(1000.0, 1.0, 0.5), WorkersFigures(several, 1.6, 0.4)
    return WorkersSample("workers-http", 1, one, two, measurable, 4)


def stream(per_second: float) -> StreamSample:
    return StreamSample("stream", 1, per_second, 1000.0, 10.0, 20.0, 1.0, 0.0)


def statuses(results: Results, row: str) -> list[str]:
    return [verdict.status for verdict in judge(results, [row])]


def test_ratios_are_medians_and_failures_are_sums() -> None:
    quiet = Results(swap=[swap(2.2), swap(2.4), swap(9.0)])
    assert statuses(quiet, "swap-http") == ["pass", "pass"]
    assert statuses(Results(swap=[swap(2.2), swap(2.8), swap(9.0)]), "swap-http")[0] == "short"
    assert statuses(Results(swap=[swap(2.2), swap(2.2, failed=1)]), "swap-http")[1] == "short"


def test_one_slow_return_of_a_worker_is_enough() -> None:
    assert statuses(Results(kill=[kill(0, 2.9), kill(0, 1.0)]), "kill-grpc") == ["pass", "pass"]
    assert statuses(Results(kill=[kill(1, 3.1), kill(0, 1.0)]), "kill-grpc") == ["short", "short"]


def test_what_cannot_be_measured_is_told_and_never_passes() -> None:
    [told] = judge(Results(workers=[workers(1900.0, measurable=False)]), ["workers-http"])
    assert told.status == "not measured"
    assert told.measured.startswith("not measurable here: 1.90 ×")
    for several, status in ((1700.0, "pass"), (1690.0, "short")):
        judged = Results(workers=[workers(several, measurable=True)])
        assert statuses(judged, "workers-http") == [status]


def test_streams_and_telemetry_are_judged() -> None:
    assert statuses(Results(stream=[stream(1300.0)]), "stream") == ["pass"]
    assert statuses(Results(stream=[stream(1299.0)]), "stream") == ["short"]
    costs = [Cost("http-32", "metrics", "nothing", share, 1.0) for share in (0.95, 0.94)]
    assert statuses(Results(telemetry=costs), "telemetry") == ["pass", "short"]


@pytest.mark.parametrize("row", NAMES)
def test_a_row_that_failed_or_did_not_run_has_no_verdict(row: str) -> None:
    samples = Results(
        swap=[swap(2.0)],
        kill=[kill(0, 1.0)],
        workers=[workers(1900.0, measurable=True)],
        stream=[stream(2000.0)],
        failed={row: "it broke\nbadly"},
    )
    for results, text in ((samples, "failed: it broke"), (Results(), "no figure")):
        verdicts = judge(results, [row])
        assert verdicts
        for verdict in verdicts:
            assert (verdict.status, verdict.measured) == ("not measured", text)


# ---- the rest ------------------------------------------------------------------------------------


def test_rows_are_chosen_by_pattern() -> None:
    assert select(["kill-*", "stream"], NAMES) == ["kill-http", "kill-grpc", "stream"]
    assert select(["*"], NAMES) == list(NAMES)
    with pytest.raises(BenchError, match="no row matches 'swop'"):
        select(["swop"], NAMES)


def test_the_page_shows_every_row_and_what_failed(tmp_path: Path) -> None:
    results = Results(
        swap=[swap(2.2)],
        kill=[kill(0, 1.0)],
        workers=[workers(1900.0, measurable=False)],
        stream=[stream(2000.0)],
        failed={"swap-grpc": "no\nanswer"},
    )
    verdicts = [Verdict("a promise", "at most 1", "2", "short")]
    raw = write(tmp_path / "page.md", {"when": "today"}, results, verdicts)
    page = (tmp_path / "page.md").read_text()
    for text in ("a promise", "| swap-http | 1 |", "| kill-grpc | 1 |", "1.90 ×", "2.00 ×"):
        assert text in page
    assert "| swap-grpc | no answer |" in page
    assert "1 of 3 samples were taken while others used more" in page
    assert raw.read_bytes().startswith(b"{")


def test_every_load_finds_other_files_and_every_other_one_a_new_number(tmp_path: Path) -> None:
    repository = TreesRepository(tmp_path)
    repository.write()
    numbers, contents = ["1"], [repository.model_file.read_bytes()]
    for _ in range(4):
        numbers.append(repository.next_version())
        contents.append(repository.model_file.read_bytes())
    assert numbers == ["1", "1", "2", "2", "3"]
    assert all(one != other for one, other in pairwise(contents))
    assert sorted(one.name for one in (repository.root / TREES).iterdir()) == ["1", "2", "3"]
