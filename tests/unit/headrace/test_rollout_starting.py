"""``headrace rollout start``: what it takes for granted, what it refuses, and what it submits."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path

import pytest

from rollout.plan import State
from tests.support.rollout_admin_port import RolloutAdminPort
from tests.support.rollout_calls import rollout, started

pytestmark = pytest.mark.usefixtures("plain_terminal")


def changes(port: RolloutAdminPort) -> list[str]:
    return [path for method, path in port.requests if method == "PUT" or path.count("/") == 4]


def test_start_needs_nothing_but_the_version(port: RolloutAdminPort) -> None:
    done = started(port, "--steps", "1,5,25,50,100")
    plan = port.plan()
    assert (plan.champion, plan.candidate, plan.state, plan.step) == ("1", "2", State.STEPPING, 0)
    assert [step.percent for step in plan.steps] == [1, 5, 25, 50]
    assert (plan.author, plan.reason) == (getpass.getuser(), "roll out version 2")
    assert re.fullmatch(r"flights-[0-9a-f]{8}", plan.sticky.salt)
    assert f"(request_id, salt {plan.sticky.salt}), so users are not kept" in done.stdout
    assert "to keep them: --sticky header:x-user-id" in done.stdout
    assert "1 %, 5 %, 25 %, 50 %, each for at least 5m and 1,000 requests" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "flights is stepping, step 1 of 4: version 1 has 99 %, version 2 has 1 % (revision 2)"
    )
    assert done.stderr.splitlines() == [
        "headrace: champion is version 1, the newest ready one besides 2",
        "next: headrace rollout status flights --watch",
    ]
    actions = [json.loads(line)["action"] for line in port.audit_file.read_text().splitlines()]
    assert len(actions) == 2, "submitted and started"


def test_the_champion_is_the_newest_that_is_ready(port: RolloutAdminPort) -> None:
    port.repository.versions |= {"9": "READY", "10": "READY", "11": "UNAVAILABLE"}
    port.do(port.beat())
    assert "champion is version 10, the newest ready one" in started(port).stderr
    assert port.plan().champion == "10"


def test_the_champion_is_what_answers_by_the_plan(port: RolloutAdminPort) -> None:
    started(port)
    rollout(port, "promote", "flights", "--reason", "checked")
    port.repository.versions |= {"3": "READY", "9": "READY"}
    port.do(port.beat())
    again = rollout(port, "start", "flights", "--to", "3", "--json")
    assert "champion is version 2, which answers by the plan" in again.stderr
    assert json.loads(again.stdout)["champion"] == "2"


def test_a_version_that_answers_already_is_not_rolled_out(port: RolloutAdminPort) -> None:
    started(port)
    rollout(port, "promote", "flights", "--reason", "checked")
    refused = rollout(port, "start", "flights", "--to", "2", code=2)
    assert refused.stderr == (
        "headrace: version 2 of flights is what answers already: roll out another one\n"
    )


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        ({"2": "READY", "1": "UNAVAILABLE"}, "only version 2 of it is ready"),
        ({"2": "UNAVAILABLE"}, "no version of it is ready"),
    ],
)
def test_without_anything_to_fall_back_to(
    versions: dict[str, str], why: str, port: RolloutAdminPort
) -> None:
    port.repository.versions = versions
    refused = rollout(port, "start", "flights", "--to", "2", code=2)
    assert why in refused.stderr
    assert "--from" in refused.stderr
    assert not port.has_plan()


def test_every_option_reaches_the_plan(port: RolloutAdminPort) -> None:
    words = "--from 1 --steps 10,20 --min-time 30s --min-samples 50 --sticky header:x-user"
    done = started(port, *words.split(), "--shadow", "10%", "--slo-ms", "20", "--reason", "new é")
    plan = port.plan()
    assert [(one.percent, one.min_time_s, one.min_samples) for one in plan.steps] == [
        (10, 30, 50),
        (20, 30, 50),
    ]
    assert (plan.sticky.source, plan.slo_ms, plan.reason) == ("header:x-user", 20, "new é")
    assert (plan.shadows[0].version, plan.shadows[0].percent) == ("2", 10)
    assert plan.state is State.SHADOWING
    assert "champion is" not in done.stderr
    assert "users are kept by header:x-user" in done.stdout


def test_a_dry_run_checks_and_changes_nothing(port: RolloutAdminPort) -> None:
    done = started(port, "--dry-run")
    assert "dry run, nothing was changed; it would be: flights is stepping" in done.stdout
    assert not port.has_plan()
    assert not port.audit_file.exists() or port.audit_file.read_bytes() == b""
    assert json.loads(started(port, "--dry-run", "--json").stdout)["state"] == "stepping"
    refused = rollout(port, "start", "flights", "--to", "7", "--dry-run", code=1)
    assert "model flights has no version 7" in refused.stderr


def test_a_file_holds_the_proposal_and_options_overrule_it(
    port: RolloutAdminPort, plain_terminal: Path
) -> None:
    (plain_terminal / "plan.toml").write_text(
        'candidate = "2"\nslo_ms = 50\n[sticky]\nfrom = "header:u"\nsalt = "s"\n'
        "[[steps]]\npercent = 10\n[[steps]]\npercent = 20\nmin_samples = 5\n"
    )
    rollout(port, "start", "flights", "--file", "plan.toml", "--slo-ms", "70", "--min-time", "1m")
    plan = port.plan()
    assert (plan.candidate, plan.slo_ms, plan.sticky.salt) == ("2", 70, "s")
    assert [(one.percent, one.min_time_s, one.min_samples) for one in plan.steps] == [
        (10, 60, 1000),
        (20, 60, 5),
    ]


def test_all_that_is_wrong_is_told_before_anybody_is_asked(port: RolloutAdminPort) -> None:
    words = ("--from", "2", "--sticky", "cookie", "--slo-ms", "0")
    refused = rollout(port, "start", "flights", "--to", "2", *words, code=2)
    for fault in ("champion and candidate are both version 2", "sticky.from", "slo_ms is 0"):
        assert fault in refused.stderr
    assert changes(port) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--to", "2", "--steps", "5,1"), "goes down from 5 to 1 %"),
        (("--to", "2", "--steps", "5,101"), "more than 100 %"),
        (("--to", "2", "--steps", ""), "--steps is empty"),
        (("--to", "2", "--min-time", "5"), "'5' is no duration"),
        (("--to", "2", "--shadow", "lots"), "--shadow has 'lots'"),
        (("--to", "2", "--file", "none.toml"), "--file none.toml: No such file or directory"),
        (("--to", "2", "--dry-run", "--watch"), "leave one of them out"),
        (("--steps", "5"), "headrace rollout start flights --to VERSION"),
        (("--dry-run",), "headrace rollout start flights --to VERSION"),
    ],
)
def test_mistakes_are_one_line_and_nobody_is_asked(
    words: tuple[str, ...], complaint: str, port: RolloutAdminPort
) -> None:
    refused = rollout(port, "start", "flights", *words, code=2)
    assert complaint in refused.stderr
    assert (refused.stdout, len(refused.stderr.splitlines())) == ("", 1)
    assert port.requests == []


def test_a_rollout_that_runs_is_not_replaced_unasked(port: RolloutAdminPort) -> None:
    started(port)
    refused = rollout(port, "start", "flights", "--to", "2", code=2)
    assert "has a rollout of version 2 that is stepping, step 1 of 4" in refused.stderr
    assert "--replace" in refused.stderr
    assert port.plan().revision == 2
    started(port, "--replace", "--steps", "7")
    plan = port.plan()
    assert (plan.revision, plan.began_revision, plan.steps[0].percent) == (4, 3, 7)


def test_a_version_that_is_not_warm_gets_nothing_until_its_draft_is_started_by_name(
    port: RolloutAdminPort,
) -> None:
    none = rollout(port, "start", "flights", code=2)
    assert "flights has no rollout yet, and no draft to start" in none.stderr
    port.repository.versions["2"] = "UNAVAILABLE"
    port.do(port.beat())
    refused = started(port, code=1)
    assert "not every live gateway has version 2 of model flights warm" in refused.stderr
    assert "next: headrace rollout start flights; headrace rollout status" in refused.stderr
    assert port.plan().state is State.DRAFT
    port.repository.versions["2"] = "READY"
    port.do(port.beat())
    done = rollout(port, "start", "flights")
    assert "flights is stepping, step 1 of 4" in done.stdout
    assert port.plan().revision == 2
    again = rollout(port, "start", "flights", code=2)
    assert "a rollout that is stepping, step 1 of 4, and no draft" in again.stderr
