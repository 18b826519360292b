"""Lookups for people: the same values as a prediction's, bounds, and views that refuse some rows. No store: memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurecache.joining.on_demand import NO_FUNCTIONS
from featurecache.lookups.lookup import Lookup, RowLookup
from featurecache.lookups.lookup_limits import LookupLimits
from featurecache.manifests.manifest import Manifest
from featurecache.rows.codec import RowCodec
from featurecache.rows.keys import key_frame
from featurecache.sources.memory_source import MemorySource
from gateway import feature_showing
from gateway.errors import ErrorCode, HeadraceError
from gateway.feature_looking import MAX_LOOKING, FeatureLooking, NoFeatures
from gateway.feature_showing import Question
from gateway.settings import FeatureSettings
from tests.support import feature_rows, loops

NOW_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000


class World:
    """A reader before rows in memory."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = feature_rows.apply(folder)
        self.source = MemorySource()
        loop = asyncio.get_running_loop()
        lookup = RowLookup(
            self.source,
            loop=loop,
            clock=loop.time,
            limits=LookupLimits(),
            random_unit=lambda: 0.5,
        )
        self.reader = FeatureLooking(
            FeatureSettings(manifest=str(folder)), lookup, clock=loop.time, now_us=lambda: NOW_US
        )

    def put(
        self, view: str, id_: str, age_us: int = 0, nulls: tuple[str, ...] = (), **values: Any
    ) -> None:
        spec = self.manifest.view(view)
        columns = {one.name: np.array([values[one.name]], one.parsed.dtype) for one in spec.columns}
        masks = {name: np.array([True]) for name in nulls}
        event_us = np.array([NOW_US - age_us])
        (row,) = RowCodec(spec.schema).encode(columns, masks, event_us, NOW_US)
        before, behind = key_frame("shop", spec.entity, view)
        self.source.set(before + id_.encode() + behind, row)

    async def ask(self, kind: str, name: str, **asked: Any) -> dict[str, Any]:
        found = await self.reader.look_up(kind, name, asked)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        return found


def in_world(folder: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World(folder)
        await world.source.start()
        try:
            await test(world)
        finally:
            await world.source.close()

    loops.run(whole)


def columns(found: dict[str, Any], what: str = "values") -> dict[str, list[Any]]:
    return {one["name"]: one[what] for one in found["features"]}


def test_rows_that_are_there_old_null_missing_and_damaged(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.put("delays", "A|B", mean=1.0, worst=float("nan"))
        world.put("delays", "A|C", age_us=HOUR_US + 1, mean=2.0, worst=3.0)
        world.put("delays", "A|D", age_us=HOUR_US, nulls=("mean",), mean=0, worst=4.0)
        world.source.set(b"hr:shop:{route:A|E}:delays", b"no row at all")
        dests = ["B", "C", "D", "E", "F", None, ""]
        found = await world.ask("view", "delays", keys={"origin": ["A"] * 7, "dest": dests})
        assert columns(found) == {
            "delays.mean": [1.0, -7.0, -7.0, -7.0, -7.0, -7.0, -7.0],
            "delays.worst": [None, -8.0, 4.0, -8.0, -8.0, -8.0, -8.0],
        }
        states = ["PRESENT", "STALE", "PRESENT", "ERROR", "MISSING", "MISSING", "MISSING"]
        assert columns(found, "statuses") == {
            "delays.mean": [*states[:2], "NULL", *states[3:]],
            "delays.worst": states,
        }
        (view,) = found["views"]
        assert view["statuses"] == states
        assert view["ages_s"] == [0.0, 3600.000001, 3600.0, None, None, None, None]
        assert view["event_times"][0] == "2027-01-15T08:00:00Z"
        assert view["refused"] == view["old_copies"] == []

    in_world(tmp_path, test)


def test_gaps_in_front_move_no_row(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.put("limits", f"u{number}", limit=float(number))
        users = [None, "u0", "", "u1", "u2", None]
        found = await world.ask("view", "limits", keys={"user_id": users})
        assert columns(found) == {"limits.limit": [None, 0.0, None, 1.0, 2.0, None]}
        assert [one["row"] for one in found["views"][0]["refused"]] == [0, 2, 5]

    in_world(tmp_path, test)


GUARDED = (
    feature_rows.DEFINITIONS
    + """
guarded = FeatureView(
    "guarded", entity=user, columns=[Column("a", Float32)], on_missing="fail", on_stale="fail",
    max_age="1h", cache_ttl="1m", stale_if_error="1d",
)
"""
)


def test_old_copies_keep_their_places(tmp_path: Path) -> None:
    """Behind a gap in the question, and behind a row that is refused."""
    manifest = feature_rows.apply(tmp_path, GUARDED)
    codec = RowCodec(manifest.view("guarded").schema)
    times = np.array([NOW_US - 2 * HOUR_US, NOW_US - 3 * HOUR_US])
    second, third = codec.encode({"a": np.array([2, 3], np.float32)}, {}, times, NOW_US)
    asked = {"keys": {"user_id": [None, "b", "c"]}}
    question = Question(manifest, "view", "guarded", asked)
    assert len(question.views[0].keys) == 2
    found = Lookup([second, third], aged={0}, settled=True)
    answer = question.answer(found, NOW_US, NO_FUNCTIONS)
    (view,) = answer["views"]
    assert view["old_copies"] == [1]
    assert [one["row"] for one in view["refused"]] == [0, 2]
    assert view["statuses"] == ["MISSING", "STALE", "STALE"]
    assert columns(answer) == {"guarded.a": [None, 2.0, None]}


def test_a_row_that_one_view_refuses_is_shown_by_the_others(tmp_path: Path) -> None:
    """``bounds`` has a view that fails without a row, and one that has defaults."""

    async def test(world: World) -> None:
        profile = {"score": 0.5, "spend": 4.0, "recent": [1, 2, 3], "tier": b"t", "is_vip": 1}
        world.put("profile", "b", age=7.0, **profile)
        world.put("limits", "a", limit=5.0)
        found = await world.ask("service", "bounds", keys={"user_id": ["a", "b"]})
        assert columns(found) == {"limits.limit": [5.0, None], "profile.age": [-1.0, 7.0]}
        limits, shown = found["views"]
        assert limits["refused"] == [
            {
                "row": 1,
                "why": "feature view 'limits' has no row for an entity of the request, and must not be guessed",
            }
        ]
        assert shown["refused"] == []

    in_world(tmp_path, test)


def test_on_demand_features_of_rows_that_can_be_computed(tmp_path: Path) -> None:
    more = (
        feature_rows.DEFINITIONS
        + """

@on_demand(inputs=[amount, limits["limit"]], output=Column("rest", Float32))
def rest(amount, limit):
    return limit - amount

@on_demand(inputs=[rest], output=Column("broken", Float32))
def broken(rest):
    raise ValueError("not today")

rests = FeatureService("rests", [amount, rest, broken])
"""
    )

    async def test(world: World) -> None:
        feature_rows.apply(tmp_path, more)
        world.put("limits", "a", limit=5.0)
        world.put("limits", "c", limit=7.0)
        asked: dict[str, Any] = {"keys": {"user_id": ["a", "b", "c"]}}
        found = await world.ask("service", "rests", **asked, inputs={"amount": [1, 2, None]})
        assert columns(found) == {
            "amount": [1.0, 2.0, None],
            "rest": [4.0, None, None],
            "broken": [None] * 3,
        }
        assert "not today" in found["features"][2]["why"]
        found = await world.ask("service", "rests", **asked)
        assert "needs input 'amount'" in found["features"][1]["why"]
        assert "needs on-demand feature 'rest'" in found["features"][2]["why"]
        nobody = await world.ask(
            "service", "rests", keys={"user_id": ["x"]}, inputs={"amount": [1]}
        )
        assert columns(nobody)["rest"] == [None]

    in_world(tmp_path, test)


def test_only_so_many_look_at_once_and_a_silent_store_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.feature_looking.BUDGET_S", 0.05)

    async def test(world: World) -> None:
        world.source.hang()
        asked = {"user_id": ["a"]}
        looking = [
            asyncio.ensure_future(world.ask("view", "last_seen", keys=asked))
            for _ in range(MAX_LOOKING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(HeadraceError) as refused:
            await world.ask("view", "last_seen", keys=asked)
        assert refused.value.code is ErrorCode.OVERLOADED
        for found in await asyncio.gather(*looking):
            assert found["views"][0]["statuses"] == ["DEFAULTED"]
            assert columns(found) == {"last_seen.seen": [-9.0]}
        world.source.heal()
        await world.ask("view", "last_seen", keys={"user_id": [None]})

    in_world(tmp_path, test)


def test_one_who_leaves_leaves_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.source.hang()
        looking = asyncio.ensure_future(world.ask("view", "stock", keys={"item_id": [1]}))
        lookup = world.reader._lookup
        await loops.until(lambda: lookup.snapshot().waiting_lookups == 1)
        looking.cancel()
        await loops.until(lambda: lookup.snapshot().waiting_lookups == 0)
        assert lookup.counters.detached_lookups == 1

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("bound", "word"), [("MAX_VALUES", "values: at most"), ("MAX_ROW_BYTES", "bytes")]
)
def test_answers_have_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, word: str
) -> None:
    async def test(world: World) -> None:
        world.put("last_seen", "a", seen=1.0)
        await world.ask("view", "last_seen", keys={"user_id": ["a", "a"]})
        monkeypatch.setattr(feature_showing, bound, 1)
        with pytest.raises(HeadraceError, match=word) as refused:
            await world.ask("view", "last_seen", keys={"user_id": ["a", "a"]})
        assert refused.value.code is ErrorCode.INVALID_ARGUMENT

    in_world(tmp_path, test)


def test_without_features_there_is_nothing_to_see() -> None:
    async def test() -> None:
        for call in (NoFeatures().features(), NoFeatures().look_up("view", "v", {})):
            with pytest.raises(HeadraceError) as refused:
                await call
            assert refused.value.code is ErrorCode.UNIMPLEMENTED

    loops.run(test)
