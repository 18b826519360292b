import math

import pytest

from loadtests import soak_report
from loadtests.server_metrics import samples_of
from loadtests.soak_verdict import Evidence, Provoked, Sample, growth, judge, unprovoked, windows

MB = 1_000_000


def sample(at_s: float, megabytes: float, **more: float) -> Sample:
    seen = {
        "open_files": 20,
        "threads": 4,
        "inflight_requests": 0,
        "connections": 9,
        "cpu_s": at_s / 2,
    }
    return Sample(at_s=at_s, resident_bytes=int(megabytes * MB), **(seen | more))  # type: ignore[arg-type]


def hour(growing_mb: float = 0.0) -> list[Sample]:
    """A look every ten seconds; memory settles in five minutes and then grows evenly."""
    samples = []
    for number in range(1, 361):
        at_s = number * 10.0
        megabytes = 100 + min(at_s, 300) / 3
        samples.append(sample(at_s, megabytes + growing_mb * max(0.0, at_s - 300) / 3300))
    return samples


def evidence(**more: object) -> Evidence:
    seen = {
        "samples": hour(),
        "settle_s": 300.0,
        "outcomes": {"ok": 100.0, "cancelled": 3.0},
        "left_inside": {"inside": 0.0},
        "files_before": 20,
        "files_after": 20,
    }
    return Evidence(**(seen | more))  # type: ignore[arg-type]


def broken(seen: Evidence) -> list[str]:
    return [finding.measured for finding in judge(seen, 0.05) if not finding.kept]


def test_the_first_and_the_last_five_minutes_after_settling_are_compared() -> None:
    assert windows(3600, 300) == ((300, 600), (3300, 3600))


def test_windows_of_a_short_soak_do_not_overlap() -> None:
    first, last = windows(40, 10)
    assert first == (10, 20)
    assert last == (30, 40)


def test_memory_that_settles_early_does_not_grow() -> None:
    assert growth(hour(), 300) == 0


def test_growth_is_seen_whatever_single_looks_say() -> None:
    samples = hour(growing_mb=20)
    samples[40] = sample(410, 900)
    assert growth(samples, 300) == pytest.approx(0.09, abs=0.01)
    assert growth(hour(growing_mb=-20), 300) < 0


def test_without_samples_in_both_windows_nothing_is_promised() -> None:
    assert math.isnan(growth([], 300))
    assert math.isnan(growth([sample(900, 100)], 300))
    assert broken(evidence(samples=[])) == ["not measured"]


def test_a_good_soak() -> None:
    assert broken(evidence()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": hour(growing_mb=20)}, "+9.0%"),
        ({"failures": ["grpc plain: INTERNAL"] * 5}, "and 2 more"),
        ({"outcomes": {"ok": 9.0, "internal": 1.0}}, "1 internal"),
        ({"outcomes": {}}, ""),
        ({"left_inside": {"inside": 2.0}}, "2 inside"),
        ({"left_inside": {}}, "all gauges at zero"),
        ({"files_after": 21}, "20 before, 21 after"),
    ],
)
def test_each_promise_can_be_broken(wrong: dict[str, object], words: str) -> None:
    (measured,) = broken(evidence(**wrong))
    assert words in measured


def test_refusals_are_no_errors_as_long_as_they_were_provoked() -> None:
    outcomes = {"ok": 5.0, "not_found": 2.0, "invalid_argument": 1.0, "deadline_exceeded": 4.0}
    assert unprovoked(outcomes, Provoked(bad=3, late=4)) == []
    (stray,) = unprovoked(outcomes, Provoked(bad=2, late=4))
    assert stray.startswith("3 invalid_argument or not_found")
    (stray,) = unprovoked(outcomes | {"overloaded": 1.0}, Provoked(bad=3, late=4))
    assert stray == "5 overloaded or deadline_exceeded where 4 were provoked"


def test_a_row_tells_the_largest_of_its_samples() -> None:
    seen = [sample(60, 100), sample(70, 130, open_files=90), sample(120, 110, threads=7)]
    row = soak_report.minute(seen, answered={"http": 5}, odd=3, failures=0, plain_s=[0.001, 0.002])
    assert (row.at_s, row.resident_mb, row.open_files, row.threads) == (120, 130, 90, 7)
    assert row.cpu_share == pytest.approx(0.5)
    assert (row.p50_ms, row.p99_ms) == (1, 2)
    assert soak_report.line(row).startswith("0:02:00 answered http 5,")


def test_samples_are_told_apart_by_their_labels() -> None:
    text = 'a{x="1",y="2"} 3.0\na{x="2",y="2"} 4\nab 9\nb 5e1\n'
    assert samples_of(text, "a") == {(("x", "1"), ("y", "2")): 3.0, (("x", "2"), ("y", "2")): 4.0}
    assert samples_of(text, "b") == {(): 50.0}
    assert samples_of(text, "c") == {}
