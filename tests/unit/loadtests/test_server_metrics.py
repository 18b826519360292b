from loadtests.server_metrics import counter_sum


def test_samples_are_summed_over_labels() -> None:
    text = (
        "# TYPE headrace_late_answers_total counter\n"
        'headrace_late_answers_total{model="a",front="grpc"} 2.0\n'
        'headrace_late_answers_total{model="b",front="http"} 3\n'
        "headrace_late_answers_created 1.7e9\n"
    )
    assert counter_sum(text) == 5


def test_a_counter_without_labels_is_read() -> None:
    assert counter_sum("headrace_late_answers_total 0.0\n") == 0


def test_a_declared_counter_without_samples_is_zero() -> None:
    assert counter_sum("# TYPE headrace_late_answers_total counter\n") == 0
    assert counter_sum("# TYPE headrace_late_answers counter\n") == 0


def test_a_missing_counter_is_no_zero() -> None:
    assert (
        counter_sum("# TYPE headrace_requests_total counter\nheadrace_requests_total 4\n") is None
    )
    assert counter_sum("") is None
