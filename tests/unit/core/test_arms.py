"""Which arm a request gets by its plan, and what one does that comes without its key or for a version not here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.signature import TensorSpec
from gateway.core.arms import (
    arm_of,
    refuse_all,
    versions_of,
)
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ContextValue
from rollout.plan import Event, Shadow, Step, Sticky
from rollout.split import Splitter, sampler
from tests.unit.core.arms_world import USERS, Arms, X, by, servables, version
from tests.unit.pipeline.requests import rows_of
from tests.unit.rollout.plans import (
    APPROVER,
    WARM,
    after,
    draft,
    happen,
    made,
    proposal,
    shadowed,
    stepping,
    with_other,
)

# -- the split ------------------------------------------------------------------------------------


def test_a_key_goes_where_the_split_says_and_says_with_what_probability() -> None:
    plan = by("header:X-User")
    arms, splitter = Arms(plan), Splitter(plan.shares(), plan.sticky.salt)
    for user in USERS[:200]:
        arm, assignment, shadows = arms.choose(arms.requested(x_user=user))
        index, probability = splitter.arm_of(user.encode())
        assert assignment is arm.assignment
        assert assignment.assigned_by == ""
        assert (arm.servable.version, shadows) == (splitter.arms[index], ())
        assert arm.assignment.probability == probability == 0.5
        assert arm.assignment.arm == ("candidate" if arm.servable.version == "4" else "champion")
        assert (arm.assignment.revision, arm.assignment.why) == (plan.revision, "split")
    assert {label for label, count in arms.meters.requests.items() if count} == {
        ("3", "champion", "split"),
        ("4", "candidate", "split"),
    }
    assert arms.meters.requests.total() == 200


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(1, 89), min_size=2, max_size=6).map(sorted),
    st.booleans(),
    st.text("abcäß 0-_", min_size=1, max_size=8).filter(str.strip),
)
def test_who_is_the_candidates_stays_the_candidates_while_it_grows(
    percents: list[int], has_other: bool, salt: str
) -> None:
    """Through the whole of plan, controller and routing; a third version keeps all of its users."""
    fields: dict[str, Any] = {
        "steps": tuple(Step(percent=one) for one in percents),
        "sticky": Sticky(source="header:x-user", salt=salt),
    }
    plan = stepping(with_other(**fields) if has_other else proposal(**fields))
    before: dict[str, str] = {}
    for number, percent in enumerate(percents):
        if number:
            plan = after(plan, Event.ADVANCE)
        arms = Arms(plan)
        found = {user: arms.ask(x_user=user)[0] for user in USERS[:300]}
        for user, was in before.items():
            assert found[user] == was or (was, found[user]) == ("3", "4"), percent
        before = found
    promoted = Arms(after(plan, Event.PROMOTE))
    assert {promoted.ask(x_user=user)[0] for user in before} == {"4"}


def test_going_back_gives_each_user_to_whom_he_had() -> None:
    plan = stepping(proposal(steps=(Step(percent=5), Step(percent=50))))
    first = Arms(plan)
    grown = after(plan, Event.ADVANCE)
    back = Arms(made(happen(grown, Event.STEP, APPROVER, step=0)))
    found = {user: first.ask(x_user=user)[0] for user in USERS}
    candidates = sum(one == "4" for one in found.values())
    assert 90 < candidates < 220, candidates
    kept = sum(back.ask(x_user=user)[0] == version for user, version in found.items())
    assert kept == len(USERS)


# -- keys -----------------------------------------------------------------------------------------

SAME_KEYS: list[list[ContextValue]] = [
    ["7", 7, 7.0],
    ["-7", -7, -7.0],
    ["0.5", 0.5],
    ["true", True],
    ["false", False],
    [str(2**63), 2**63],
]


@pytest.mark.parametrize("values", SAME_KEYS)
def test_a_key_is_the_same_as_text_and_as_a_number_and_as_a_header(
    values: list[ContextValue],
) -> None:
    for salt in ("a", "b", "c", "d", "e", "f"):
        sticky = {"salt": salt}
        steps = {"steps": (Step(percent=50),)}
        header = Arms(stepping(proposal(sticky=Sticky(source="header:u", **sticky), **steps)))
        parameter = Arms(stepping(proposal(sticky=Sticky(source="parameter:u", **sticky), **steps)))
        found = {parameter.ask(u=one) for one in values} | {header.ask(u=values[0])}
        assert len(found) == 1


@given(st.text(min_size=1, max_size=20))
def test_a_header_of_any_bytes_is_the_parameter_of_that_text(text: str) -> None:
    on_the_wire = text.encode("utf-8", "surrogatepass").decode("latin-1")
    header, parameter = Arms(by("header:u")), Arms(by("parameter:u"))
    assert header.ask(u=on_the_wire) == parameter.ask(u=text)


@pytest.mark.parametrize("source", ["header:u", "parameter:u"])
@pytest.mark.parametrize("absent", [None, ""])
def test_without_its_key_a_request_goes_by_its_id_and_without_that_by_chance(
    source: str, absent: str | None
) -> None:
    arms = Arms(by(source))
    by_id = [arms.ask(u=absent, request_id="r-17") for _ in range(10)]
    assert len(set(by_id)) == 1
    assert by_id[0][2] == "request_id"
    by_chance = [arms.ask(u=absent) for _ in range(200)]
    assert {one[2] for one in by_chance} == {"none"}
    assert {one[0] for one in by_chance} == {"3", "4"}
    assert arms.meters.keys_missing == {"request_id": 10, "none": 200}


def test_a_plan_that_goes_by_request_ids_misses_only_those() -> None:
    arms = Arms(by("request_id"))
    assert arms.ask(request_id="r")[2] == ""
    assert arms.ask(request_id="r\ud800")[2] == "", "no id may break a request"
    assert not arms.meters.keys_missing
    assert arms.ask()[2] == "none"
    assert arms.meters.keys_missing == {"none": 1}


@pytest.mark.parametrize(
    ("tensor", "same"),
    [
        (np.array([[7, 1], [9, 9]], np.int64), "7"),
        (np.array([[7.0]], np.float32), "7"),
        (np.array([True]), "true"),
        (np.array([b"ann", b"bob"], object), "ann"),
        (np.array(["ann"], object), "ann"),
    ],
)
def test_the_first_element_of_an_input_decides(tensor: Any, same: str) -> None:
    plan = by("input:user")
    user = TensorSpec("user", "BYTES", (-1,))
    have = {one: version(one, None, X, user) for one in ("3", "4")}
    arms, by_header = Arms(plan, have), Arms(by("header:u"))
    found = arms.ask(rows_of(1), tensor)
    assert found[2] == ""
    assert found == by_header.ask(u=same)


def test_an_input_without_an_element_is_no_key() -> None:
    user = TensorSpec("user", "BYTES", (-1,))
    have = {one: version(one, None, X, user) for one in ("3", "4")}
    for tensor in (np.array([], object), np.array([b""], object), np.array([""], object)):
        assert (
            Arms(by("input:user"), have).ask(rows_of(1), tensor, request_id="r")[2] == "request_id"
        )


def test_an_input_that_the_model_has_not_is_no_key_and_that_shows() -> None:
    arms = Arms(by("input:nobody"))
    assert arms.ask(request_id="r")[2] == "request_id"
    assert arms.ask()[2] == "none"
    assert arms.meters.keys_missing == {"request_id": 1, "none": 1}


# -- the caller's own choice ----------------------------------------------------------------------


def test_who_may_choose_an_arm_gets_it_outside_all_counts() -> None:
    asked: list[str] = []
    arms = Arms(by("header:u"), may_choose=asked.append)
    for number in ("3", "4", "5"):
        one = arms.requested(u="ann", x_headrace_arm=number, x_headrace_token="hrt")
        arm, _, _ = arms.choose(one)
        assert (arm.servable.version, arm.assignment.why) == (number, "override")
        assert arm.assignment.probability == 0.0
        assert arm.assignment.arm == {"3": "champion", "4": "candidate"}.get(number, "other")
        assert arm.tally not in (arms.tallies.candidate, arms.tallies.champion)
    assert asked == ["hrt"] * 3
    assert arms._seen_by_arm == [0, 0], "no user was dealt"


def test_an_arm_that_is_not_here_is_not_found() -> None:
    with pytest.raises(
        HeadraceError, match="version '9' of model 'delays' is not loaded"
    ) as refused:
        Arms(by("header:u")).ask(x_headrace_arm="9")
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert refused.value.message.endswith("loaded: 3, 4, 5")


@pytest.mark.parametrize("value", ["4", "", "9" * 5000])
def test_nobody_may_choose_without_tokens(value: str) -> None:
    arms = Arms(by("header:u"), may_choose=refuse_all)
    with pytest.raises(HeadraceError) as refused:
        arms.ask(x_headrace_arm=value)
    assert refused.value.code is ErrorCode.PERMISSION_DENIED
    assert not arms.meters.requests.total()


# -- versions that are not here -------------------------------------------------------------------


def test_a_version_that_is_not_here_is_answered_by_the_champion_and_counted_for_nobody() -> None:
    have = servables()
    del have["4"]
    arms, all_here = Arms(by("header:u"), have), Arms(by("header:u"))
    for user in USERS[:100]:
        wanted = all_here.ask(u=user)[0]
        arm, _, _ = arms.choose(arms.requested(u=user))
        assert arm.servable.version == arm.assignment.version == "3"
        assert arm.assignment.why == ("not_warm" if wanted == "4" else "split")
        assert arm.assignment.arm == ("candidate" if wanted == "4" else "champion")
        assert (arm.tally is arms.tallies.champion) is (wanted == "3")
    assert arms.meters.requests["3", "candidate", "not_warm"] > 20


def test_after_a_promotion_the_candidate_answers_for_the_champion() -> None:
    plan = after(by("header:u"), Event.PROMOTE)
    have = servables()
    del have["3"]
    assert Arms(plan, have).ask(u="ann") == ("4", "split", "")


def test_what_has_to_be_loaded() -> None:
    plan = stepping(with_other(shadows=(Shadow(version="6", percent=10, salt="s"),)))
    assert versions_of(plan) == {"3", "4", "5", "6"}
    promoted = made(happen(plan, Event.PROMOTE, APPROVER, warm=WARM | {"6"}))
    assert versions_of(promoted) == {"3", "4"}, "the way back stays"
    assert versions_of(after(plan, Event.ROLLBACK)) == {"3"}
    assert versions_of(after(draft(), Event.ABORT)) == {"3"}
    only_shadows = shadowed(candidate="", steps=(), guardrails=())
    assert versions_of(draft(only_shadows)) == {"3", "4"}
    assert [arm_of(plan, one) for one in "3456"] == ["champion", "candidate", "other", "other"]


# -- shadows --------------------------------------------------------------------------------------


def test_each_shadow_samples_by_its_own_salt_and_the_champion_copies_itself() -> None:
    shadows = (
        Shadow(version="4", percent=30, salt="a"),
        Shadow(version="5", percent=60, salt="b"),
        Shadow(version="9", percent=100, salt="not loaded"),
    )
    plan = stepping(proposal(shadows=shadows, self_copy_percent=10.0))
    arms = Arms(plan)
    for user in USERS[:500]:
        key = user.encode()
        expected = tuple(
            version
            for version, salt, ppm in (
                ("4", "a", 300_000),
                ("5", "b", 600_000),
                ("3", plan.self_copy_salt, 100_000),
            )
            if sampler(salt, ppm)(key)
        )
        assert arms.choose(arms.requested(x_user=user))[2] == expected


@pytest.mark.parametrize("ending", [Event.ROLLBACK, Event.ABORT])
def test_nothing_is_copied_when_the_rollout_is_over(ending: Event) -> None:
    plan = stepping(shadowed())
    assert any(Arms(plan).choose(Arms(plan).requested(x_user=one))[2] for one in USERS[:200])
    over = Arms(after(plan, ending))
    assert not any(over.choose(over.requested(x_user=one))[2] for one in USERS[:200])
