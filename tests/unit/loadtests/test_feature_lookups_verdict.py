"""What the bench of lookups makes of its figures, and its command."""

from __future__ import annotations

import pytest

from loadtests.feature_lookups import main, parser, plan_of
from loadtests.feature_lookups_data import Variant
from loadtests.feature_lookups_peers import FEAST, OURS, WHOLE_CALL, compared
from loadtests.feature_lookups_report import WHY_TWO_HALVES, page
from loadtests.feature_lookups_verdict import (
    ADDED_MS,
    NAMES,
    DecodeSample,
    LoadName,
    LoadSample,
    PeerCase,
    Results,
    Sample,
    judge,
)


def sample(
    variant: Variant,
    number: int = 1,
    *,
    row: str = "http-1",
    load: LoadName = "full",
    per_second: float = 1000.0,
    p50_ms: float = 1.0,
    p99_ms: float = 2.0,
    gateway_us: float = 50.0,
    hit_share: float | None = 0.9,
    client_busy: float = 0.3,
) -> Sample:
    return Sample(
        row=row,
        round=number,
        variant=variant,
        load=load,
        rate=0.0 if load == "full" else 500.0,
        per_second=per_second,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        gateway_us=gateway_us,
        store_us=5.0,
        hit_share=hit_share,
        client_busy=client_busy,
        client_lag_p99_ms=0.0,
        foreign_core=0.0,
    )


# -- the verdict ----------------------------------------------------------------------------------


def of(results: Results, *names: str) -> dict[str, tuple[str, str]]:
    return {one.promise: (one.status, one.measured) for one in judge(results, names)}


def test_what_is_added_is_the_median_of_the_rounds_differences() -> None:
    loads = []
    # The machine is twice as slow in round 2, and broken in round 3.
    for number, direct, lookup in ((1, 0.2, 0.5), (2, 0.4, 0.74), (3, 9.0, 50.0)):
        loads.append(sample("direct", number, load="half_rate", p50_ms=direct, p99_ms=direct * 2))
        loads.append(sample("miss", number, load="half_rate", p50_ms=lookup, p99_ms=lookup * 4))
    [(p50, said), (p99, _), *_] = of(Results(loads=loads), "http-1").values()
    assert p50 == "pass"
    assert said.startswith("0.340 ms")
    assert p99 == "short"


def test_only_rounds_with_both_sides_count() -> None:
    loads = [
        sample("direct", 1, load="half_rate", p50_ms=1.0),
        sample("miss", 1, load="half_rate", p50_ms=1.1),
        sample("miss", 2, load="half_rate", p50_ms=9.0),
    ]
    [(status, said), *_] = of(Results(loads=loads), "http-1").values()
    assert (status, said[:8]) == ("pass", "0.100 ms")


HALVES: dict[LoadName, str] = {
    "half_rate": "at half of the highest rate",
    "half_busy": "with the core half busy",
}


@pytest.mark.parametrize("row", ["http-1", "grpc-1", "http-100", "grpc-100"])
@pytest.mark.parametrize(("load", "wording"), HALVES.items())
def test_what_is_added_is_judged_at_each_half_by_its_own_samples(
    row: str, load: LoadName, wording: str
) -> None:
    other: LoadName = "half_busy" if load == "half_rate" else "half_rate"
    p50_ms, p99_ms = ADDED_MS[int(row.partition("-")[2])]

    def told(p50_added: float, p99_added: float) -> dict[str, str]:
        loads = [
            sample("direct", row=row, load=load),
            sample("miss", row=row, load=load, p50_ms=1.0 + p50_added, p99_ms=2.0 + p99_added),
            sample("direct", row=row, load="full"),
            sample("miss", row=row, load="full", p50_ms=99.0, p99_ms=99.0),
        ]
        return {name: status for name, (status, _) in of(Results(loads=loads), row).items()}

    entities = row.partition("-")[2]
    p50 = f"{row}: p50 that looking {entities} × 50 values up adds {wording}"
    p99 = f"{row}: p99 that looking {entities} × 50 values up adds {wording}"
    kept = told(p50_ms - 0.01, p99_ms - 0.01)
    assert (kept[p50], kept[p99]) == ("pass", "pass")
    short = told(p50_ms + 0.01, p99_ms + 0.01)
    assert (short[p50], short[p99]) == ("short", "short")
    # No figure of one half stands in for the other's.
    others = {kept[name.replace(wording, HALVES[other])] for name in (p50, p99)}
    assert others == {"not measured"}


def test_limits_are_those_promised_and_the_same_for_both_halves() -> None:
    verdicts = [one for one in judge(Results(), NAMES) if " adds " in one.promise]
    assert len(verdicts) == len({one.promise for one in verdicts}) == 16
    limits = {"1 ×": ["≤ 0.35 ms", "≤ 1 ms"] * 2, "100 ×": ["≤ 1 ms", "≤ 3 ms"] * 2}
    for many, bounds in limits.items():
        for front in ("http", "grpc"):
            mine = [
                one
                for one in verdicts
                if one.promise.startswith(front) and f"looking {many}" in one.promise
            ]
            assert [one.limit for one in mine] == bounds
            ends = [name for name in HALVES.values() for _ in ("p50", "p99")]
            assert all(map(str.endswith, (one.promise for one in mine), ends))


def test_a_verdict_says_how_busy_the_core_was() -> None:
    loads = [
        sample("direct", load="half_busy", per_second=4000.0, gateway_us=95.0),
        sample("miss", load="half_busy", per_second=4000.0, gateway_us=145.0),
    ]
    said = of(Results(loads=loads), "http-1")
    assert (
        "core 40% to 60% busy"
        in (said["http-1: p50 that looking 1 × 50 values up adds with the core half busy"][1])
    )


def test_progress_says_which_load() -> None:
    assert sample("miss").summary.startswith("as fast as it goes, ")
    for load, wording in HALVES.items():
        said = sample("miss", load=load, per_second=499.0).summary
        assert said.startswith(f"{wording}, 499/s of 500 due, ")


def test_throughput_counts_at_ninety_percent_hits_only() -> None:
    promise = "grpc-1: throughput left with lookups at 90 % hits"

    def told(left: float, hits: float, busy: float = 0.3) -> str:
        loads = [
            sample("direct", row="grpc-1", per_second=1000.0, hit_share=None, client_busy=busy),
            sample("mixed", row="grpc-1", per_second=1000.0 * left, hit_share=hits),
        ]
        return of(Results(loads=loads), "grpc-1")[promise][0]

    assert told(0.70, 0.9) == "pass"
    assert told(0.69, 0.9) == "short"
    assert told(0.99, 0.95) == "not measured"
    assert told(0.50, 0.80) == "not measured"
    assert told(0.99, 0.9, busy=0.97) == "not measured"


def test_decoding_and_loading_are_judged_by_medians() -> None:
    decode = [DecodeSample(at, 1, 100.0, us) for at, us in enumerate((290.0, 295.0, 900.0))]
    decode.append(DecodeSample(1, 5, 100.0, 5000.0))
    loaded = [LoadSample(1, 10, 199_999.0, 300_000.0, 9e5, 112)]
    told = of(Results(decode=decode, load=loaded), "decode", "load")
    assert [status for status, _ in told.values()] == ["pass", "short"]


def test_what_failed_or_was_skipped_is_no_pass() -> None:
    loads = [
        sample(variant, load=load)
        for load in ("full", "half_rate", "half_busy")
        for variant in ("direct", "mixed", "miss")
    ]
    results = Results(
        loads=loads, failed={"http-1": "it broke\nbadly"}, skipped={"load": "not there yet"}
    )
    told = of(results, *NAMES)
    assert {status for status, _ in told.values()} == {"not measured"}
    said = [text for _, text in told.values()]
    assert "failed: it broke" in said
    assert "not there yet" in said
    text = "\n\n".join(page({"when": "now"}, results, judge(results, NAMES)))
    assert "| http-1 | it broke badly |" in text
    assert "| load | not there yet |" in text


def peer(who: str, p50_us: float, number: int = 1) -> PeerCase:
    return PeerCase(number, who, 1, 100, p50_us, p50_us * 2, p50_us / 2, 5.0)


def test_of_feast_the_quickest_way_is_shown() -> None:
    results = Results(
        peers=[
            peer(f"{FEAST}, fields, response", 900.0),
            peer(f"{FEAST}, precomputed, response", 500.0),
            peer(f"{FEAST}, precomputed, response", 700.0, 2),
            peer(f"{FEAST}, fields, response", 100.0, 2),
            peer(f"{FEAST}, fields, response", 800.0, 3),
            peer(OURS, 60.0),
            peer(WHOLE_CALL, 120.0),
        ]
    )
    [(_, _, feast, rounds), (_, _, ours, _), _] = compared(results)
    assert feast == f"{FEAST}, precomputed, response"
    assert len(rounds) == 2
    assert ours == OURS
    text = "\n\n".join(page({"when": "now"}, results, []))
    assert f"| 100 | 1 | {OURS} | 60 | 120 | 5 | 30 | 10.0 × |" in text


def test_the_page_has_every_load() -> None:
    loads = [
        sample(variant, load=load, row=row)
        for variant in ("direct", "hit", "mixed", "miss")
        for load in ("full", "half_rate", "half_busy")
        for row in ("http-1", "grpc-100")
    ]
    text = "\n\n".join(page({"when": "now"}, Results(loads=loads), []))
    assert text.count("| HTTP JSON, 1 × 50 |") == 12
    assert text.count("| gRPC, 100 × 50 |") == 12


def test_each_load_has_its_own_table_and_the_page_says_why_there_are_two_halves() -> None:
    p50_ms: dict[LoadName, float] = {"full": 1.111, "half_rate": 2.222, "half_busy": 3.333}
    headings = (
        "As fast as it goes",
        "At half of the rate that lookups without copies reach",
        "With the core half busy",
    )
    loads = [sample("miss", load=load, p50_ms=p50) for load, p50 in p50_ms.items()]
    parts = list(page({"when": "now"}, Results(loads=loads), []))
    for heading, p50 in zip(headings, p50_ms.values(), strict=True):
        [mine] = [part for part in parts if part.startswith(f"## {heading}\n")]
        assert f"| {p50:.3f} |" in mine
        assert mine.count("| HTTP JSON, 1 × 50 |") == 1
    assert parts.count(WHY_TWO_HALVES) == 1
    assert WHY_TWO_HALVES not in page({"when": "now"}, Results(), [])


# -- the command ----------------------------------------------------------------------------------


def test_quick_is_one_short_round() -> None:
    quick, whole = (plan_of(parser().parse_args(one)) for one in (["--quick"], []))
    assert (quick.rounds, quick.peer_rounds) == (1, 1)
    assert quick.seconds < whole.seconds
    assert whole.rounds > 1


def test_no_round_at_all_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "0"]) == 2
    assert "at least one round" in capsys.readouterr().err
