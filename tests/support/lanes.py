"""What the admin port says of one model's lane, what the model ``slow`` is asked, and a way to keep it occupied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.served_models import SLOW_WIDTH, slow_row
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

ZEROS = np.zeros((1, SLOW_WIDTH), np.float32)


def lane(server: ServerProcess, model: str) -> dict[str, Any]:
    """The lane's line of ``/status``."""
    lanes: list[dict[str, Any]] = server.status()["lanes"]
    return next(one for one in lanes if one["model"] == model)


def cancelled_requests(server: ServerProcess, model: str = "slow") -> float:
    """How many requests were given up by their callers so far."""
    return server.metric("headrace_shed_requests_total", model=model, reason="cancelled")


def slow_message(first: float) -> bytes:
    """An infer message for ``slow`` with one row."""
    return infer_message("slow", slow_row(first).tobytes(), [1, SLOW_WIDTH])


def wait_until_idle(server: ServerProcess, model: str = "slow") -> None:
    """Until nothing waits and nothing runs: a batch that was given up runs to its end."""

    def rests() -> bool:
        found = lane(server, model)
        return not found["running_batches"] and not found["queued_requests"]

    eventually(f"model '{model}' has nothing to do", rests)


def wait_until_busy(server: ServerProcess, model: str = "slow") -> None:
    """Until something runs."""
    eventually(f"model '{model}' is busy", lambda: lane(server, model)["running_batches"])


def wait_until_queued(server: ServerProcess, requests: int, model: str = "slow") -> None:
    """Until exactly so many requests wait."""
    eventually(
        f"{requests} requests wait for model '{model}'",
        lambda: lane(server, model)["queued_requests"] == requests,
    )


def wait_until_running(server: ServerProcess, model: str = "slow") -> None:
    """Until all that waited runs."""

    def runs() -> bool:
        found = lane(server, model)
        return bool(found["running_batches"]) and not found["queued_requests"]

    eventually(f"model '{model}' runs everything that was queued", runs)


@contextmanager
def occupied(server: ServerProcess, model: str = "slow") -> Iterator[None]:
    """While one batch of somebody else's runs; at its end that call must have its answer."""
    wait_until_idle(server, model)
    with RawGrpc(server.grpc) as connection:
        stream = connection.start(infer_message(model, ZEROS.tobytes(), list(ZEROS.shape)))
        wait_until_busy(server, model)
        yield
        assert connection.outcome(stream).status == 0
