from loadtests.drive import Flight
from loadtests.open_loop_client import summarize


def flight() -> Flight:
    return Flight(
        due=[0.0, 0.1, 0.2, 0.3, 0.9],
        noticed=[0.0, 0.1, 0.2, 0.3, 0.9],
        sent=[0.0, 0.1, 0.24, 0.3, 0.9],
        ended=[0.02, 0.15, 0.27, 0.301, 0.0],
        outcome=["answered", "answered", "answered", "refused", "unanswered"],
        details={"HTTP 200": 3, "HTTP 503": 1},
    )


def test_each_request_has_one_outcome() -> None:
    report = summarize(flight(), seconds=1.0, deadline_s=0.05)
    assert report.outcomes == {"answered": 3, "refused": 1, "unanswered": 1}
    assert sum(report.outcomes.values()) == report.scheduled == 5


def test_lateness_counts_from_the_due_time_not_from_the_sending() -> None:
    report = summarize(flight(), seconds=1.0, deadline_s=0.0501)
    assert (report.in_time, report.late, report.held_back) == (2, 1, 1)


def test_answers_after_the_schedule_lengthen_the_run() -> None:
    report = summarize(flight(), seconds=0.1, deadline_s=0.0501)
    assert report.seconds == 0.27


def test_percentiles_of_nothing_are_nothing() -> None:
    report = summarize(Flight([], [], [], [], []), seconds=1.0, deadline_s=0.05)
    assert (report.p50_ms, report.refusal_p99_ms, report.client_lag_max_ms) == (None, None, None)
