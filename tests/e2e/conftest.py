"""Servers for the end-to-end suites: one for all that need nothing special, and a maker of special ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.neighbour import Neighbour
from tests.support.raw_h2 import RawGrpc
from tests.support.raw_http import RawHttp
from tests.support.served_models import write_stress_models
from tests.support.server_process import ServerProcess

StartServer = Callable[..., ServerProcess]
Dial = Callable[[], RawHttp]


@pytest.fixture(scope="session")
def stress_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stress_models")
    write_stress_models(root)
    return root


@pytest.fixture(scope="session")
def server(stress_models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(stress_models) as running:
        yield running


@pytest.fixture(scope="module")
def start_server(stress_models: Path) -> Iterator[StartServer]:
    """Starts servers with settings of their own, and stops them after the module's last test."""
    with ExitStack() as running:

        def start(models: Path = stress_models, **settings: object) -> ServerProcess:
            chosen = {key.replace("__", "."): value for key, value in settings.items()}
            return running.enter_context(ServerProcess(models, chosen))

        yield start


@pytest.fixture
def dial(server: ServerProcess) -> Iterator[Dial]:
    """Opens HTTP connections that are closed with the test, however it ends."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(RawHttp(server.http))


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[RawGrpc]:
    """A gRPC connection that is closed with the test."""
    with RawGrpc(server.grpc) as one:
        yield one


@pytest.fixture
def neighbour(server: ServerProcess) -> Iterator[Neighbour]:
    """Somebody else who must be served during the test and after it."""
    with Neighbour(server) as one:
        yield one
