"""What codecs are to read for a plan, which of it each version gets, and what is counted of requests and of keys."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.arms import (
    ARM_HEADER,
    SEEN_KEYS,
    TOKEN_HEADER,
    ArmMeters,
    KeysSeen,
    wanted_names,
)
from gateway.messages import ContextValue
from rollout.plan import Event, Step, Sticky
from rollout.sequential import sample_ratio_log_bayes_factor
from tests.support.servables import WantedNames
from tests.unit.core.arms_world import SEED, USERS, Arms, by, servables, version
from tests.unit.pipeline.requests import request, rows_of
from tests.unit.rollout.plans import (
    after,
    proposal,
    stepping,
)

# -- what codecs read -----------------------------------------------------------------------------

names = st.lists(
    st.sampled_from(["user", "u", "tenant", "region", "x-user", "x-tenant"]), max_size=4
)
wanted = st.none() | st.builds(
    lambda parameters, headers: WantedNames(tuple(parameters), tuple(headers)), names, names
)


@given(
    st.tuples(wanted, wanted, wanted),
    st.sampled_from(["header:X-User", "parameter:user", "request_id", "parameter:x-user"]),
    st.sampled_from(["", "3", "4", "5"]),
)
def test_every_servable_gets_the_context_that_its_enrichment_wants(
    enrichments: tuple[WantedNames | None, ...], source: str, chosen: str
) -> None:
    """Whatever names they share: a value is told by whether it is a parameter's or a header's."""
    have = {number: version(number, one) for number, one in zip("345", enrichments, strict=True)}
    arms = Arms(by(source), have)
    context: list[ContextValue] = [f"parameter {one}" for one in arms.names.parameters]
    for header in arms.names.headers:
        own = {ARM_HEADER: chosen or None, TOKEN_HEADER: None}
        context.append(own.get(header, f"header {header}"))
    asked = request(rows_of(1), context=tuple(context))
    arm, _, _ = arms.choose(asked)
    servable = arm.servable
    assert not chosen or servable.version == chosen
    if servable.enrichment is None:
        return
    assert asked.context == (
        *(f"parameter {one}" for one in servable.enrichment.parameters),
        *(f"header {one}" for one in servable.enrichment.headers),
    )
    explicit = request(rows_of(1), context=tuple(context), version="3")
    arms.bypass(explicit)
    if have["3"].enrichment is not None:
        assert explicit.context == (
            *(f"parameter {one}" for one in have["3"].enrichment.parameters),
            *(f"header {one}" for one in have["3"].enrichment.headers),
        )


def test_a_request_that_names_another_version_keeps_its_context() -> None:
    have = servables(v3=WantedNames(("user",)), v4=WantedNames(("a", "b", "c", "d")))
    arms = Arms(by("header:u"), have)
    asked = request(rows_of(1), version="4", context=("a", "b", "c", "d"))
    arms.bypass(asked)
    assert asked.context == ("a", "b", "c", "d")


def test_names_are_read_once_and_slices_are_among_them() -> None:
    plan = by("header:X-User", slices=("parameter:tier", "header:X-Region", "input:x"))
    found = wanted_names(plan, [WantedNames(("tier",), ("x-user",)), None])
    assert found.parameters == ("tier",)
    assert found.headers == ("x-user", "x-region", ARM_HEADER, TOKEN_HEADER)


# -- meters ---------------------------------------------------------------------------------------


def test_counts_of_requests_go_on_over_plans_and_versions() -> None:
    meters = ArmMeters()
    plan = by("header:u")
    total = 0
    for number in range(5):
        arms = Arms(plan, meters=meters)
        for user in USERS[: 20 + number]:
            arms.ask(u=user)
            total += 1
        assert meters.requests.total() == total
        plan = after(plan, Event.RESUME if number % 2 else Event.PAUSE)


def test_a_key_is_counted_once_also_by_the_arms_that_come_after() -> None:
    plan = by("header:u")
    seen = KeysSeen(2)
    for _ in range(2):
        arms = Arms(plan, keys_seen=seen)
        for user in USERS * 2:
            arms.ask(u=user)
    collisions = len(USERS) - sum(seen.by_arm)
    assert 0 <= collisions < 150, "two keys of one place count as one"


@pytest.mark.parametrize("percent", [1.0, 50.0])
def test_keys_that_collide_are_no_evidence_of_a_wrong_split(percent: float) -> None:
    """Far more keys than places: nine in ten are not counted, and the share of those that are is right."""
    plan = stepping(
        proposal(steps=(Step(percent=percent),), sticky=Sticky(source="header:u", salt="s"))
    )
    seen = KeysSeen(2)
    arms = Arms(plan, keys_seen=seen)
    chance = random.Random(SEED)
    print("seed", SEED)
    for place in range(SEEN_KEYS):  # nine in ten are taken beforehand, by keys of whatever arm
        seen.places[place] = place % 10 != 0
    for _ in range(60_000):
        arms.ask(u=str(uuid.UUID(int=chance.getrandbits(128))))
    assert 4_000 < sum(seen.by_arm) < 13_108
    evidence = sample_ratio_log_bayes_factor(seen.by_arm, [1 - percent / 100, percent / 100])
    assert evidence < 3.0, seen.by_arm


def test_one_busy_user_raises_no_alarm() -> None:
    seen = KeysSeen(2)
    arms = Arms(by("header:u"), keys_seen=seen)
    for _ in range(5_000):
        arms.ask(u="busy")
    assert sorted(seen.by_arm) == [0, 1]
