from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batchability import Batchability
from backends.changes import Changes, VersionKey, changes
from backends.echo import EchoBackend
from backends.manager import LoadedModel, RepositoryState
from backends.model_settings import ModelSettings
from backends.repository import Desired, DesiredModel, DesiredVersion, Problem

NOTHING = Desired((), ())


def wanted(*texts: str) -> Desired:
    """``m/2:a``: version 2 of m with the fingerprint a; ``m/2!`` and ``m/!`` are problems."""
    models: dict[str, list[DesiredVersion]] = {}
    problems = []
    for text in texts:
        name, _, rest = text.partition("/")
        if rest.endswith("!"):
            problems.append(Problem(name, rest[:-1], "trouble"))
        else:
            version, _, fingerprint = rest.partition(":")
            models.setdefault(name, []).append(DesiredVersion(version, Path(), fingerprint))
    found = [
        DesiredModel(name, ModelSettings(), tuple(sorted(v, key=lambda one: -int(one.version))))
        for name, v in sorted(models.items())
    ]
    return Desired(tuple(found), tuple(problems))


def loaded(name: str, version: str, fingerprint: str) -> LoadedModel:
    return LoadedModel(
        name=name,
        version=version,
        backend=EchoBackend(()),
        settings=ModelSettings(),
        batchability=Batchability(0, ""),
        warmup_timings=(),
        warmup_problem="",
        fingerprint=fingerprint,
    )


def key(text: str) -> VersionKey:
    name, _, rest = text.partition("/")
    return VersionKey(name, *rest.split(":"))


def keys(*texts: str) -> tuple[VersionKey, ...]:
    return tuple(map(key, texts))


def serving(*texts: str, failed: Collection[str] = ()) -> RepositoryState:
    state = RepositoryState(NOTHING, (), ())
    for text in texts:
        state = state.with_loaded(loaded(*key(text)))
    for name, version, fingerprint in map(key, failed):
        state = state.with_refused(Problem(name, version, "failed", fingerprint))
    return state


def applied(
    plan: Changes, state: RepositoryState, failing: Collection[VersionKey] = ()
) -> RepositoryState:
    """As whoever acts on changes must: what is to go stays where a load of its model failed."""
    failed = {one.name for one in plan.load if one in failing}
    for one in plan.load:
        if one in failing:
            state = state.with_refused(Problem(one.name, one.version, "failed", one.fingerprint))
        else:
            state = state.with_loaded(loaded(*one))
    for one in plan.unload:
        if one.name not in failed:
            state = state.without(one.name, one.version)
    return state


@pytest.mark.parametrize(
    ("desired", "state", "expected"),
    [
        (wanted(), serving(), Changes()),
        (wanted("m/1:a"), serving(), Changes(load=keys("m/1:a"))),
        (wanted("m/1:a"), serving("m/1:a"), Changes(keep=keys("m/1:a"))),
        # The same number with other files: replaced, so neither kept nor unloaded.
        (wanted("m/1:b"), serving("m/1:a"), Changes(load=keys("m/1:b"))),
        (
            wanted("m/2:a"),
            serving("m/1:a"),
            Changes(load=keys("m/2:a"), unload=keys("m/1:a")),
        ),
        (
            wanted("m/10:a", "m/9:a"),
            serving("m/9:a", "m/2:a"),
            Changes(load=keys("m/10:a"), keep=keys("m/9:a"), unload=keys("m/2:a")),
        ),
        (wanted(), serving("m/1:a"), Changes(unload=keys("m/1:a"))),
        (wanted("m/!"), serving("m/2:a", "m/1:a"), Changes(keep=keys("m/2:a", "m/1:a"))),
        (wanted("m/3!"), serving("m/2:a"), Changes(keep=keys("m/2:a"))),
        (
            wanted("m/3!", "m/2:b"),
            serving("m/1:a"),
            Changes(load=keys("m/2:b"), keep=keys("m/1:a")),
        ),
        (
            wanted("m/01!", "m/2:b"),
            serving("m/1:a"),
            Changes(load=keys("m/2:b"), unload=keys("m/1:a")),
        ),
        (
            wanted("b/1:a", "a/1:a"),
            serving("c/1:a", "d/1:a"),
            Changes(load=keys("a/1:a", "b/1:a"), unload=keys("c/1:a", "d/1:a")),
        ),
    ],
)
def test_what_must_be_done(desired: Desired, state: RepositoryState, expected: Changes) -> None:
    assert changes(desired, state) == expected
    # For a poll that finds all as it was, the same.
    assert changes(desired, state, before=desired) == expected


def test_a_poll_waits_until_two_looks_agree() -> None:
    first, second = wanted("m/2:half"), wanted("m/2:whole")
    state = serving("m/1:a")
    waits = Changes(keep=keys("m/1:a"), waiting=keys("m/2:half"))
    assert changes(first, state, before=wanted("m/1:a")) == waits
    waits = Changes(keep=keys("m/1:a"), waiting=keys("m/2:whole"))
    assert changes(second, state, before=first) == waits
    loads = Changes(load=keys("m/2:whole"), unload=keys("m/1:a"))
    assert changes(second, state, before=second) == loads


def test_a_version_that_is_being_overwritten_is_kept_meanwhile() -> None:
    found = changes(wanted("m/1:b"), serving("m/1:a"), before=wanted("m/1:a"))
    assert found == Changes(keep=keys("m/1:a"), waiting=keys("m/1:b"))


def test_a_poll_does_not_try_the_same_files_twice() -> None:
    state = serving("m/1:a", failed=["m/2:bad"])
    look = wanted("m/2:bad")
    assert changes(look, state, before=look) == Changes(keep=keys("m/1:a"))
    look = wanted("m/2:good")
    loads = Changes(load=keys("m/2:good"), unload=keys("m/1:a"))
    assert changes(look, state, before=look) == loads


def test_who_asks_is_not_refused_by_what_failed_before() -> None:
    state = serving("m/1:a", failed=["m/2:bad"])
    loads = Changes(load=keys("m/2:bad"), unload=keys("m/1:a"))
    assert changes(wanted("m/2:bad"), state) == loads


def test_a_poll_lets_a_model_go_when_two_looks_miss_it() -> None:
    state = serving("m/1:a")
    assert changes(wanted(), state, before=wanted("m/1:a")) == Changes(keep=keys("m/1:a"))
    assert changes(wanted(), state, before=wanted("m/!")) == Changes(keep=keys("m/1:a"))
    assert changes(wanted(), state, before=wanted()) == Changes(unload=keys("m/1:a"))


def test_one_model_can_be_looked_at_alone() -> None:
    found = changes(wanted("a/2:a", "b/2:a"), serving("a/1:a", "b/1:a", "c/1:a"), only=["b"])
    assert found == Changes(load=keys("b/2:a"), unload=keys("b/1:a"))


NAMES, NUMBERS, PRINTS = st.sampled_from("ab"), st.sampled_from(["1", "2", "10"]), "xy"
TRIPLES = st.builds(VersionKey, NAMES, NUMBERS, st.sampled_from(PRINTS))
ONE_EACH = st.lists(TRIPLES, unique_by=lambda one: one[:2], max_size=5)
TROUBLE = st.lists(st.tuples(NAMES, st.sampled_from(["", "01", "5"])), max_size=2)


@st.composite
def looks(draw: st.DrawFn) -> Desired:
    texts = [f"{one.name}/{one.version}:{one.fingerprint}" for one in draw(ONE_EACH)]
    texts += [f"{name}/{version}!" for name, version in draw(TROUBLE)]
    return wanted(*texts)


STATES = ONE_EACH.map(
    lambda found: serving(*(f"{one.name}/{one.version}:{one.fingerprint}" for one in found))
)


@given(looks(), STATES)
def test_after_the_changes_nothing_is_left_to_change(
    desired: Desired, state: RepositoryState
) -> None:
    after = applied(changes(desired, state), state)
    again = changes(desired, after)
    assert again.load == again.unload == ()
    served = {(one.name, one.version, one.fingerprint) for one in after.loaded}
    assert served == set(again.keep)
    assert served >= {
        (m.name, v.version, v.fingerprint) for m in desired.models for v in m.versions
    }


@given(looks(), looks() | st.none(), STATES)
def test_every_loaded_version_has_one_fate(
    desired: Desired, before: Desired | None, state: RepositoryState
) -> None:
    plan = changes(desired, state, before=before)
    replaced = [
        VersionKey(one.name, one.version, one.fingerprint)
        for one in state.loaded
        if any(new[:2] == (one.name, one.version) for new in plan.load)
    ]
    fates = [*plan.keep, *plan.unload, *replaced]
    assert sorted(fates) == sorted((m.name, m.version, m.fingerprint) for m in state.loaded)
    assert not set(plan.load) & set(plan.keep)
    assert not set(plan.load) & set(plan.waiting)


@given(looks(), STATES, st.sets(TRIPLES))
def test_failed_loads_take_nothing_away_and_are_not_repeated(
    desired: Desired, state: RepositoryState, failing: set[VersionKey]
) -> None:
    after = applied(changes(desired, state, before=desired), state, failing)
    assert {one.name for one in after.loaded} >= {
        one.name for one in state.loaded if one.name in desired.names
    }
    again = changes(desired, after, before=desired)
    assert again.load == again.unload == ()
