"""``headrace rollout`` against the admin port's own routes, over a store in memory."""

from __future__ import annotations

import getpass
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from headrace.__main__ import app
from rollout.plan import Event, State
from tests.support.rollout_admin_port import RolloutAdminPort
from tests.support.rollout_calls import STEER, rollout, started, told
from tests.support.server_process import CHECKOUT

pytestmark = pytest.mark.usefixtures("plain_terminal")


# -- by hand --------------------------------------------------------------------------------------


def test_a_rollout_is_steered_by_hand(port: RolloutAdminPort) -> None:
    started(port)
    for words, state, weight in (
        (("step", "flights"), "stepping, step 2 of 4", 5),
        (("step", "flights", "4"), "stepping, step 4 of 4", 50),
        (("pause", "flights"), "paused, step 4 of 4", 50),
        (("resume", "flights"), "stepping, step 4 of 4", 50),
        (("step", "flights", "1"), "stepping, step 1 of 4", 1),
        (("promote", "flights"), "promoted", 100),
        (("rollback", "flights"), "rolled back", 0),
    ):
        done = rollout(port, *words, "--reason", f"for {words[0]}")
        assert done.stdout.startswith(f"flights is {state}: ")
        assert f"version 2 has {weight} %" in done.stdout
        assert done.stderr.startswith("next: headrace rollout ")
        plan = port.plan()
        assert (plan.reason, plan.author) == (f"for {words[0]}", getpass.getuser())
    events = [
        entry["event"] for entry in json.loads(rollout(port, "history", "flights", "--json").stdout)
    ]
    assert events == "submit start step step pause resume step promote rollback".split()
    shown = rollout(port, "history", "flights").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [
        str(one + 1) for one in range(9)
    ]


def test_abort_puts_it_away(port: RolloutAdminPort) -> None:
    started(port)
    document = json.loads(rollout(port, "abort", "flights", "--reason", "x", "--json").stdout)
    assert (document["state"], port.plan().state) == ("aborted", State.ABORTED)


def test_after_the_last_step_comes_the_promotion(port: RolloutAdminPort) -> None:
    started(port, "--steps", "50")
    refused = rollout(port, "step", "flights", "--reason", "on", code=2)
    assert "what follows is headrace rollout promote flights" in refused.stderr
    beyond = rollout(port, "step", "flights", "9", "--reason", "on", code=1)
    assert "say which step, from 1 to 1" in told(beyond)


@pytest.mark.parametrize("command", STEER)
def test_by_hand_takes_a_reason(command: str, port: RolloutAdminPort) -> None:
    for words in ((), ("--reason", " ")):
        refused = rollout(port, command, "flights", *words, code=2)
        assert 'say why: --reason "…"' in refused.stderr
    assert port.requests == []


# -- status and watch -----------------------------------------------------------------------------


def test_status_of_one_and_of_all(port: RolloutAdminPort) -> None:
    started(port)
    port.do(port.beat())
    one = rollout(port, "status", "flights")
    for words in (
        "flights: stepping, step 1 of 4, revision 2",
        "planned  measured  requests",
        "samples: 0 of 1,000 in this step, which lasts 5m at least",
        "errors     not yet  ",
        "gateway-1",
    ):
        assert words in one.stdout
    document = json.loads(rollout(port, "status", "flights", "--json").stdout)
    assert document["plan"]["revision"] == 2
    assert {arm["version"] for arm in document["arms"]} == {"1", "2"}
    listed = rollout(port, "status").stdout
    assert re.search(r"flights +stepping +2 +1 % +1 +1 of 4", listed)
    assert json.loads(rollout(port, "status", "--json").stdout)[0]["model"] == "flights"
    assert "name its model" in rollout(port, "status", "--watch", code=2).stderr


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ((Event.ADVANCE, Event.PROMOTE), 0),
        ((Event.ADVANCE, Event.BREACH), 3),
        ((Event.INCONCLUSIVE,), 4),
    ],
)
def test_watch_follows_a_start_to_its_end(
    events: tuple[Event, ...], code: int, port: RolloutAdminPort
) -> None:
    left = list(events)

    async def controller(method: str, path: str) -> None:
        if path.endswith("/status") and left:
            await port.fire(left.pop(0))

    port.before = controller
    words = ("start", "flights", "--to", "2", "--steps", "5,50", "--watch")
    lines = rollout(port, *words, code=code).stdout.splitlines()
    timed = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  revision ", line)]
    fired = [line for line in timed if "(controller: as counted)" in line]
    assert [line.split("  ")[2].split(":")[0] for line in fired] == [one.value for one in events]
    assert len(fired) == len(events)


def test_watch_for_scripts_says_only_json(port: RolloutAdminPort) -> None:
    left = [Event.ADVANCE, Event.PROMOTE]

    async def controller(method: str, path: str) -> None:
        if path.endswith("/status") and left:
            await port.fire(left.pop(0))

    port.before = controller
    words = ("start", "flights", "--to", "2", "--steps", "5,50", "--watch", "--json")
    lines = [json.loads(line) for line in rollout(port, *words).stdout.splitlines()]
    assert [line["plan"]["state"] for line in lines] == ["stepping", "promoted"]


def test_watch_of_a_rollout_that_is_over_ends_at_once(port: RolloutAdminPort) -> None:
    started(port)
    rollout(port, "rollback", "flights", "--reason", "customers complain")
    shown = rollout(port, "status", "flights", "--watch", code=3).stdout
    assert "rollback: stepping → rolled_back" in shown
    rollout(port, "status", "nobody", "--watch", code=1)


# -- at a terminal --------------------------------------------------------------------------------


def at_terminal(*words: str, typed: bytes = b"", after: bytes = b"") -> tuple[int, str]:
    """The command with a terminal of its own; ``typed`` once ``after`` was shown. Exit code, and all it showed."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "rollout", *words],
        cwd=CHECKOUT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
    )
    os.close(follower)
    shown, end_s = b"", time.monotonic() + 20
    try:
        while time.monotonic() < end_s and select.select([leader], [], [], 20)[0]:
            try:
                part = os.read(leader, 65_536)
            except OSError:  # the other side is closed
                break
            shown += part
            if typed and after in shown:
                os.write(leader, typed)
                typed = b""
        return process.wait(5), shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_reason_is_asked_for_at_a_terminal(port: RolloutAdminPort) -> None:
    started(port)
    words = ("pause", "flights", "--admin-url", port.url)
    code, shown = at_terminal(*words, typed=b"lunch\n", after=b"why pause")
    assert code == 0, shown
    assert port.plan().reason == "lunch"


def test_watch_draws_a_table_at_a_terminal(port: RolloutAdminPort) -> None:
    started(port, "--steps", "5,50")
    left = [Event.ADVANCE, Event.PROMOTE]

    async def controller(method: str, path: str) -> None:
        if path.endswith("/status") and left:
            await port.fire(left.pop(0))

    port.before = controller
    code, shown = at_terminal("status", "flights", "--watch", "--admin-url", port.url)
    assert code == 0, shown
    for words in ("stepping, step 2 of 2", "promoted", "measured", "gateway-1"):
        assert words in shown
    assert "\x1b[1A" in shown, "drawn in its place"


# -- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["start", "status", "history", "resume", *STEER])
def test_help_teaches_with_an_example(command: str) -> None:
    text = CliRunner().invoke(app, ["rollout", command, "--help"]).stdout
    example = re.search(rf"Try it:  (headrace rollout {command} flights[^\n│]*)", text)
    assert example, text
    assert "--token-file" in text
    assert re.search(r"[^-]--token[^-]", text) is None, "a secret is no option's value"
