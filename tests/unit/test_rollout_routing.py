"""Plans in force in one process: what is routed, watched, counted and said, as plans and versions come and go."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from backends.signature import Signature, Tensor, TensorSpec
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.prediction_ids import PredictionIds
from gateway.core.servables import ServableTable, ServableVersion
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from gateway.pipeline.route import RolloutRouting
from gateway.rollout_routing import RolloutPlans, sample_ratio
from gateway.telemetry.metrics import Metrics
from rollout.plan import Event, Plan, Step, Sticky, encode
from rollout.ports import ModelBeat, Stored
from tests.support.servables import WantedNames
from tests.unit.pipeline.requests import X, Y, doubled, request, rows_of
from tests.unit.rollout.plans import APPROVER, after, draft, happen, made, proposal, stepping

MODEL = "delays"
PLAN = stepping(
    proposal(sticky=Sticky(source="header:x-user", salt="s"), steps=(Step(percent=50),))
)


def version(number: str, y: TensorSpec = Y, **more: Any) -> ServableVersion:
    return ServableVersion(MODEL, number, Signature((X,), (y,)), doubled, max_batch_size=64, **more)


def stored(plan: Plan) -> Stored:
    return Stored(plan, encode(plan))


class World:
    def __init__(self, *versions: ServableVersion) -> None:
        self.now_s = 100.0
        self.table = ServableTable(
            versions, [ModelStatus(MODEL, one.version, "READY", "") for one in versions]
        )
        self.routing = RolloutRouting(lambda: self.now_s, PredictionIds(lambda: 0, lambda k: 0))
        self.plans = RolloutPlans(self.table, self.routing, clock=lambda: self.now_s)

    def adopt(self, plan: Plan) -> bool:
        return self.plans.adopt(stored(plan))

    @property
    def beat(self) -> ModelBeat:
        [beat] = self.plans.beats()
        return beat

    def answers(self, count: int = 300) -> dict[tuple[str, str], int]:
        """(version, why) of users' requests."""
        arms = self.routing.arms[MODEL]
        found: dict[tuple[str, str], int] = {}
        for number in range(count):
            context = tuple({"x-user": f"u{number}"}.get(one) for one in arms.names.headers)
            arm, _, _ = arms.choose(request(rows_of(1), model=MODEL, context=context))
            label = (arm.servable.version, arm.assignment.why)
            found[label] = found.get(label, 0) + 1
            arm.tally.answered(False, True, False)
        return found

    def metrics(self) -> str:
        metrics = Metrics(Admission(AdmissionLimits()))
        self.plans.export(metrics)
        registry = CollectorRegistry()
        registry.register(metrics)
        return generate_latest(registry).decode()


def test_a_plan_is_in_force_at_once() -> None:
    world = World(version("3"), version("4"))
    assert world.adopt(PLAN)
    found = world.answers()
    assert found.keys() == {("3", "split"), ("4", "split")}
    assert 110 < found["4", "split"] < 190
    assert not world.plans.missing(MODEL)
    assert not world.plans.superfluous(MODEL)


def test_without_a_version_the_champion_answers_though_a_newer_one_is_loaded() -> None:
    world = World(version("3"), version("4"), version("5"))
    assert world.table.find(MODEL, "").version == "5"
    world.adopt(PLAN)
    assert world.table.find(MODEL, "").version == "3"
    assert world.plans.superfluous(MODEL) == {"5"}
    world.adopt(after(PLAN, Event.PROMOTE))
    assert world.table.find(MODEL, "").version == "4"


def test_codecs_read_for_the_plan_and_forget_what_they_knew() -> None:
    champion, candidate = version("3"), version("4", enrichment=WantedNames(("user",)))
    champion.reply_templates["known"] = 1
    world = World(champion, candidate)
    world.adopt(PLAN)
    assert champion.context_names == world.routing.arms[MODEL].names
    assert champion.context_names.parameters == ("user",)
    assert not champion.reply_templates
    assert candidate.context_names is candidate.enrichment
    world.adopt(after(PLAN, Event.PROMOTE))
    assert champion.context_names is None, "it is asked by its number only"
    assert candidate.context_names == world.routing.arms[MODEL].names


@pytest.mark.parametrize("events", [(), (Event.PAUSE,), (Event.PAUSE, Event.RESUME)])
def test_what_is_not_newer_changes_nothing(events: tuple[Event, ...]) -> None:
    world = World(version("3"), version("4"))
    plan = after(PLAN, *events)
    assert world.adopt(plan)
    arms = world.routing.arms[MODEL]
    for older in (plan, PLAN, draft()):
        assert not world.adopt(older)
        assert world.routing.arms[MODEL] is arms


def test_a_plan_that_no_controller_wrote_leaves_the_last_good_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    arms = world.routing.arms[MODEL]
    broken = msgspec.structs.replace(after(PLAN, Event.PAUSE), arms=tuple(reversed(PLAN.arms[:1])))
    for _ in range(3):
        assert not world.adopt(broken)
    assert world.routing.arms[MODEL] is arms
    assert "its plan of revision 3 is wrong" in world.plans.troubles[MODEL]
    assert len(caplog.records) == 1, "told once"
    assert 'headrace_rollout_plan_in_trouble{model="delays"} 1.0' in world.metrics()
    good = after(PLAN, Event.PAUSE)
    assert world.adopt(good)
    assert not world.plans.troubles


def test_trouble_ends_when_somebody_puts_back_what_was_there() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    world.plans.distrust(MODEL, "it is no JSON")
    assert 'headrace_rollout_plan_in_trouble{model="delays"} 1.0' in world.metrics()
    assert not world.adopt(PLAN)
    assert 'headrace_rollout_plan_in_trouble{model="delays"} 0.0' in world.metrics()


def test_an_older_plan_that_is_read_late_ends_no_trouble() -> None:
    world = World(version("3"), version("4"))
    world.adopt(after(PLAN, Event.PAUSE))
    world.plans.distrust(MODEL, "it is no JSON")
    assert not world.adopt(PLAN)
    assert world.plans.troubles


# -- versions come and go -------------------------------------------------------------------------


def test_a_candidate_that_comes_later_gets_its_own_requests_then() -> None:
    world = World(version("3"))
    world.adopt(PLAN)
    before = world.answers()
    assert before.keys() == {("3", "split"), ("3", "not_warm")}
    assert world.plans.missing(MODEL) == {"4"}
    assert world.beat.warm == {"3"}
    assert not world.beat.gone, "it is being loaded"
    world.table.put(version("4"))
    found = world.answers()
    assert found == {("3", "split"): before["3", "split"], ("4", "split"): before["3", "not_warm"]}
    assert world.beat.warm == {"3", "4"}


def test_a_candidate_that_could_not_be_loaded_is_gone() -> None:
    world = World(version("3"))
    world.adopt(PLAN)
    world.plans.loaded(MODEL)
    assert world.beat.gone == {"4"}
    world.adopt(after(PLAN, Event.PAUSE))
    assert world.beat.gone == frozenset(), "a new revision is tried anew"


def test_without_the_champion_nothing_is_routed_and_nothing_is_warm() -> None:
    champion = version("3")
    world = World(champion, version("4"))
    world.adopt(PLAN)
    world.table.remove(champion)
    assert MODEL not in world.routing.arms
    with pytest.raises(
        HeadraceError, match="version 3, which answers by its rollout's plan"
    ) as refused:
        world.table.find(MODEL, "")
    assert refused.value.code is ErrorCode.NOT_READY
    assert world.table.find(MODEL, "4").version == "4"
    assert world.beat.warm == frozenset()
    world.table.put(version("3"))
    assert world.answers().keys() == {("3", "split"), ("4", "split")}


def test_a_version_with_another_signature_never_takes_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(version("3"), version("4", TensorSpec("z", "FP32", (-1, 2))))
    world.adopt(PLAN)
    world.plans.loaded(MODEL)
    assert world.answers().keys() == {("3", "split"), ("3", "not_warm")}
    assert world.beat.gone == {"4"}
    assert "its outputs are z" in world.plans.followed[MODEL].unfit["4"]
    world.table.put(version("5"))
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    world.table.put(version("4"))
    assert world.beat.warm == {"3", "4", "5"}


# -- counts ---------------------------------------------------------------------------------------


def test_counts_are_kept_over_revisions_and_new_versions_and_end_with_the_plan() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    world.answers()
    world.table.put(version("4"))
    world.answers()
    world.adopt(after(PLAN, Event.PAUSE))
    world.answers()
    first, second = world.plans.counters(MODEL, is_final=False).stretches
    assert first.candidate.requests + first.champion.requests == 600
    assert second.candidate.requests + second.champion.requests == 300
    assert (first.revision, second.revision) == (PLAN.revision, PLAN.revision + 1)
    ended = after(PLAN, Event.PAUSE, Event.ABORT)
    new = made(happen(ended, Event.REPLACE, APPROVER, proposal=proposal(candidate="5")))
    world.adopt(new)
    assert not world.plans.counters(MODEL, is_final=False).stretches


def test_keys_are_counted_on_while_the_weights_stay() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    world.answers()
    seen = world.plans.followed[MODEL].keys_seen
    assert sum(seen.by_arm) > 290
    world.adopt(after(PLAN, Event.PAUSE))
    world.answers()
    assert world.plans.followed[MODEL].keys_seen is seen
    assert sum(seen.by_arm) <= 300
    assert sample_ratio(world.plans.followed[MODEL]) < 3
    world.adopt(after(PLAN, Event.PAUSE, Event.ROLLBACK))
    assert sum(world.plans.followed[MODEL].keys_seen.by_arm) == 0
    assert sample_ratio(world.plans.followed[MODEL]) == 0.0


def test_a_wrong_split_is_evident() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    world.plans.followed[MODEL].keys_seen.by_arm[:] = [700, 500]
    assert sample_ratio(world.plans.followed[MODEL]) > 6.9


def test_how_long_a_revision_has_been_in_force() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    world.now_s += 7
    assert (world.beat.revision, world.beat.acting_s) == (PLAN.revision, 7.0)
    world.table.put(version("4"))
    assert world.beat.acting_s == 7.0
    world.now_s -= 100
    assert world.beat.acting_s == 0.0
    world.adopt(after(PLAN, Event.PAUSE))
    assert world.beat.acting_s == 0.0


# -- outputs are watched --------------------------------------------------------------------------


def nothing_but_nan(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [np.full((1, 2), math.nan, np.float32)]


def test_outputs_are_watched_while_a_version_takes_part_and_no_longer() -> None:
    champion, candidate, other = version("3"), version("4"), version("9")
    unwatched = champion.run
    stranger = ServableVersion("m", "1", Signature((X,), (Y,)), doubled)
    world = World(champion, candidate, other, stranger)
    world.adopt(PLAN)
    assert stranger.run is doubled
    assert champion.run is not unwatched
    watched = champion.run
    world.adopt(after(PLAN, Event.PAUSE))
    assert champion.run == watched, "watched once, not twice"
    candidate_run = candidate.run
    world.table.remove(champion)
    assert candidate.run is unwatched, "without a champion nobody takes part"
    world.table.put(champion)
    assert candidate.run != candidate_run
    assert candidate.run is not unwatched


def test_who_is_on_a_version_that_leaves_is_counted_right() -> None:
    candidate = version("4")
    candidate.run = nothing_but_nan
    world = World(version("3"), candidate)
    world.adopt(PLAN)
    watch = next(arm.watch for arm in world.routing.arms[MODEL]._arms if arm.servable is candidate)
    before = watch.odd_batches
    world.table.remove(candidate)  # a request is inside still
    outputs = candidate.run([rows_of(1)])
    assert watch.odd_batches != before
    assert not watch.is_valid(outputs)


# -- metrics --------------------------------------------------------------------------------------


def test_what_is_told_to_prometheus() -> None:
    world = World(version("3"), version("4"))
    world.adopt(PLAN)
    found = world.answers()
    world.routing.arms[MODEL].choose(request(rows_of(1), model=MODEL))
    said = world.metrics()
    assert 'headrace_rollout_plan_revision{model="delays"} 2.0' in said
    assert 'headrace_rollout_weight_percent{model="delays",version="4"} 50.0' in said
    label = 'arm="candidate",assigned_by="split",model="delays",version="4"'
    [line] = [one for one in said.splitlines() if label in one]
    assert float(line.split()[-1]) in {found["4", "split"], found["4", "split"] + 1}
    assert 'headrace_rollout_keys_missing_total{model="delays",stand_in="none"} 1.0' in said
    assert 'headrace_rollout_sample_ratio_log_evidence{model="delays"}' in said


def test_a_first_plan_leaves_nobody_without_an_answer_while_its_champion_is_loaded() -> None:
    """Nor does a later revision of it, for as long as the champion has never been here."""
    world = World(version("9"))
    world.adopt(PLAN)
    assert world.table.find(MODEL, "").version == "9"
    world.adopt(after(PLAN, Event.ABORT))
    assert world.table.find(MODEL, "").version == "9"
    world.table.put(version("3"))
    assert world.table.find(MODEL, "").version == "3"


def test_a_model_that_is_unloaded_is_not_kept_in_memory() -> None:
    champion, candidate = version("3"), version("4")
    world = World(champion, candidate)
    world.adopt(PLAN)
    world.answers(10)
    left = weakref.ref(champion)
    world.table.remove(champion)
    world.table.remove(candidate)
    del champion, candidate
    gc.collect()
    assert left() is None
    assert sum(world.plans.followed[MODEL].meters.requests.values()) == 10
