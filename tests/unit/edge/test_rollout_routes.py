"""Rollouts through the admin port's whole application: answers, refusals, and who may ask."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.edge import rollout_routes
from rollout.evidence import ArmCounts, Stretch
from rollout.plan import decode_plan
from rollout.ports import Counters
from tests.support import loops
from tests.unit.edge.rollout_admin import (
    LOCAL,
    PATH,
    PROPOSAL,
    REMOTE,
    WHY,
    World,
    error,
    in_world,
    validator,
)

# -- what is answered -----------------------------------------------------------------------------


def test_a_life_over_http(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.ask("PUT", f"{PATH}?reason=new", PROPOSAL, if_none_match="*")
        assert (first.status_code, first.headers["etag"]) == (201, '"1"')
        assert decode_plan(first.content).author == "local"
        assert first.headers["cache-control"] == "no-store"
        seen = await world.ask("GET")
        assert (seen.status_code, seen.headers["etag"], seen.content) == (200, '"1"', first.content)
        started = await world.ask("POST", f"{PATH}/start", if_match='"1"', x_headrace_author="ada")
        assert (started.status_code, started.headers["etag"]) == (200, '"2"')
        assert decode_plan(started.content).author == "ada"
        stepped = await world.ask("POST", f"{PATH}/step", {"step": 2, **WHY})
        assert decode_plan(stepped.content).step == 1
        for event in ("pause", "resume", "promote", "rollback"):
            answer = await world.ask("POST", f"{PATH}/{event}", WHY)
            assert answer.status_code == 200, answer.text
            assert (await world.ask("GET")).content == answer.content
        again = await world.ask("PUT", PATH, PROPOSAL, if_match='"7"', x_headrace_reason="zurück")
        assert (again.status_code, again.headers["etag"]) == (200, '"8"')
        assert decode_plan(again.content).reason == "zurück"
        aborted = await world.ask("POST", f"{PATH}/abort", WHY)
        assert decode_plan(aborted.content).state == "aborted"
        history = (await world.ask("GET", f"{PATH}/history")).json()["history"]
        assert world.actions() == [f"rollout.{one['event']}" for one in history]
        validator("RolloutHistory").validate({"history": history})
        validator("RolloutPlan").validate(aborted.json())

    in_world(tmp_path, test)


def test_the_list_and_the_status_keep_their_schemas(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        counts = ArmCounts(requests=500)
        counters = Counters(stretches=(Stretch(2, 0, candidate=counts, champion=counts),))
        await world.store.report("a", "fraud", 1, counters)
        world.store.put_document("broken", b"{")
        listed = (await world.ask("GET", "/v2/rollouts")).json()
        validator("RolloutList").validate(listed)
        assert [one["state"] for one in listed["rollouts"]] == ["unreadable", "stepping"]
        status = await world.ask("GET", f"{PATH}/status")
        assert status.headers["etag"] == '"2"'
        validator("RolloutStatus").validate(status.json())
        assert status.json()["arms"][1]["share_percent"] == 50.0
        assert status.json()["plan"] == (await world.ask("GET")).json()

    in_world(tmp_path, test)


def test_what_there_is_not(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for method, path in (
            ("GET", PATH),
            ("GET", f"{PATH}/status"),
            ("GET", f"{PATH}/history"),
            ("POST", f"{PATH}/start"),
        ):
            answer = await world.ask(method, path)
            assert answer.status_code == 404
            assert "'fraud' has no rollout" in error(answer)
        for path in (f"{PATH}/advance", f"{PATH}/hold", f"{PATH}/status/x"):
            assert (await world.ask("POST", path)).status_code == 404
        nowhere = await world.ask("PUT", "/v2/rollouts/nowhere?reason=r", PROPOSAL)
        assert (nowhere.status_code, error(nowhere)) == (404, "unknown model 'nowhere'")

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", PATH, {"GET", "HEAD", "PUT"}),
        ("POST", PATH, {"GET", "HEAD", "PUT"}),
        ("POST", f"{PATH}/status", {"GET", "HEAD"}),
        ("GET", f"{PATH}/start", {"POST"}),
        ("PUT", f"{PATH}/start", {"POST"}),
        ("POST", "/v2/rollouts", {"GET", "HEAD"}),
    ],
)
def test_methods(tmp_path: Path, method: str, path: str, allowed: set[str]) -> None:
    async def test(world: World) -> None:
        answer = await world.ask(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert f"{method} is not allowed here" in error(answer)

    in_world(tmp_path, test)


def test_faults_come_as_a_list(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        bad = {**PROPOSAL, "alpha": 7, "slo_ms": -1, "candidate": "9"}
        answer = await world.ask("PUT", PATH, bad)
        assert answer.status_code == 400
        assert len(answer.json()["faults"]) == 4  # and no reason
        assert error(answer).startswith("4 things are wrong")
        assert world.store.writes == 0

    in_world(tmp_path, test)


def test_a_dry_run_answers_the_plan_and_no_etag(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        path = f"{PATH}?dry_run=true&start=true&reason=r"
        answer = await world.ask("PUT", path, PROPOSAL)
        assert (answer.status_code, answer.headers["x-headrace-dry-run"]) == (200, "true")
        assert "etag" not in answer.headers
        assert decode_plan(answer.content).state == "stepping"
        assert (await world.ask("GET")).status_code == 404
        assert world.actions() == []

    in_world(tmp_path, test)


# -- refusals -------------------------------------------------------------------------------------


def test_transitions_that_are_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        started = await world.submit()
        state = await world.ask("POST", f"{PATH}/resume", WHY)
        assert (state.status_code, state.headers["etag"]) == (409, '"2"')
        assert "cannot be resumed" in error(state)
        assert state.json()["current"] == started.json()
        step = await world.ask("POST", f"{PATH}/step", {"step": 3, **WHY})
        assert (step.status_code, error(step)) == (400, "say which step, from 1 to 2")
        await world.warm("1")
        cold = await world.ask("POST", f"{PATH}/step", {"step": 2, **WHY})
        assert cold.status_code == 409
        assert "warm" in error(cold)
        assert cold.json()["current"] == started.json()

    in_world(tmp_path, test)


def test_a_corrupt_document_has_its_digest(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.put_document("fraud", b"{")
        for method, path, body in (
            ("GET", PATH, None),
            ("GET", f"{PATH}/status", None),
            ("POST", f"{PATH}/start", WHY),
            ("PUT", f"{PATH}?reason=r", PROPOSAL),
        ):
            answer = await world.ask(method, path, body)
            assert answer.status_code == 500
            assert answer.json()["digest"] in error(answer)

    in_world(tmp_path, test)


def test_a_store_that_is_away(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.go_away()
        for method, path, body in (
            ("GET", "/v2/rollouts", None),
            ("GET", f"{PATH}/status", None),
            ("POST", f"{PATH}/start", WHY),
            ("PUT", f"{PATH}?reason=r", PROPOSAL),
        ):
            answer = await world.ask(method, path, body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "away" in error(answer)

    in_world(tmp_path, test)


def test_a_log_that_is_broken(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.file.write_bytes(b"no record\n")
        answer = await world.submit()
        assert answer.status_code == 503
        assert "could not be recorded" in error(answer)
        assert world.store.writes == 0

    in_world(tmp_path, test)


def test_a_change_that_was_not_recorded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.gate.clear()
        asking = asyncio.create_task(
            world.ask("PUT", f"{PATH}?reason=r", PROPOSAL, idempotency_key="k")
        )
        await loops.until(lambda: world.store.writes == 1)
        world.file.mkdir()
        world.store.gate.set()
        answer = await asking
        assert (answer.status_code, answer.headers["etag"]) == (500, '"1"')
        assert "IS in force" in error(answer)
        assert answer.json()["current"] == (await world.ask("GET")).json()
        again = await world.ask("PUT", f"{PATH}?reason=r", PROPOSAL, idempotency_key="k")
        assert (again.status_code, again.content) == (500, answer.content)

    in_world(tmp_path, test)


# -- who ------------------------------------------------------------------------------------------


def test_roles_over_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(world: World) -> None:
        asked = {"client": REMOTE}
        for method, path in (("GET", "/v2/rollouts"), ("GET", PATH), ("PUT", PATH)):
            answer = await world.ask(method, path, client=LOCAL)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "hrt_" in error(answer)
        path = f"{PATH}?reason=r&start=true"
        viewer = await world.ask("PUT", path, PROPOSAL, role="viewer", **asked)
        assert viewer.status_code == 403
        assert "'viewer' is a viewer, and this needs an operator" in error(viewer)
        made = await world.ask(
            "PUT", path, PROPOSAL, role="operator", x_headrace_author="approver", **asked
        )
        assert decode_plan(made.content).author == "operator"
        assert (await world.ask("GET", role="viewer", **asked)).status_code == 200
        promote = await world.ask("POST", f"{PATH}/promote", WHY, role="operator", **asked)
        assert promote.status_code == 403
        assert "takes an approver" in error(promote)
        approved = await world.ask("POST", f"{PATH}/promote", WHY, role="approver", **asked)
        assert approved.status_code == 200
        # What is not about rollouts stays behind the wall.
        load = await world.ask("POST", "/v2/repository/models/m/load", role="approver", **asked)
        assert load.status_code == 403
        for token in world.tokens.values():
            assert token not in caplog.text
            assert token not in world.file.read_text()

    in_world(tmp_path, test, tokens=True)


def test_without_tokens_changes_come_from_here_only(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        answer = await world.ask("PUT", f"{PATH}?reason=r", PROPOSAL, client=REMOTE)
        assert answer.status_code == 403
        assert "from this machine only" in error(answer)
        assert (await world.ask("GET", "/v2/rollouts", client=REMOTE)).status_code == 200
        named = await world.ask("PUT", f"{PATH}?reason=r", PROPOSAL, x_headrace_author="controller")
        assert named.status_code == 403
        assert "the controller's own" in error(named)

    in_world(tmp_path, test)


def test_too_many_changes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await world.submit()).status_code == 201
        assert (await world.ask("POST", f"{PATH}/pause", WHY)).status_code == 200
        answer = await world.ask("POST", f"{PATH}/resume", WHY)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
        assert "2 changes a minute" in error(answer)
        assert (await world.ask("GET")).headers["etag"] == '"3"'
        world.now = 30.0
        assert (await world.ask("POST", f"{PATH}/resume", WHY)).status_code == 200

    in_world(tmp_path, test, most=2)


def test_too_many_changes_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        most = rollout_routes.MAX_CHANGES_AT_ONCE
        world.store.gate.clear()
        asking = [
            asyncio.create_task(world.ask("PUT", f"/v2/rollouts/m{at}?reason=r", PROPOSAL))
            for at in range(most)
        ]
        await loops.until(lambda: world.store.writes == most)
        answer = await world.ask("PUT", f"{PATH}?reason=r", PROPOSAL)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "already" in error(answer)
        world.store.gate.set()
        assert {one.status_code for one in await asyncio.gather(*asking)} == {201}
        assert (await world.ask("PUT", f"{PATH}?reason=r", PROPOSAL)).status_code == 201

    in_world(tmp_path, test)
