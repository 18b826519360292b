"""What people are shown of rollouts: a line of each model's, and all that is known of one.

Decides the shapes and how counters of many workers become a row per arm. Pure: plans, reports and heartbeats come in.
It must never judge by itself: verdicts and the decision are those that the controller comes to from the same reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from rollout.comparison_noise import Excess, beyond_noise
from rollout.comparison_stats import Comparison
from rollout.controller import Decision, Findings, Heartbeat, decide, findings_of
from rollout.evidence import ArmCounts, Evidence, PairedScores, Verdict
from rollout.evidence_gathering import Witnessed, gather, heard, witness
from rollout.plan import NO_STEP, Arm, Plan, Shadow
from rollout.ports import CorruptPlanError, Counters, Stored, WorkerBeat, heartbeats_of
from rollout.shadow_report import ShadowReport, merged

UNREADABLE = "unreadable"
"""The state of a model whose stored plan is none."""


class Summary(msgspec.Struct, frozen=True):
    """One model in the list of all."""

    model: str
    state: str
    revision: int
    champion: str
    candidate: str
    candidate_percent: float
    """Of the traffic, now."""
    step: int
    """The current one, from 0; -1 before the first."""
    steps: int
    reason: str
    """Of the last change; of an unreadable plan, what is wrong with it."""
    updated_s: float
    """Seconds since 1970."""


class ArmRow(msgspec.Struct, frozen=True):
    """One arm, and what all workers have counted of it since the plan was submitted."""

    version: str
    arm: Literal["champion", "candidate", "other"]
    weight_percent: float
    share_percent: float | None
    """Of the requests that champion and candidate had in the current step; None while there are none."""
    requests: int | msgspec.UnsetType = msgspec.UNSET
    """Left out, as the other counts, for an arm that is not compared and so not counted."""
    errors: int | msgspec.UnsetType = msgspec.UNSET
    slow: int | msgspec.UnsetType = msgspec.UNSET
    invalid: int | msgspec.UnsetType = msgspec.UNSET
    defaulted: int | msgspec.UnsetType = msgspec.UNSET


class GatewayRow(msgspec.Struct, frozen=True):
    """One worker, by its heartbeat."""

    gateway: str
    age_s: float
    """Since the heartbeat; negative when its clock is ahead."""
    revision: int
    acting_s: float
    warm: tuple[str, ...]
    gone: tuple[str, ...]


class ShadowRow(msgspec.Struct, frozen=True):
    """One version that sees copies, and what comparing their answers has shown of it (of a copied champion: of the
    candidate, whose answers it is compared with).
    """

    version: str
    percent: float
    answers: int = 0
    """That were compared."""
    failed: int = 0
    """Copies that could not be answered, though the other answer came."""
    differing: Excess | None = None
    """The share of answers beyond tolerance, and what is left of it beyond the champion's own noise."""
    flipped: Excess | None = None
    """The share of answers that decide otherwise, likewise."""
    scores: PairedScores | None = None
    """The version's score less the champion's."""


class DecisionRow(msgspec.Struct, frozen=True):
    """What the controller would do now; with ``fire``, ``event`` says what."""

    action: str
    reason: str
    event: str = ""


class Status(msgspec.Struct, frozen=True):
    """All that is known of one rollout."""

    revision: int
    """The plan's."""
    plan: msgspec.Raw
    decision: DecisionRow
    samples: int
    verdicts: tuple[Verdict, ...]
    is_complete: bool
    breakage: str | None
    arms: tuple[ArmRow, ...]
    gateways: tuple[GatewayRow, ...]
    shadows: tuple[ShadowRow, ...]


def summary_of(plan: Plan) -> Summary:
    """The line of a model's plan."""
    weights = {arm.version: arm.weight_percent for arm in plan.arms}
    return Summary(
        model=plan.model,
        state=plan.state.value,
        revision=plan.revision,
        champion=plan.champion,
        candidate=plan.candidate,
        candidate_percent=weights.get(plan.candidate, 0.0),
        step=plan.step,
        steps=len(plan.steps),
        reason=plan.reason,
        updated_s=plan.updated_s,
    )


def summary_of_unreadable(error: CorruptPlanError) -> Summary:
    """The line of a model whose plan cannot be read: it must not hide the others."""
    return Summary(
        model=error.model,
        state=UNREADABLE,
        revision=0,
        champion="",
        candidate="",
        candidate_percent=0.0,
        step=NO_STEP,
        steps=0,
        reason=str(error),
        updated_s=0.0,
    )


def status_of(
    stored: Stored, reports: Mapping[str, Counters], beats: Sequence[WorkerBeat], now_s: float
) -> Status:
    """Judge as the controller would, without doing anything. ``now_s``: seconds since 1970."""
    plan = stored.plan
    # Whoever looks remembers nothing: a worker that vanished without a trace in the store is the controller's to know.
    witnessed = witness(Witnessed(), plan, reports, beats)
    evidence = gather(plan, reports, beats, witnessed)
    findings, decision = _judged(plan, evidence, heard(beats, plan.model, now_s), now_s)
    return Status(
        revision=plan.revision,
        plan=msgspec.Raw(stored.document),
        decision=decision,
        samples=findings.samples,
        verdicts=findings.verdicts,
        is_complete=findings.is_complete,
        breakage=findings.breakage,
        arms=_arms(plan, evidence),
        gateways=tuple(_gateway(beat, now_s) for beat in heartbeats_of(beats, plan.model)),
        shadows=_shadows(plan, reports),
    )


def _judged(
    plan: Plan, evidence: Evidence, heartbeats: Sequence[Heartbeat], now_s: float
) -> tuple[Findings, DecisionRow]:
    try:
        findings = findings_of(plan, evidence)
        return findings, _decision(decide(plan, findings, heartbeats, now_s))
    except (ValueError, IndexError) as error:
        # Written by somebody else than the controller. It is shown nevertheless: to be repaired, it must be seen.
        nothing = Findings(samples=0, verdicts=(), is_complete=False)
        return nothing, DecisionRow("hold", f"the plan or its counters cannot be judged: {error}")


def _decision(decision: Decision) -> DecisionRow:
    event = decision.change.event.value if decision.change else ""
    return DecisionRow(decision.action, decision.reason, event)


def _arms(plan: Plan, evidence: Evidence) -> tuple[ArmRow, ...]:
    whole = {"champion": ArmCounts(), "candidate": ArmCounts()}
    current = dict(whole)
    for stretch in evidence.stretches:
        is_current = stretch.step == evidence.step and stretch.revision >= evidence.since_revision
        for name, counts in (("champion", stretch.champion), ("candidate", stretch.candidate)):
            whole[name] = whole[name].plus(counts)
            if is_current:
                current[name] = current[name].plus(counts)
    requests = sum(counts.requests for counts in current.values())
    rows = []
    for arm in plan.arms:
        kind = _kind(plan, arm.version)
        is_counted = requests and kind in current
        share_percent = 100 * current[kind].requests / requests if is_counted else None
        rows.append(_arm(arm, kind, whole.get(kind), share_percent))
    return tuple(rows)


def _kind(plan: Plan, version: str) -> Literal["champion", "candidate", "other"]:
    if version == plan.champion:
        return "champion"
    return "candidate" if version == plan.candidate else "other"


def _arm(
    arm: Arm,
    kind: Literal["champion", "candidate", "other"],
    counts: ArmCounts | None,
    share_percent: float | None,
) -> ArmRow:
    found: dict[str, Any] = {} if counts is None else msgspec.structs.asdict(counts)
    return ArmRow(
        version=arm.version,
        arm=kind,
        weight_percent=arm.weight_percent,
        share_percent=share_percent,
        **found,
    )


def _gateway(beat: Heartbeat, now_s: float) -> GatewayRow:
    return GatewayRow(
        gateway=beat.gateway,
        age_s=now_s - beat.at_s,
        revision=beat.revision,
        acting_s=beat.acting_s,
        warm=tuple(sorted(beat.warm)),
        gone=tuple(sorted(beat.gone)),
    )


def _shadows(plan: Plan, reports: Mapping[str, Counters]) -> tuple[ShadowRow, ...]:
    found = merged(counters.comparisons for counters in reports.values())
    floor = found.get((plan.champion, True), ShadowReport(version=plan.champion)).total
    return tuple(
        _shadow(
            shadow,
            found.get(
                (plan.candidate if shadow.version == plan.champion else shadow.version, False)
            ),
            floor,
        )
        for shadow in plan.shadows
    )


def _shadow(shadow: Shadow, report: ShadowReport | None, floor: Comparison) -> ShadowRow:
    if report is None:
        return ShadowRow(shadow.version, shadow.percent)
    beyond = beyond_noise(report.total, floor)
    return ShadowRow(
        shadow.version,
        shadow.percent,
        answers=report.total.answers,
        failed=report.failed,
        differing=beyond.differing,
        flipped=beyond.flipped,
        scores=report.scores.paired(),
    )
