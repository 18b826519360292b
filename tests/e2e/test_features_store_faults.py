"""The store dies, hangs, forgets or is slow under a steady load: nobody gets an error, and nobody a value that is
neither right nor marked; afterwards all is as before without a restart of the gateway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from featurecache.manifests.applying import read_manifest
from tests.support import feature_load, feature_rows, models
from tests.support.feature_load import FeatureLoad
from tests.support.feature_rows import KNOWN_DEFAULTS, Rows, row_statuses, status_of, users
from tests.support.neighbour import Neighbour
from tests.support.protocol_callers import Ask, make_caller
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess
from tests.support.store_users import ServerSeen, client_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

QUICK = {
    "features.connect_timeout_ms": 100,
    "features.read_timeout_ms": 300,
    "features.breaker_open_s": 0.1,
}
SLOW_S = 0.12
"""Longer than the model waits for a lookup, shorter than the store is taken for gone."""
WITHIN_S = 10.0
PAST_MAX_AGE_S = 3700.0
"""Older than the hour that a row of `profile` is good for, within the day for which its copies may stand in."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with features and one without, and the manifest."""
    made = tmp_path_factory.mktemp("shop")
    feature_rows.apply(made / "features")
    feature_load.write_model(made / "models")
    models.write_model(made / "models", "identity", models.identity())
    return made


@pytest.fixture(scope="module")
def store() -> Iterator[ValkeyServer]:
    """Keeps what was written over a crash."""
    with ValkeyServer(appendonly="yes", appendfsync="always") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(store: ValkeyServer) -> Iterator[TcpProxy]:
    with TcpProxy(store.port) as running:
        yield running


def _start(folder: Path, **more: object) -> ServerProcess:
    chosen = {key.replace("__", "."): value for key, value in more.items()}
    settings = {"features.manifest": folder / "features", **QUICK, **chosen}
    return ServerProcess(folder / "models", settings)


@pytest.fixture(scope="module")
def direct(folder: Path, store: ValkeyServer) -> Iterator[ServerProcess]:
    """A gateway on the store itself."""
    with _start(folder, store__redis_url=store.url) as running:
        yield running


@pytest.fixture(scope="module")
def through(folder: Path, proxy: TcpProxy) -> Iterator[ServerProcess]:
    """A gateway that reaches the store through a proxy."""
    with _start(folder, store__redis_url=f"redis://127.0.0.1:{proxy.port}") as running:
        yield running


def _fill(store: ValkeyServer, folder: Path) -> None:
    with store.client() as client:
        Rows(client, read_manifest(folder / "features")).put_users(feature_load.USERS)


@contextmanager
def _under_load(server: ServerProcess, **limits: Any) -> Iterator[FeatureLoad]:
    """Load on both models; in the end all was right, and is."""
    process = server.process.pid
    with Neighbour(server, **limits), FeatureLoad(server) as load:
        yield load
        load.await_calm()
        features = server.status()["features"]
        assert features["is_up"]
        assert features["breaker"] == "closed"
        assert server.metric("headrace_feature_store_up") == 1
        assert server.metric("headrace_feature_breaker_state") == 0
        assert server.metric("headrace_feature_requests_refused_total") == 0
    assert server.process.pid == process
    assert server.process.poll() is None


def _eventually(what: str, look: Callable[[], object]) -> None:
    eventually(what, look, within_s=WITHIN_S, poll_s=0.05)


def _is_seen_down(server: ServerProcess) -> None:
    _eventually("the metric says so", lambda: server.metric("headrace_feature_store_up") == 0)
    _eventually("so does the status", lambda: not server.status()["features"]["is_up"])
    reads = _reads(server)
    time.sleep(0.2)  # some hundred calls
    assert _reads(server) == reads, "nobody asks, and so nobody waits"


def _reads(server: ServerProcess) -> float:
    return sum(
        server.metric("headrace_feature_reads_total", outcome=one) for one in ("ok", "failed")
    )


# ---- a store of the settings -------------------------------------------------------------------------


def test_the_store_is_killed_and_comes_back_with_its_rows(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    _fill(store, folder)
    with _under_load(direct) as load:
        lost = direct.metric("headrace_feature_lookup_rows_total", outcome="unreachable")
        store.kill()
        try:
            load.await_status("DEFAULTED")
            _is_seen_down(direct)
            assert direct.metric("headrace_feature_lookup_rows_total", outcome="unreachable") > lost
            load.await_status("DEFAULTED")
            load.await_status("PRESENT", view="profile")  # copies serve on
        finally:
            store.start()
        load.await_calm()
    defaulted = direct.metric("headrace_feature_rows_total", view="last_seen", status="defaulted")
    assert defaulted >= load.seen["last_seen", "DEFAULTED"]
    assert direct.output.count(f"{store.url} is back") >= 1
    assert direct.output.count("Connection refused") <= 1, "told once, not at every try"


def test_the_store_is_a_black_hole_for_a_while(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    _fill(store, folder)
    with _under_load(direct) as load:
        with store.frozen():
            load.await_status("DEFAULTED")
            _is_seen_down(direct)
        load.await_calm()


def test_the_store_is_restarted_in_a_moment(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    _fill(store, folder)
    with _under_load(direct) as load:
        for _ in range(3):
            store.kill()
            store.start()
            load.await_calm()


def test_the_store_forgets_everything(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    _fill(store, folder)
    with _under_load(direct) as load:
        with store.client() as client:
            client.flushall()
        load.await_status("MISSING")
        load.await_status(
            "MISSING", view="profile"
        )  # its copies go as well, long before their time
        _fill(store, folder)
        load.await_calm()


def test_rows_change_under_the_load(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    """Written again and again, and broken off in between: no reader sees half of anything."""
    _fill(store, folder)
    with _under_load(direct) as load, store.client() as client:
        for _ in range(10):
            _fill(store, folder)
            client.client_kill_filter(_type="normal", skipme=True)
        load.await_calm()


def test_the_store_is_slow_and_then_swallows_everything(
    through: ServerProcess, proxy: TcpProxy, store: ValkeyServer, folder: Path
) -> None:
    _fill(store, folder)
    with _under_load(through) as load:
        proxy.delay_s = SLOW_S
        try:
            load.await_status("DEFAULTED")
            _eventually("nobody waits", lambda: through.status()["features"]["breaker"] == "open")
        finally:
            proxy.delay_s = 0.0
        load.await_calm()
        proxy.swallows = True
        try:
            load.await_status("DEFAULTED")
            _is_seen_down(through)
        finally:
            proxy.swallows = False
        load.await_calm()


def test_copies_past_their_age_stand_in_only_while_the_store_is_away(
    direct: ServerProcess, store: ValkeyServer, folder: Path
) -> None:
    number = max(feature_load.USERS) + 1
    with store.client() as client:
        rows = Rows(client, read_manifest(folder / "features"))
        rows.put_users([number], age_s=PAST_MAX_AGE_S)
    caller = make_caller("grpc", direct)
    ask = Ask(feature_load.MODEL, [users([number])], parameters={"feature_status": True})

    def age_and_status() -> tuple[float, str]:
        answer = caller.ask(ask)
        age = float(answer.outputs["y"][0, 1])
        return age, row_statuses(status_of(answer), "profile", 1)[0]

    _eventually("it is too old", lambda: age_and_status() == (KNOWN_DEFAULTS[1], "STALE"))
    store.kill()
    try:
        _eventually("its copy is used", lambda: age_and_status() == (number, "STALE"))
    finally:
        store.start()
    _eventually("not any more", lambda: age_and_status() == (KNOWN_DEFAULTS[1], "STALE"))
    caller.close()


# ---- the private store -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_the_private_store_is_killed_and_started_again(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    state_dir = tmp_path / "state"
    with ServerSeen(state_dir) as seen:
        with _start(folder, store__state_dir=state_dir, server__workers=workers) as server:
            with client_of(f"unix://{seen.folder.socket}") as client:
                Rows(client, read_manifest(folder / "features")).put_users(feature_load.USERS)
            with Neighbour(server), FeatureLoad(server) as load:
                first = seen.pid
                seen.kill()
                load.await_status("DEFAULTED")
                load.await_calm()  # the rows are back as well
                assert seen.pid != first
                assert seen.starts == 2
            assert "starting it again on its data" in server.output
            assert server.metric("headrace_feature_store_up") == 1
        assert not seen.is_there, "the last one out ends it"
