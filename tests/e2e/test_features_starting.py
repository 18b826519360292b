"""Starts of gateways with features: what does not fit is told and holds up nobody else; several workers are one."""

from __future__ import annotations

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
    users,
    write_seen,
)
from tests.support.protocol_callers import Ask, CallError, make_caller
from tests.support.raw_http import RawHttp, floats_json, get, post_infer, request
from tests.support.redis_servers import ValkeyServer, free_ports
from tests.support.server_process import ServerProcess
from tests.support.store_users import ServerSeen
from tests.support.waiting import eventually

START_WITHIN_S = 20.0
BACK_WITHIN_S = 15.0
SECRET = "hunter2"  # must not be seen anywhere

BAD_MODELS = {
    "no_service": (features_toml("nonsense"), "no feature service 'nonsense'"),
    "too_narrow": (features_toml("routes"), "make 2 values a row"),
    "bad_source": (features_toml("basket", {"user_id": "cookie:u"}), "write input:NAME"),
    "unknown_key": (features_toml("basket", {"nobody": "input:u"}), "no join key of the service"),
    "twice": (features_toml("basket", {"user_id": "input:amount"}), "carry 'amount' twice"),
    "no_input": (features_toml("bounds", {"user_id": "header:u"}), "no input at all"),
    "other_tensors": (features_toml("cards"), "does not fit the model"),
    "bad_budget": ('[features]\nservice = "basket"\nlookup_budget_ms = 0\n', "lookup_budget_ms"),
    "keys_alone": ('[features]\nkeys = {a = "input:b"}\n', "no effect without `service`"),
}
ODD_WIDTHS = {"no_input": 2}


@pytest.fixture(scope="module")
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shop")
    feature_rows.apply(made / "features")
    return made


@pytest.fixture(scope="module")
def good(folder: Path) -> Path:
    """A model with features and one without."""
    root = folder / "good"
    write_seen(root, "basket", BASKET_WIDTH, features_toml("basket"))
    models.write_model(root, "plain", models.identity())
    return root


def _plain_is_served(server: ServerProcess) -> None:
    with RawHttp(server.http) as http:
        answer = http.ask(post_infer("plain", floats_json()))
        assert answer.status == 200, answer
        assert answer.json["outputs"][0]["data"] == [0, 1, 2, 3]
        assert http.ask(get("/v2/health/ready")).status == 200


def _reasons(server: ServerProcess) -> dict[str, str]:
    with RawHttp(server.http) as http:
        index = http.ask(request("POST", "/v2/repository/index", body=b"{}")).json
    return {one["name"]: one.get("reason", "") for one in index if one["state"] != "READY"}


# ---- models that do not fit --------------------------------------------------------------------------


def test_what_does_not_fit_is_told_and_the_others_are_served(
    folder: Path, store: ValkeyServer
) -> None:
    root = folder / "bad"
    for name, (toml, _) in BAD_MODELS.items():
        write_seen(root, name, ODD_WIDTHS.get(name, BASKET_WIDTH), toml)
    write_seen(root, "basket", BASKET_WIDTH, features_toml("basket"))
    write_seen(root, "half", BASKET_WIDTH, features_toml("basket") + '[versions]\npolicy = "all"\n')
    write_seen(root, "half", BASKET_WIDTH, None, version=2)
    (root / "half/2/version.toml").write_text(features_toml("nonsense"))
    write_seen(root, "whole", BASKET_WIDTH, features_toml("basket"))
    (root / "whole/1/version.toml").write_text("[batching]\nmax_batch_size = 4\n")
    models.write_model(root, "plain", models.identity())
    settings = {"features.manifest": folder / "features", "store.redis_url": store.url}
    with ServerProcess(root, settings) as server:
        reasons = _reasons(server)
        assert reasons.keys() == {*BAD_MODELS, "half", "whole"}
        for name, (_, words) in BAD_MODELS.items():
            assert words in reasons[name], name
            assert "Traceback" not in reasons[name]
            assert f"{name}/1 REFUSED: " in server.output or f"{name} REFUSED: " in server.output
        assert "no feature service 'nonsense'" in reasons["half"]
        assert "write it in model.toml" in reasons["whole"]
        _plain_is_served(server)
        caller = make_caller("grpc", server)
        inputs = [users([1]), amounts([2])]
        for ask in (Ask("basket", inputs), Ask("half", inputs), Ask("half", inputs, version="1")):
            np.testing.assert_array_equal(caller.ask(ask).outputs["y"], [[2, *BASKET_DEFAULTS]])
        with pytest.raises(CallError, match="nonsense"):
            caller.ask(Ask("half", inputs, version="2"))
        caller.close()


def test_without_a_manifest_models_with_features_wait_for_one(good: Path) -> None:
    with ServerProcess(good) as server:
        reasons = _reasons(server)
        assert reasons.keys() == {"basket"}
        assert "features.manifest" in reasons["basket"]
        _plain_is_served(server)
        assert server.status()["features"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no manifest"),
        (None, "cannot be read"),
        ('{"project": 3}', "no manifest"),
        ("[" * 100_000, "no manifest"),
    ],
    ids=["torn", "absent", "other", "deep"],
)
def test_a_broken_manifest_is_told_and_a_reload_takes_the_mended_one(
    good: Path, folder: Path, tmp_path: Path, store: ValkeyServer, text: str | None, words: str
) -> None:
    manifest = tmp_path / "manifest.json"
    if text is not None:
        manifest.write_text(text)
    settings = {
        "features.manifest": manifest,
        "store.redis_url": store.url,
        "repository.control": "explicit",
        "repository.startup_models": "*",
    }
    with ServerProcess(good, settings) as server:
        reasons = _reasons(server)
        assert reasons.keys() == {"basket"}
        assert words in reasons["basket"]
        assert "headrace features apply" in reasons["basket"]
        assert len(reasons["basket"]) < 2000
        _plain_is_served(server)
        for one in (folder / "features").iterdir():
            (tmp_path / one.name).write_bytes(one.read_bytes())
        with RawHttp(server.http) as http:
            load = http.ask(request("POST", "/v2/repository/models/basket/load", body=b"{}"))
            assert load.status == 200, load
        assert _reasons(server) == {}


def test_code_that_is_not_the_applied_one_does_not_run(tmp_path: Path, store: ValkeyServer) -> None:
    manifest = feature_rows.apply(tmp_path / "features")
    with (tmp_path / "features" / manifest.code).open("a") as code:
        code.write("raise SystemExit(3)\n")
    write_seen(tmp_path / "models", "shares", 2, features_toml("shares"))
    models.write_model(tmp_path / "models", "plain", models.identity())
    settings = {"features.manifest": tmp_path / "features", "store.redis_url": store.url}
    with ServerProcess(tmp_path / "models", settings) as server:
        assert "changed since it was applied" in _reasons(server)["shares"]
        _plain_is_served(server)


# ---- stores that cannot be used ----------------------------------------------------------------------


def _fails(models_folder: Path, settings: dict[str, object]) -> str:
    """The one line of a start that must end with exit code 2, in bounded time and without a stack trace."""
    process = ServerProcess(models_folder, settings).launch()
    code = process.wait(START_WITHIN_S)
    output = process.output
    process.forget()
    assert code == 2, output
    assert "Traceback" not in output
    assert SECRET not in output
    lines = [line for line in output.splitlines() if line.startswith("headrace: ")]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize(
    ("url", "words", "workers"),
    [
        (f"http://u:{SECRET}@127.0.0.1:1", "must begin with one of", 1),
        (f"redis://u:{SECRET}@127.0.0.1:port", "port", 1),
        ("redis://127.0.0.1?colour=red", "colour has no meaning", 1),
        ("redis://127.0.0.1?colour=red", "colour has no meaning", 2),
        ("redis+cluster://127.0.0.1/3", "database", 1),
        ("rediss://127.0.0.1?ca=/nonexistent.pem", "/nonexistent.pem", 1),
        (f"redis://{SECRET}@127.0.0.1", "USER:PASSWORD@", 1),
    ],
)
def test_an_address_that_is_none_ends_the_start(
    good: Path, folder: Path, url: str, words: str, workers: int
) -> None:
    settings = {
        "features.manifest": folder / "features",
        "store.redis_url": url,
        "server.workers": workers,
    }
    line = _fails(good, settings)
    assert "[store] redis_url" in line
    assert words in line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_that_fails_later_leaves_no_private_store(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    state_dir = tmp_path / "state"
    settings = {
        "features.manifest": folder / "features",
        "store.state_dir": state_dir,
        "server.workers": workers,
    }
    with ServerSeen(state_dir) as seen:
        assert "nowhere" in _fails(tmp_path / "nowhere", settings)
        assert seen.starts == 1
        assert not seen.is_there


def test_a_store_with_another_password_is_told_and_holds_up_nobody(
    good: Path, folder: Path
) -> None:
    with ValkeyServer(requirepass="another") as store:
        url = store.url.replace("redis://", f"redis://default:{SECRET}@")
        settings = {"features.manifest": folder / "features", "store.redis_url": url}
        with ServerProcess(good, settings) as server:
            assert "the server refused to log in: WRONGPASS" in server.output
            _plain_is_served(server)
            caller = make_caller("http-lane", server)
            answer = caller.ask(Ask("basket", [users([1]), amounts([2])]))
            np.testing.assert_array_equal(answer.outputs["y"], [[2, *BASKET_DEFAULTS]])
            caller.close()
            assert not server.status()["features"]["is_up"]
            assert server.metric("headrace_feature_store_up") == 0
            with store.client(password="another") as client:
                client.config_set("requirepass", SECRET)
            eventually("the store is used", lambda: server.status()["features"]["is_up"])
            assert SECRET not in server.output + server.get_admin("/status")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_comes_later_is_used_once_it_is_there(
    good: Path, folder: Path, workers: int
) -> None:
    store = ValkeyServer(port=free_ports(1)[0])
    settings = {
        "features.manifest": folder / "features",
        "store.redis_url": store.url,
        "features.breaker_open_s": 0.05,
        "server.workers": workers,
    }
    try:
        with ServerProcess(good, settings) as server:
            assert "the feature store" in server.output
            assert store.url in server.output
            _plain_is_served(server)
            ask = Ask("basket", [users([1]), amounts([2])])

            def seen() -> list[float]:
                caller = make_caller("grpc", server)  # anew: any worker may take it
                found: list[float] = caller.ask(ask).outputs["y"][0].tolist()
                caller.close()
                return found

            assert seen() == [2, *BASKET_DEFAULTS]
            store.start()
            with store.client() as client:
                Rows(client, read_manifest(folder / "features")).put_users([1])
            for _ in range(4 * workers):
                eventually(
                    "the row",
                    lambda: seen() == basket_row(1, 2),
                    within_s=BACK_WITHIN_S,
                    poll_s=0.05,
                )
    finally:
        store.close()


# ---- several workers ---------------------------------------------------------------------------------


def test_several_workers_answer_alike_and_are_counted_together(
    good: Path, folder: Path, store: ValkeyServer
) -> None:
    with store.client() as client:
        Rows(client, read_manifest(folder / "features")).put_users(range(50))
    settings = {
        "features.manifest": folder / "features",
        "store.redis_url": store.url,
        "server.workers": 2,
    }
    asked = 40
    with ServerProcess(good, settings) as server:
        for number in range(asked):
            caller = make_caller("http-lane" if number % 2 else "grpc", server)
            answer = caller.ask(Ask("basket", [users([number]), amounts([number])]))
            np.testing.assert_array_equal(answer.outputs["y"], [basket_row(number, number)])
            caller.close()
        told = [one["features"] for one in server.status()["workers"]]
        assert len(told) == 2
        assert all(one["is_up"] for one in told)
        assert all(one["lookups"] for one in told), "one of them did everything"
        rows = server.metric("headrace_feature_rows_total", view="profile", status="present")
        assert rows == asked
        _plain_is_served(server)
