"""Who may push rows, and what a push is told when the store is away, silent, or private."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import feature_rows
from tests.support.api_keys import Keys
from tests.support.feature_pushes import GrpcPusher, RestPusher, Said, counted, look_up, post
from tests.support.feature_rows import features_toml, write_seen
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

PUSH_SETTINGS = {"features.push": True}


@pytest.fixture(scope="module")
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def say(
    server: ServerProcess, headers: dict[str, str] | None = None, view: str = "stock"
) -> list[Said]:
    row = {"item_id": 1, "left": 1, "price": 1.0}
    found = []
    for one in (RestPusher(server), GrpcPusher(server)):
        found.append(one.push(view, [row], headers))
        one.close()
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    feature_rows.apply(tmp_path / "features")
    write_seen(tmp_path / "models", "items", 2, features_toml("items"), datatype="FP64")
    return tmp_path / "features"


def test_it_is_off_unless_somebody_switches_it_on(
    manifest: Path, store: ValkeyServer, tmp_path: Path
) -> None:
    settings = {"features.manifest": manifest, "store.redis_url": store.url}
    with ServerProcess(tmp_path / "models", settings) as server:
        for said in say(server):
            assert said.status == "403"
            assert "HEADRACE_FEATURES_PUSH=true" in said.message


def test_without_features_there_is_nothing_to_push_to_or_to_look_at(tmp_path: Path) -> None:
    write_seen(tmp_path, "plain", 2, "")
    with ServerProcess(tmp_path, {"features.push": True}) as server:
        for said in say(server):
            assert said.status == "501"
            assert "set manifest in [features]" in said.message
        assert look_up(server, "items", {})[0] == 501


def test_a_key_must_have_been_granted_the_view(
    manifest: Path, store: ValkeyServer, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.toml")
    keys.make("plain")
    keys.make("stocker", push=("sto*",), models=("nothing",))
    settings = {
        "features.manifest": manifest,
        "store.redis_url": store.url,
        "access.api_keys_file": keys.file,
        **PUSH_SETTINGS,
    }
    with ServerProcess(tmp_path / "models", settings) as server:
        assert {one.status for one in say(server)} == {"401"}
        for said in say(server, dict(keys.grpc("plain"))):
            assert said.status == "403"
            assert (
                "'plain' may not push rows of feature view 'stock' (granted: none)" in said.message
            )
        assert {one.status for one in say(server, dict(keys.grpc("stocker")))} == {"200"}
        for view in ("profile", "no such view"):
            for said in say(server, dict(keys.grpc("stocker")), view.replace(" ", "%20")):
                assert said.status == "403"
                assert "granted: sto*" in said.message
        for end in ("%0A", "/", "%20"):
            path = f"/v2/features/profile/push{end}"
            status, _, _ = post(server.http, path, b'{"rows": []}', dict(keys.grpc("plain")))
            assert status in (403, 404), end


def test_a_store_that_goes_away_and_comes_back(manifest: Path, tmp_path: Path) -> None:
    settings = {
        "features.manifest": manifest,
        "features.push_timeout_ms": 400,
        **PUSH_SETTINGS,
    }
    with ValkeyServer() as store:
        settings["store.redis_url"] = store.url
        with ServerProcess(tmp_path / "models", settings) as server:
            assert {one.status for one in say(server)} == {"200"}
            store.kill()
            for said in say(server):
                assert (said.status, said.retry_after) == ("503", True)
                assert "again later" in said.message
            store.start()
            eventually(
                "rows are taken again",
                lambda: {one.status for one in say(server)} == {"200"},
                within_s=10.0,
            )


def test_a_store_that_is_silent_keeps_nobody(manifest: Path, tmp_path: Path) -> None:
    settings = {
        "features.manifest": manifest,
        "features.push_timeout_ms": 400,
        "features.max_pushes_in_flight": 1,
        **PUSH_SETTINGS,
    }
    with ValkeyServer() as store:
        settings["store.redis_url"] = store.url
        with ServerProcess(tmp_path / "models", settings) as server:
            assert {one.status for one in say(server)} == {"200"}
            with store.frozen():
                began_s = time.monotonic()
                for said in say(server):
                    assert (said.status, said.retry_after) == ("503", True), said
                assert time.monotonic() - began_s < 5.0
                assert json.loads(server.get_admin("/v2/health/live"))["live"]

            def taken_alone() -> bool:
                """Nothing of a push that failed goes with a later one."""
                answers = [one for one in say(server) if one.status == "200"]
                assert all(sum(one.counts.values()) == 1 for one in answers), answers
                return len(answers) == 2

            eventually("rows are taken again", taken_alone, within_s=10.0)


def test_a_private_store_takes_rows(manifest: Path, tmp_path: Path) -> None:
    settings = {
        "features.manifest": manifest,
        "store.state_dir": tmp_path / "state",
        **PUSH_SETTINGS,
    }
    with ServerProcess(tmp_path / "models", settings) as server:
        first, second = say(server)
        assert (first.counts, second.counts) == (counted(created=1), counted(newer=1))
