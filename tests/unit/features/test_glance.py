"""The short way for requests like most: it must agree with the long way, and end when a copy's goodness does."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Int32,
    String,
)
from featurecache.errors import RowError
from featurecache.joining.glance import LOOK_AGAIN_S, Glance
from featurecache.joining.resolve import ServicePlan
from featurecache.lookups.lookup import Caching
from tests.unit.features.feature_plans import (
    NOW_US,
    SECOND_US,
    floats,
    plan_of,
    row_of,
    texts,
)
from tests.unit.features.lookup_cases import BUDGET_S, World
from tests.unit.features.request_cases import DELAY, DISTANCE, WEATHER, X, numbers

SERVICE = FeatureService("s", [DISTANCE, WEATHER["wind"], DELAY["late"]])
USER = Entity("user", keys={"user_id": String})


def glance_of(plan: ServicePlan) -> Glance:
    assert plan.glance is not None
    return plan.glance


# -- which requests -------------------------------------------------------------------------------


@given(
    st.binary(max_size=300) | st.sampled_from([b"JFK", b"a|b", b"a%7Cb", b"...", b"x" * 257]),
    st.text(max_size=4).map(str.encode),
    st.integers(-(2**31), 2**31 - 1),
)
def test_keys_told_at_a_glance_are_those_of_the_long_way(
    airport: bytes, carrier: bytes, flight: int
) -> None:
    plan = plan_of(SERVICE, X)
    inputs = [texts(airport), texts(carrier), numbers(flight), floats(1.0)]
    keys = glance_of(plan).keys(inputs)
    try:
        wanted = plan.wanted(inputs, ())
    except RowError:
        assert keys is None
        return
    if keys is not None:
        assert not wanted.gaps
        assert [[key] for key in keys] == [view.keys for view in wanted.views]
        assert [view.caching for view in glance_of(plan).views(keys)] == [
            view.caching for view in wanted.views
        ]


def test_most_requests_are_told_at_a_glance() -> None:
    glance = glance_of(plan_of(SERVICE, X))
    assert glance.keys([texts(b"JFK"), texts(b"UA"), numbers(12), floats(1)]) is not None
    assert glance.keys([texts(b"a.b-c_9"), texts(b"UA"), numbers(-1), floats(1)]) is not None
    rows = [texts(b"JFK", b"LGA"), texts(b"UA", b"AA"), numbers(1, 2), floats(1, 2)]
    assert glance.keys(rows) is None
    assert glance.keys([texts(b""), texts(b"UA"), numbers(12), floats(1)]) is None


@pytest.mark.parametrize("source", ["parameter:u", "header:x-user"])
def test_keys_beside_the_inputs_take_the_long_way(source: str) -> None:
    view = FeatureView("v", entity=USER, columns=[Column("a", Float32)])
    service = FeatureService("s", [*view.all(), DISTANCE])
    assert plan_of(service, X, keys={"user_id": source}).glance is None
    assert plan_of(service, X).glance is not None


def test_what_is_carried_is_what_the_long_way_carries() -> None:
    plan = plan_of(SERVICE, X)
    inputs = [texts(b"JFK"), texts(b"UA"), numbers(12), floats(7.0)]
    wanted = plan.wanted(inputs, ())
    rows = [b"row of the weather", b"row of the delay"]
    ours = glance_of(plan).carried(inputs, rows)
    matrix = np.empty((1, 2), object)
    matrix[0] = rows
    assert [one.tolist() for one in ours] == [matrix.tolist(), [[7.0]]]
    assert [one.dtype for one in ours] == [np.dtype(object), np.dtype(np.float32)]
    assert len(wanted.views) == len(rows)


# -- which copies ---------------------------------------------------------------------------------

KEPT = Caching(10.0)
KEY = b"k1"
FIT, OTHER = 7, 8


def world_with_a_copy() -> tuple[World, bytes]:
    """A lookup with one copy, which lives for nine seconds and is renewed for one."""
    world = World()
    found = world.ask(KEY)
    world.run()
    row = found.rows[0]
    assert row is not None
    return world, row


def test_a_copy_is_good_for_whom_it_was_judged() -> None:
    world, row = world_with_a_copy()
    assert world.lookup.known_good([KEY], [FIT]) is None
    world.lookup.note_good(KEY, row, FIT, inf)
    assert world.lookup.known_good([KEY], [FIT]) == [row]
    assert world.lookup.known_good([KEY], [OTHER]) is None
    assert world.lookup.known_good([KEY, b"k2"], [FIT, FIT]) is None


def test_it_counts_as_a_hit_and_as_asked_for() -> None:
    world, row = world_with_a_copy()
    world.lookup.note_good(KEY, row, FIT, inf)
    before = world.lookup.snapshot().counters
    world.lookup.known_good([KEY], [FIT])
    world.lookup.known_good([KEY], [OTHER])  # the long way counts this one
    after = world.lookup.snapshot().counters
    assert (after.lookups, after.slots) == (before.lookups + 1, before.slots + 1)
    assert after.missed_slots == before.missed_slots
    assert world.lookup._cache.entries[KEY].visited


def test_only_the_row_that_was_judged_is_good() -> None:
    world, row = world_with_a_copy()
    world.lookup.note_good(KEY, bytes(bytearray(row)), FIT, inf)  # equal, and another
    assert world.lookup.known_good([KEY], [FIT]) is None
    world.lookup.note_good(b"k9", row, FIT, inf)  # no copy of that
    assert world.lookup.known_good([b"k9"], [FIT]) is None


def test_goodness_ends_with_the_row_s_age_or_the_copy_s_life() -> None:
    world, row = world_with_a_copy()
    world.lookup.note_good(KEY, row, FIT, 2.0)
    world.run(1.9)
    assert world.lookup.known_good([KEY], [FIT]) is not None
    world.run(0.2)
    assert world.lookup.known_good([KEY], [FIT]) is None
    world.lookup.note_good(KEY, row, FIT, inf)
    assert world.lookup.known_good([KEY], [FIT]) is not None
    world.run(7.0)  # the copy wants to be renewed: the long way does that
    assert world.lookup.known_good([KEY], [FIT]) is None


@pytest.mark.parametrize("change", ["invalidated", "all may have changed", "renewed"])
def test_goodness_ends_with_any_change(change: str) -> None:
    world, row = world_with_a_copy()
    world.lookup.note_good(KEY, row, FIT, inf)
    told = world.source.on_invalidated
    assert told is not None
    if change == "invalidated":
        told([KEY])
    elif change == "all may have changed":
        told(None)
    else:
        world.run(9.3 - 0.05)
        world.ask(KEY)
        world.run()
        assert world.lookup.counters.renewals == 1
    assert world.lookup.known_good([KEY], [FIT]) is None


# -- whom rows are good for -----------------------------------------------------------------------


def view(name: str = "v", **more: object) -> FeatureView:
    columns = [Column("a", Float32), Column("n", Int32)]
    given: dict[str, object] = {"cache_ttl": "1m"} | more
    return FeatureView(name, entity=USER, columns=columns, **given)  # type: ignore[arg-type]


def fit_of(one: FeatureView, *columns: str) -> int:
    chosen = [one[column] for column in columns or ("a",)]
    (fit,) = glance_of(plan_of(FeatureService("s", chosen), X)).fits
    return fit


def test_those_with_the_same_demands_agree_and_no_others() -> None:
    assert fit_of(view()) == fit_of(view())
    assert fit_of(view()) != fit_of(view(max_age="1h"))
    assert fit_of(view(on_null="fail"), "a") != fit_of(view(on_null="fail"), "a", "n")
    other = FeatureView("v", entity=USER, columns=[Column("a", Float32)], cache_ttl="1m")
    assert fit_of(view()) != fit_of(other)


def test_the_long_way_tells_of_good_rows_and_until_when() -> None:
    one = view(max_age="10s", cache_ttl="1m")
    plan = plan_of(FeatureService("s", [one["a"]]), X)
    glance, (use,) = glance_of(plan), plan.uses
    keys = glance.keys([texts(b"u1")])
    assert keys is not None
    schema = use._schema
    world = World()
    row = row_of(schema, {"a": 1.0, "n": 2}, event_us=NOW_US - 4 * SECOND_US)
    world.lookup._cache.put(keys[0], row, 60.0, world.loop.now_s)
    wanted = glance.views(keys)
    found = world.lookup.ask(wanted, world.loop.now_s + BUDGET_S)
    glance.note(world.lookup, wanted, [use.usable(found.rows, (), NOW_US)], NOW_US)
    assert world.lookup.known_good(keys, glance.fits) == [row]
    world.run(LOOK_AGAIN_S - 0.01)
    assert world.lookup.known_good(keys, glance.fits) == [row]
    world.run(0.02)
    assert world.lookup.known_good(keys, glance.fits) is None, (
        "the calendar was not looked at again"
    )
    nearly = NOW_US + 6 * SECOND_US - SECOND_US // 2
    found = world.lookup.ask(wanted, world.loop.now_s + BUDGET_S)
    glance.note(world.lookup, wanted, [use.usable(found.rows, (), nearly)], nearly)
    world.run(0.45)
    assert world.lookup.known_good(keys, glance.fits) == [row]
    world.run(0.1)
    assert world.lookup.known_good(keys, glance.fits) is None, "the row is too old"
    late = NOW_US + 7 * SECOND_US
    found = world.lookup.ask(wanted, world.loop.now_s + BUDGET_S)
    glance.note(world.lookup, wanted, [use.usable(found.rows, (), late)], late)
    assert world.lookup.known_good(keys, glance.fits) is None, (
        "a row that is too old was judged good"
    )


def test_a_view_without_copies_takes_none_that_another_version_left() -> None:
    kept, uncached = view(cache_ttl="1m"), view(cache_ttl="0s")
    plans = [plan_of(FeatureService("s", [one["a"]]), X) for one in (kept, uncached)]
    before, after = (glance_of(plan) for plan in plans)
    keys = before.keys([texts(b"u1")])
    assert keys == after.keys([texts(b"u1")])
    assert keys is not None
    world = World()
    row = row_of(plans[0].uses[0]._schema, {"a": 1.0, "n": 2})
    world.lookup._cache.put(keys[0], row, 60.0, world.loop.now_s)
    for plan, glance in zip(plans, (before, after), strict=True):
        glance.note(
            world.lookup, glance.views(keys), [plan.uses[0].usable([row], (), NOW_US)], NOW_US
        )
    assert world.lookup.known_good(keys, before.fits) == [row]
    assert world.lookup.known_good(keys, after.fits) is None
