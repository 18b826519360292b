"""Real gateways that follow plans from a real store: who answers, what is said, and what outlives a dead store."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation.store import StoreSettings, open_store
from rollout.plan import Event, Shadow, Step, Sticky, encode
from tests.e2e.conftest import StartServer
from tests.support import models
from tests.support.raw_http import ask_once, floats_json, post_infer
from tests.support.redis_servers import ValkeyServer
from tests.support.rollout_plans import (
    IN_FORCE_WITHIN_S,
    MODEL,
    STEPS,
    USERS,
    WITHIN_S,
    Plans,
    a_draft,
    ask,
    at_once,
    by_grpc,
    move,
    settings,
    versions_of_users,
)
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually
from tests.unit.rollout.plans import (
    APPROVER,
    happen,
    made,
    proposal,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four versions, of which the policy keeps the newest, and one that cannot be loaded."""
    root = tmp_path / "models"
    for version in (1, 2, 3):
        models.write_model(root, MODEL, models.identity(), version)
    models.write_model(root, MODEL, b"no model", 9, toml="[versions]\nlatest = 2\n")
    return root


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Plans]:
    """The private store that the gateways share."""
    with open_store(StoreSettings(state_dir=str(tmp_path / "store"))) as store:
        yield Plans(lambda: store.url)


# -- a rollout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rollout_from_1_to_50_percent(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans, workers: int
) -> None:
    """A weight is in force everywhere within a second; nobody goes back; at the end the candidate answers all."""
    server = start_server(
        folder,
        **settings(tmp_path, server__workers=workers, store__state_dir=tmp_path / "store"),
    )
    assert ask(server).json["model_version"] == "3", "without a plan the newest answers"
    assert "parameters" not in ask(server).json
    plan = private.put(a_draft())
    private.await_force(plan, workers, warm=("1", "2"))
    assert set(versions_of_users(server).values()) == {"1"}, "a draft moves nobody"
    before = dict.fromkeys(USERS, "1")
    took: list[float] = []
    for number, percent in enumerate(STEPS):
        plan = private.put(move(plan, Event.ADVANCE if number else Event.START))
        took.append(private.await_force(plan, workers, within_s=5.0))
        found = before
        for _ in range(workers):  # new connections come to either
            found = versions_of_users(server)
            assert all(found[user] == "2" for user, was in before.items() if was == "2"), percent
        share = sum(one == "2" for one in found.values()) / len(USERS)
        assert abs(share - percent / 100) < 0.13
        before = found
    print("in force after", [round(one, 3) for one in took])
    assert sorted(took)[1] < IN_FORCE_WITHIN_S, took
    plan = private.put(move(plan, Event.PROMOTE))
    private.await_force(plan, workers, warm=("1", "2"))
    assert set(versions_of_users(server).values()) == {"2"}
    server.stop()
    again = start_server(
        folder,
        **settings(tmp_path, server__workers=workers, store__state_dir=tmp_path / "store"),
    )
    assert set(versions_of_users(again).values()) == {"2"}, "from the first request on"
    assert ask(again, version="1").json["model_version"] == "1", "the way back stays loaded"
    again.stop()


def test_what_a_reply_says(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(folder, **settings(tmp_path, store__state_dir=tmp_path / "store"))
    plan = at_once(private)
    private.await_force(plan, 1, warm=("1", "2"))
    ids = set()
    for user in USERS[:40]:
        answer = ask(server, user)
        said = answer.json["parameters"]
        arm = {"1": "champion", "2": "candidate"}[answer.json["model_version"]]
        one = uuid.UUID(said["prediction_id"])
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert abs((one.int >> 80) / 1000 - time.time()) < 60
        assert said == {"prediction_id": str(one), "arm": arm}
        assert answer.headers["x-headrace-arm"] == arm
        assert answer.headers["x-headrace-version"] == answer.json["model_version"]
        assert answer.headers["x-headrace-prediction-id"] == str(one)
        ids.add(one)
    assert len(ids) == 40
    assert ask(server).json["parameters"]["assigned_by"] == "none"
    with_id = ask_once(server.http, post_infer(MODEL, floats_json(id="r1"))).json
    assert with_id["parameters"]["assigned_by"] == "request_id"
    reply = by_grpc(server, [("x-user", "ann")])
    assert uuid.UUID(reply.parameters["prediction_id"].string_param).version == 7
    assert reply.parameters["arm"].string_param in {"champion", "candidate"}
    assert "assigned_by" not in reply.parameters
    assert by_grpc(server).parameters["assigned_by"].string_param == "none"
    counted = server.metric("headrace_rollout_requests_total", model=MODEL)
    assert counted == 44
    assert server.metric("headrace_rollout_keys_missing_total", stand_in="none") == 2


def test_both_protocols_give_a_user_the_same_version(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(
        folder, **settings(tmp_path, server__workers=2, store__state_dir=tmp_path / "store")
    )
    plan = at_once(private)
    private.await_force(plan, 2, warm=("1", "2"))
    by_header = versions_of_users(server, USERS[:60])
    assert set(by_header.values()) == {"1", "2"}
    for user, version in by_header.items():
        assert by_grpc(server, [("x-user", user)]).model_version == version
    by_parameter = private.put(move(plan, Event.ABORT))
    by_parameter = made(
        happen(
            by_parameter,
            Event.REPLACE,
            APPROVER,
            now_s=time.time(),
            proposal=proposal(
                model=MODEL,
                champion="1",
                candidate="2",
                sticky=Sticky(source="parameter:user", salt="e2e"),
                steps=(Step(percent=50),),
            ),
        )
    )
    plan = private.put(by_parameter)
    plan = private.put(move(plan, Event.START))
    private.await_force(plan, 2, warm=("1", "2"))
    for user, version in by_header.items():
        assert _by_parameter(server, user) == version
        assert by_grpc(server, user=user).model_version == version


def _by_parameter(server: ServerProcess, user: str) -> str:
    body = floats_json(parameters={"user": user})
    answer = ask_once(server.http, post_infer(MODEL, body))
    assert answer.status == 200, answer
    return str(answer.json["model_version"])


def test_who_names_a_version_takes_no_part(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(folder, **settings(tmp_path, store__state_dir=tmp_path / "store"))
    plan = at_once(private)
    private.await_force(plan, 1, warm=("1", "2"))
    for version in ("1", "2"):
        for user in USERS[:20]:
            answer = ask(server, user, version=version)
            assert answer.json["model_version"] == version
            assert "parameters" not in answer.json
            assert not any(name.startswith("x-headrace-") for name in answer.headers)
    assert server.metric("headrace_rollout_requests_total", model=MODEL) == 0
    refused = ask_once(server.http, post_infer(MODEL, floats_json(), [("x-headrace-arm", "2")]))
    assert refused.status == 403, refused
    assert "token" in refused.error


# -- versions ---------------------------------------------------------------------------------------


def test_a_version_that_fails_to_load_is_answered_by_the_champion(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(folder, **settings(tmp_path, store__state_dir=tmp_path / "store"))
    plan = at_once(private, candidate="9")

    def is_lost() -> bool:
        said = [beat.models[0] for beat in private.beats() if beat.models]
        return any(one.revision == plan.revision and "9" in one.gone for one in said)

    eventually("the candidate is lost", is_lost, within_s=WITHIN_S)
    stand_ins = 0
    for user in USERS[:60]:
        answer = ask(server, user)
        assert answer.json["model_version"] == "1"
        if answer.json["parameters"].get("assigned_by") == "not_warm":
            stand_ins += 1
            assert answer.headers["x-headrace-arm"] == "candidate"
            assert answer.headers["x-headrace-version"] == "1"
    assert 15 < stand_ins < 45
    models.write_model(folder, MODEL, models.identity(), 9)
    private.await_force(plan, 1, warm=("1", "9"))
    assert set(versions_of_users(server).values()) == {"1", "9"}


def test_versions_of_shadows_are_loaded_too(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(folder, **settings(tmp_path, store__state_dir=tmp_path / "store"))
    plan = at_once(private, shadows=(Shadow(version="3", percent=100, salt="x"),))
    private.await_force(plan, 1, warm=("1", "2", "3"))
    for version in ("1", "2", "3"):
        assert ask(server, version=version).json["model_version"] == version
    plan = private.put(move(plan, Event.ROLLBACK))
    private.await_force(plan, 1)

    def is_gone() -> bool:
        answer = ask_once(server.http, post_infer(MODEL, floats_json(), version="3"))
        return answer.status == 503 and "unloaded" in answer.error

    eventually("what the plan does not name goes", is_gone)
    assert ask(server, version="1").json["model_version"] == "1"


# -- the store dies ---------------------------------------------------------------------------------


def test_a_dead_store_takes_no_plan_away_even_over_a_restart(
    folder: Path, tmp_path: Path, start_server: StartServer, valkey: ValkeyServer
) -> None:
    plans = Plans(lambda: valkey.url)
    chosen = settings(tmp_path, store__redis_url=valkey.url)
    server = start_server(folder, **chosen)
    plan = at_once(plans)
    plans.await_force(plan, 1, warm=("1", "2"))
    before = versions_of_users(server)
    valkey.kill()
    eventually(
        "it is noticed", lambda: server.metric("headrace_rollout_store_up") == 0, within_s=WITHIN_S
    )
    assert versions_of_users(server) == before
    server.stop()
    again = start_server(folder, **chosen)
    assert again.metric("headrace_rollout_store_up") == 0
    assert versions_of_users(again) == before, "from the disk"
    valkey.start()  # empty
    eventually(
        "it is back", lambda: again.metric("headrace_rollout_store_up") == 1, within_s=WITHIN_S
    )
    assert versions_of_users(again) == before
    with valkey.client() as client:
        client.sadd("hr:rollout:models", MODEL)
        client.set(f"hr:rollout:{{{MODEL}}}:plan", encode(plan))
    plan = plans.put(move(plan, Event.PROMOTE))
    plans.await_force(plan, 1)
    assert set(versions_of_users(again).values()) == {"2"}
    again.stop()


def test_a_first_start_writes_what_it_found_to_the_disk(
    folder: Path, tmp_path: Path, start_server: StartServer, valkey: ValkeyServer
) -> None:
    """It came after the plan, and nothing has changed since: the next start may find no store."""
    plans = Plans(lambda: valkey.url)
    plan = at_once(plans)
    chosen = settings(tmp_path, store__redis_url=valkey.url)
    server = start_server(folder, **chosen)
    plans.await_force(plan, 1, warm=("1", "2"))
    before = versions_of_users(server)
    server.stop()
    valkey.kill()
    again = start_server(folder, **chosen)
    assert versions_of_users(again) == before
    again.stop()


def test_a_damaged_document_leaves_the_last_good_plan(
    folder: Path, tmp_path: Path, start_server: StartServer, valkey: ValkeyServer
) -> None:
    plans = Plans(lambda: valkey.url)
    server = start_server(folder, **settings(tmp_path, store__redis_url=valkey.url))
    plan = at_once(plans)
    plans.await_force(plan, 1, warm=("1", "2"))
    before = versions_of_users(server)

    def is_in_trouble() -> bool:
        return server.metric("headrace_rollout_plan_in_trouble", model=MODEL) == 1

    assert not is_in_trouble()
    with valkey.client() as client:
        [key] = client.keys("hr:rollout:*:plan")
        good = client.get(key)
        for damage in (b"{", b"", b"\xff" * 100, good[:-1], b"null"):
            client.set(key, damage)
            if damage:
                eventually("it is noticed", is_in_trouble)
            assert versions_of_users(server, USERS[:50]) == {one: before[one] for one in USERS[:50]}
        client.set(key, good)
        eventually("it is good again", lambda: not is_in_trouble())
    plan = plans.put(move(plan, Event.PROMOTE))
    plans.await_force(plan, 1)


def test_a_worker_that_dies_comes_back_with_the_plan_in_force(
    folder: Path, tmp_path: Path, start_server: StartServer, private: Plans
) -> None:
    server = start_server(
        folder, **settings(tmp_path, server__workers=2, store__state_dir=tmp_path / "store")
    )
    plan = at_once(private)
    private.await_force(plan, 2, warm=("1", "2"))
    before = versions_of_users(server, USERS[:80])
    names = {beat.worker for beat in private.beats()}
    os.kill(server.status()["workers"][0]["pid"], signal.SIGKILL)

    def is_back() -> bool:
        fresh = [beat for beat in private.beats() if beat.worker not in names and beat.models]
        return any(one.models[0].warm >= {"1", "2"} for one in fresh)

    eventually("another one has taken its place", is_back, within_s=WITHIN_S)
    for _ in range(6):
        assert versions_of_users(server, USERS[:80]) == before
