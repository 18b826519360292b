"""Travellers where nobody answers, and where somebody does who only knows REST: every call is noted, and all stop."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from examples.flights.callers import Asked
from examples.flights.traffic import GRPC, REST, THREADS, USER_HEADER, Call, Travellers

ASKED: Asked = {
    "flight": np.arange(3)[:, None],
    "tailnum": np.array([b"N1"] * 3, np.object_)[:, None],
}
LIMIT_S = 20.0


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that is taken and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


class Answers(BaseHTTPRequestHandler):
    """Every third answer is NaN, every fifth an error."""

    protocol_version = "HTTP/1.1"
    names: list[str] = []  # noqa: RUF012 - made anew by the fixture

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.names.append(self.headers[USER_HEADER])
        number = len(self.names)
        chance = math.nan if number % 3 == 0 else 0.25
        body = json.dumps({"model_version": "2", "outputs": [{"data": [chance]}]}).encode()
        self.send_response(503 if number % 5 == 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def rest() -> Iterator[str]:
    Answers.names = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(LIMIT_S)


def noted(addresses: dict[str, str], least: int) -> list[Call]:
    before = threading.active_count()
    with Travellers(addresses, ASKED) as travellers:
        travellers.begin()
        until = time.monotonic() + LIMIT_S
        while len(travellers.calls()) < least and time.monotonic() < until:
            threading.Event().wait(0.01)
    assert not [one for one in threading.enumerate() if one.name.startswith("travellers-")]
    assert threading.active_count() <= before + THREADS  # of gRPC's own, if any
    return travellers.calls()


def test_calls_that_nobody_answers_are_failures_and_not_left_out(nowhere: str) -> None:
    calls = noted({"http": nowhere, "grpc": nowhere}, least=8)
    assert len(calls) >= 8
    assert {one.front for one in calls} == {REST, GRPC}
    assert all(one.failure and one.version == 0 and not one.is_odd for one in calls)


def test_every_answer_is_noted_with_its_traveller(nowhere: str, rest: str) -> None:
    calls = [one for one in noted({"http": rest, "grpc": nowhere}, least=60) if one.front == REST]
    assert sorted(f"traveller-{one.traveller:04}" for one in calls) == sorted(Answers.names)
    odd, failed = sum(one.is_odd for one in calls), [one for one in calls if one.failure]
    assert len(failed) == len(calls) // 5
    assert all("HTTP 503" in one.failure for one in failed)
    assert odd == len(calls) // 3 - len(calls) // 15
    assert all(one.version == 2 for one in calls if not one.failure)


def test_travellers_who_never_began_can_be_stopped(nowhere: str) -> None:
    with Travellers({"http": nowhere, "grpc": nowhere}, ASKED) as travellers:
        pass
    assert travellers.calls() == []
