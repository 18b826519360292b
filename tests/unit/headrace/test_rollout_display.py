"""What people see of rollouts."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console, RenderableType

from headrace.rollout_asking import (
    ArmSeen,
    DecisionSeen,
    GatewaySeen,
    ScoresSeen,
    ShadowSeen,
    ShareSeen,
    StatusSeen,
    Summary,
)
from headrace.rollout_display import (
    MAX_SHOWN_GATEWAYS,
    change_line,
    decision_words,
    history_table,
    listing,
    moment,
    printable,
    proposal_lines,
    state_words,
    status_view,
    told,
)
from rollout.evidence import Verdict
from rollout.plan import Event, Shadow, Sticky
from tests.support.rollout_walks import BEGAN_S, PROPOSAL, seen, walked


def drawn(what: RenderableType, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(what)
    return out.getvalue()


# -- words ----------------------------------------------------------------------------------------


def test_what_others_wrote_steers_no_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\u202e é\ud800") == r"a\x1b[2Jb c\u202e é\ud800"
    plan = walked(Event.START, reason="\x1b[31mred")
    for shown in (
        change_line(plan.history[-1], plan),
        drawn(history_table(plan.history)),
        drawn(status_view(seen(plan, reason="\x1b[2J"))),
    ):
        assert "\x1b" not in shown
        assert r"\x1b[" in shown


def test_times_that_are_none_end_nothing() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", moment(BEGAN_S))
    for no_time in (float("nan"), float("inf"), 1e300, -1e300):
        assert moment(no_time) == "no time"


def test_where_a_rollout_is() -> None:
    plan = walked(Event.START)
    assert state_words(plan) == "stepping, step 1 of 2"
    assert told(plan) == (
        "flights is stepping, step 1 of 2: version 1 has 95 %, version 2 has 5 % (revision 2)"
    )
    assert state_words(walked(Event.START, Event.ROLLBACK)) == "rolled back"


def test_what_is_going_to_happen() -> None:
    lines = "\n".join(proposal_lines(PROPOSAL))
    assert "5 %, 50 %, each for at least 5m and 1,000 requests" in lines
    assert "after the last, version 2 has all traffic" in lines
    assert "users are not kept with one version; to keep them: --sticky header:x-user-id" in lines
    assert "salt flights-1a2b" in lines
    kept = msgspec.structs.replace(
        PROPOSAL,
        sticky=Sticky(source="header:x-user", salt="s"),
        shadows=(Shadow(version="2", percent=10, salt="t"),),
    )
    lines = "\n".join(proposal_lines(kept))
    assert "users are kept by header:x-user (salt s)" in lines
    assert "10 % to version 2; the first step waits for 5m and 500 of them" in lines


def test_a_change_is_one_line_with_its_time() -> None:
    plan = walked(Event.START, Event.ADVANCE)
    assert change_line(plan.history[-1], plan) == (
        f"{moment(BEGAN_S + 120)}  revision 3  advance: stepping, step 2 of 2, "
        "version 1 has 50 %, version 2 has 50 %  (controller: why)"
    )
    assert change_line(plan.history[1], plan) == (
        f"{moment(BEGAN_S + 60)}  revision 2  start: draft → stepping  (ada: why)"
    )


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (DecisionSeen("hold", "a gateway is silent"), "kept: a gateway is silent"),
        (DecisionSeen("nothing", "5 of 300 s"), "waits: 5 of 300 s"),
        (DecisionSeen("fire", "1 samples", "advance"), "next advance: 1 samples"),
        (DecisionSeen("fire", "1 samples"), "next: 1 samples"),
        (DecisionSeen("ponder", "of a later release"), "ponder: of a later release"),
    ],
)
def test_what_keeps_a_step(decision: DecisionSeen, words: str) -> None:
    assert decision_words(StatusSeen(plan=walked(), decision=decision)) == words


# -- tables ---------------------------------------------------------------------------------------


def verdict(outcome: str) -> Verdict:
    words = "errors: 2.000% of the candidate's requests, 0.500% of the champion's; meaning"
    fields = {
        "guardrail": "errors",
        "outcome": outcome,
        "log_evidence": 1.0,
        "log_evidence_needed": 6.2,
        "excess": 0.01,
        "excess_at_most": None,
        "tolerated": 0.01,
        "words": words,
    }
    return msgspec.convert(fields, Verdict)


def test_the_status_shows_all_that_a_decision_needs() -> None:
    status = StatusSeen(
        plan=walked(Event.START),
        decision=DecisionSeen("hold", "gateway b acts on revision 1 and not on 2"),
        samples=1234,
        verdicts=(verdict("not_yet"),),
        is_complete=False,
        breakage="the candidate is broken: 5 failed",
        arms=(
            ArmSeen("1", "champion", 95, 20_000, 100, 0, 0, 0, 94.8),
            ArmSeen("2", "candidate", 5, 1234, 12, 3, 0, 0, 5.2),
            ArmSeen("9", "other", 0),
        ),
        gateways=(
            GatewaySeen("a", 0.4, 2, 61.0, ("1", "2")),
            GatewaySeen("b", 12.5, 1, 900.0, ("1",), ("2",)),
        ),
        shadows=(
            ShadowSeen(
                "2", 10, 77, 3, ShareSeen(0.25, 0.01), ShareSeen(0.04), ScoresSeen(77, -0.5)
            ),
        ),
    )
    text = drawn(status_view(status))
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["1", "champion", "95 %", "94.80 %", "20,000", "0.500%", *["0.000%"] * 3] in rows
    assert ["2", "candidate", "5 %", "5.20 %", "1,234", "0.972%", "0.243%", *["0.000%"] * 2] in rows
    assert ["9", "other", "0 %", *["-"] * 6] in rows
    assert rows[1] == ["kept: gateway b acts on revision 1 and not on 2"]
    assert ["b", "12.5 s ago", "1 (not 2)", "900 s", "1", "2"] in rows
    assert text.index("b  ") < text.index("a  "), "whoever lags is what keeps the step"
    for words in (
        "samples: 1,234 of 1,000 in this step, which lasts 5m at least",
        "counters may have been lost",
        "the candidate is broken: 5 failed",
        "errors     not yet  2.000% of the candidate's requests",
        (
            "copies: 10 % to version 2, 77 answers compared, 25.00% differ (with itself: 1.00%), 4.00% decide "
            "otherwise, mean score -0.5, 3 copies failed"
        ),
    ):
        assert words in text


def test_harm_is_hard_to_overlook() -> None:
    status = msgspec.structs.replace(seen(walked(Event.START)), verdicts=(verdict("harmful"),))
    assert "HARMFUL" in drawn(status_view(status))


def test_many_gateways_are_counted_and_the_lagging_ones_shown() -> None:
    plan = walked(Event.START)
    many = [GatewaySeen(f"worker-{at}", 0.1, 2, 5.0) for at in range(MAX_SHOWN_GATEWAYS * 3)]
    status = msgspec.structs.replace(
        seen(plan), gateways=(*many, GatewaySeen("laggard", 0.1, 1, 5.0))
    )
    text = drawn(status_view(status))
    assert f"gateway ({MAX_SHOWN_GATEWAYS * 3 + 1})" in text
    assert "laggard" in text
    assert text.count("worker-") == MAX_SHOWN_GATEWAYS - 1
    assert "no gateway has sent a heartbeat" in drawn(status_view(seen(plan)))


def test_the_list_of_all() -> None:
    rollouts = [
        Summary("flights", "stepping", 2, "1", "2", 5.0, 0, 2, "why", BEGAN_S),
        Summary("delays", "unreadable", reason="the stored plan cannot be read"),
    ]
    text = drawn(listing(rollouts))
    assert re.search(r"flights +stepping +2 +5 % +1 +1 of 2 .*why", text)
    assert re.search(r"delays +unreadable +- .*cannot be read", text)
