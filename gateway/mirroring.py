"""Shadows of one process: their lanes, their one quiet thread, the copies and what is told about them, put together.

Part of the composition root. It must never decide about a request, nor share a lane, a queue or a thread with live
traffic: what a shadow does wrong stays with the shadow.

All shadows of a process share one thread of low priority, not of the lowest: a thread holds the interpreter for
moments, and while it is kept from its core in such a moment, the loop waits for it. A version whose session runs on
threads of its own runs there, at their priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.arms import wanted_names
from gateway.core.batch import BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.service_time import ServiceTime
from gateway.core.shadow_budget import ShadowLimits
from gateway.messages import RoutedRequest
from gateway.mirroring_showing import export, snapshot
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.execution import Outcome
from gateway.pipeline.lane import Cancellable, Lane, Loop, Worker
from gateway.pipeline.mirror import mirror
from gateway.pipeline.shadow_comparer import Comparing
from gateway.pipeline.shadow_copies import ShadowCopies, ShadowedModel
from gateway.pipeline.shadow_meters import ShadowMeters
from gateway.pipeline.workers import Done, ThreadWorker, Work
from gateway.ports import Clock, CountedServable, Servable, Service
from gateway.telemetry.metrics import Metrics
from rollout.comparison_plan import PlannedComparison, rules_of
from rollout.evidence import PairedScores
from rollout.plan import UNDER_WAY, Plan
from rollout.shadow_report import ShadowReport, copy_of

logger = logging.getLogger("headrace.shadow")

NEVER_INLINE_S = -1.0
NICER_BY = 10
"""Steps of Unix niceness: a tenth of a core that others want.

With two cores taken by other processes the loop woke at most 6.6 ms late beside a thread 10 steps nicer (without any:
6.9 ms), and 32 ms beside one 19 steps nicer."""
MAX_HOLD_S = 10.0
"""How long a running copy may keep a version from being unloaded. Python keeps its memory for as long as it runs."""
REPORTS_EVERY_S = 2.0
"""Reports are copied at most so often: a full one takes some hundred µs."""


def step_back(steps: int) -> None:
    """Lower the priority of the calling thread; where the system cannot do that for a thread, nothing happens."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + steps
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


class QuietWorker(ThreadWorker):
    """A thread that runs when nobody who serves wants the core."""

    def _run(self) -> None:
        step_back(NICER_BY)
        super()._run()


class _Held:
    """A version that runs a copy: it must not be unloaded now, though its caller may have gone."""

    def __init__(
        self, servable: CountedServable, on_drained: Callable[[Servable], None], loop: Loop
    ) -> None:
        servable.acquire()
        self._servable: CountedServable | None = servable
        self._on_drained = on_drained
        self._timer: Cancellable = loop.call_later(MAX_HOLD_S, self.let_go)

    def let_go(self) -> None:
        """At the end of the run, or before if that takes too long."""
        self._timer.cancel()
        servable, self._servable = self._servable, None
        if servable is not None and servable.release():
            self._on_drained(servable)


class _HoldingWorker:
    """The shadows' thread as the lane of one version sees it; fills the port ``Worker``."""

    def __init__(
        self,
        worker: Worker,
        servable: CountedServable,
        on_drained: Callable[[Servable], None],
        loop: Loop,
    ) -> None:
        self._worker = worker
        self._servable = servable
        self._on_drained = on_drained
        self._loop = loop

    def submit(self, work: Work, done: Done) -> None:
        """Call from the loop only."""
        held = _Held(self._servable, self._on_drained, self._loop)

        def report(outcomes: list[Outcome]) -> None:
            try:
                done(outcomes)
            finally:
                held.let_go()

        self._worker.submit(work, report)

    def close(self) -> None:
        """The thread is everybody's."""

    def join(self) -> None:
        """Likewise."""


class _Kept(NamedTuple):
    """Reports as they were told last."""

    changes: int
    made_s: float
    reports: tuple[ShadowReport, ...]


class Mirroring:
    """Shadow traffic of one process: ``hop`` once, ``follow`` whenever plans or versions change, ``close``."""

    def __init__(
        self,
        *,
        loop: Loop,
        clock: Clock,
        worker: Worker,
        admission: Admission,
        admission_limits: AdmissionLimits,
        live_lanes: Mapping[Servable, Lane],
        on_drained: Callable[[Servable], None],
        limits: ShadowLimits | None = None,
        wanted_clocks: Sequence[Clock] = (),
    ) -> None:
        """``worker``: one quiet thread, ``QuietWorker(loop, 1, "shadow")``, which is closed with this.

        ``live_lanes`` is only looked at. ``on_drained`` is told when a copy was the last caller of a retired version.
        """
        self.limits = limits or ShadowLimits()
        self.meters = ShadowMeters()
        self.lanes: dict[Servable, Lane] = {}
        self._live_lanes = live_lanes
        self._loop = loop
        self._clock = clock
        self._worker = worker
        self._on_drained = on_drained
        self._reports: dict[str, _Kept] = {}
        self.copies = ShadowCopies(
            self.limits,
            self.meters,
            loop=loop,
            clock=clock,
            worker=worker,
            admission=admission,
            admission_limits=admission_limits,
            live_wait_s=self._live_wait_s,
            wanted_clocks=wanted_clocks,
            key_prefix=os.urandom(8),
        )
        self.dispatch: Service[RoutedRequest] = Dispatch(self.lanes, on_drained)
        """The innermost hop of copies. Behind an ``Enrich`` of its own it is what ``hop`` wants as ``enriched``."""
        self.is_closed = False

    def hop(
        self, inner_dispatch: Service[RoutedRequest], enriched: Service[RoutedRequest] | None = None
    ) -> Service[RoutedRequest]:
        """The hop in front of the live ``inner_dispatch``.

        ``enriched``: where copies go whose features are others than the primary's: an ``Enrich`` before ``dispatch``.
        Without features it is left out.
        """
        self.copies.plain = self.dispatch
        self.copies.enriched = enriched or self.dispatch
        return mirror(self.copies, inner_dispatch)

    def follow(
        self, model: str, plan: Plan | None, servables: Mapping[str, CountedServable]
    ) -> None:
        """Copy by this plan from now on, to these versions (those that can stand for each other, by version).

        Copies under way are dropped, and the lanes of versions that get none any more. What was found is kept while
        the plan is the same one; without a plan nothing is. Where the plan's comparison cannot be read, nothing is
        copied, and the log says so.
        """
        copies = self.copies
        known = copies.models.pop(model, None)
        if plan is not None and not self.is_closed:
            copies.models[model] = self._followed(plan, servables, known)
        current = copies.models.get(model)
        wanted = set(current.servables.values()) if current is not None else set()
        copies.drop(lambda one, version: one.model == model)
        for servable in [one for one in self.lanes if one.name == model and one not in wanted]:
            self.lanes.pop(servable).close()
        for servable in wanted - self.lanes.keys():
            self.lanes[servable] = self._open(servable)
        if current is None or known is None or current.reports is not known.reports:
            self._reports.pop(model, None)

    def _followed(
        self, plan: Plan, servables: Mapping[str, CountedServable], known: ShadowedModel | None
    ) -> ShadowedModel:
        copied = {one.version for one in plan.shadows}
        if plan.shadows and plan.self_copy_percent:
            copied.add(plan.champion)
        usable = dict(servables) if plan.state in UNDER_WAY else {}
        asked = {version: one for version, one in usable.items() if version in copied}
        like = next(iter(usable.values()), None)
        outputs = like.signature.outputs if like is not None else ()
        is_float = {one.name: one.datatype in _FLOATS for one in outputs}
        try:
            rules, score = rules_of(plan.comparison, is_float)
        except ValueError:
            logger.exception("nothing of model %s is copied: its plan's comparison", plan.model)
            rules, score = rules_of(PlannedComparison(), is_float)
            asked = {}
        names = wanted_names(plan, [one.enrichment for one in servables.values()])
        followed = ShadowedModel(plan, asked, Comparing(rules, score), names)
        if known is not None and known.began_revision == plan.began_revision:
            followed.reports, followed.changes = known.reports, known.changes
        return followed

    def _open(self, servable: CountedServable) -> Lane:
        return Lane(
            servable,
            BatchQueue(
                BatchLimits(
                    max_batch_rows=max(1, servable.max_batch_size),
                    batched=servable.max_batch_size > 0,
                    max_queue_requests=self.limits.max_copies,
                    priority_levels=1,
                ),
                ServiceTime(),
            ),
            loop=self._loop,
            clock=self._clock,
            worker=_HoldingWorker(self._worker, servable, self._on_drained, self._loop),
            meters=self.meters.lane(servable.name, servable.version),
            inline_limit_s=NEVER_INLINE_S,
        )

    def _live_wait_s(self) -> float:
        """What waits in the worst live lane will take, as far as one look can tell."""
        worst_s = 0.0
        for lane in self._live_lanes.values():
            queue = lane.queue
            if queue.queued_requests:
                worst_s = max(worst_s, queue.service_time.predict_s(queue.queued_rows))
        return worst_s

    # -- what was found -------------------------------------------------------------------------------

    def paired_scores(self, model: str) -> PairedScores | None:
        """The candidate's score minus the champion's, of the plan in force; None below two pairs."""
        followed = self.copies.models.get(model)
        report = followed.reports.get(followed.candidate) if followed is not None else None
        return report.scores.paired() if report is not None else None

    def comparisons(self, model: str, *, fresh: bool = False) -> tuple[ShadowReport, ...]:
        """For ``Counters``, by version. Values of their own, and the same ones until ``REPORTS_EVERY_S`` have passed.

        ``fresh``: whatever there is now, for the last report of a process.
        """
        followed = self.copies.models.get(model)
        if followed is None:
            return ()
        kept = self._reports.get(model)
        now = self._clock()
        if kept is None or (
            kept.changes != followed.changes and (fresh or now - kept.made_s >= REPORTS_EVERY_S)
        ):
            reports = tuple(copy_of(one) for _, one in sorted(followed.reports.items()))
            kept = self._reports[model] = _Kept(followed.changes, now, reports)
        return kept.reports

    def export(self, metrics: Metrics) -> None:
        """Declare what is told to Prometheus."""
        export(self.copies, self.meters, metrics)

    def snapshot(self) -> dict[str, Any]:
        """For ``/status``."""
        return snapshot(self.copies, self.meters)

    async def close(self) -> None:
        """Drop every copy, and let the thread end after what it runs now. What was found can still be asked for."""
        self.is_closed = True
        self.copies.drop(lambda one, version: True)
        for followed in self.copies.models.values():
            followed.servables.clear()
        for lane in self.lanes.values():
            lane.close()
        self.lanes.clear()
        self._worker.close()
        await asyncio.to_thread(self._worker.join)


_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
