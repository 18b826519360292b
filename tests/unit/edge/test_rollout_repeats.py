"""Changes that are sent again under one key, end to end through the application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import rollout_routes
from gateway.edge.idempotency import key_fault
from tests.support import loops
from tests.unit.edge.rollout_admin import (
    PATH,
    WHY,
    World,
    error,
    in_world,
)


def test_a_change_sent_again_happens_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.submit(idempotency_key="k")
        again = await world.submit(idempotency_key="k")
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert world.store.writes == 2  # the plan and its start
        refused = await world.ask("POST", f"{PATH}/resume", WHY, idempotency_key="r")
        await world.ask("POST", f"{PATH}/pause", WHY)
        told = await world.ask("POST", f"{PATH}/resume", WHY, idempotency_key="r")
        assert (told.status_code, told.content) == (409, refused.content)

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    "other",
    [
        {"path": f"{PATH}/rollback"},
        {"path": "/v2/rollouts/other/pause"},
        {"body": {"reason": "otherwise"}},
        {"if_match": '"2"'},
        {"x_headrace_author": "ada"},
    ],
)
def test_a_key_is_for_one_request(tmp_path: Path, other: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        await world.submit()
        usual = {"path": f"{PATH}/pause", "body": WHY, "idempotency_key": "k"}
        assert (await world.ask("POST", **usual)).status_code == 200
        answer = await world.ask("POST", **{**usual, **other})
        assert answer.status_code == 422
        assert "take a new one" in error(answer)
        assert world.store.writes == 3

    in_world(tmp_path, test)


def test_a_change_sent_again_while_it_is_made_waits_for_its_answer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.gate.clear()
        asking = [asyncio.create_task(world.submit(idempotency_key="k")) for _ in range(3)]
        await loops.until(lambda: world.store.writes == 1)
        world.store.gate.set()
        answers = await asyncio.gather(*asking)
        assert {one.status_code for one in answers} == {201}
        assert len({one.content for one in answers}) == 1
        assert sum("idempotency-replayed" in one.headers for one in answers) == 2
        assert world.store.writes == 2

    in_world(tmp_path, test)


def test_the_wait_for_the_first_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.store.gate.clear()
        first = asyncio.create_task(world.submit(idempotency_key="k"))
        await loops.until(lambda: world.store.writes == 1)
        monkeypatch.setattr(rollout_routes, "UNDER_WAY_TIMEOUT_S", 0.0)
        second = await world.submit(idempotency_key="k")
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert "still being made" in error(second)
        world.store.gate.set()
        assert (await first).status_code == 201

    in_world(tmp_path, test)


def test_what_failed_for_now_is_tried_again_with_its_key(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.store.go_away()
        assert (await world.submit(idempotency_key="k")).status_code == 503
        world.store.come_back()
        world.store.fails = True
        unknown = await world.submit(idempotency_key="k")
        assert unknown.status_code == 503
        assert "nobody knows" in error(unknown)
        world.store.fails = False
        world.store.come_back()
        assert (await world.submit(idempotency_key="k")).status_code == 201

    in_world(tmp_path, test)


def test_answers_are_forgotten_after_ten_minutes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit(idempotency_key="k")
        world.now = 600.0
        assert (await world.submit(idempotency_key="k")).status_code == 428

    in_world(tmp_path, test)


@given(st.text(max_size=140))
def test_a_key_that_is_taken_survives_the_header(key: str) -> None:
    if not key_fault(key):
        scope = {"headers": [(b"idempotency-key", key.encode())]}
        assert rollout_routes.header_text(scope, "idempotency-key") == key
