from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from foundation.access import AccessError, ApiKey, add_key, new_key, read_keys, remove_key
from gateway.edge.access import Access, KeyHolder
from gateway.errors import ErrorCode, HeadraceError

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class World:
    """A keys file, an invented clock of each kind, and what reads them."""

    def __init__(self, folder: Path, *, workers: int = 1) -> None:
        self.file = folder / "keys.toml"
        self.now = 0.0
        self.utc = NOW
        self.presented: dict[str, str] = {}
        self.changes = 0
        self.make("first")
        self.access = Access(
            self.file,
            workers=workers,
            clock=lambda: self.now,
            utc_clock=self.utc_s,
        )
        self.access.on_change = self.changed

    def utc_s(self) -> float:
        return self.utc.timestamp()

    def changed(self) -> None:
        self.changes += 1

    def make(self, name: str, **limits: Any) -> ApiKey:
        key, self.presented[name] = new_key(name, now=NOW, **limits)
        add_key(self.file, key)
        return key

    def read(self) -> None:
        self.access.use(read_keys(self.file))

    def holder(self, name: str) -> KeyHolder:
        return self.access.holder({b"x-api-key": self.presented[name].encode()})

    async def sweep(self) -> None:
        self.access.sweep()
        reading = self.access._reading
        if reading is not None:
            await asyncio.wait([reading])
            await asyncio.sleep(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(raised: pytest.ExceptionInfo[HeadraceError]) -> ErrorCode:
    return raised.value.code


# -- whose call it is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer %b"},
        {b"authorization": b"bearer  %b "},
        {b"x-api-key": b"%b"},
        {b"x-api-key": b" %b "},
        {b"authorization": b"Basic abc", b"x-api-key": b"%b"},
    ],
)
def test_a_key_is_found_where_callers_put_it(world: World, headers: dict[bytes, bytes]) -> None:
    key = world.presented["first"].encode()
    sent = {name: value.replace(b"%b", key) for name, value in headers.items()}
    assert world.access.holder(sent).name == "first"
    assert world.access.holder(sent) is world.holder("first")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "asks for an API key"),
        ({b"authorization": b"Basic abc"}, "asks for an API key"),
        ({b"authorization": b"Bearer"}, "asks for an API key"),
        ({b"authorization": b"Bearer "}, "not known here"),
        ({b"x-api-key": b""}, "not known here"),
        ({b"x-api-key": b"\xff\x00"}, "not known here"),
        ({b"x-api-key": b"hr_secretish_secret"}, "not known here"),
    ],
)
def test_everybody_else_is_told_how_to_send_one(
    world: World, headers: dict[bytes, bytes], words: str
) -> None:
    with pytest.raises(HeadraceError, match=words) as raised:
        world.access.holder(headers)
    assert refused(raised) is ErrorCode.UNAUTHENTICATED
    assert "secretish" not in raised.value.message


def test_keys_that_are_not_known_are_not_kept(world: World) -> None:
    for number in range(50):
        with pytest.raises(HeadraceError):
            world.access.holder({b"x-api-key": b"hr_no_%d" % number})
    world.holder("first")
    assert list(world.access._found) == [world.presented["first"].encode()]


# -- what a holder may ----------------------------------------------------------------------------


def test_models_by_pattern(world: World) -> None:
    world.make("some", models=("fraud*", "v?"))
    world.read()
    holder = world.holder("some")
    asked: list[str] = []
    find = holder.guard(lambda model, version: asked.append(model))
    for model in ("fraud", "fraud-eu", "v1"):
        find(model, "")
    for model in ("xfraud", "v", "v12", "", "Fraud"):
        with pytest.raises(HeadraceError) as raised:
            find(model, "")
        assert refused(raised) is ErrorCode.PERMISSION_DENIED
    assert asked == ["fraud", "fraud-eu", "v1"]
    assert world.access.plain_holder([], "fraud") is None
    sent = [(b"x-api-key", world.presented["some"].encode())]
    assert world.access.plain_holder(sent, "fraud") is holder
    assert world.access.plain_holder(sent, "other") is None


def test_a_key_for_every_model_costs_no_look(world: World) -> None:
    def find(model: str, version: str) -> None:
        return None

    assert world.holder("first").guard(find) is find


def test_over_the_quota(world: World) -> None:
    world.make("few", requests_per_s=2.0, burst_requests=1)
    world.read()
    holder = world.holder("few")
    holder.enter(0.0).leave()
    with pytest.raises(HeadraceError, match="the key 'few' is over its quota of 2 calls") as raised:
        holder.enter(0.0)
    assert refused(raised) is ErrorCode.QUOTA_EXCEEDED
    assert raised.value.retry_after_s == 0.5
    holder.enter(0.5).leave()


def test_each_of_several_workers_has_its_share(tmp_path: Path) -> None:
    world = World(tmp_path, workers=4)
    world.make("four", max_concurrent_requests=4)
    world.read()
    holder = world.holder("four")
    quota = holder.enter(0.0)
    with pytest.raises(HeadraceError):
        holder.enter(0.0)
    quota.leave()


# -- time and the file ----------------------------------------------------------------------------


def test_a_key_expires(world: World) -> None:
    world.make("brief", expires=NOW + timedelta(seconds=10))
    world.read()
    holder = world.holder("brief")
    holder.enter(0.0).leave()
    world.utc = NOW + timedelta(seconds=10)
    asyncio.run(world.sweep())
    for ask in (lambda: holder.enter(1.0), lambda: world.holder("brief")):
        with pytest.raises(HeadraceError, match="'brief' has expired") as raised:
            ask()
        assert refused(raised) is ErrorCode.UNAUTHENTICATED
    assert holder.quota.inside == 0


def test_a_revoked_key_is_refused_where_it_is_remembered(world: World) -> None:
    holder = world.holder("first")
    quota = holder.enter(0.0)
    world.make("second")
    remove_key(world.file, "first")
    asyncio.run(world.sweep())
    assert world.changes == 1, "remembered heads are forgotten"
    with pytest.raises(HeadraceError, match="revoked"):
        holder.enter(0.0)
    with pytest.raises(HeadraceError, match="not known"):
        world.holder("first")
    quota.leave()
    assert world.holder("second").name == "second"


def test_a_file_that_stays_is_not_read_again(world: World) -> None:
    asyncio.run(world.sweep())
    assert world.changes == 0


def test_other_limits_keep_the_holder_and_who_is_inside(world: World) -> None:
    holder = world.holder("first")
    quota = holder.enter(0.0)
    text = world.file.read_text()
    world.file.write_text(text + "max_concurrent_requests = 1\nmodels = ['a']\n")
    asyncio.run(world.sweep())
    assert world.holder("first") is holder
    with pytest.raises(HeadraceError, match="1 calls at once"):
        holder.enter(0.0)
    with pytest.raises(HeadraceError, match="only for models a"):
        holder.allow("b")
    quota.leave()
    holder.enter(0.0)


def test_another_secret_under_the_same_id_is_another_key(world: World) -> None:
    holder = world.holder("first")
    other, _ = new_key("first", now=NOW)
    text = world.file.read_text()
    world.file.write_text(text.replace(holder.key.hash, other.hash))
    asyncio.run(world.sweep())
    assert not holder.active
    with pytest.raises(HeadraceError, match="not known"):
        world.holder("first")


@pytest.mark.parametrize("ruin", [lambda file: file.write_text("[[key"), Path.unlink])
def test_a_broken_file_changes_nothing_and_is_complained_about_once(
    world: World, ruin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = world.file.read_text()
    ruin(world.file)
    with caplog.at_level(logging.ERROR, logger="headrace.access_keys"):
        for _ in range(3):
            asyncio.run(world.sweep())
    assert len(caplog.records) == 1
    assert "the keys before stay in force" in caplog.text
    world.holder("first").enter(0.0).leave()
    world.file.write_text(good)
    asyncio.run(world.sweep())
    assert world.changes == 1


def test_at_the_start_the_file_must_be_good(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="headrace key create"):
        Access(tmp_path / "none.toml")


def test_what_is_shown_holds_no_hash(world: World) -> None:
    [shown] = world.access.snapshot()
    assert shown["name"] == "first"
    assert "sha256" not in str(shown)
