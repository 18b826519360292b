"""What should happen to a rollout now, and what a plan becomes when it does.

``tick`` decides by plan, evidence, heartbeats and time; ``apply`` makes the next revision, or says why there is none.
Both are pure: whoever runs them can die between any two lines and run them again. Whatever is missing, a counter, a
heartbeat, a clock that makes sense, keeps the weights where they are. Only harm moves them unasked, and only to the
champion. This module must never set a weight that ``rollout.plan.weights_ppm`` does not say, nor leave a step on
incomplete evidence.

Time. A step's age is what the wall clock says, or what the gateways' own monotonic clocks say, whichever is less: a
clock that jumps ahead ends no step early, and one that jumps back makes it last longer. A wall clock that stands before
the step's beginning says nothing, and then the step is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from rollout.checking import faults_of, guardrails_of
from rollout.evidence import Evidence, Verdict, hard_stop, judge
from rollout.plan import (
    NO_STEP,
    SUBMIT,
    Event,
    Plan,
    Proposal,
    State,
    arms_of,
    history_with,
    seconds_between,
    storable,
    weights_ppm,
)
from rollout.split import allot, weight_ppm
from rollout.transitions import (
    Author,
    Change,
    Refused,
    refusal_of,
    refusal_to_submit,
    target_of,
)

SILENT_AFTER_S = 10.0
"""A gateway not heard of for so long may have missed anything."""
FORGOTTEN_AFTER_S = 60.0
"""One not heard of for so long is gone; a heartbeat this far in the future is of a clock that is wrong."""

_RUNNING = frozenset({State.SHADOWING, State.STEPPING})
_STANDING = frozenset({State.PAUSED, State.HOLDING})
_FRESH_STEP = frozenset({Event.START, Event.SHADOW_DONE, Event.ADVANCE, Event.STEP})
"""After these, time and evidence begin anew; after a resume only the time does."""


class Heartbeat(msgspec.Struct, frozen=True):
    """What one gateway says of itself and of one model, every second or two."""

    gateway: str
    at_s: float
    """By the gateway's wall clock."""
    revision: int
    """Of the plan it acts on."""
    acting_s: float
    """For how long it has acted on that revision, by its monotonic clock."""
    warm: frozenset[str] = frozenset()
    """Versions that answer at once."""
    gone: frozenset[str] = frozenset()
    """Versions that it has not and is not loading either: they failed, or were unloaded."""


class Findings(msgspec.Struct, frozen=True):
    """What the evidence says of the current step."""

    samples: int
    """Of the candidate, in this step alone."""
    verdicts: tuple[Verdict, ...]
    """One for each guardrail."""
    is_complete: bool
    breakage: str | None = None
    """Why to roll back at once, whatever the verdicts are."""


class Decision(msgspec.Struct, frozen=True):
    """What to do now, and the words for people."""

    action: Literal["nothing", "hold", "fire"]
    """``hold``: do nothing, and tell that something keeps the step which waiting alone may not cure."""
    reason: str
    change: Change | None = None
    """With ``fire``: hand it to ``apply``, with ``reason``."""


# ---- what should happen ------------------------------------------------------------------------------------


def tick(
    plan: Plan, evidence: Evidence | None, heartbeats: Sequence[Heartbeat], now_s: float
) -> Decision:
    """What to do about a plan now. ``evidence`` is None where the counters could not be read.

    Copies are counted as step 0, under the revisions of the shadowing. Raises ``ValueError`` for a plan or evidence
    that cannot be judged (``rollout.checking.faults_of``, ``rollout.evidence.judge``).
    """
    return decide(plan, findings_of(plan, evidence), heartbeats, now_s)


def findings_of(plan: Plan, evidence: Evidence | None) -> Findings:
    """Judge the evidence: all of this plan for harm, and only what counts for the current step for being fine."""
    if evidence is None or not plan.candidate:
        return Findings(samples=0, verdicts=(), is_complete=False)
    # A step that was left and entered again begins anew, so the revision tells what is current: 0 is, 1 is not.
    step = max(plan.step, 0)
    stretches = tuple(
        msgspec.structs.replace(
            stretch, step=int(stretch.step != step or stretch.revision < plan.evidence_since)
        )
        for stretch in evidence.stretches
        if stretch.revision >= plan.began_revision
    )
    relabelled = msgspec.structs.replace(evidence, step=0, stretches=stretches)
    samples = sum(stretch.candidate.requests for stretch in stretches if stretch.step == 0)
    if plan.step == NO_STEP and evidence.paired_scores is not None:
        samples = max(samples, evidence.paired_scores.pairs)
    return Findings(
        samples=samples,
        verdicts=tuple(judge(relabelled, guardrails_of(plan), plan.alpha)),
        is_complete=evidence.is_complete,
        breakage=hard_stop(relabelled),
    )


def decide(
    plan: Plan, findings: Findings, heartbeats: Sequence[Heartbeat], now_s: float
) -> Decision:
    """``tick``, after the evidence was judged."""
    if plan.state not in _RUNNING | _STANDING or not plan.candidate:
        return Decision("nothing", f"the rollout is {plan.state.value}: there is nothing to watch")
    # Harm comes first: before what is missing, before the time, and also while the rollout stands.
    harm = [verdict.words for verdict in findings.verdicts if verdict.outcome == "harmful"]
    if findings.breakage:
        harm.insert(0, findings.breakage)
    if harm:
        return _fire(plan, Event.BREACH, "; ".join(harm))
    live = [beat for beat in heartbeats if now_s - beat.at_s <= FORGOTTEN_AFTER_S]
    if plan.state is not State.HOLDING and live and all(_has_lost(plan, beat) for beat in live):
        return _fire(
            plan,
            Event.CANDIDATE_LOST,
            f"no live gateway has version {plan.candidate} any more, and none loads it",
        )
    if plan.state in _STANDING:
        return Decision("nothing", f"the rollout is {plan.state.value}: {plan.reason}")
    event = _next_event(plan)
    doubts = _doubts(plan, event, findings, live, now_s)
    waits = _waits(plan, findings, live, now_s)
    if not doubts and not waits:
        return _fire(plan, event, f"{findings.samples} samples, and every guardrail is fine")
    missing = "; ".join(doubts + waits)
    if _lasted_s(plan, live, now_s) >= plan.deadline_s:
        return _fire(plan, Event.INCONCLUSIVE, f"no answer within {plan.deadline_s:g} s: {missing}")
    return Decision("hold" if doubts else "nothing", missing)


def warm_everywhere(heartbeats: Sequence[Heartbeat], now_s: float) -> frozenset[str]:
    """The versions that every gateway not yet forgotten reports warm: what ``apply`` may give weight to."""
    warm = [beat.warm for beat in heartbeats if now_s - beat.at_s <= FORGOTTEN_AFTER_S]
    return frozenset.intersection(*warm) if warm else frozenset()


def _fire(plan: Plan, event: Event, reason: str) -> Decision:
    return Decision("fire", reason, Change(event=event, revision=plan.revision))


def _has_lost(plan: Plan, beat: Heartbeat) -> bool:
    return plan.candidate in beat.gone and plan.candidate not in beat.warm


def _next_event(plan: Plan) -> Event:
    if plan.state is State.SHADOWING:
        return Event.SHADOW_DONE
    return Event.PROMOTE if plan.is_last_step else Event.ADVANCE


def _doubts(
    plan: Plan, event: Event, findings: Findings, live: Sequence[Heartbeat], now_s: float
) -> list[str]:
    """What keeps the step, and waiting alone may not cure."""
    doubts = []
    if not math.isfinite(now_s):
        doubts.append(f"the clock says {now_s}, which is no time")
    elif now_s < plan.step_began_s:
        doubts.append(
            f"the clock stands {plan.step_began_s - now_s:.0f} s before the step's beginning"
        )
    if not findings.is_complete:
        doubts.append(
            "counters may have been lost, and nothing is concluded from the rest: "
            "step to the same step by hand to count anew, or promote or roll back by hand"
        )
    if not live:
        doubts.append("no gateway has sent a heartbeat, so nobody knows what is warm")
    target = State.PROMOTED if event is Event.PROMOTE else State.STEPPING
    step = plan.step if event is Event.PROMOTE else plan.step + 1
    needed = [version for version, weight in weights_ppm(plan, target, step).items() if weight]
    for beat in live:
        doubts += _doubts_about(beat, plan, needed, now_s)
    return doubts


def _doubts_about(beat: Heartbeat, plan: Plan, needed: Sequence[str], now_s: float) -> list[str]:
    age_s = now_s - beat.at_s
    if age_s < -FORGOTTEN_AFTER_S:
        return [f"the clock of gateway {beat.gateway} is {-age_s:.0f} s ahead: set it"]
    if age_s > SILENT_AFTER_S:
        return [f"gateway {beat.gateway} has been silent for {age_s:.0f} s"]
    if beat.revision != plan.revision:
        return [
            f"gateway {beat.gateway} acts on revision {beat.revision} and not on {plan.revision}"
        ]
    cold = [version for version in needed if version not in beat.warm]
    return [f"gateway {beat.gateway} has not warm: version {', '.join(cold)}"] if cold else []


def _waits(plan: Plan, findings: Findings, live: Sequence[Heartbeat], now_s: float) -> list[str]:
    """What is missing and comes with time."""
    judged: set[str] = {one.kind for one in guardrails_of(plan)}
    if plan.state is State.SHADOWING:
        min_time_s, min_samples = plan.shadow_min_time_s, plan.shadow_min_samples
        # Copies may run late or be left out under load: their counts are no reason to wait, only to stop.
        judged = judged & {"score_shift"}
    else:
        step = plan.steps[plan.step]
        min_time_s, min_samples = step.min_time_s, step.min_samples
    waits = []
    if (age_s := _age_s(plan, live, now_s)) < min_time_s:
        waits.append(f"{age_s:.0f} of {min_time_s:g} s have passed")
    if findings.samples < min_samples:
        waits.append(f"{findings.samples} of {min_samples} samples are in")
    found = {verdict.guardrail: verdict for verdict in findings.verdicts}
    for kind in sorted(judged):
        if kind not in found:
            waits.append(f"{kind}: not judged yet")
        elif found[kind].outcome != "fine":
            waits.append(found[kind].words)
    return waits


def _witnessed_s(plan: Plan, live: Sequence[Heartbeat]) -> float:
    acting = [beat.acting_s for beat in live if beat.revision == plan.revision]
    return max(acting, default=0.0)


def _age_s(plan: Plan, live: Sequence[Heartbeat], now_s: float) -> float:
    """How long the step has certainly lasted."""
    return min(_witnessed_s(plan, live), seconds_between(plan.step_began_s, now_s))


def _lasted_s(plan: Plan, live: Sequence[Heartbeat], now_s: float) -> float:
    """How long the step may have lasted: gateways that restart every day do not put a deadline off."""
    return max(_witnessed_s(plan, live), seconds_between(plan.step_began_s, now_s))


# ---- what a plan becomes -----------------------------------------------------------------------------------


def submit(proposal: Proposal, now_s: float, author: Author, reason: str) -> Plan | Refused:
    """A model's first plan, a draft of revision 1; for later ones there is ``Event.REPLACE``."""
    if refused := refusal_to_submit(author, reason) or _against(proposal, now_s):
        return refused
    return _drafted(proposal, None, now_s, author, reason)


def apply(
    plan: Plan, change: Change, now_s: float, author: Author, reason: str, warm: frozenset[str]
) -> Plan | Refused:
    """The next revision. ``warm``: what every live gateway has warm (``warm_everywhere``).

    A change for another revision is refused, so one that was applied before its sender died is not applied twice. A
    weight grows only for a version that is warm; only the way back to the champion asks for nothing, except after a
    promotion, since when he may have been unloaded. Raises ``rollout.split.SplitError`` for a plan whose intervals are
    no split, unless all traffic goes to one version.
    """
    if refused := refusal_of(plan, change, author, reason):
        return refused
    if change.proposal is not None:
        return _replaced(plan, change.proposal, now_s, author, reason)
    if not math.isfinite(now_s):
        return _no_time(now_s)
    target = target_of(plan, change.event)
    assert target is not None, "the table was asked before"
    step = _step_after(plan, change, target)
    weights = weights_ppm(plan, target, step)
    if refused := _against_cold(plan, change.event, weights, warm):
        return refused
    revision = plan.revision + 1
    is_fresh = change.event in _FRESH_STEP
    is_whole = sum(map(bool, weights.values())) == 1
    return msgspec.structs.replace(
        plan,
        revision=revision,
        state=target,
        # All for one is the same whatever was before, and the way back must not fail for a damaged split.
        arms=arms_of(allot({} if is_whole else plan.shares(), weights)),
        step=step,
        step_began_s=now_s if is_fresh or change.event is Event.RESUME else plan.step_began_s,
        evidence_since=revision if is_fresh else plan.evidence_since,
        author=author.name,
        reason=storable(reason),
        updated_s=now_s,
        history=history_with(plan, change.event, target, now_s, author.name, reason),
    )


def _step_after(plan: Plan, change: Change, target: State) -> int:
    match change.event:
        case Event.START:
            return NO_STEP if target is State.SHADOWING else 0
        case Event.SHADOW_DONE | Event.ADVANCE:
            return plan.step + 1
        case Event.STEP:
            assert change.step is not None, "the refusals were asked before"
            return change.step
    return plan.step


def _against_cold(
    plan: Plan, event: Event, weights: Mapping[str, int], warm: frozenset[str]
) -> Refused | None:
    is_way_back = event in {Event.ROLLBACK, Event.BREACH, Event.ABORT}
    if is_way_back and plan.state is not State.PROMOTED:
        return None
    shares = plan.shares()
    cold = [
        version
        for version, weight in weights.items()
        if weight > weight_ppm(shares.get(version, ())) and version not in warm
    ]
    if not cold:
        return None
    return Refused(
        "not_warm",
        f"not every live gateway has version {', '.join(cold)} of model {plan.model} warm, so no "
        "weight moves: load it there, or wait until it is",
    )


def _replaced(
    plan: Plan, proposal: Proposal, now_s: float, author: Author, reason: str
) -> Plan | Refused:
    """A draft in the plan's place, with all traffic where it would be if nothing were tried."""
    if proposal.model != plan.model:
        return Refused(
            "invalid", f"the proposal is for model {proposal.model}, and the plan for {plan.model}"
        )
    if proposal.champion != plan.answering:
        return Refused(
            "invalid",
            f"the proposal's champion is version {proposal.champion}, and version "
            f"{plan.answering} is what answers: name that as champion, and "
            f"{proposal.champion} as candidate to get there",
        )
    return _against(proposal, now_s) or _drafted(proposal, plan, now_s, author, reason)


def _against(proposal: Proposal, now_s: float) -> Refused | None:
    if faults := faults_of(proposal):
        return Refused("invalid", "\n".join(faults))
    return None if math.isfinite(now_s) else _no_time(now_s)


def _no_time(now_s: float) -> Refused:
    return Refused("invalid", f"the clock says {now_s}, which is no time: set it")


def _drafted(
    proposal: Proposal, previous: Plan | None, now_s: float, author: Author, reason: str
) -> Plan:
    revision = previous.revision + 1 if previous else 1
    event = Event.REPLACE if previous else SUBMIT
    written = {name: getattr(proposal, name) for name in Proposal.__struct_fields__}
    return Plan(
        **written,
        revision=revision,
        began_revision=revision,
        state=State.DRAFT,
        arms=arms_of(allot({}, weights_ppm(proposal, State.DRAFT, NO_STEP))),
        step=NO_STEP,
        step_began_s=now_s,
        evidence_since=revision,
        author=author.name,
        reason=storable(reason),
        created_s=now_s,
        updated_s=now_s,
        history=history_with(previous, event, State.DRAFT, now_s, author.name, reason),
    )
