import msgspec
import pytest

from loadtests import rows, verdict
from loadtests.measured import ClosedSample, OpenSample, Results
from loadtests.open_loop_client import OpenLoopReport


def closed(row: str, cpu_us: float, p50_us: float = 100.0, number: int = 1) -> ClosedSample:
    return ClosedSample(
        row=row,
        round=number,
        requests=1000,
        per_second=1000.0,
        p50_us=p50_us,
        p99_us=200.0,
        cpu_us=cpu_us,
        foreign_core=0.0,
        resident_mb=150.0,
    )


def overload(row: str, in_time: int, late_at_server: float | None = 0.0) -> OpenSample:
    client = OpenLoopReport(
        scheduled=8000,
        seconds=10.0,
        outcomes={"answered": in_time, "refused": 8000 - in_time},
        in_time=in_time,
        late=0,
        p50_ms=30.0,
        p99_ms=49.0,
        refusal_p99_ms=2.0,
        client_lag_p99_ms=0.1,
        client_lag_max_ms=1.0,
        held_back=0,
        connections_lost=0,
        details={},
    )
    return OpenSample(
        row=row,
        round=1,
        capacity_before=400.0,
        capacity_after=400.0,
        offered=800.0,
        client=client,
        late_at_server=late_at_server,
        foreign_core=0.0,
        resident_mb=180.0,
    )


def kept_promises() -> Results:
    results = Results(cold_start_s=[1.0, 2.0, 9.0], pipeline_us={"total": 12.0})
    cpu = {"http-32-starlette": 105.0, "grpc-8x8-grpcaio": 436.0}
    for row in rows.CLOSED:
        results.closed.append(closed(row.name, cpu.get(row.name, 30.0)))
    for open_row in rows.OPEN:
        results.open_loop.append(overload(open_row.name, in_time=3600))
    return results


def status(results: Results, promise: str) -> str:
    (found,) = [each for each in verdict.judge(results) if each.promise.startswith(promise)]
    return found.status


def test_figures_inside_all_limits_pass() -> None:
    verdicts = verdict.judge(kept_promises())
    assert [each.status for each in verdicts] == ["pass"] * 13
    assert verdict.kept(verdicts)


def test_nothing_measured_is_never_a_pass() -> None:
    verdicts = verdict.judge(Results())
    assert {each.status for each in verdicts} == {"not measured"}
    assert not verdict.kept(verdicts)


@pytest.mark.parametrize(("ours", "expected"), [(42.0, "pass"), (42.01, "short")])
def test_a_limit_is_compared_before_it_is_rounded(ours: float, expected: str) -> None:
    results = kept_promises()
    results.closed = [sample for sample in results.closed if sample.row != "http-32-headrace"]
    results.closed.append(closed("http-32-headrace", ours))
    assert status(results, "CPU per HTTP request") == expected


def test_the_median_of_the_rounds_decides() -> None:
    results = kept_promises()
    results.closed += [closed("http-32-headrace", cpu, number=2) for cpu in (500.0, 30.0)]
    assert status(results, "CPU per HTTP request") == "pass"


def test_a_failed_row_has_no_figures_and_says_why() -> None:
    results = kept_promises()
    results.failed["http-32-headrace"] = "3 answers outside 2xx\nmore"
    verdicts = verdict.judge(results)
    ratio, cpu = verdicts[0], verdicts[1]
    assert (ratio.status, cpu.status) == ("not measured", "not measured")
    assert ratio.measured == cpu.measured == "failed: 3 answers outside 2xx"


def test_the_distance_to_the_echo_server_is_judged() -> None:
    results = kept_promises()
    results.closed = [sample for sample in results.closed if sample.row != "http-1-headrace"]
    results.closed.append(closed("http-1-headrace", 30.0, p50_us=251.0))
    assert status(results, "p50 above the echo server, HTTP") == "short"
    assert status(results, "p50 above the echo server, gRPC") == "pass"


def test_one_late_answer_is_short() -> None:
    results = kept_promises()
    results.open_loop.append(overload("open-grpc-headrace", 3600, late_at_server=1.0))
    assert status(results, "gRPC late") == "short"
    assert status(results, "HTTP late") == "pass"


def test_a_late_counter_that_is_not_exported_is_not_measured() -> None:
    results = kept_promises()
    results.open_loop.append(overload("open-grpc-headrace", 3600, late_at_server=None))
    (late,) = [v for v in verdict.judge(results) if v.promise.startswith("gRPC late")]
    assert (late.status, late.measured) == ("not measured", "not exported")


@pytest.mark.parametrize(("in_time", "expected"), [(3400, "pass"), (3399, "short")])
def test_goodput_is_a_share_of_capacity(in_time: int, expected: str) -> None:
    results = kept_promises()
    results.open_loop = [overload("open-http-headrace", in_time)]
    assert status(results, "HTTP at twice capacity") == expected


def test_answers_late_at_the_server_are_no_goodput() -> None:
    results = kept_promises()
    results.open_loop = [overload("open-http-headrace", 3500, late_at_server=200.0)]
    assert status(results, "HTTP at twice capacity") == "short"


def test_what_the_client_saw_stands_beside_the_promise() -> None:
    results = kept_promises()
    sample = overload("open-http-headrace", 3600)
    seen = msgspec.structs.replace(sample.client, in_time=2000, late=1600)
    results.open_loop = [msgspec.structs.replace(sample, client=seen)]
    (kept,) = [v for v in verdict.judge(results) if v.promise.startswith("HTTP at twice")]
    assert kept.status == "pass"
    assert kept.measured == "90.00 % of capacity (the client saw 50.00%)"


def test_memory_is_the_largest_of_all_loaded_rows() -> None:
    assert kept_promises().resident_mb("headrace") == 180.0


@pytest.mark.parametrize(("cpu_us", "expected"), [(105, "pass"), (50, "short"), (300, "short")])
def test_a_baseline_far_from_its_known_cost_is_noticed(cpu_us: float, expected: str) -> None:
    results = Results(closed=[closed("http-32-starlette", cpu_us)])
    assert verdict.baselines(results)[0].status == expected
