import pytest

from loadtests import h2load, wrk
from loadtests.failures import BenchError
from loadtests.load_result import percentile

TOTALS = (
    'TOTALS {"requests":1000,"duration_us":2000000,"p50_us":310.0,"p99_us":900.0,'
    '"connect":0,"read":0,"write":0,"status":%d,"timeout":0}'
)
SUMMARY = """\
starting benchmark...

finished in 2.00s, 500.00 req/s, 10.00KB/s
requests: 1000 total, 1000 started, 1000 done, {good} succeeded, {failed} failed, \
{failed} errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, {failed} 5xx
traffic: 97.66KB (100000) total, 9.77KB (10000) headers (space savings 90.00%), \
58.59KB ({data}) data
                     min         max         mean         sd        +/- sd
time for request:      100us       400us       200us        50us    70.00%
"""
LOG = "".join(f"1700000000\t200\t{microseconds}\n" for microseconds in range(1, 101))


def summary(data: int, failed: int = 0) -> str:
    return SUMMARY.format(data=data, failed=failed, good=1000 - failed)


def test_wrk_totals_are_read() -> None:
    result = wrk.parse("Running 2s test\n" + TOTALS % 0 + "\n")
    assert (result.answered, result.per_second) == (1000, 500)
    assert (result.p50_us, result.p99_us, result.complaint()) == (310, 900, "")


def test_wrk_answers_outside_2xx_are_a_complaint() -> None:
    assert "7 answers outside 2xx" in wrk.parse(TOTALS % 7).complaint()


def test_wrk_without_totals_is_an_error() -> None:
    with pytest.raises(BenchError, match="no totals"):
        wrk.parse("unable to connect")


def test_h2load_summary_and_log_are_read() -> None:
    result = h2load.parse(summary(data=60_000), LOG, reply_bytes=60, in_flight=64)
    assert (result.answered, result.per_second) == (1000, 500)
    assert (result.p50_us, result.p99_us, result.complaint()) == (50, 99, "")


def test_h2load_failures_are_a_complaint() -> None:
    result = h2load.parse(summary(data=60_000, failed=3), LOG, reply_bytes=60, in_flight=64)
    assert "3 failed" in result.complaint()
    assert "3 answers outside 2xx" in result.complaint()


def test_grpc_errors_show_as_replies_without_a_message() -> None:
    result = h2load.parse(summary(data=42_000), LOG, reply_bytes=60, in_flight=64)
    assert result.complaint() == "300 replies without a message"


def test_calls_cut_off_by_the_end_are_no_complaint() -> None:
    result = h2load.parse(summary(data=60_000 + 64 * 60), LOG, reply_bytes=60, in_flight=64)
    assert result.complaint() == ""


def test_h2load_without_a_summary_is_an_error() -> None:
    with pytest.raises(BenchError, match="no summary"):
        h2load.parse("could not connect", "", reply_bytes=60, in_flight=64)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)])
def test_percentiles_are_values_that_occurred(share: float, expected: float) -> None:
    assert percentile([1, 2, 3, 4], share) == expected
