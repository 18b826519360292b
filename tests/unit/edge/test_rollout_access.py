"""Tokens and the rule without them: who may look, who may change, how often, and what a changed file does."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from foundation.tokens import AccessError, Role, add_token, new_token, remove_token
from gateway.edge.rollout_access import RolloutAccess, RolloutWall
from gateway.errors import ErrorCode, HeadraceError
from rollout.transitions import Author
from tests.support import loops

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOCAL, REMOTE = ("127.0.0.1", 5000), ("192.0.2.7", 5000)


class World:
    """A tokens file with one token of each role, and invented clocks."""

    def __init__(self, folder: Path, most: int = 3) -> None:
        self.file = folder / "tokens.toml"
        self.now, self.utc = 0.0, NOW
        self.presented: dict[str, str] = {}
        for role in Role:
            self.make(role.value, role)
        self.access = RolloutAccess(
            self.file,
            max_changes_per_min=most,
            clock=lambda: self.now,
            utc_clock=self.utc_s,
        )

    def utc_s(self) -> float:
        return self.utc.timestamp()

    def make(self, name: str, role: Role, expires: datetime | None = None) -> None:
        token, self.presented[name] = new_token(name, role, now=NOW, expires=expires)
        add_token(self.file, token)

    def scope(self, name: str) -> dict[str, Any]:
        return scope(authorization=f"Bearer {self.presented[name]}")

    async def sweep(self) -> None:
        self.access.sweep()
        if self.access._reading is not None:
            await asyncio.wait([self.access._reading])
            await asyncio.sleep(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]}


def code(what: Any, *args: Any) -> ErrorCode:
    with pytest.raises(HeadraceError) as raised:
        what(*args)
    return raised.value.code


def test_roles(world: World) -> None:
    for name in world.presented:
        world.access.may_look(world.scope(name))
    assert code(world.access.may_change, world.scope("viewer")) is ErrorCode.PERMISSION_DENIED
    assert world.access.may_change(world.scope("operator")).author == Author("operator", "operator")
    assert world.access.may_change(world.scope("approver")).author == Author("approver", "approver")


def test_the_author_header_makes_nobody_else(world: World) -> None:
    both = world.scope("operator")
    both["headers"].append((b"x-headrace-author", b"approver"))
    assert world.access.may_change(both).author == Author("operator", "operator")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer hrt_abc_def"},
        {"x_api_key": "hrt_abc_def"},
    ],
)
def test_nobodys_token_is_refused_without_saying_it_again(
    world: World, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for ask in (world.access.may_look, world.access.may_change):
        with pytest.raises(HeadraceError) as raised:
            ask(scope(**headers))
        assert raised.value.code is ErrorCode.UNAUTHENTICATED
        assert "hrt_abc" not in raised.value.message + caplog.text


def test_two_tokens_are_none(world: World) -> None:
    two = world.scope("viewer")
    two["headers"] += world.scope("approver")["headers"]
    assert code(world.access.may_look, two) is ErrorCode.UNAUTHENTICATED


def test_a_secret_of_one_id_with_another_is_nobodys(world: World) -> None:
    one, other = (world.presented[name].split("_", 2) for name in ("viewer", "approver"))
    mixed = scope(authorization=f"Bearer hrt_{other[1]}_{one[2]}")
    assert code(world.access.may_look, mixed) is ErrorCode.UNAUTHENTICATED


def test_tokens_expire_while_running(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.make("guest", Role.OPERATOR, NOW + timedelta(hours=1))
    world.access = RolloutAccess(world.file, max_changes_per_min=9, utc_clock=world.utc_s)
    world.access.may_change(world.scope("guest"))
    world.utc = NOW + timedelta(hours=1)
    assert code(world.access.may_change, world.scope("guest")) is ErrorCode.UNAUTHENTICATED


def test_each_caller_has_a_limit_of_changes(world: World) -> None:
    for _ in range(3):
        world.access.may_change(world.scope("operator"))
    with pytest.raises(HeadraceError) as raised:
        world.access.may_change(world.scope("operator"))
    assert raised.value.code is ErrorCode.QUOTA_EXCEEDED
    assert raised.value.retry_after_s == pytest.approx(20)
    assert "'operator' asked for more than 3 changes a minute" in raised.value.message
    world.access.may_change(world.scope("approver"))
    world.access.may_look(world.scope("operator"))
    world.now = 20.0
    world.access.may_change(world.scope("operator"))
    assert code(world.access.may_change, world.scope("operator")) is ErrorCode.QUOTA_EXCEEDED


def test_a_changed_file_is_followed(world: World) -> None:
    async def test() -> None:
        for _ in range(3):
            world.access.may_change(world.scope("operator"))
        remove_token(world.file, "approver")
        world.make("late", Role.OPERATOR)
        assert code(world.access.may_look, world.scope("late")) is ErrorCode.UNAUTHENTICATED
        await world.sweep()
        world.access.may_look(world.scope("late"))
        assert code(world.access.may_look, world.scope("approver")) is ErrorCode.UNAUTHENTICATED
        # Writing the file anew is no way around the limit.
        assert code(world.access.may_change, world.scope("operator")) is ErrorCode.QUOTA_EXCEEDED

    loops.run(test)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("[[token]]\nname=1")])
def test_a_file_that_cannot_be_used_changes_nothing(
    world: World, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        spoil(world.file)
        await world.sweep()
        world.access.may_change(world.scope("operator"))
        assert "the tokens before stay in force" in caplog.text
        assert world.presented["operator"] not in caplog.text

    loops.run(test)


def test_a_file_that_was_never_good_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccessError):
        RolloutAccess(tmp_path / "none.toml", max_changes_per_min=1)


# -- the wall -------------------------------------------------------------------------------------


def through(
    access: RolloutAccess, method: str, path: str, client: tuple[str, int], **headers: str
) -> dict[str, Any] | int:
    """The scope as the application gets it, or the status of the wall's refusal."""
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    asked = {
        "type": "http",
        "method": method,
        "path": path,
        "client": client,
        "server": ("192.0.2.1", 8002),
        **scope(**headers),
    }
    asyncio.run(RolloutWall(app, access)(asked, None, send))
    return reached[0] if reached else sent[0]["status"]


def test_tokens_open_the_wall_for_rollouts_alone(world: World) -> None:
    assert isinstance(through(world.access, "PUT", "/v2/rollouts/m", REMOTE), dict)
    for path in (
        "/v2/repository/models/m/load",
        "/v2/rolloutsx",
        "/v2/rollouts-x/m",
        "/v2/features/f/lookup",
        "/V2/rollouts/m",
    ):
        assert through(world.access, "POST", path, REMOTE) == 403, path


def test_without_tokens_changes_come_from_here() -> None:
    access = RolloutAccess(None, max_changes_per_min=9)
    assert not access.asks_for_tokens
    assert through(access, "PUT", "/v2/rollouts/m", REMOTE) == 403
    assert through(access, "PUT", "/v2/rollouts/m", LOCAL, origin="http://a.example") == 403
    for client, names, author in (
        (LOCAL, {}, "local"),
        (LOCAL, {"x_headrace_author": " ada "}, "ada"),
        (LOCAL, {"x_headrace_author": "Grâce"}, "Grâce"),
    ):
        found = through(access, "PUT", "/v2/rollouts/m", client, **names)
        assert isinstance(found, dict)
        assert access.may_change(found).author == Author(author, "approver")
    looking = through(access, "GET", "/v2/rollouts", REMOTE)
    assert isinstance(looking, dict)
    access.may_look(looking)


def test_what_did_not_come_through_the_wall_changes_nothing() -> None:
    access = RolloutAccess(None, max_changes_per_min=9)
    assert code(access.may_change, scope()) is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\x00b", "a\tb"])
def test_names_that_are_none(name: str) -> None:
    access = RolloutAccess(None, max_changes_per_min=9)
    found = through(access, "PUT", "/v2/rollouts/m", LOCAL, x_headrace_author=name)
    assert code(access.may_change, found) is ErrorCode.INVALID_ARGUMENT


def test_a_name_buys_no_limit_of_its_own() -> None:
    access = RolloutAccess(None, max_changes_per_min=2, clock=lambda: 0.0)
    for name in ("ada", "grace"):
        access.may_change(through(access, "PUT", "/v2/rollouts/m", LOCAL, x_headrace_author=name))
    found = through(access, "PUT", "/v2/rollouts/m", LOCAL, x_headrace_author="eve")
    assert code(access.may_change, found) is ErrorCode.QUOTA_EXCEEDED
