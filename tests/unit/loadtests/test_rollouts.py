"""What the rollouts bench makes of what it measured."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from loadtests import rollouts
from loadtests.operations_client import Seen
from loadtests.replies import Outcome
from loadtests.rollouts_changes import PERCENTS, STEPS, USERS, Change, sample_of, watch
from loadtests.rollouts_client import NO_VERSION, UserConnection, user_of, version_of
from loadtests.rollouts_report import busy_note, write
from loadtests.rollouts_shadows import counts_of
from loadtests.rollouts_stage import proposal
from loadtests.rollouts_verdict import (
    INSTANCES,
    MICRO,
    NAMES,
    NO_ROLLOUTS,
    SATURATION,
    SHADOW_ONE,
    STACK,
    WIRE_GRPC,
    WIRE_HTTP,
    ChangeSample,
    Results,
    SaturationSample,
    ShadowSample,
    StackSample,
    Variant,
    WireSample,
    figure_of,
    judge,
    wire_added_us,
)
from rollout.checking import faults_of
from rollout.plan import decode_proposal

RAMP = [Change(10.0, 10.1, 10.3), Change(20.0, 20.1, 20.3)]


def seen(*calls: tuple[int, float, str], outcome: Outcome = "answered") -> Seen:
    """Calls as (user, sent, version)."""
    calls_of: dict[int, tuple[float, str]] = {}
    laps = [0] * USERS
    for user, sent_s, version in calls:
        calls_of[user + laps[user] * USERS] = (sent_s, version)
        laps[user] += 1
    count = max(calls_of) + 1
    sent = [calls_of.get(at, (0.0, ""))[0] for at in range(count)]
    return Seen(
        due_s=sent,
        noticed_s=sent,
        sent_s=sent,
        ended_s=sent,
        outcome=[outcome if at in calls_of else "unanswered" for at in range(count)],
        detail=[calls_of.get(at, (0.0, ""))[1] for at in range(count)],
        line=[0] * count,
        lines=[],
    )


# ---- what the answers say of a change -------------------------------------------------------------


def test_the_last_old_answer_to_a_user_that_moved_tells_when_a_change_was_in_force() -> None:
    told = seen((3, 9.8, "1"), (3, 10.15, "2"), (3, 10.25, "1"), (3, 10.4, "2"), (3, 20.2, "2"))
    found = watch(RAMP, told)
    assert found.answers_s == [pytest.approx(0.15), 0.0]
    assert (found.moved, found.flips) == (1, 0)


def test_a_way_back_is_one_after_the_change_was_in_force_everywhere() -> None:
    told = seen((3, 9.8, "1"), (3, 10.15, "2"), (3, 10.31, "1"), (3, 20.2, "2"))
    assert watch(RAMP, told).flips == 1
    before_all = seen((4, 9.8, "2"), (4, 10.2, "1"))
    assert watch(RAMP, before_all).flips == 1


def test_users_that_stay_and_calls_of_other_ramps_say_nothing() -> None:
    told = seen((3, 9.8, "1"), (3, 10.2, "1"), (3, 20.2, "1"), (4, 1.0, "2"), (4, 10.2, "1"))
    found = watch(RAMP, told)
    assert (found.answers_s, found.moved, found.flips) == ([0.0, 0.0], 0, 0)


def test_a_user_that_moves_in_a_later_change_is_that_change_s() -> None:
    told = seen((3, 10.2, "1"), (3, 15.0, "1"), (3, 20.15, "1"), (3, 20.2, "2"))
    found = watch(RAMP, told)
    assert found.answers_s == [0.0, pytest.approx(0.05)]
    assert (found.moved, found.flips) == (1, 0)


def test_failed_calls_are_counted_whenever_they_happened() -> None:
    told = seen((0, 9.8, "HTTP 503"), (1, 30.0, "HTTP 503"), outcome="refused")
    found = sample_of("row", [RAMP], 15.0, told, 0.0)
    assert found.failures == {"refused: HTTP 503": 2}
    assert (found.failed_first, found.failed) == (1, 1)


# ---- users ---------------------------------------------------------------------------------------


def test_users_meet_all_gateways() -> None:
    met = {(user_of(token, USERS), token % 4) for token in range(4 * USERS)}
    assert len(met) == 4 * USERS


def test_a_call_carries_its_user_and_its_answer_the_version() -> None:
    assert version_of(b'{"model_name":"m", "model_version" : "2","outputs":[]}') == "2"
    assert version_of(b"{}") == NO_VERSION
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = UserConnection(server.getsockname(), "/infer", b"body", USERS)
        peer, _ = server.accept()
        with peer:
            connection.send(USERS + 7)
            head, _, body = peer.recv(4096).partition(b"\r\n\r\n")
            assert b"x-user: u7" in head.split(b"\r\n")
            assert body == b"body"
            answer = b'{"model_version":"2"}'
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
            connection._socket.setblocking(True)
            [reply] = connection.receive()
            connection.close()
    assert (reply.token, reply.outcome, reply.detail) == (USERS + 7, "answered", "2")


# ---- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0.0, 10.0])
def test_the_bench_s_plans_have_no_faults(percent: float) -> None:
    document = proposal("salt", PERCENTS, shadow_percent=percent) | {"model": "routed"}
    assert faults_of(decode_proposal(msgspec.json.encode(document))) == []
    assert len(PERCENTS) == STEPS


# ---- figures -------------------------------------------------------------------------------------


def test_an_interval_holds_its_median_and_is_the_same_each_time() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    found = figure_of(values)
    assert found is not None
    assert found == figure_of(values)
    assert found.low <= found.median == 3.0 <= found.high <= 100.0
    assert figure_of([]) is None


def wire(row: str, number: int, variant: Variant, cpu_us: float) -> WireSample:
    return WireSample(row, number, variant, 1000.0, 900.0, cpu_us, 0.0)


def test_what_a_plan_adds_is_compared_within_a_round() -> None:
    samples = [
        wire(WIRE_HTTP, 1, "plain", 40.0),
        wire(WIRE_HTTP, 1, "one user", 42.0),
        wire(WIRE_HTTP, 2, "plain", 80.0),
        wire(WIRE_HTTP, 2, "one user", 82.0),
        wire(WIRE_HTTP, 3, "plain", 10.0),  # the other half failed
    ]
    added = wire_added_us(samples, WIRE_HTTP, "one user")
    assert added is not None
    assert (added.median, added.rounds) == (2.0, 2)


def test_copies_that_were_dropped_inside_count_as_shed() -> None:
    text = (
        'headrace_shadow_copies_total{model="m",version="2",outcome="equal"} 90\n'
        'headrace_shadow_copies_total{model="m",version="2",outcome="dropped"} 3\n'
        'headrace_shadow_shed_total{reason="loop_late"} 7\n'
    )
    assert counts_of(text) == (90.0, 10.0)
    assert counts_of("") == (0.0, 0.0)


# ---- verdicts ------------------------------------------------------------------------------------


def stack(number: int, added_us: float) -> StackSample:
    return StackSample(number, {case: 20.0 + (case != NO_ROLLOUTS) * added_us for case in MICRO})


def change(
    seconds: float, failed: int = 0, flips: int = 0, moved: int = 5, first: int = 0
) -> ChangeSample:
    beats = [0.01] * 98 + [seconds, seconds]
    return ChangeSample(
        row=INSTANCES,
        rate=1000.0,
        beats_s=beats,
        answers_s=[0.0] * 100,
        written_s=[0.01] * 100,
        moved=moved,
        calls=9000,
        failed=failed,
        failed_first=first,
        failures={},
        flips=flips,
        foreign_core=0.0,
    )


def shadow(ratio: float, copies: float = 100.0) -> ShadowSample:
    return ShadowSample(
        SHADOW_ONE, 1, 900.0, (1, 1), (2.0, 2.0 * ratio), (0, 0), 0, copies, 0, 100, (0.5, 0.6), 0.2
    )


def saturated(ratio: float, copies: float, shed: float, errors: int = 0) -> SaturationSample:
    return SaturationSample(1, (1000.0, 1000.0 * ratio), (9, 9), errors, copies, shed, 0.0)


def statuses(results: Results, row: str) -> list[str]:
    return [one.status for one in judge(results, [row])]


def test_every_row_that_was_not_measured_says_so() -> None:
    verdicts = judge(Results(), NAMES)
    assert {one.promise.partition(":")[0] for one in verdicts} == set(NAMES)
    assert {one.status for one in verdicts} == {"not measured"}


@pytest.mark.parametrize(
    ("results", "row", "expected"),
    [
        (Results(stack=[stack(1, 2.9)]), STACK, ["pass"] * 5),
        (Results(stack=[stack(1, 3.1)]), STACK, ["short"] * 5),
        (
            Results(wire=[wire(WIRE_GRPC, 1, "plain", 30), wire(WIRE_GRPC, 1, "one user", 34)]),
            WIRE_GRPC,
            ["short"],
        ),
        (Results(changes=[change(0.9)]), INSTANCES, ["pass"] * 4),
        (Results(changes=[change(1.1)]), INSTANCES, ["short", "pass", "pass", "pass"]),
        (Results(changes=[change(0.9, failed=1)]), INSTANCES, ["pass", "short", "pass", "pass"]),
        (Results(changes=[change(0.9, first=1)]), INSTANCES, ["pass", "pass", "short", "pass"]),
        (Results(changes=[change(0.9, flips=1)]), INSTANCES, ["pass", "pass", "pass", "short"]),
        (Results(changes=[change(0.9, moved=0)]), INSTANCES, ["pass"] * 3 + ["not measured"]),
        (Results(shadows=[shadow(1.04)]), SHADOW_ONE, ["pass", "pass"]),
        (Results(shadows=[shadow(1.06)]), SHADOW_ONE, ["short", "pass"]),
        (Results(shadows=[shadow(1.0, copies=0)]), SHADOW_ONE, ["not measured", "pass"]),
        (Results(saturation=[saturated(0.96, 10, 90)]), SATURATION, ["pass", "pass", "pass"]),
        (Results(saturation=[saturated(0.9, 90, 10, 1)]), SATURATION, ["short", "short", "short"]),
    ],
)
def test_limits(results: Results, row: str, expected: list[str]) -> None:
    assert statuses(results, row) == expected


def test_a_row_that_failed_in_any_round_has_no_verdict() -> None:
    results = Results(shadows=[shadow(1.0)], failed={SHADOW_ONE: "it fell\nover"})
    verdicts = judge(results, [SHADOW_ONE])
    assert {one.status for one in verdicts} == {"not measured"}
    assert all("it fell" in one.measured for one in verdicts)


# ---- page and command ----------------------------------------------------------------------------


def test_the_page_tells_verdicts_figures_and_failures(tmp_path: Path) -> None:
    results = Results(
        stack=[stack(1, 2.0)],
        wire=[wire(WIRE_HTTP, 1, "plain", 40.0), wire(WIRE_HTTP, 1, "one user", 41.0)],
        changes=[change(0.5)],
        shadows=[shadow(1.0)],
        saturation=[saturated(1.0, 1, 99)],
        failed={WIRE_GRPC: "no connection"},
    )
    assert busy_note(results).startswith("1 of 5 samples")
    page = tmp_path / "rollouts.md"
    raw = write(page, {"when": "today"}, results, judge(results, NAMES))
    text = page.read_text()
    for part in ("today", "p99 with 10 % copies", "99.0%", "no connection", "1 of 5 samples"):
        assert part in text
    assert msgspec.json.decode(raw.read_bytes())["results"]["failed"] == {
        WIRE_GRPC: "no connection"
    }


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--seconds", "0.5"], ["--changes", "101"]]
)
def test_arguments_out_of_bounds_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollouts.main(arguments) == 2
    assert "at least one round" in capsys.readouterr().err


def test_help_names_every_row() -> None:
    text = rollouts.parser().format_help()
    assert all(name in text for name in NAMES)
