"""From what every worker has reported to the evidence about one plan: sums, and whether anything may be missing.

Decides which counters add up to what is judged, and when counters count as lost. It must never judge them, read a
clock, or take silence for good news.

**What is summed.** Stretches of the plan, from ``began_revision`` up to the revision that was read, by revision and
step. A later revision cannot exist yet for whoever reads this one, so its counts wait for the next look. Within one
revision the weights do not change, so that one stretch of all workers tells as much as each one's did.

**When evidence is complete.** Every worker that acted on the plan since ``evidence_since`` must live, or have said that
its counters are final. One that is silent and has said neither may have counted failures that nobody has seen, perhaps
those that ended it. A worker lives as long as the store keeps its heartbeat, which is by the store's clock: the
controller doubts those that are silent for shorter. What was lost before the step's evidence began is no reason to
wait: stepping to the same step by hand counts anew.

A live worker without a report is *not* missing: a worker reports when it has counted something, so one without traffic
for this model reports nothing, and one whose reports do not get through says so in the first one that does. Asking for
a report from each would hold every rollout at the pace of its quietest worker.

**What was seen before.** A worker that vanished before its first report, and a report that was there and is gone, leave
no trace in the store. ``Witnessed`` remembers them; it lives with the controller that looks, and the next controller
begins a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from rollout.controller import FORGOTTEN_AFTER_S, Heartbeat
from rollout.evidence import ArmCounts, Evidence, PairedScores, Stretch
from rollout.plan import Plan
from rollout.ports import Counters, WorkerBeat, heartbeats_of

MAX_WITNESSED = 16_384
"""Workers that are remembered for one plan; four times what the store remembers. More are not."""


class Trace(msgspec.Struct, frozen=True):
    """What is remembered of one worker."""

    revision: int
    """The latest that it was seen to act on."""
    has_reported: bool = False
    has_left: bool = False
    """It said that it stops in order."""


class Witnessed(msgspec.Struct, frozen=True):
    """Who was seen to act on one plan, by one controller."""

    began_revision: int = 0
    """Of that plan: another one's workers are of no interest."""
    workers: Mapping[str, Trace] = {}


def witness(
    before: Witnessed,
    plan: Plan,
    reports: Mapping[str, Counters],
    beats: Sequence[WorkerBeat],
) -> Witnessed:
    """What is known after one more look."""
    known = dict(before.workers) if before.began_revision == plan.began_revision else {}
    for worker, counters in reports.items():
        _remember(known, worker, _last_counted(counters, plan), has_reported=True)
    for beat in beats:
        acting = max((one.revision for one in beat.models if one.model == plan.model), default=0)
        if plan.began_revision <= acting <= plan.revision:
            _remember(known, beat.worker, acting)
        if beat.has_left and beat.worker in known:
            known[beat.worker] = msgspec.structs.replace(known[beat.worker], has_left=True)
    return Witnessed(plan.began_revision, known)


def gather(
    plan: Plan,
    reports: Mapping[str, Counters],
    beats: Sequence[WorkerBeat],
    witnessed: Witnessed,
) -> Evidence:
    """The evidence about ``plan``; ``witnessed`` is after this look (``witness``)."""
    live = {beat.worker for beat in beats if not beat.has_left}
    workers = reports.keys() | witnessed.workers.keys()
    recent = _heard_of(reports, {beat.worker for beat in beats})
    return Evidence(
        step=max(plan.step, 0),
        since_revision=plan.evidence_since,
        stretches=_summed(plan, reports.values()),
        candidate_recent=tuple(one.candidate_recent for one in recent),
        champion_recent=tuple(one.champion_recent for one in recent),
        paired_scores=pooled(
            counters.paired_scores for counters in reports.values() if counters.paired_scores
        ),
        is_complete=all(
            _nothing_lost(
                plan, reports.get(worker), witnessed.workers.get(worker), is_live=worker in live
            )
            for worker in workers
        ),
    )


def heard(beats: Sequence[WorkerBeat], model: str, now_s: float) -> list[Heartbeat]:
    """One model's heartbeats for the controller: what the store still keeps is at most silent, never forgotten.

    The store drops a heartbeat after a minute by its own clock. One that looks older is of a clock that is wrong, its
    worker's or ours, and its gateway answers requests: no version may get weight that it does not have.
    """
    oldest_s = now_s - FORGOTTEN_AFTER_S
    return [
        msgspec.structs.replace(beat, at_s=max(beat.at_s, oldest_s))
        for beat in heartbeats_of(beats, model)
    ]


def pooled(scores: Iterable[PairedScores]) -> PairedScores | None:
    """Several workers' differences as one sample: counts add up, means and variances are pooled; None without any."""
    pairs, mean, squares = 0, 0.0, 0.0
    is_any = False
    for one in scores:
        is_any = True
        if one.pairs == 0:
            continue
        total = pairs + one.pairs
        shift = one.mean - mean
        squares += one.variance * (one.pairs - 1) + shift * shift * pairs * one.pairs / total
        mean += shift * one.pairs / total
        pairs = total
    if not is_any:
        return None
    return PairedScores(pairs, mean, squares / (pairs - 1) if pairs > 1 else 0.0)


def _remember(
    known: dict[str, Trace], worker: str, revision: int, *, has_reported: bool = False
) -> None:
    before = known.get(worker)
    if before is None:
        if len(known) < MAX_WITNESSED:
            known[worker] = Trace(revision, has_reported)
        return
    known[worker] = msgspec.structs.replace(
        before,
        revision=max(before.revision, revision),
        has_reported=before.has_reported or has_reported,
    )


def _last_counted(counters: Counters, plan: Plan) -> int:
    """The latest revision that the worker has counted for; 0 where that cannot be told."""
    revisions = (one.revision for one in counters.stretches if one.revision <= plan.revision)
    return max(revisions, default=0)


def _nothing_lost(
    plan: Plan, counters: Counters | None, trace: Trace | None, *, is_live: bool
) -> bool:
    if counters is None:
        # It was seen, or it would not be asked about.
        if trace is None or trace.revision < plan.evidence_since:
            return True
        return not trace.has_reported and (is_live or trace.has_left)
    last = max(_last_counted(counters, plan), trace.revision if trace else 0)
    # Of one that has counted nothing nobody knows when it stopped.
    is_of_before = 0 < last < plan.evidence_since and not is_live
    if not counters.is_complete:
        return is_of_before
    return counters.is_final or is_live or is_of_before


def _summed(plan: Plan, reports: Iterable[Counters]) -> tuple[Stretch, ...]:
    sums: dict[tuple[int, int], tuple[ArmCounts, ArmCounts]] = {}
    nothing = (ArmCounts(), ArmCounts())
    for counters in reports:
        for one in counters.stretches:
            if plan.began_revision <= one.revision <= plan.revision:
                candidate, champion = sums.get((one.revision, one.step), nothing)
                sums[one.revision, one.step] = (
                    candidate.plus(one.candidate),
                    champion.plus(one.champion),
                )
    return tuple(Stretch(*key, *sums[key]) for key in sorted(sums))


def _heard_of(reports: Mapping[str, Counters], workers: set[str]) -> list[Counters]:
    """The reports that say how an arm does just now: of workers that were heard of lately.

    A champion that was ill where a worker ended weeks ago must not keep the candidate from being stopped, nor may a
    candidate be stopped for it. Where nobody is heard of, all count: then only harm is concluded.
    """
    everybody = [counters for _, counters in sorted(reports.items())]
    return [one for worker, one in sorted(reports.items()) if worker in workers] or everybody
