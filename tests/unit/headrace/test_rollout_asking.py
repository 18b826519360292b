"""What the admin port refuses ``headrace rollout``, who may ask it, and answers that are lost on the way."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foundation.tokens import Role, add_token, new_token
from headrace.__main__ import app
from headrace.rollout_asking import NoAnswerError, RolloutAdmin
from rollout.plan import Event, State
from tests.support.rollout_admin_port import AnswerLoser, RolloutAdminPort
from tests.support.rollout_calls import READY, rollout, started, told
from tests.support.server_process import CHECKOUT

pytestmark = pytest.mark.usefixtures("plain_terminal")


# -- refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_now_is_said(port: RolloutAdminPort) -> None:
    started(port)
    rollout(port, "abort", "flights", "--reason", "x")
    refused = told(rollout(port, "pause", "flights", "--reason", "x", code=1))
    assert "a rollout that is aborted cannot be paused" in refused
    assert refused.endswith("next: headrace rollout status flights\n")


@pytest.mark.parametrize("command", ["status", "history", "resume"])
def test_a_model_without_a_rollout(command: str, port: RolloutAdminPort) -> None:
    refused = told(rollout(port, command, "nobody", code=1))
    assert "model 'nobody' has no rollout" in refused
    assert "next: headrace rollout status" in refused


def test_names_that_are_no_models_go_nowhere(port: RolloutAdminPort) -> None:
    started(port)
    for name in ("../v2/rollouts/flights", "flights/pause", "fl ights", "é", "flights?x=1"):
        rollout(port, "status", name, code=1)
    assert port.plan().revision == 2


@pytest.mark.parametrize("command", ["start", "status", "resume"])
def test_a_server_without_rollouts_says_how_to_turn_them_on(
    command: str, plain_terminal: Path
) -> None:
    with RolloutAdminPort(plain_terminal, dict(READY), is_on=False) as off:
        words = ("--to", "2") if command == "start" else ()
        refused = told(rollout(off, command, "flights", *words, code=1))
    assert "set enabled = true in [rollout]" in refused


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    refused = told(rollout(f"http://127.0.0.1:{free}", "resume", "flights", code=1))
    assert f"no answer from http://127.0.0.1:{free}: [Errno 111] Connection refused" in refused
    assert f"next: headrace health --url http://127.0.0.1:{free}" in refused
    assert "cannot be asked" in told(rollout("127.0.0.1:1", "status", code=1))
    assert "has a password" in rollout("http://a:b@127.0.0.1:1", "status", code=2).stderr


def test_somebody_was_first_and_is_named(port: RolloutAdminPort) -> None:
    started(port)

    async def first(method: str, path: str) -> None:
        if path.endswith("/pause"):
            await port.fire(Event.ADVANCE, "1,203 samples, and every guardrail is fine")

    port.before = first
    refused = told(rollout(port, "pause", "flights", "--reason", "x", code=1))
    assert "somebody was first" in refused
    assert re.search(
        r"\n  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  revision 3  advance: stepping, step 2 of 4, version 1 has 95 %, "
        r"version 2 has 5 %  \(controller: 1,203 samples, and every guardrail is fine\)\n",
        refused,
    )
    assert refused.endswith(
        "next: headrace rollout status flights, then the same command again if it is still right\n"
    )
    assert port.plan().state is State.STEPPING


def test_somebody_made_a_plan_meanwhile(port: RolloutAdminPort) -> None:
    async def first(method: str, path: str) -> None:
        if method == "PUT" and port.before is not None:
            port.before = None
            url = port.url
            words = [sys.executable, "-m", "headrace", "rollout", "start", "flights", "--to", "1"]
            done = await exit_code_of([*words, "--from", "2", "--admin-url", url])
            assert done == 0

    port.before = first
    refused = rollout(port, "start", "flights", "--to", "2", code=1)
    assert "somebody was first" in refused.stderr
    assert "revision 2  start: draft → stepping" in refused.stderr
    assert (port.plan().candidate, port.plan().revision) == ("1", 2)


async def exit_code_of(words: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *words, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await asyncio.wait_for(process.wait(), 20)


@pytest.mark.parametrize(("command", "state"), [("rollback", "rolled_back"), ("abort", "aborted")])
def test_the_way_back_does_not_wait_for_the_controller(
    command: str, state: str, port: RolloutAdminPort
) -> None:
    started(port)

    async def first(method: str, path: str) -> None:
        if path.endswith(command) and port.before is not None:
            port.before = None
            await port.fire(Event.ADVANCE)

    port.before = first
    rollout(port, command, "flights", "--reason", "customers complain")
    plan = port.plan()
    assert (plan.state.value, plan.revision) == (state, 4)
    assert [entry.event for entry in plan.history][-2:] == ["advance", command]


def test_the_way_back_is_not_for_another_rollout(port: RolloutAdminPort) -> None:
    started(port)

    async def first(method: str, path: str) -> None:
        if path.endswith("rollback"):
            port.before = None
            await port.fire(Event.BREACH, "harm")

    port.before = first
    refused = told(rollout(port, "rollback", "flights", "--reason", "x", code=1))
    assert "breach" in refused
    assert port.plan().revision == 3


@pytest.mark.parametrize("lose", [1, 2])
def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_happens_twice(
    lose: int, port: RolloutAdminPort
) -> None:
    """The first connection reads the plan; so what is lost is, in turn, its answer or none of the change's."""
    started(port)
    port.requests.clear()
    with AnswerLoser(port.port, lose=lose) as loser:
        words = ("pause", "flights", "--reason", "x")
        if lose == 1:
            rollout(loser.url, *words)
            assert loser.accepted == 3, "the plan twice, the change once"
        else:
            refused = told(rollout(loser.url, *words, code=1))
            assert "no answer from" in refused
            assert "whether the change" not in refused, "only reading was tried"
    assert port.plan().revision == 4 - lose


@pytest.mark.parametrize("lose", [1, 2])
def test_a_change_whose_answer_was_lost_is_made_once(lose: int, port: RolloutAdminPort) -> None:
    started(port)
    with AnswerLoser(port.port, lose=lose) as loser:
        admin = RolloutAdmin(loser.url, author="ada")
        if lose == 1:
            assert admin.cause("flights", "pause", revision=2, reason="x").revision == 3
        else:
            with pytest.raises(NoAnswerError) as caught:
                admin.cause("flights", "pause", revision=2, reason="x")
            assert caught.value.may_have_happened
        assert loser.accepted == 2
    assert [entry.event for entry in port.plan().history] == ["submit", "start", "pause"]


def test_a_store_that_is_away(port: RolloutAdminPort) -> None:
    started(port)
    port.store.go_away()
    refused = told(rollout(port, "pause", "flights", "--reason", "x", code=1))
    assert "away" in refused
    assert "next: wait 1 s, then the same command again" in refused


def test_too_many_changes(plain_terminal: Path) -> None:
    with RolloutAdminPort(plain_terminal, dict(READY), changes_per_min=1) as port:
        started(port)
        refused = told(rollout(port, "pause", "flights", "--reason", "x", code=1))
    assert "more than 1 changes a minute" in refused
    assert re.search(r"next: wait \d+ s, then the same command again", refused)


def test_a_plan_that_cannot_be_read(port: RolloutAdminPort) -> None:
    port.store.put_document("flights", b'{"format":1,"half')
    refused = told(rollout(port, "status", "flights", code=1))
    assert "the stored plan of model flights cannot be read (sha256 " in refused
    assert "unreadable" in rollout(port, "status").stdout
    assert "cannot be read" in rollout(port, "start", "flights", "--to", "2", code=1).stderr


# -- tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def tokens(plain_terminal: Path) -> dict[str, str]:
    """By role; in ``tokens.toml`` here."""
    presented = {}
    for role in Role:
        token, presented[role.value] = new_token(role.value, role, now=datetime.now(UTC))
        add_token(plain_terminal / "tokens.toml", token)
    return presented


@pytest.fixture
def guarded(plain_terminal: Path, tokens: dict[str, str]) -> Iterator[RolloutAdminPort]:
    with RolloutAdminPort(
        plain_terminal, dict(READY), tokens=plain_terminal / "tokens.toml"
    ) as served:
        yield served


def test_tokens_come_from_the_variable_or_a_file(
    guarded: RolloutAdminPort, tokens: dict[str, str], plain_terminal: Path
) -> None:
    (plain_terminal / "mine").write_text(tokens["operator"] + "\n")
    start = ("start", "flights", "--to", "2")
    # The repository's index asks for no token, so the champion is found with one that only rollouts ask for.
    done = rollout(guarded, *start, "--token-file", "mine", HEADRACE_TOKEN=tokens["viewer"])
    assert guarded.plan().author == "operator", "the file wins over the variable"
    assert "stepping" in rollout(guarded, "status", HEADRACE_TOKEN=tokens["viewer"]).stdout
    viewing = {"HEADRACE_TOKEN": tokens["viewer"]}
    refused = rollout(guarded, "pause", "flights", "--reason", "x", code=1, **viewing)
    assert "'viewer' is a viewer, and this needs an operator" in told(refused)
    promote = ("promote", "flights", "--reason", "x")
    by_operator = rollout(guarded, *promote, "--token-file", "mine", code=1)
    assert "promoting by hand takes an approver" in told(by_operator)
    rollout(guarded, *promote, HEADRACE_TOKEN=tokens["approver"])
    assert guarded.plan().author == "approver"
    for shown in (done, refused, by_operator):
        assert "hrt_" not in shown.output


def test_without_a_token_in_force(guarded: RolloutAdminPort, tokens: dict[str, str]) -> None:
    missing = told(rollout(guarded, "status", code=1))
    assert "rollouts ask for an operator's token" in missing
    assert "next: set HEADRACE_TOKEN or --token-file" in missing
    wrong = tokens["viewer"][:-4] + "AAAA"
    refused = told(rollout(guarded, "status", code=1, HEADRACE_TOKEN=wrong))
    assert "this is nobody's token" in refused
    assert wrong not in refused


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        ("", "is empty"),
        ("two words", "holds no token"),
        ("hrt_\r\nx-evil: 1", "holds no token"),
        ("é" * 9, "holds no token"),
        ("x" * 2000, "holds no token"),
    ],
)
def test_token_files_that_hold_none(
    content: str | None, complaint: str, plain_terminal: Path
) -> None:
    if content is not None:
        (plain_terminal / "mine").write_text(content)
    refused = rollout("http://127.0.0.1:1", "status", "--token-file", "mine", code=2)
    assert complaint in refused.stderr
    assert content is None or not content or content not in refused.stderr


def test_the_token_is_no_servers_setting(port: RolloutAdminPort) -> None:
    environment = {"HEADRACE_TOKEN": "hrt_a_b", "HEADRACE_SERVER_ADMIN_PORT": str(port.port)}
    listed = CliRunner().invoke(app, ["rollout", "status"], env=environment)
    assert (listed.exit_code, listed.stdout) == (0, "no model has a rollout\n")
    assert "hrt_a_b" not in listed.output
