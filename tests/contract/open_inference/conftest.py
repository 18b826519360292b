"""The servers of the contract suite, one for each gRPC front, and every client that they are asked by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.protocol_callers import REFERENCE, WAYS, Caller, make_caller
from tests.support.served_models import write_protocol_models
from tests.support.server_process import ServerProcess

PATHS = ("fast_lane", "asgi")


@pytest.fixture(scope="session")
def protocol_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("protocol_models")
    write_protocol_models(root)
    return root


@pytest.fixture(scope="session")
def server(protocol_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(protocol_models) as running:
        yield running


@pytest.fixture(scope="session")
def reference_server(protocol_models: Path) -> Iterator[ServerProcess]:
    """The same with grpcio for gRPC."""
    with ServerProcess(protocol_models, {"grpc.server": "grpcio"}) as running:
        yield running


@pytest.fixture(params=["server", "reference_server"], ids=["nghttp2", "grpcio"])
def grpc_server(request: pytest.FixtureRequest) -> ServerProcess:
    """Each of them, for suites that ask over gRPC only."""
    found: ServerProcess = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session", params=WAYS)
def connected(request: pytest.FixtureRequest) -> Iterator[Caller]:
    is_reference = request.param.startswith(REFERENCE)
    asked = request.getfixturevalue("reference_server" if is_reference else "server")
    caller = make_caller(request.param, asked)
    yield caller
    caller.close()


@pytest.fixture(scope="session", params=[way for way in WAYS if way.startswith("http")])
def connected_by_http(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Caller]:
    caller = make_caller(request.param, server)
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def caller(connected: Caller, server: ServerProcess) -> Iterator[Caller]:
    """A client whose infer calls must all have gone the way that they were meant to go.

    A module that uses it must not ask over HTTP by other means.
    """
    yield from _watched(connected, server)


@pytest.fixture(scope="module")
def http_caller(connected_by_http: Caller, server: ServerProcess) -> Iterator[Caller]:
    """The same for what only HTTP offers."""
    yield from _watched(connected_by_http, server)


def _watched(caller: Caller, server: ServerProcess) -> Iterator[Caller]:
    before = _paths(server)
    calls = caller.infer_calls
    yield caller
    made = caller.infer_calls - calls
    after = _paths(server)
    taken = {path: after[path] - before[path] for path in PATHS}
    assert taken == {path: made * (path == caller.path) for path in PATHS}


def _paths(server: ServerProcess) -> dict[str, float]:
    return {path: server.metric("headrace_http_infer_paths_total", path=path) for path in PATHS}
