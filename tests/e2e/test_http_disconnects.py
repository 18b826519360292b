"""Callers that hang up: in the middle of a body, while they wait, while the model runs. Nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests.e2e.conftest import Dial
from tests.support.lanes import (
    cancelled_requests,
    occupied,
    wait_until_queued,
    wait_until_running,
)
from tests.support.raw_http import (
    RawHttp,
    floats_json,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.served_models import SLOW_WIDTH, slow_answer, slow_row
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("neighbour")

WAYS = {"lane": post_infer, "asgi": post_infer_chunked}
ENDS = {"close": RawHttp.close, "reset": RawHttp.reset}
Way = Callable[..., bytes]
End = Callable[[RawHttp], None]


def _ask_slow(dial: Dial, way: Way, first: float) -> RawHttp:
    connection = dial()
    connection.send(way("slow", floats_json(width=SLOW_WIDTH, first=first)))
    return connection


def _assert_right(connection: RawHttp, first: float) -> None:
    response = connection.receive()
    assert response.status == 200, response
    answer = np.array(json.loads(response.body)["outputs"][0]["data"], np.float32)
    assert np.array_equal(answer.reshape(1, -1), slow_answer(slow_row(first)))


def _assert_nothing_is_held(server: ServerProcess) -> None:
    eventually(
        "everything is given back",
        lambda: (
            server.metric("headrace_inflight_requests") == 0
            and server.metric("headrace_inflight_bytes") < 4096  # the neighbour's
        ),
    )


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("remembered", [False, True])
def test_in_the_middle_of_a_body(server: ServerProcess, end: End, remembered: bool) -> None:
    body = floats_json(width=30_000)
    whole = post_infer("wide", body, [("x-head", "of its own" if remembered else str(end))])
    if remembered:
        with RawHttp(server.http) as connection:
            assert connection.ask(whole).status == 200
    for size in (10, len(whole) // 2, len(whole) - 1):
        connection = RawHttp(server.http)
        connection.send(whole[:size])
        end(connection)
    _assert_nothing_is_held(server)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_in_the_middle_of_chunks(server: ServerProcess, end: End) -> None:
    head = request("POST", infer_path("wide"), [("transfer-encoding", "chunked")])
    for rest in (b"", b"100", b"1000\r\nhello", b"5\r\nhello\r\n"):
        connection = RawHttp(server.http)
        connection.send(head + rest)
        end(connection)
    _assert_nothing_is_held(server)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_while_the_batch_runs(server: ServerProcess, dial: Dial, way: Way, end: End) -> None:
    """One member of a running batch goes away: the others get exactly their own rows."""
    cancelled = cancelled_requests(server)
    with occupied(server):
        members = [_ask_slow(dial, way, 100.0 * number) for number in range(4)]
        wait_until_queued(server, 4)
    wait_until_running(server)
    end(members[1])
    for number in (0, 2, 3):
        _assert_right(members[number], 100.0 * number)
    eventually("the one that left is counted", lambda: cancelled_requests(server) == cancelled + 1)
    _assert_nothing_is_held(server)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_while_it_waits(server: ServerProcess, dial: Dial, way: Way, end: End) -> None:
    """Who leaves the queue is not run at all, and those behind move up."""
    cancelled = cancelled_requests(server)
    with occupied(server):
        members = [_ask_slow(dial, way, 100.0 * number) for number in range(4)]
        wait_until_queued(server, 4)
        end(members[0])
        end(members[2])
        wait_until_queued(server, 2)
    assert cancelled_requests(server) == cancelled + 2
    for number in (1, 3):
        _assert_right(members[number], 100.0 * number)
    _assert_nothing_is_held(server)


def test_with_requests_pipelined_behind(server: ServerProcess) -> None:
    """While an answer is awaited, a connection with more requests is not read: its end shows at the next answer."""
    runs = server.metric("headrace_batches_total", model="slow")
    body = floats_json(width=SLOW_WIDTH)
    with RawHttp(server.http) as connection:
        connection.send(post_infer("slow", body) * 8)
        wait_until_running(server)
    _assert_nothing_is_held(server)
    ran = server.metric("headrace_batches_total", model="slow") - runs
    assert ran <= 2, f"{ran:g} of 8 were run for nobody"


def test_a_pipelined_request_that_runs_is_given_up(server: ServerProcess) -> None:
    cancelled = cancelled_requests(server)
    body = floats_json(width=SLOW_WIDTH)
    with RawHttp(server.http) as connection:
        connection.send(post_infer("identity", floats_json()) + post_infer("slow", body) * 2)
        assert connection.receive().status == 200
        wait_until_running(server)
    eventually("the second one is given up", lambda: cancelled_requests(server) == cancelled + 1)
    _assert_nothing_is_held(server)


def test_two_hundred_at_once(server: ServerProcess, dial: Dial) -> None:
    cancelled = cancelled_requests(server)
    members = [dial() for _ in range(200)]
    requests = [
        post_infer("slow", floats_json(width=SLOW_WIDTH, first=float(number)))
        for number in range(200)
    ]
    with occupied(server):
        for member, one in zip(members, requests, strict=True):
            member.send(one)
        wait_until_queued(server, 200)
        for number, member in enumerate(members):
            if number % 50:
                member.reset()
        wait_until_queued(server, 4)
    for number in range(0, 200, 50):
        _assert_right(members[number], float(number))
    assert cancelled_requests(server) == cancelled + 196
