"""Whole rollouts: four gateways, one private store, real callers, whoever of the four controls."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from foundation.audit_verifying import verify
from tests.e2e.conftest import StartServer
from tests.support import models
from tests.support.raw_http import RawHttp, ask_once, floats_json, get, post_infer, request
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

WITHIN_S = 60.0
GATEWAYS = 4
USERS = 200
MODEL = "identity"
POSITIVE = floats_json(first=1.0)
NEGATIVE = floats_json(first=-5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    models.write_model(root, MODEL, models.identity())
    models.write_model(root, MODEL, models.identity(), version=2)
    models.write_model(root, MODEL, models.logarithm(), version=3)  # NaN for what is negative
    return root


@pytest.fixture
def gateways(folder: Path, tmp_path: Path, start_server: StartServer) -> list[ServerProcess]:
    return [
        start_server(
            folder,
            store__state_dir=tmp_path / "store",
            rollout__enabled=True,
            rollout__state_dir=tmp_path / f"gateway-{number}",
        )
        for number in range(GATEWAYS)
    ]


class Users:
    """One thread for each gateway; every user asks any of them, in turn, and is told which version answered."""

    def __init__(self, gateways: Sequence[ServerProcess], body: bytes = POSITIVE) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self.versions: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self._body = body
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(one, number), daemon=True)
            for number, one in enumerate(gateways)
        ]

    def _ask(self, gateway: ServerProcess, number: int) -> None:
        try:
            with RawHttp(gateway.http) as connection:
                turn = number
                while not self._stop.wait(0.0005):
                    turn += 1
                    user = f"user-{turn % USERS}"
                    asked = post_infer(MODEL, self._body, [("x-user", user)])
                    began_s = time.monotonic()
                    answer = connection.ask(asked)
                    if answer.status != 200:
                        self.failures.append(str(answer))
                        continue
                    version = answer.json["model_version"]
                    assert answer.headers["x-headrace-version"] == version
                    self.answers[version] += 1
                    self.versions[user].append((began_s, version))
        except Exception as error:  # noqa: BLE001  told by the test's own thread
            self.failures.append(repr(error))

    def __enter__(self) -> Users:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join(WITHIN_S)

    def who_went_back(self, to: str) -> list[str]:
        """Users who got ``to`` again later than another version; ties of asks that overlapped in time are left out."""
        back = []
        for user, seen in self.versions.items():
            seen.sort()
            first_new = next((at for at, version in seen if version != to), None)
            # A request begun before the change may be answered after one begun behind it: by less than a second.
            if first_new is not None and any(
                at > first_new + 1.0 for at, version in seen if version == to
            ):
                back.append(user)
        return back


def propose(gateway: ServerProcess, champion: str, candidate: str, **more: Any) -> dict[str, Any]:
    """Submit a plan and start it; what it has become."""
    plan = {
        "champion": champion,
        "candidate": candidate,
        "sticky": {"from": "header:x-user", "salt": "test"},
        "steps": [
            {"percent": percent, "min_time_s": 1.0, "min_samples": 100}
            for percent in (5.0, 25.0, 50.0)
        ],
        **more,
    }
    headers = [("content-type", "application/json"), ("x-headrace-reason", "a test")]
    known = ask_once(gateway.admin, get(f"/v2/rollouts/{MODEL}"))
    if known.status == 200:
        headers.append(("if-match", known.headers["etag"]))
    answer = ask_once(
        gateway.admin,
        request("PUT", f"/v2/rollouts/{MODEL}?start=true", headers, json.dumps(plan).encode()),
    )
    assert answer.status in (200, 201), answer
    found: dict[str, Any] = answer.json
    return found


def state_of(gateway: ServerProcess) -> str:
    state: str = ask_once(gateway.admin, get(f"/v2/rollouts/{MODEL}")).json["state"]
    return state


def status(gateway: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = ask_once(gateway.admin, get(f"/v2/rollouts/{MODEL}/status")).json
    return found


@pytest.fixture
def promoted(gateways: list[ServerProcess]) -> Users:
    propose(gateways[0], "1", "2")
    with Users(gateways) as users:
        eventually("promoted", lambda: state_of(gateways[1]) == "promoted", within_s=WITHIN_S)
        eventually("in force", lambda: users.answers["2"] > 3 * USERS, within_s=WITHIN_S)
        time.sleep(1.0)
    return users


def test_a_good_version_is_promoted_and_a_broken_one_leaves(
    gateways: list[ServerProcess], promoted: Users, tmp_path: Path
) -> None:
    assert promoted.failures == []
    assert len(promoted.versions) == USERS
    assert promoted.who_went_back(to="1") == []
    plan = status(gateways[2])["plan"]
    events = [entry["event"] for entry in plan["history"]]
    assert events == ["submit", "start", "advance", "advance", "promote"]

    propose(gateways[3], "2", "3")
    with Users(gateways, NEGATIVE) as users:
        eventually("rolled back", lambda: state_of(gateways[0]) == "rolled_back", within_s=WITHIN_S)
        eventually("all are back", lambda: _only(gateways, "2"), within_s=WITHIN_S)
    assert users.failures == [], "an answer that is no number is an answer"
    found = status(gateways[1])
    assert [entry["event"] for entry in found["plan"]["history"]][-3:] == [
        "replace",
        "start",
        "breach",
    ]
    assert users.answers["3"] <= 500
    folders = [tmp_path / f"gateway-{number}" for number in range(GATEWAYS)]
    logs = [one / "audit.jsonl" for one in folders if (one / "audit.jsonl").exists()]
    assert logs
    for log in logs:
        assert verify(log).is_sound, verify(log)


def _only(gateways: Sequence[ServerProcess], version: str) -> bool:
    answers = [
        ask_once(one.http, post_infer(MODEL, NEGATIVE, [("x-user", f"user-{user}")])).json
        for one in gateways
        for user in range(20)
    ]
    return {one["model_version"] for one in answers} == {version}


def _all_act_on(gateways: Sequence[ServerProcess], revision: int) -> bool:
    acting = [one["revision"] for one in status(gateways[0])["gateways"]]
    return acting == [revision] * GATEWAYS


def test_a_change_by_hand_is_everywhere_within_a_second_and_loses_nobody(
    gateways: list[ServerProcess],
) -> None:
    hold = [{"percent": percent, "min_time_s": 3600.0} for percent in (1.0, 10.0, 40.0)]
    propose(gateways[0], "1", "2", steps=hold)
    with Users(gateways) as users:
        eventually("it has begun", lambda: users.answers["2"] > 0, within_s=WITHIN_S)
        for step in (1, 2, 3):
            answer = ask_once(
                gateways[step % GATEWAYS].admin,
                request(
                    "POST",
                    f"/v2/rollouts/{MODEL}/step",
                    [("content-type", "application/json")],
                    json.dumps({"reason": "a test", "step": step}).encode(),
                ),
            )
            assert answer.status == 200, answer
            eventually(
                "everybody acts on it",
                partial(_all_act_on, gateways, answer.json["revision"]),
                within_s=WITHIN_S,
            )
        seen = sum(users.answers.values())
        eventually(
            "many asked", lambda: sum(users.answers.values()) > seen + 4 * USERS, within_s=WITHIN_S
        )
    assert users.failures == []
    assert users.who_went_back(to="1") == []


def test_who_comes_second_is_told_what_the_first_has_done(gateways: list[ServerProcess]) -> None:
    hold = [{"percent": 10.0, "min_time_s": 3600.0}]
    old = propose(gateways[0], "1", "2", steps=hold)
    headers = [("content-type", "application/json"), ("if-match", f'"{old["revision"]}"')]
    pause = request(
        "POST", f"/v2/rollouts/{MODEL}/pause", headers, json.dumps({"reason": "lunch"}).encode()
    )
    first = ask_once(gateways[1].admin, pause)
    second = ask_once(gateways[2].admin, pause)
    assert (first.status, second.status) == (200, 412)
    assert second.json["current"]["state"] == "paused"
    assert second.headers["etag"] == first.headers["etag"]
