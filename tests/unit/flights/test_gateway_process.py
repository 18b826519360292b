"""The child process, played by scripts of a few lines."""

from __future__ import annotations

import sys

import pytest

from examples.flights.gateway_process import GatewayError, running

ADDRESSES = """
import signal, sys
print("http   http://0.0.0.0:4001   REST")
print("grpc   127.0.0.1:4002")
print("admin  http://127.0.0.1:4003")
"""
OBEY = "signal.signal(signal.SIGTERM, lambda *_: sys.exit({exit_code}))\n"
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
READY = "print('ready: 1 model', flush=True)\n"
WAIT = "while True: signal.pause()\n"


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.parametrize("exit_code", [0, 3])
def test_starts_tells_its_addresses_and_stops(exit_code: int) -> None:
    with running(script(ADDRESSES + OBEY.format(exit_code=exit_code) + READY + WAIT)) as gateway:
        assert gateway.wait_until_ready(limit_s=30) == {
            "http": "127.0.0.1:4001",
            "grpc": "127.0.0.1:4002",
            "admin": "127.0.0.1:4003",
        }
        assert gateway.stop(limit_s=30).exit_code == exit_code


def test_dying_at_the_start_shows_the_last_lines() -> None:
    with (
        running(script("import sys\nprint('no models here')\nsys.exit(2)")) as gateway,
        pytest.raises(GatewayError, match=r"(?s)exit code 2 while starting.*no models here"),
    ):
        gateway.wait_until_ready(limit_s=30)


def test_ready_without_an_address_is_an_error() -> None:
    with (
        running(script("import signal\n" + READY + WAIT)) as gateway,
        pytest.raises(GatewayError, match=r"without an address for \['grpc', 'http'\]"),
    ):
        gateway.wait_until_ready(limit_s=30)


def test_never_getting_ready_has_a_limit() -> None:
    with (
        running(script(ADDRESSES + WAIT)) as gateway,
        pytest.raises(GatewayError, match=r"was not ready after 0\.01 s"),
    ):
        gateway.wait_until_ready(limit_s=0.01)


def test_refusing_to_stop_has_a_limit_and_is_ended() -> None:
    with running(script(ADDRESSES + IGNORE + READY + WAIT)) as gateway:
        gateway.wait_until_ready(limit_s=30)
        with pytest.raises(GatewayError, match=r"still running 0\.01 s after SIGTERM"):
            gateway.stop(limit_s=0.01)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(GatewayError, match="did not start"), running(["/no/such/headrace"]):
        pass
