"""How the bench's commands end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib import import_module

import pytest

from loadtests import workbench
from loadtests.command import FAILED, guarded
from loadtests.failures import BenchError

COMMANDS = ("bench", "operations", "perf_analyzer", "soak", "telemetry_cost")


@pytest.fixture(autouse=True)
def _handler_is_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_status_is_passed_on() -> None:
    assert guarded("it", lambda: 7) == 7


@pytest.mark.parametrize(
    ("problem", "status", "words"),
    [
        (BenchError("no core left"), FAILED, "it: no core left\n"),
        (KeyboardInterrupt(), 130, "it: interrupted, nothing was written\n"),
    ],
)
def test_a_mistake_and_an_interruption_are_told(
    problem: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise problem

    assert guarded("it", work) == status
    assert capsys.readouterr().err == words


def test_a_kill_unwinds_what_was_started() -> None:
    stopped = []

    def work() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            stopped.append("server")
        return 0

    with pytest.raises(SystemExit) as ended:
        guarded("it", work)
    assert ended.value.code == 143
    assert stopped == ["server"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_offers_the_same_place(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"loadtests.{name}").main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("--server-core", "--load-core", "--headrace PATH", "--work"):
        assert option in said


@pytest.mark.parametrize("name", ["bench", "operations", "telemetry_cost"])
def test_server_and_load_need_a_core_each(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module(f"loadtests.{name}").main
    assert main(["--server-core", "0", "--load-core", "0"]) == FAILED
    assert "server and load need a core each; asked for 0 and 0" in capsys.readouterr().err
    with pytest.raises(BenchError, match="need a core each"):
        workbench.claim_cores(0, 2**20)
