"""Two real controllers on a real store: one leads, the other takes over when it dies, and the log is whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from foundation.audit_record import Line
from foundation.audit_verifying import last_lines, verify
from rollout.controller import apply, submit
from rollout.evidence import ArmCounts, Stretch
from rollout.plan import Event, Plan, PlannedGuardrail, Proposal, State, Step, Sticky
from rollout.ports import LEASE_MS, Counters, ModelBeat, WorkerBeat
from rollout.redis_rollouts import RedisRollouts
from rollout.transitions import Author, Change
from tests.support.redis_servers import ValkeyServer
from tests.support.waiting import eventually

CHECKOUT = Path(__file__).resolve().parents[2]
TICK_S = 0.2
START_WITHIN_S = 20.0
SLACK_S = 1.5
"""For two busy cores."""
OPERATOR = Author("ada", "operator")
WARM = frozenset({"3", "4"})


class Controller:
    """One ``python -m rollout``."""

    def __init__(self, folder: Path, url: str, *options: str) -> None:
        kept = {key: value for key, value in os.environ.items() if "HEADRACE_" not in key}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollout", *options],
            cwd=folder,
            env=kept
            | {
                "PYTHONPATH": str(CHECKOUT),
                "HEADRACE_STORE_REDIS_URL": url,
                "HEADRACE_ROLLOUT_STATE_DIR": str(folder / "state"),
                "HEADRACE_ROLLOUT_TICK_INTERVAL_MS": str(TICK_S * 1000),
                "HEADRACE_SERVER_HTTP_PORT": "0",  # the gateway's, and no business of a controller's
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def said(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    def await_said(self, words: str, within_s: float = START_WITHIN_S) -> None:
        def look() -> bool:
            assert self.process.poll() is None or words in self.said, self.said
            return words in self.said

        eventually(f"a controller says {words!r}", look, within_s=within_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._log.close()


class Gateway(threading.Thread):
    """What a worker says: it lives, acts on the newest plan, has all versions warm, and everything goes well."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stop_asked = threading.Event()
        self.plans: list[Plan] = []
        """Each revision as it was first seen."""

    def run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        store = RedisRollouts(self._url)
        stretches: dict[int, Stretch] = {}
        while not self._stop_asked.wait(0.05):
            stored = await store.plan("delays")
            assert stored is not None
            plan = stored.plan
            if not self.plans or self.plans[-1].revision != plan.revision:
                self.plans.append(plan)
            said = ModelBeat("delays", plan.revision, 60.0, WARM)
            await store.beat(WorkerBeat("w1", time.time(), (said,)))
            if plan.state is State.STEPPING:
                stretches[plan.revision] = Stretch(
                    plan.revision, plan.step, ArmCounts(5000), ArmCounts(20_000)
                )
            counters = Counters(stretches=tuple(stretches.values()))
            await store.report("w1", "delays", plan.began_revision, counters)
        await store.close()

    def end(self) -> None:
        self._stop_asked.set()
        self.join(10)


def at_store(url: str, act: Callable[[RedisRollouts], Coroutine[Any, Any, Any]]) -> Any:
    async def there() -> Any:
        store = RedisRollouts(url)
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(there())


def begin(url: str, *, seconds_per_step: float) -> Plan:
    """A plan that runs."""
    proposal = Proposal(
        model="delays",
        champion="3",
        candidate="4",
        sticky=Sticky(salt="delays 4"),
        steps=tuple(
            Step(percent=percent, min_time_s=seconds_per_step, min_samples=100)
            for percent in (1, 2, 3, 5, 8, 13, 21, 34, 50)
        ),
        guardrails=(PlannedGuardrail(kind="errors"),),
    )
    draft = submit(proposal, time.time(), OPERATOR, "a new version")
    assert isinstance(draft, Plan)
    change = Change(event=Event.START, revision=1)
    started = apply(draft, change, time.time(), OPERATOR, "", WARM)
    assert isinstance(started, Plan)

    async def put(store: RedisRollouts) -> None:
        await store.write(draft, 0, 0)
        await store.write(started, 1, 0)

    at_store(url, put)
    return started


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def records(folder: Path) -> list[tuple[str, int]]:
    path = folder / "state" / "audit.jsonl"
    assert verify(path).is_sound
    lines = [one.content for one in last_lines(path, 1000)]
    assert all(isinstance(line, Line) for line in lines)
    return [
        (line.record.action, line.record.details["revision"])
        for line in lines
        if isinstance(line, Line)
    ]


def test_the_standby_goes_on_when_the_leader_is_killed(
    server: ValkeyServer, tmp_path: Path
) -> None:
    url = server.socket_url
    begin(url, seconds_per_step=0.8)
    with contextlib.ExitStack() as ending:
        gateway = Gateway(url)
        gateway.start()
        ending.callback(gateway.end)
        leader = Controller(tmp_path, url)
        ending.callback(leader.close)
        leader.await_said("leads: this controller")
        assert f"controls the rollouts in {url}" in leader.said
        standby = Controller(tmp_path, url)
        ending.callback(standby.close)
        standby.await_said("stands by: another controller leads")
        eventually("a step was left", lambda: gateway.plans[-1].step >= 2, within_s=15)
        leader.stop(signal.SIGKILL)
        killed_s = time.monotonic()
        standby.await_said("leads: this controller", within_s=LEASE_MS / 1000 + TICK_S + SLACK_S)
        took_s = time.monotonic() - killed_s
        assert took_s <= LEASE_MS / 1000 + TICK_S + SLACK_S
        eventually("promoted", lambda: gateway.plans[-1].state is State.PROMOTED, within_s=30)
        eventually("recorded", lambda: len(records(tmp_path)) == 9, within_s=5)
        assert standby.stop() == 0
        assert standby.said.endswith("stopped\n")
        assert "Traceback" not in leader.said + standby.said
    plan = gateway.plans[-1]
    wanted = [
        (f"rollout.{one.event}", one.revision) for one in plan.history if one.author == "controller"
    ]
    assert records(tmp_path) == wanted, "each change once, in order, whoever died in between"
    print(f"took over after {took_s:.2f} s")


def test_a_stop_hands_over_at_once_and_a_store_that_is_away_is_waited_for(
    server: ValkeyServer, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as ending:
        one = Controller(tmp_path, server.socket_url)
        ending.callback(one.close)
        one.await_said("leads: this controller")
        other = Controller(tmp_path, server.socket_url)
        ending.callback(other.close)
        other.await_said("stands by")
        assert one.stop() == 0
        other.await_said("leads: this controller", within_s=TICK_S + SLACK_S)
        server.kill()
        other.await_said("waits for the store: ")
        server.start()
        eventually("leads again", lambda: other.said.count("leads: this") == 2, within_s=10)
        assert other.stop(signal.SIGINT) == 0
        assert "Traceback" not in one.said + other.said


def test_help_teaches_and_wrong_settings_are_told(tmp_path: Path) -> None:
    def ended(*options: str) -> tuple[int, str]:
        controller = Controller(tmp_path, "redis://127.0.0.1:1", *options)
        try:
            return controller.process.wait(START_WITHIN_S), controller.said
        finally:
            controller.close()

    code, said = ended("--help")
    assert code == 0
    for words in ("redis_url", "audit_file", "stands by", "HEADRACE_STORE_REDIS_URL", "SIGTERM"):
        assert words in said
    file = tmp_path / "headrace.toml"
    file.write_text("[server]\nhttp_port = 1\n[rollout]\ntick_intervall_ms = 5\n")
    code, said = ended("--config", str(file))
    assert (code, "unknown key 'tick_intervall_ms' in [rollout]" in said) == (2, True), said
    file.write_text("[rollout]\nstore_timeout_ms = 5\n")
    code, said = ended()
    assert code == 2, said
    assert said.startswith("rollout: headrace.toml: ")
    code, said = ended("--config", str(tmp_path / "none.toml"))
    assert (code, "No such file" in said) == (2, True), said
