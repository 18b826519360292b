"""The end of gateways with features: lookups in flight are answered, and a private store lives as long as its users."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featurecache.manifests.applying import read_manifest
from tests.support import feature_rows, models
from tests.support.feature_rows import (
    BASKET_DEFAULTS,
    BASKET_WIDTH,
    Rows,
    amounts,
    basket_row,
    features_toml,
    row_statuses,
    status_of,
    users,
    write_seen,
)
from tests.support.protocol_callers import Answer, Ask, CallError, make_caller
from tests.support.raw_http import RawHttp, floats_json, infer_json, post_infer
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess
from tests.support.store_users import ServerSeen, client_of
from tests.support.waiting import eventually

BUDGET_MS = 2_000.0
CALLERS = 6
JOIN_WITHIN_S = 20.0
WITH_STATUS = {"feature_status": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shop")
    feature_rows.apply(made / "features")
    toml = features_toml("basket", budget_ms=BUDGET_MS)
    write_seen(made / "models", "basket", BASKET_WIDTH, toml)
    patient = features_toml("basket", {"user_id": "parameter:who"}, budget_ms=30_000.0)
    write_seen(made / "models", "patient", BASKET_WIDTH, patient)
    models.write_model(made / "models", "identity", models.identity())
    return made


@pytest.fixture
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def _gateway(folder: Path, **more: object) -> ServerProcess:
    chosen = {key.replace("__", "."): value for key, value in more.items()}
    # A store that is silent is waited for until the request's own time is up.
    settings = {"features.manifest": folder / "features", "features.read_timeout_ms": 30_000}
    return ServerProcess(folder / "models", settings | chosen)


class _Asking:
    """Callers in threads, each with one request on its way."""

    def __init__(self, server: ServerProcess, ask: Ask) -> None:
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        self._server, self._ask = server, ask
        self._threads = [
            threading.Thread(target=self._run, args=("http-lane" if number % 2 else "grpc",))
            for number in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()
        eventually("all are inside", lambda: _inside(server) == CALLERS)

    def _run(self, way: str) -> None:
        caller = make_caller(way, self._server)
        try:
            self.answers.append(caller.ask(self._ask))
        except Exception as error:  # noqa: BLE001  # told by the test's own thread
            self.errors.append(f"{type(error).__name__} {error}")
        finally:
            caller.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(JOIN_WITHIN_S)
        assert not any(thread.is_alive() for thread in self._threads)


def _inside(server: ServerProcess) -> float:
    return server.metric("headrace_inflight_requests")


# ---- lookups in flight -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_lookups_in_flight_are_answered_before_the_end(
    folder: Path, store: ValkeyServer, workers: int
) -> None:
    with (
        _gateway(folder, store__redis_url=store.url, server__workers=workers) as server,
        store.frozen(),
    ):
        ask = Ask("basket", [users([1, 2]), amounts([3, 4])], parameters=WITH_STATUS)
        asking = _Asking(server, ask)
        server.terminate()
        asking.join()
        assert server.wait() == 0
    assert asking.errors == []
    for answer in asking.answers:
        seen = [[3, *BASKET_DEFAULTS], [4, *BASKET_DEFAULTS]]
        np.testing.assert_array_equal(answer.outputs["y"], seen)
        assert row_statuses(status_of(answer), "profile", 2) == ["DEFAULTED"] * 2
    assert server.said.endswith("stopped\n"), server.said


def test_who_does_not_want_to_wait_for_them_says_so_twice(
    folder: Path, store: ValkeyServer
) -> None:
    with _gateway(folder, store__redis_url=store.url) as server, store.frozen():
        ask = Ask("patient", [amounts([1])], parameters={"who": "u1"})
        asking = _Asking(server, ask)
        server.terminate()
        eventually("it is stopping", lambda: "stopping" in server.output)
        server.terminate()
        assert server.wait(5.0) == 0
        asking.join()
    assert asking.answers == []
    assert len(asking.errors) == CALLERS
    assert "some calls were cut off" in server.said


def test_a_caller_who_goes_away_leaves_nothing_behind(folder: Path, store: ValkeyServer) -> None:
    body = infer_json("amount", "FP32", [1, 1], [1.0], parameters={"who": "u1"})
    with _gateway(folder, store__redis_url=store.url) as server:
        with store.client() as client:
            Rows(client, read_manifest(folder / "features")).put_users([1])
        with store.frozen(), RawHttp(server.http) as stays:
            stays.send(post_infer("patient", body))
            gone = RawHttp(server.http)
            gone.send(post_infer("patient", body))
            eventually("both are inside", lambda: _inside(server) == 2)
            gone.reset()
            eventually("one has left", lambda: _inside(server) == 1)
        with RawHttp(server.http) as http:
            answer = http.ask(post_infer("patient", body))
            assert answer.json["outputs"][0]["data"] == basket_row(1, 1.0)


def test_a_deadline_ends_a_lookup_before_its_budget(folder: Path, store: ValkeyServer) -> None:
    with _gateway(folder, store__redis_url=store.url) as server, store.frozen():
        for way in ("http-lane", "grpc"):
            caller = make_caller(way, server)
            ask = Ask("patient", [amounts([1])], parameters={"who": "u1"}, timeout_us=200_000)
            with pytest.raises(CallError) as late:
                caller.ask(ask)
            assert late.value.status in ("504", "DEADLINE_EXCEEDED")
            caller.close()
        assert _inside(server) == 0


# ---- who ends the private store ----------------------------------------------------------------------


def _fill(seen: ServerSeen, folder: Path) -> None:
    with client_of(f"unix://{seen.folder.socket}") as client:
        Rows(client, read_manifest(folder / "features")).put_users(range(10))


def _has_rows(server: ServerProcess) -> None:
    """The store's rows reach the model, and the other model answers."""
    caller = make_caller("grpc", server)
    answer = caller.ask(Ask("basket", [users([7]), amounts([2])]))
    np.testing.assert_array_equal(answer.outputs["y"], [basket_row(7, 2)])
    caller.close()
    with RawHttp(server.http) as http:
        assert http.ask(post_infer("identity", floats_json())).status == 200


def test_two_gateways_share_a_private_store_and_the_last_one_ends_it(
    folder: Path, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    with ServerSeen(state_dir) as seen:
        with _gateway(folder, store__state_dir=state_dir) as last:
            with _gateway(folder, store__state_dir=state_dir, server__workers=2) as first:
                server = seen.pid
                _fill(seen, folder)
                _has_rows(first)
                _has_rows(last)
            assert seen.pid == server, "it was taken away from the other one"
            _has_rows(last)
            assert last.status()["features"]["is_up"]
        assert not seen.is_there
        assert seen.starts == 1
        with _gateway(folder, store__state_dir=state_dir) as later:
            eventually("the store has its data", lambda: later.status()["features"]["is_up"])
            _has_rows(later)
        assert not seen.is_there


def test_what_a_killed_gateway_leaves_the_next_one_takes_over(folder: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with ServerSeen(state_dir) as seen:
        killed = _gateway(folder, store__state_dir=state_dir).start()
        server = seen.pid
        _fill(seen, folder)
        killed.process.kill()
        killed.process.wait()
        killed.forget()
        assert seen.pid == server
        with _gateway(folder, store__state_dir=state_dir) as next_one:
            assert seen.pid == server
            _has_rows(next_one)
        assert not seen.is_there


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_while_starting_leaves_no_store(folder: Path, tmp_path: Path, workers: int) -> None:
    state_dir = tmp_path / "state"
    with ServerSeen(state_dir) as seen:
        server = _gateway(folder, store__state_dir=state_dir, server__workers=workers).launch()
        try:
            eventually("the store is there", lambda: seen.is_there, within_s=20.0)
        except BaseException:
            server.process.kill()
            raise
        server.stop()
        assert "ready" not in server.said
        assert not seen.is_there
