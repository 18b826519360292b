"""Plans of rollouts as this process acts on them: which version answers, who is warm, and what is counted.

Part of the composition root: turns a plan and the versions that are loaded into routes, in one turn of the loop. It
must never wait, read a store or load a model: ``rollout_following.py`` brings the plans.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from gateway.core.arms import ArmMeters, KeysSeen, MayChoose, ModelArms, refuse_all, versions_of
from gateway.core.compatible import difference
from gateway.core.plan_counts import PlanCounts
from gateway.core.servables import ServableTable, ServableVersion
from gateway.pipeline.output_watch import OutputWatch
from gateway.pipeline.route import RolloutRouting
from gateway.ports import Clock, CountedServable
from gateway.telemetry.metrics import Metrics
from rollout.checking import document_faults_of
from rollout.evidence import PairedScores
from rollout.last_known import succeeds
from rollout.plan import Plan
from rollout.ports import Counters, ModelBeat, Stored
from rollout.sequential import sample_ratio_log_bayes_factor
from rollout.shadow_report import ShadowReport

logger = logging.getLogger("headrace.rollouts")


class Shadows(Protocol):
    """Who copies requests, and compares the answers."""

    def follow(
        self, model: str, plan: Plan | None, servables: Mapping[str, CountedServable]
    ) -> None:
        """Copy by this plan from now on, to these versions."""

    def paired_scores(self, model: str) -> PairedScores | None:
        """Of the plan in force."""

    def comparisons(self, model: str, *, fresh: bool = False) -> tuple[ShadowReport, ...]:
        """Likewise."""


class FollowedPlan:
    """One model's plan in force, and what this process did about it."""

    def __init__(self, stored: Stored, counts: PlanCounts, meters: ArmMeters, now: float) -> None:
        self.stored = stored
        self.counts = counts
        self.meters = meters
        self.since_s = now
        """Monotonic."""
        self.tallies = counts.begin(stored.plan)
        self.keys_seen = KeysSeen(len(stored.plan.arms))
        self.loading = False
        self.is_pinned = False
        """No other version ever answers. A model's first plan comes while one answers: that goes on until the plan's
        own is loaded, since until now it was right, and nobody shall be without an answer for a plan's sake."""
        self.unfit: Mapping[str, str] = {}
        """Versions that cannot stand for the one that answers, and why."""

    @property
    def plan(self) -> Plan:
        return self.stored.plan


class RolloutPlans:
    """All plans of this process, in force."""

    def __init__(
        self,
        table: ServableTable,
        routing: RolloutRouting,
        *,
        clock: Clock,
        may_choose: MayChoose = refuse_all,
        random_bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        self.followed: dict[str, FollowedPlan] = {}
        self.troubles: dict[str, str] = {}
        """By model: why what the store has is not in force."""
        self._shadows: Shadows | None = None
        self._table = table
        self._routing = routing
        self._watches: dict[ServableVersion, OutputWatch] = {}
        self._clock = clock
        self._may_choose = may_choose
        self._random_bits = random_bits
        table.on_change = self._refresh

    def mirror(self, shadows: Shadows) -> None:
        """Have these follow every plan that comes into force from now on."""
        self._shadows = shadows

    # -- plans ------------------------------------------------------------------------------------

    def adopt(self, stored: Stored) -> bool:
        """Have the plan in force. False where it is not newer than what is, or cannot be: see ``troubles``."""
        plan = stored.plan
        known = self.followed.get(plan.model)
        if known is not None and not succeeds(plan, known.plan):
            if plan == known.plan:
                self.troubles.pop(plan.model, None)  # somebody has put back what was there
            return False
        faults = document_faults_of(plan)
        if faults:
            self.distrust(
                plan.model, f"its plan of revision {plan.revision} is wrong: {'; '.join(faults)}"
            )
            return False
        self.troubles.pop(plan.model, None)
        counts = known.counts if known is not None else PlanCounts()
        meters = known.meters if known is not None else ArmMeters()
        followed = FollowedPlan(stored, counts, meters, self._clock())
        if known is not None and known.plan.arms == plan.arms:
            followed.keys_seen = known.keys_seen
        followed.loading = True  # until somebody has tried, or found that nothing is missing
        self.followed[plan.model] = followed
        was_pinned = known is not None and known.is_pinned
        if was_pinned or not self._table.answers(plan.model) or self._has(plan):
            self._table.pin(plan.model, plan.answering)
            followed.is_pinned = True
        self._refresh(plan.model)
        return True

    def _has(self, plan: Plan) -> bool:
        return any(one.version == plan.answering for one in self._table.of(plan.model))

    def distrust(self, model: str, why: str) -> None:
        """What the store has for a model cannot be used: the last good plan stays in force, and that is told once."""
        if self.troubles.get(model) != why:
            self.troubles[model] = why
            logger.error(
                "the rollout of model %s: %s; the last good plan stays in force", model, why
            )

    def loaded(self, model: str) -> None:
        """Somebody has tried to load what the plan names: what is missing now is gone."""
        self.followed[model].loading = False

    def missing(self, model: str) -> frozenset[str]:
        """Versions that the plan names and that are not loaded."""
        followed = self.followed[model]
        return versions_of(followed.plan) - {one.version for one in self._table.of(model)}

    def superfluous(self, model: str) -> frozenset[str]:
        """Versions that are loaded and that the plan does not name."""
        loaded = frozenset(one.version for one in self._table.of(model))
        return loaded - versions_of(self.followed[model].plan)

    def _refresh(self, model: str) -> None:
        """Make the model's routes anew: its plan has changed, or its versions have."""
        followed = self.followed.get(model)
        if followed is None:
            return
        plan = followed.plan
        loaded = {one.version: one for one in self._table.of(model)}
        answering = loaded.get(plan.answering)
        if answering is not None and not followed.is_pinned:
            followed.is_pinned = True
            self._table.pin(model, plan.answering)
        if answering is None:
            self._routing.arms.pop(model, None)
            followed.meters.begin(())  # else its arms would keep the versions in memory
            self._watch(model, ())
            for servable in loaded.values():
                servable.want(servable.enrichment)
            self._tell(plan, {})
            return
        fitting = self._fitting(followed, loaded, answering)
        self._watch(model, fitting.values())
        arms = ModelArms(
            plan,
            fitting,
            followed.tallies,
            self._watches,
            random_bits=self._random_bits,
            may_choose=self._may_choose,
            meters=followed.meters,
            keys_seen=followed.keys_seen,
        )
        for (
            servable
        ) in loaded.values():  # requests without a version are decoded for the one that answers
            servable.want(arms.names if servable is answering else servable.enrichment)
        self._routing.arms[model] = arms
        self._tell(plan, fitting)

    def _fitting(
        self,
        followed: FollowedPlan,
        loaded: Mapping[str, ServableVersion],
        answering: ServableVersion,
    ) -> dict[str, ServableVersion]:
        reasons = {version: difference(one, answering) for version, one in loaded.items()}
        unfit = {version: why for version, why in reasons.items() if why}
        needed = versions_of(followed.plan)
        for version, why in unfit.items():
            if version in needed and followed.unfit.get(version) != why:
                logger.error(
                    "version %s of model %s cannot take part in the rollout: %s",
                    version,
                    answering.name,
                    why,
                )
        followed.unfit = unfit
        return {version: one for version, one in loaded.items() if version not in unfit}

    def _watch(self, model: str, wanted: Collection[ServableVersion]) -> None:
        """Look at the outputs of these versions of a model, and of no others.

        One that is leaving is looked at until its last caller has left: he is counted, too.
        """
        loaded = self._table.of(model)
        for servable in [one for one in self._watches if one.name == model and one not in wanted]:
            watch = self._watches.pop(servable)
            if servable in loaded:
                servable.run = watch.run_unwatched
        for servable in wanted:
            if servable not in self._watches:
                watch = self._watches[servable] = OutputWatch(servable.run, servable.signature)
                servable.run = watch.run

    def _tell(self, plan: Plan, fitting: Mapping[str, ServableVersion]) -> None:
        if self._shadows is not None:
            self._shadows.follow(plan.model, plan, fitting)

    # -- what others are told ---------------------------------------------------------------------

    def beats(self) -> tuple[ModelBeat, ...]:
        """What this process says of every model that has a plan."""
        now = self._clock()
        return tuple(self._beat(model, one, now) for model, one in sorted(self.followed.items()))

    def _beat(self, model: str, followed: FollowedPlan, now: float) -> ModelBeat:
        plan = followed.plan
        arms = self._routing.arms.get(model)
        loaded = {one.version for one in self._table.of(model)}
        warm = frozenset(loaded - set(followed.unfit)) if arms is not None else frozenset()
        missing = versions_of(plan) - warm
        return ModelBeat(
            model=model,
            revision=plan.revision,
            acting_s=max(0.0, now - followed.since_s),
            warm=warm,
            gone=frozenset() if followed.loading else missing,
        )

    def counters(self, model: str, *, is_final: bool) -> Counters:
        """What this process has counted of the model's plan."""
        shadows = self._shadows
        return self.followed[model].counts.counters(
            None if shadows is None else shadows.paired_scores(model),
            () if shadows is None else shadows.comparisons(model, fresh=is_final),
            is_final=is_final,
        )

    def export(self, metrics: Metrics) -> None:
        """Declare what is told to Prometheus."""
        metrics.gauge(
            "headrace_rollout_plan_revision",
            "The revision of the plan in force.",
            ("model",),
            lambda: [((model,), one.plan.revision) for model, one in self.followed.items()],
        )
        metrics.gauge(
            "headrace_rollout_state",
            "1 for the state that the plan in force is in.",
            ("model", "state"),
            lambda: [((model, one.plan.state.value), 1.0) for model, one in self.followed.items()],
        )
        metrics.gauge(
            "headrace_rollout_weight_percent",
            "The share of requests that an arm should get.",
            ("model", "version"),
            lambda: [
                ((model, arm.version), arm.weight_percent)
                for model, one in self.followed.items()
                for arm in one.plan.arms
            ],
        )
        metrics.gauge(
            "headrace_rollout_plan_in_trouble",
            "1 where the store's plan cannot be used and the last good one stays in force.",
            ("model",),
            lambda: [
                ((model,), float(model in self.troubles))
                for model in {*self.followed, *self.troubles}
            ],
        )
        metrics.counter(
            "headrace_rollout_requests",
            "Requests to models with a plan, by the version that answers, its arm, and why.",
            ("model", "version", "arm", "assigned_by"),
            lambda: [
                ((model, *label), count)
                for model, one in self.followed.items()
                for label, count in one.meters.requests.items()
            ],
        )
        metrics.counter(
            "headrace_rollout_keys_missing",
            "Requests without the sticky key that the plan wants, by what stood in for it.",
            ("model", "stand_in"),
            lambda: [
                ((model, source), count)
                for model, one in self.followed.items()
                for source, count in one.meters.keys_missing.items()
            ],
        )
        metrics.gauge(
            "headrace_rollout_sample_ratio_log_evidence",
            "Natural log of the evidence that distinct keys are not split by the weights; over 6.9 is an alarm.",
            ("model",),
            lambda: [((model,), sample_ratio(one)) for model, one in self.followed.items()],
        )


def sample_ratio(followed: FollowedPlan) -> float:
    """The evidence against the split, natural log; 0 while it is no split."""
    dealt = [
        (count, arm.weight_percent / 100)
        for count, arm in zip(followed.keys_seen.by_arm, followed.plan.arms, strict=True)
        if arm.weight_percent > 0
    ]
    if len(dealt) < 2:
        return 0.0
    return sample_ratio_log_bayes_factor([one[0] for one in dealt], [one[1] for one in dealt])
