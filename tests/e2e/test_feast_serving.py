"""Predictions with features out of a store that feast wrote (``recorded.json``), through the whole gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import feature_rows
from tests.support.feast_store import comparing
from tests.support.feature_pushes import RestPusher
from tests.support.feature_rows import features_toml, row_statuses, status_of, texts, write_seen
from tests.support.protocol_callers import Ask, Caller, Given, make_caller
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import CHECKOUT, ServerProcess

COMMAND_WITHIN_S = 60
DEFINITIONS = """
from featurecache.definitions import *

project = Project("ours")
airport = Entity("airport", keys={"origin": String})
leg = Entity("leg", keys={"origin": String, "flight_no": Int64})
our_rates = FeatureView(
    "our_rates",
    entity=airport,
    columns=[Column(f"rate{i}", Float32, default=-1.0) for i in range(4)],
    cache_ttl="1m",
)
legs = FeatureView("legs", entity=leg, columns=[Column("load", Float32, default=-2.0)])
rates = FeatureService("rates", [our_rates[f"rate{i}"] for i in range(4)])
both = FeatureService("both", [our_rates["rate0"], legs["load"]])
"""
LATER = """
late = FeatureView("late", entity=airport, columns=[Column("x", Float32)])
lates = FeatureService("lates", [late["x"], our_rates["rate0"]])
"""
FEAST_SETTINGS = {
    "features.layout": "feast",
    "features.feast_project": comparing.PROJECT,
    "features.feast_views": "our_rates=rates",
}


@pytest.fixture(scope="module")
def said() -> comparing.Said:
    return comparing.recorded()


@pytest.fixture(scope="module")
def store(said: comparing.Said) -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        with running.client() as client:
            comparing.write(client, said)
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("feast")
    feature_rows.apply(made / "features", DEFINITIONS)
    write_seen(made / "models", "rates", 4, features_toml("rates"))
    write_seen(made / "models", "both", 2, features_toml("both"))
    return made


@pytest.fixture(scope="module")
def server(folder: Path, store: ValkeyServer) -> Iterator[ServerProcess]:
    with store.client() as client:  # the rights that docs/features.md names
        rights = ["on", ">s3cret", "%R~*", "+hmget", "+ping", "+select"]
        client.execute_command("ACL", "SETUSER", "reader", *rights)
    settings = {
        **FEAST_SETTINGS,
        "features.manifest": folder / "features",
        "features.push": True,
        "store.redis_url": store.url.replace("://", "://reader:s3cret@"),
        "server.workers": 2,
    }
    with ServerProcess(folder / "models", settings) as running:
        yield running


@pytest.fixture(scope="module", params=["http-lane", "grpc"])
def way(request: pytest.FixtureRequest, server: ServerProcess) -> Iterator[Caller]:
    caller = make_caller(request.param, server)
    yield caller
    caller.close()


def answered(said: comparing.Said, view: str) -> list[tuple[Mapping[str, Any], list[float] | None]]:
    """(entity, its float32 values, None where feast has none) of every row that feast was asked for."""
    rows = []
    for row in said["answers"][view]:
        values = [row["features"][one]["value"] for one in comparing.VIEWS[view][1]]
        known = None if None in values else [_float32(value) for _, value in values]
        rows.append((row["entity"], known))
    return rows


def _float32(little_endian: str) -> float:
    return float(np.frombuffer(bytes.fromhex(little_endian), "<f4")[0])


def origins(names: list[str]) -> Given:
    return Given("origin", "BYTES", texts(names))


def test_a_prediction_sees_the_values_that_feast_reads(way: Caller, said: comparing.Said) -> None:
    rows = answered(said, "rates")
    names = [entity["origin"] for entity, _ in rows]
    assert sum(known is not None for _, known in rows) >= 2
    expected = np.array([known or [-1.0] * 4 for _, known in rows], np.float32)
    statuses = ["MISSING" if known is None else "PRESENT" for _, known in rows]
    for _ in range(2):  # out of the store, then out of copies
        asked = Ask("rates", [origins(names)], parameters={"feature_status": True})
        answer = way.ask(asked)
        np.testing.assert_array_equal(answer.outputs["y"], expected)
        assert row_statuses(status_of(answer), "our_rates", len(rows)) == statuses


def test_views_of_two_entities_complete_one_request(way: Caller, said: comparing.Said) -> None:
    rates = {entity["origin"]: known for entity, known in answered(said, "rates")}
    rows = answered(said, "legs")
    assert any(known is not None for _, known in rows)
    names = [entity["origin"] for entity, _ in rows]
    numbers = np.array([[entity["flight_no"]] for entity, _ in rows], np.int64)
    expected = [
        [(rates.get(name) or [-1.0])[0], (known or [-2.0])[0]]
        for name, (_, known) in zip(names, rows, strict=True)
    ]
    answer = way.ask(Ask("both", [origins(names), Given("flight_no", "INT64", numbers)]))
    np.testing.assert_array_equal(answer.outputs["y"], np.array(expected, np.float32))


def test_the_server_says_that_copies_live_by_their_time(
    server: ServerProcess, way: Caller, store: ValkeyServer
) -> None:
    way.ask(Ask("rates", [origins(["JFK"])]))
    found = server.status()
    told = json.dumps(found)
    assert '"is_up": true' in told
    assert '"tracks_changes": false' in told
    assert server.metric("headrace_feature_store_up") == 1
    assert server.metric("headrace_feature_rows_total", view="our_rates", status="present") >= 1


def test_pushes_are_refused_and_the_store_is_never_written_to(
    server: ServerProcess, way: Caller, store: ValkeyServer, said: comparing.Said
) -> None:
    row = {"origin": "JFK", "rate0": 1.0, "rate1": 1.0, "rate2": 1.0, "rate3": 1.0}
    refused = RestPusher(server).push("our_rates", [row])
    assert refused.status == "501"
    assert 'rows of features.layout = "feast" are only read' in refused.message
    way.ask(Ask("rates", [origins(["JFK", "never"])]))
    with store.client() as client:
        held = {key.hex() for key in client.scan_iter()}
    assert held == set(said["hashes"])


# ---- the command -------------------------------------------------------------------------------------


def headrace(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    chosen = FEAST_SETTINGS | {
        "features.manifest": str(folder / "features"),
        "store.redis_url": url,
    }
    environment = {key: one for key, one in os.environ.items() if "HEADRACE_" not in key} | {
        "HEADRACE_" + key.replace(".", "_").upper(): one for key, one in chosen.items()
    }
    return subprocess.run(
        [sys.executable, "-m", "headrace", "features", *words],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
        text=True,
    )


def test_get_shows_what_feast_wrote(
    folder: Path, store: ValkeyServer, said: comparing.Said
) -> None:
    ran = headrace(folder, store.url, "get", "rates", "origin=JFK", "--json")
    assert ran.returncode == 0, ran.stderr
    [row] = json.loads(ran.stdout)
    rates = {entity["origin"]: known for entity, known in answered(said, "rates")}
    assert [one["value"] for one in row["values"]] == rates["JFK"]
    assert row["status"] == "PRESENT"
    gone = headrace(folder, store.url, "get", "our_rates", "origin=never")
    assert gone.returncode == 1
    assert "MISSING" in gone.stdout


def test_commands_for_rows_of_our_own_refuse(folder: Path, store: ValkeyServer) -> None:
    for words in (
        ("push", "our_rates", "--row", '{"origin": "JFK"}'),
        ("inspect", "our_rates", "origin=JFK"),
        ("load", "--data", "."),
        ("verify", "--data", "."),
    ):
        ran = headrace(folder, store.url, *words)
        assert ran.returncode == 2, words
        assert 'features.layout is "feast"' in ran.stderr, words


def test_get_of_a_store_that_is_away_ends_with_a_sentence(folder: Path) -> None:
    with ValkeyServer() as server:
        url = server.url
    ran = headrace(folder, url, "get", "our_rates", "origin=JFK")
    assert ran.returncode == 1
    assert ran.stderr.startswith("headrace: "), ran.stderr
    assert "Traceback" not in ran.stderr


# ---- what cannot be served ---------------------------------------------------------------------------


def test_a_cluster_or_no_address_stops_the_start(folder: Path, tmp_path: Path) -> None:
    settings = {**FEAST_SETTINGS, "features.manifest": folder / "features"}
    for more, why in (
        ({"store.redis_url": "redis+cluster://:s3cret@127.0.0.1:1"}, "read from one server only"),
        ({"store.state_dir": tmp_path / "state"}, "set store.redis_url to the server that Feast"),
    ):
        for workers in (1, 2):
            server = ServerProcess(
                folder / "models", {**settings, **more, "server.workers": workers}
            )
            server.launch()
            assert server.wait() == 2, server.output
            assert why in server.output
            assert "s3cret" not in server.output
            assert "Traceback" not in server.output
            server.forget()
    assert not (tmp_path / "state" / "store" / "server.pid").exists(), "a private store was left"


def test_definitions_that_came_later_need_a_restart(tmp_path: Path, store: ValkeyServer) -> None:
    feature_rows.apply(tmp_path / "features", DEFINITIONS)
    write_seen(tmp_path / "models", "rates", 4, features_toml("rates"))
    settings = {
        **FEAST_SETTINGS,
        "features.manifest": tmp_path / "features",
        "store.redis_url": store.url,
        "repository.control": "explicit",
        "repository.startup_models": "rates",
    }
    write_seen(tmp_path / "models", "lates", 2, features_toml("lates"))
    with ServerProcess(tmp_path / "models", settings) as server:
        feature_rows.apply(tmp_path / "features", DEFINITIONS + LATER)
        caller = make_caller("http-lane", server)
        try:
            with pytest.raises(Exception, match="start the server again"):
                caller.query("load_model", "lates")
            assert caller.ask(Ask("rates", [origins(["JFK"])])).outputs["y"].shape == (1, 4)
        finally:
            caller.close()
