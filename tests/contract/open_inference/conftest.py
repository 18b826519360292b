"""The one server of the contract suite, and every client that it is asked by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.protocol_callers import WAYS, Caller, make_caller
from tests.support.served_models import write_protocol_models
from tests.support.server_process import ServerProcess

PATHS = ("fast_lane", "asgi")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("protocol_models")
    write_protocol_models(root)
    with ServerProcess(root) as running:
        yield running


@pytest.fixture(scope="session", params=WAYS)
def connected(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Caller]:
    caller = make_caller(request.param, server)
    yield caller
    caller.close()


@pytest.fixture
def caller(connected: Caller, server: ServerProcess) -> Iterator[Caller]:
    """A client whose infer calls must all have gone the way that they were meant to go."""
    before = _paths(server)
    calls = connected.infer_calls
    yield connected
    made = connected.infer_calls - calls
    after = _paths(server)
    taken = {path: after[path] - before[path] for path in PATHS}
    assert taken == {path: made * (path == connected.path) for path in PATHS}


def _paths(server: ServerProcess) -> dict[str, float]:
    return {path: server.metric("headrace_http_infer_paths_total", path=path) for path in PATHS}
