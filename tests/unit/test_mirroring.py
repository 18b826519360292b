"""Shadows of one process: what is compared with what, what is told about it, and how it ends."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from backends.signature import Tensor, TensorSpec
from gateway.core.admission import Admission, AdmissionLimits
from gateway.mirroring import NICER_BY, REPORTS_EVERY_S, QuietWorker
from gateway.telemetry.metrics import Metrics
from rollout.comparison_noise import beyond_noise
from rollout.comparison_plan import PlannedComparison, PlannedOutput
from rollout.plan import Event, Shadow
from rollout.ports import Counters
from rollout.shadow_report import ShadowReport
from rollout.shared_documents import read_report, report_document
from tests.support.loops import run, until
from tests.unit.pipeline.shadow_world import ShadowWorld, X, plus, shadowing
from tests.unit.rollout.plans import after, draft, stepping

CARRIER = TensorSpec("carrier", "BYTES", (-1, 1))


def ask_many(world: ShadowWorld, count: int, **fields: Any) -> None:
    for value in range(count):
        world.ask(value, **fields)
        world.settle()


def report(world: ShadowWorld, version: str) -> ShadowReport:
    reports = world.mirroring.comparisons("delays", fresh=True)
    return next(one for one in reports if one.version == version)


# -- who is compared with whom --------------------------------------------------------------------


@pytest.mark.parametrize(("primary", "shadow"), [("3", "4"), ("4", "3")])
def test_the_shift_is_the_candidates_less_the_champions_whoever_answered(
    primary: str, shadow: str
) -> None:
    plan = stepping(shadowing(shadows=(Shadow(version=shadow, percent=100, salt="s"),)))
    world = ShadowWorld({"4": plus(0.25)}, plan=plan)
    ask_many(world, 10, version=primary, shadows=(shadow,))
    scores = world.mirroring.paired_scores("delays")
    assert scores is not None
    assert (scores.pairs, scores.mean, scores.variance) == (10, 0.25, 0.0)
    assert report(world, "4").total.share_differing == 1.0


def test_one_pair_is_no_evidence_yet() -> None:
    world = ShadowWorld()
    world.ask(1)
    world.settle()
    assert world.mirroring.paired_scores("delays") is None


def test_another_shadow_does_not_count_as_the_candidate() -> None:
    world = ShadowWorld({"5": plus(9)})
    ask_many(world, 3, shadows=("4", "5"))
    scores = world.mirroring.paired_scores("delays")
    assert scores is not None
    assert (scores.pairs, scores.mean) == (3, 0.0)
    assert report(world, "5").scores.paired().mean == 9.0  # type: ignore[union-attr]


def test_the_champion_against_itself_is_the_floor() -> None:
    noise = iter([0.0, 0.0, 0.5] * 50)

    def unsteady(inputs: Sequence[Tensor]) -> list[Tensor]:
        return plus(next(noise))(inputs)

    world = ShadowWorld({"3": unsteady})
    ask_many(world, 20, shadows=("3", "4"))
    floor, seen = report(world, "3"), report(world, "4")
    assert (floor.is_floor, seen.is_floor) == (True, False)
    assert floor.total.answers == seen.total.answers == 20
    assert 0 < floor.total.differing < 20
    left = beyond_noise(seen.total, floor.total).differing.left
    assert left is not None
    assert left < seen.total.share_differing  # type: ignore[operator]


def test_what_is_equal_within_the_usual_tolerance_does_not_differ() -> None:
    world = ShadowWorld({"4": plus(0.0005)})
    ask_many(world, 3)
    assert world.outcomes == {"differing": 1, "equal": 2}  # one part in a thousand, and 0 has none


def test_the_plan_says_what_differs_and_where_the_score_is() -> None:
    wide = TensorSpec("score", "FP32", (-1, 3))
    comparison = PlannedComparison(
        outputs=(PlannedOutput(name="score", abs_tolerance=1.0, decision="none"),), score_column=0
    )

    def answer(first: float) -> Any:
        return lambda inputs: [np.array([[first, 9, 0]] * len(inputs[0]), np.float32)]

    plan = stepping(shadowing(comparison=comparison))
    world = ShadowWorld({"3": answer(0), "4": answer(0.5)}, outputs=(wide,), plan=plan)
    ask_many(world, 4)
    assert world.outcomes == {"equal": 4}
    scores = world.mirroring.paired_scores("delays")
    assert scores is not None
    assert scores.mean == 0.5


def test_answers_are_sliced_by_an_input() -> None:
    late = lambda inputs: [  # noqa: E731
        np.where(inputs[1] == b"UA", 1.0, 0.0).astype(np.float32)
    ]
    plan = stepping(shadowing(slices=("input:carrier", "parameter:country", "input:nothing")))
    world = ShadowWorld(
        {"3": lambda inputs: [np.zeros((len(inputs[0]), 1), np.float32)], "4": late},
        inputs=(X, CARRIER),
        plan=plan,
    )
    context = ("SE", "a user", None, None)  # with the headers by which callers choose an arm
    for carrier in (b"UA", b"UA", b"DL"):
        world.ask(1, more=(np.array([[carrier]], object),), context=context)
    world.ask(1, 2, more=(np.array([[b"UA"], [b"DL"]], object),), context=context)
    world.settle()
    slices = report(world, "4").slices
    assert list(slices) == ["input:carrier", "parameter:country"]
    assert slices["parameter:country"].slices["SE"].differing == 3
    seen = {name: one.differing for name, one in slices["input:carrier"].slices.items()}
    assert seen == {"UA": 2, "DL": 0, "several": 1}
    assert slices["input:carrier"].slices["UA"].outputs["score"].pairs == []


def test_large_answers_are_compared_on_the_thread() -> None:
    wide = TensorSpec("score", "FP32", (-1, 5000))
    same = lambda inputs: [np.ones((1, 5000), np.float32)]  # noqa: E731
    world = ShadowWorld({"3": same, "4": same}, outputs=(wide,), batch=0)
    world.ask(1)
    world.turn()
    world.worker.finish()
    world.turn()
    assert len(world.worker.jobs) == 1  # the comparison
    assert world.outcomes == {}
    world.worker.finish()
    assert world.outcomes == {"equal": 1}


def test_numbers_of_sixteen_bits_are_compared_as_numbers() -> None:
    bits = TensorSpec("score", "BF16", (-1, 1))

    def answer(value: float) -> Any:
        raw = np.array([[value]], np.float32).view(np.uint32) >> 16
        return lambda inputs: [raw.astype(np.uint16)]

    world = ShadowWorld({"3": answer(1.0), "4": answer(1.5)}, outputs=(bits,), batch=0)
    ask_many(world, 2)
    assert world.mirroring.paired_scores("delays").mean == 0.5  # type: ignore[union-attr]


# -- what is kept, and told -----------------------------------------------------------------------


def test_findings_stay_while_the_plan_is_the_same_and_go_with_another() -> None:
    world = ShadowWorld()
    ask_many(world, 3)
    plan = stepping(shadowing())
    world.follow(after(plan, Event.PAUSE))
    assert report(world, "4").total.answers == 3
    replaced = msgspec.structs.replace(plan, revision=9, began_revision=9, evidence_since=9)
    world.follow(replaced)
    assert world.mirroring.comparisons("delays") == ()
    ask_many(world, 1)
    assert report(world, "4").total.answers == 1


def test_a_plan_that_is_over_copies_nothing_and_still_tells() -> None:
    world = ShadowWorld()
    ask_many(world, 2)
    world.follow(after(stepping(shadowing()), Event.ROLLBACK))
    assert world.mirroring.lanes == {}
    world.ask(1)
    world.settle()
    assert world.shed == {"not_loaded": 1}
    assert report(world, "4").total.answers == 2


def test_a_draft_copies_nothing() -> None:
    world = ShadowWorld(plan=draft(shadowing()))
    assert world.mirroring.lanes == {}
    world.ask(1)
    world.settle()
    assert world.shed == {"not_loaded": 1}


def test_reports_are_values_that_change_seldom() -> None:
    world = ShadowWorld()
    ask_many(world, 2)
    first = world.mirroring.comparisons("delays")
    ask_many(world, 2)
    assert world.mirroring.comparisons("delays") is first
    assert first[0].total.answers == 2
    world.loop.now_s += REPORTS_EVERY_S
    assert world.mirroring.comparisons("delays")[0].total.answers == 4
    ask_many(world, 1)
    assert world.mirroring.comparisons("delays", fresh=True)[0].total.answers == 5


def test_reports_travel() -> None:
    world = ShadowWorld({"4": plus(0.25)}, plan=stepping(shadowing(slices=("input:x",))))
    ask_many(world, 5, shadows=("3", "4"))
    counters = Counters(
        comparisons=world.mirroring.comparisons("delays"),
        paired_scores=world.mirroring.paired_scores("delays"),
    )
    assert read_report(report_document(counters)) == counters


def test_metrics_are_their_own_and_the_live_ones_see_no_copy() -> None:
    world = ShadowWorld({"4": plus(1)})
    metrics = Metrics(Admission(AdmissionLimits()))
    world.mirroring.export(metrics)
    ask_many(world, 3)
    world.ask(1, shadows=("77",))
    world.settle()
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    labels = 'model="delays",version="4"'
    assert (
        'headrace_shadow_copies_total{model="delays",outcome="differing",version="4"} 3.0' in text
    )
    assert 'headrace_shadow_shed_total{reason="not_loaded"} 1.0' in text
    assert f"headrace_shadow_differing_share{{{labels}}} 1.0" in text
    assert f"headrace_shadow_batches_total{{{labels}}} 3.0" in text
    assert "headrace_shadow_copies_in_flight 0.0" in text
    assert "headrace_shadow_bytes 0.0" in text
    assert len(world.live_meters.batches) == 4  # the primaries'
    snapshot = world.mirroring.snapshot()
    assert snapshot["copies"] == [{"model": "delays", "version": "4", "differing": 3}]
    assert snapshot["compared"][0]["differing_share"] == 1.0
    msgspec.json.encode(snapshot)


# -- the end --------------------------------------------------------------------------------------


def test_after_close_everything_is_released_and_the_findings_are_there() -> None:
    world = ShadowWorld()
    ask_many(world, 2)
    world.ask(1)
    world.ask(2)
    world.turn(2)

    async def close() -> None:
        await world.mirroring.close()

    run(close)
    assert world.inside == (0, 0)
    world.settle()
    assert world.outcomes == {"equal": 2, "dropped": 2}
    assert all(one.handles == 0 for one in world.servables.values())
    assert report(world, "4").total.answers == 2
    asked = world.ask(1)
    world.settle()
    assert asked.endings[0].outputs
    assert world.shed == {"not_loaded": 1}
    world.follow(stepping(shadowing()))
    assert world.mirroring.lanes == {}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_the_shadows_thread_steps_back_and_no_other() -> None:
    async def test() -> None:
        mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        worker = QuietWorker(asyncio.get_running_loop(), 1, "shadow")
        found: list[int] = []

        def work() -> list[Any]:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return []

        done: list[Any] = []
        worker.submit(work, done.append)
        await until(lambda: bool(done))
        worker.close()
        worker.join()
        assert found == [min(19, mine + NICER_BY)]
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine

    run(test)
