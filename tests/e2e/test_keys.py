"""API keys on both data ports: who gets in, who is over the quota, and what changes while the gateway runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from foundation.access import remove_key
from tests.e2e.conftest import StartServer
from tests.support.api_keys import HTTP_WAYS, Keys
from tests.support.raw_h2 import (
    PERMISSION_DENIED,
    SERVICE,
    UNAUTHENTICATED,
    RawGrpc,
    infer_message,
)
from tests.support.raw_http import (
    RawHttp,
    Response,
    ask_once,
    floats_json,
    get,
    infer_path,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.server_process import CHECKOUT, ServerProcess
from tests.support.waiting import eventually

RELOADED_WITHIN_S = 20.0
ROW = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.toml")
    made.make("open")
    made.make("identity-only", models=("ident*",))
    made.make("stats-only", models=("stats",))
    made.make("leaving")
    return made


@pytest.fixture(scope="module")
def guarded(start_server: StartServer, keys: Keys) -> ServerProcess:
    return start_server(access__api_keys_file=keys.file, telemetry__access_log="true")


@pytest.fixture
def grpc_connection(guarded: ServerProcess) -> Iterator[RawGrpc]:
    with RawGrpc(guarded.grpc) as one:
        yield one


def _message(model: str = "identity") -> bytes:
    return infer_message(model, ROW.tobytes(), [1, 4])


# -- without a key --------------------------------------------------------------------------------

CLOSED = {
    "metadata": get("/v2"),
    "model": get("/v2/models/identity"),
    "ready": get("/v2/models/identity/ready"),
    "config": get("/v2/models/identity/config"),
    "statistics": get("/v2/models/stats"),
    "index": request("POST", "/v2/repository/index", body=b"{}"),
    "load": request("POST", "/v2/repository/models/identity/load", body=b"{}"),
    "nowhere": get("/nowhere"),
    "lane": post_infer("identity", floats_json()),
    "asgi": post_infer_chunked("identity", floats_json()),
    "unknown model": post_infer("no_such_model", floats_json()),
}


@pytest.mark.parametrize("asked", CLOSED.values(), ids=CLOSED)
def test_http_needs_a_key(guarded: ServerProcess, asked: bytes) -> None:
    response = ask_once(guarded.http, asked)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "send 'authorization: Bearer hr_" in response.error


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_needs_none(guarded: ServerProcess, path: str) -> None:
    assert ask_once(guarded.http, get(path)).status == 200


def test_grpc_needs_a_key_but_for_health(guarded: ServerProcess, grpc_connection: RawGrpc) -> None:
    for method in ("ServerMetadata", "ModelReady", "ModelInfer", "NoSuchMethod"):
        outcome = grpc_connection.ask(_message(), SERVICE + method)
        assert outcome.status == UNAUTHENTICATED, method
        assert "send 'authorization: Bearer hr_" in outcome.message
    for method in ("ServerLive", "ServerReady"):
        assert grpc_connection.ask(b"", SERVICE + method).status == 0
    assert grpc_connection.ask(b"", "/grpc.health.v1.Health/Check").status == 0
    assert grpc_connection.ask(b"", "/grpc.health.v1.Health/List").status == UNAUTHENTICATED


def test_a_body_is_not_waited_for(guarded: ServerProcess) -> None:
    head = request("POST", infer_path("identity"), [("content-length", "5000000")])
    with RawHttp(guarded.http) as connection:
        assert connection.ask(head).status == 401


def test_a_wrong_key_is_never_repeated(guarded: ServerProcess, keys: Keys) -> None:
    wrong = keys["open"][:-4] + "0000"
    assert wrong != keys["open"]
    for make in HTTP_WAYS.values():
        for header in (("authorization", f"Bearer {wrong}"), ("x-api-key", wrong)):
            response = ask_once(guarded.http, make("identity", floats_json(), [header]))
            assert response.status == 401
            assert wrong not in response.error
            assert "not known here" in response.error
    basic = [("authorization", "Basic " + keys["open"])]
    assert ask_once(guarded.http, post_infer("identity", floats_json(), basic)).status == 401
    assert "hr_" + wrong.split("_")[1] not in guarded.output


# -- with one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", HTTP_WAYS)
def test_http_with_a_key(guarded: ServerProcess, keys: Keys, way: str) -> None:
    before = guarded.metric("headrace_http_infer_paths_total", path=way)
    counted = guarded.metric("headrace_key_calls_total", key="open", outcome="ok")
    ways = (
        keys.http("open"),
        [("authorization", f"bearer {keys['open']}")],
        [("X-Api-Key", keys["open"])],
    )
    with RawHttp(guarded.http) as connection:
        for headers in ways:
            for _ in range(3):  # the second time, the lane remembers the head
                asked = HTTP_WAYS[way]("identity", floats_json(), headers)
                assert connection.ask(asked).status == 200
    assert guarded.metric("headrace_http_infer_paths_total", path=way) == before + 9
    assert guarded.metric("headrace_key_calls_total", key="open", outcome="ok") == counted + 9


def test_everything_else_with_a_key(guarded: ServerProcess, keys: Keys) -> None:
    for path in ("/v2", "/v2/models/identity", "/v2/models/identity/ready"):
        assert ask_once(guarded.http, request("GET", path, keys.http("open"))).status == 200
    assert ask_once(guarded.http, request("GET", "/nowhere", keys.http("open"))).status == 404


def test_tritonclient_with_a_key(guarded: ServerProcess, keys: Keys) -> None:
    headers = {"authorization": f"Bearer {keys['open']}"}
    for module, (host, port) in (
        (tritonclient.http, guarded.http),
        (tritonclient.grpc, guarded.grpc),
    ):
        client = module.InferenceServerClient(f"{host}:{port}")
        try:
            one = module.InferInput("x", [1, 4], "FP32")
            one.set_data_from_numpy(ROW)
            answer = client.infer("identity", [one], headers=dict(headers))
            assert np.array_equal(answer.as_numpy("y"), ROW)
            assert client.is_model_ready("identity", headers=headers)
            with pytest.raises(InferenceServerException, match="asks for an API key"):
                client.infer("identity", [one])
        finally:
            client.close()


def test_the_access_log_names_the_key(guarded: ServerProcess, keys: Keys) -> None:
    ask_once(guarded.http, post_infer("identity", floats_json(), keys.http("open")))
    lines = [line for line in guarded.output.splitlines() if '"event":"infer"' in line]
    assert "open" in {json.loads(line).get("key") for line in lines}


def test_the_status_page_shows_names_only(guarded: ServerProcess, keys: Keys) -> None:
    shown = guarded.status()["keys"]
    assert "open" in [one["name"] for one in shown]
    assert "sha256" not in json.dumps(shown)


# -- only some models -----------------------------------------------------------------------------


def test_a_key_for_some_models(guarded: ServerProcess, keys: Keys) -> None:
    headers = keys.http("identity-only")
    for make in HTTP_WAYS.values():
        assert ask_once(guarded.http, make("identity", floats_json(), headers)).status == 200
        for model in ("linear", "no_such_model"):
            response = ask_once(guarded.http, make(model, floats_json(), headers))
            assert response.status == 403
            assert response.error == "the key 'identity-only' is only for models ident*"
    for path, status in (
        ("/v2", 200),
        ("/v2/models/identity", 200),
        ("/v2/models/linear", 403),
        ("/v2/models/linear/config", 403),
        ("/v2/models/lin%65ar/config", 403),
        ("/v2/models/stats", 403),
    ):
        assert ask_once(guarded.http, request("GET", path, headers)).status == status, path


def test_the_statistics_of_all_models_are_no_model(guarded: ServerProcess, keys: Keys) -> None:
    asked = request("GET", "/v2/models/stats", keys.http("stats-only"))
    assert ask_once(guarded.http, asked).status == 403


def test_a_key_for_some_models_over_grpc(grpc_connection: RawGrpc, keys: Keys) -> None:
    headers = keys.grpc("identity-only")
    assert grpc_connection.ask(_message("identity"), headers=headers).status == 0
    for model in ("linear", "no_such_model"):
        outcome = grpc_connection.ask(_message(model), headers=headers)
        assert outcome.status == PERMISSION_DENIED
        assert outcome.message == "the key 'identity-only' is only for models ident*"
    for method, name, status in (
        ("ModelReady", b"identity", 0),
        ("ModelReady", b"linear", PERMISSION_DENIED),
        ("ModelMetadata", b"linear", PERMISSION_DENIED),
        ("ModelConfig", b"linear", PERMISSION_DENIED),
        ("ServerMetadata", b"", 0),
        ("RepositoryIndex", b"", PERMISSION_DENIED),
    ):
        message = b"\x0a" + bytes([len(name)]) + name if name else b""
        outcome = grpc_connection.ask(message, SERVICE + method, headers)
        assert outcome.status == status, method


# -- the reference front, and several workers ------------------------------------------------------


def test_the_reference_front_asks_for_the_same_keys(start_server: StartServer, keys: Keys) -> None:
    server = start_server(access__api_keys_file=keys.file, grpc__server="grpcio")
    with RawGrpc(server.grpc) as connection:
        for method in ("ModelInfer", "ServerMetadata", "RepositoryIndex"):
            outcome = connection.ask(_message(), SERVICE + method)
            assert outcome.status == UNAUTHENTICATED, method
        assert connection.ask(_message(), headers=keys.grpc("open")).status == 0
        assert connection.ask(b"", SERVICE + "ServerLive").status == 0
        denied = connection.ask(_message("linear"), headers=keys.grpc("identity-only"))
        assert denied.status == PERMISSION_DENIED


def test_every_worker_asks_for_keys(start_server: StartServer, keys: Keys) -> None:
    server = start_server(access__api_keys_file=keys.file, server__workers=2)
    for _ in range(8):  # each on a connection of its own, so that both workers get some
        for make in HTTP_WAYS.values():
            asked = make("identity", floats_json(), keys.http("open"))
            assert ask_once(server.http, asked).status == 200
            assert ask_once(server.http, make("identity", floats_json())).status == 401
        with RawGrpc(server.grpc) as connection:
            assert connection.ask(_message()).status == UNAUTHENTICATED
            assert connection.ask(_message(), headers=keys.grpc("open")).status == 0
    assert server.metric("headrace_key_calls_total", key="open", outcome="ok") == 24


# -- the file changes -----------------------------------------------------------------------------


class Asker(NamedTuple):
    """One connection of each kind, kept while the keys change."""

    http: RawHttp
    grpc: RawGrpc
    keys: Keys
    name: str

    def statuses(self) -> tuple[int, int]:
        asked = post_infer("identity", floats_json(), self.keys.http(self.name))
        outcome = self.grpc.ask(_message(), headers=self.keys.grpc(self.name))
        return self.http.ask(asked).status, outcome.status

    def until(self, what: str, statuses: tuple[int, int]) -> None:
        eventually(what, lambda: self.statuses() == statuses, within_s=RELOADED_WITHIN_S)


def test_keys_come_and_go_without_a_restart(guarded: ServerProcess, keys: Keys) -> None:
    with RawHttp(guarded.http) as http, RawGrpc(guarded.grpc) as grpc:
        asker = Asker(http, grpc, keys, "leaving")
        assert asker.statuses() == (200, 0)

        good = keys.file.read_text()
        keys.file.write_text("[[key")
        eventually(
            "the broken file is complained about",
            lambda: "the keys before stay in force" in guarded.output,
            within_s=RELOADED_WITHIN_S,
        )
        assert asker.statuses() == (200, 0)
        keys.file.write_text(good)

        remove_key(keys.file, "leaving")
        asker.until("the revoked key is refused", (401, UNAUTHENTICATED))
        keys.make("leaving")
        asker.until("a key of the same name is another key", (200, 0))
        remove_key(keys.file, "leaving")
        keys.make("leaving", models=("linear",))
        asker.until("its limits are new", (403, PERMISSION_DENIED))
        keys.file.unlink()
        keys.file.write_text(good)
        asker.until("the new key went with the file", (401, UNAUTHENTICATED))


def test_a_keys_file_that_cannot_be_read_at_the_start_ends_it(
    stress_models: Path, tmp_path: Path
) -> None:
    for workers in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "headrace", "serve", "--models", str(stress_models)],
            cwd=CHECKOUT,
            env={
                "HEADRACE_ACCESS_API_KEYS_FILE": str(tmp_path / "none.toml"),
                "HEADRACE_SERVER_WORKERS": workers,
                "HEADRACE_SERVER_HTTP_PORT": "0",
                "HEADRACE_SERVER_GRPC_PORT": "0",
                "HEADRACE_SERVER_ADMIN_PORT": "0",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done
        assert "headrace key create NAME" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


# -- the admin port -------------------------------------------------------------------------------


def _ask_admin(server: ServerProcess, headers: list[tuple[str, str]]) -> Response:
    path = "/v2/repository/models/identity/unload"
    return ask_once(server.admin, request("POST", path, headers, b"{}"))


def test_changes_on_the_admin_port_come_from_this_machine(guarded: ServerProcess) -> None:
    from_page = _ask_admin(guarded, [("origin", "http://pages.example")])
    assert from_page.status == 403
    assert "a page of another site" in from_page.error
    allowed = _ask_admin(guarded, [("x-forwarded-for", "192.0.2.1")])
    assert "this machine only" not in allowed.error
    assert "page of another site" not in allowed.error
