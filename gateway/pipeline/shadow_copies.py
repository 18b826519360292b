"""Makes copies of answered requests, sends them to shadows, and has the answers compared.

Decides which copies are made, in which turn of the loop, and when one is given up. It must never raise into the call
that is copied, nor do more in that call than take note: a copy begins in a later turn, and no task is made for it. Of
every copy that is taken the room is given back exactly once, whatever becomes of it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from operator import sub

from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.shadow_budget import ShadowBudget, ShadowLimits
from gateway.errors import CallCancelled, ErrorCode, HeadraceError
from gateway.messages import Prediction, RoutedRequest
from gateway.pipeline.lane import Loop, Worker
from gateway.pipeline.shadow_comparer import Comparing, Finding, ShadowComparer
from gateway.pipeline.shadow_copy import ShadowCopy, Way, way_between, weight
from gateway.pipeline.shadow_meters import ShadowMeters
from gateway.ports import Clock, ContextNames, CountedServable, Servable, Service
from rollout.comparison_plan import slice_sources
from rollout.plan import Plan
from rollout.shadow_report import MAX_REPORTS, Pairing, ShadowReport, pairing_of

logger = logging.getLogger("headrace.shadow")

STARTS_PER_TURN = 8
"""Copies that begin in one turn of the loop, at some 10 µs each."""
BUSY_WINDOW_S = 0.02
LOG_EVERY_S = 60.0
"""About failures of one version."""


class ShadowedModel:
    """One model whose requests are copied: by which plan, to which versions, and what was found so far."""

    def __init__(
        self,
        plan: Plan,
        servables: dict[str, CountedServable],
        how: Comparing,
        context_names: ContextNames | None = None,
    ) -> None:
        """``context_names``: what codecs read of the model's requests."""
        self.context_names = context_names
        self.model = plan.model
        self.began_revision = plan.began_revision
        self.champion = plan.champion
        self.candidate = plan.candidate
        self.how = how
        self.slices = slice_sources(plan.slices)
        self.servables = servables
        self.reports: dict[str, ShadowReport] = {}
        """By version."""
        self.changes = 0
        self._ways: dict[tuple[Servable, Servable], Way | None] = {}

    def way(self, primary: Servable, shadow: Servable) -> Way | None:
        """How requests of one are given to the other."""
        key = (primary, shadow)
        if key not in self._ways:
            found = way_between(primary, shadow, self.slices, self.context_names)
            if self.servables.get(primary.version) is not primary:
                return found  # it is on its way out: not to be remembered
            self._ways[key] = found
        return self._ways[key]

    def report(self, version: str) -> ShadowReport | None:
        """Of one version; None where there are too many."""
        report = self.reports.get(version)
        if report is None and len(self.reports) < MAX_REPORTS:
            is_floor = version == self.champion
            report = self.reports[version] = ShadowReport(version=version, is_floor=is_floor)
        return report


class CoresBusy:
    """How busy this process keeps its cores, looked at when copies are about to begin; asked on the loop's thread."""

    def __init__(self, wanted_clocks: Sequence[Clock], now_s: float) -> None:
        """``wanted_clocks``: each counts the seconds in which something that copies would slow down wanted a core."""
        self._clocks = wanted_clocks
        self._since_s = now_s
        self._since_wanted_s = [one() for one in wanted_clocks]
        self._share = 0.0

    def share(self, now_s: float) -> float:
        """Of at least the last ``BUSY_WINDOW_S``, the part that the busiest clock counted."""
        passed_s = now_s - self._since_s
        if passed_s >= BUSY_WINDOW_S and self._clocks:
            wanted_s = [one() for one in self._clocks]
            counted_s = map(sub, wanted_s, self._since_wanted_s)
            self._share = max(counted_s) / passed_s
            self._since_s, self._since_wanted_s = now_s, wanted_s
        return self._share


class _Shadowed:
    """What a copy is known by."""

    __slots__ = ("model", "pairing", "version")

    def __init__(self, model: ShadowedModel, version: str, pairing: Pairing) -> None:
        self.model = model
        self.version = version
        """That was asked."""
        self.pairing = pairing


class ShadowCopies:
    """All copies of one process; fills the port ``CopyTaker``, and that of the comparer."""

    def __init__(
        self,
        limits: ShadowLimits,
        meters: ShadowMeters,
        *,
        loop: Loop,
        clock: Clock,
        worker: Worker,
        admission: Admission,
        admission_limits: AdmissionLimits,
        live_wait_s: Callable[[], float],
        wanted_clocks: Sequence[Clock] = (),
        key_prefix: bytes = b"",
    ) -> None:
        """``live_wait_s``: what is queued in the worst live lane will take; ``key_prefix``: this process's own.

        ``wanted_clocks``: see ``CoresBusy``; without any, the cores are never busy.
        """
        self.models: dict[str, ShadowedModel] = {}
        self.budget = ShadowBudget(limits)
        self.plain: Service[RoutedRequest] | None = None
        self.enriched: Service[RoutedRequest] | None = None
        self._limits = limits
        self._meters = meters
        self._loop = loop
        self._clock = clock
        self._admission = admission
        self._max_requests = admission_limits.max_requests
        self._live_wait_s = live_wait_s
        self._busy = CoresBusy(wanted_clocks, clock())
        self._comparer = ShadowComparer(self, loop=loop, clock=clock, worker=worker)
        self._inside: dict[ShadowCopy, None] = {}
        self._waiting: deque[ShadowCopy] = deque()
        self._begin_is_due = False
        self._due_since_s = 0.0
        self._key_prefix = key_prefix
        self._numbers = count()
        self._told_s: dict[tuple[str, str], float] = {}

    # -- from the request's side ------------------------------------------------------------------

    def offer(self, routed: RoutedRequest, prediction: Prediction) -> None:
        """Take copies of a request that has its answer, or count why not."""
        try:
            model = self.models.get(routed.request.model)
            for version in routed.shadows:
                why = self._take(model, version, routed, prediction)
                if why:
                    self._meters.shed[why] += 1
        except Exception:  # noqa: BLE001  nothing about a copy may reach the call; it is logged, now and then
            self._meters.shed["internal"] += 1
            self._tell(routed.request.model, "", "a copy could not be made", exc_info=True)

    def primary_failed(self, routed: RoutedRequest) -> None:
        """There is nothing to compare with."""
        self._meters.shed["primary_failed"] += len(routed.shadows)

    def _take(
        self,
        model: ShadowedModel | None,
        version: str,
        routed: RoutedRequest,
        prediction: Prediction,
    ) -> str:
        """Empty, or why no copy is made."""
        servable = model.servables.get(version) if model is not None else None
        if model is None or servable is None:
            return "not_loaded"
        primary = routed.servable
        pairing = pairing_of(model.champion, primary.version, version)
        if pairing is None:
            return "no_champion"
        way = model.way(primary, servable)
        if way is None or way.context_length not in (None, len(routed.client_context)):
            return "other_inputs"
        shadowed = _Shadowed(model, version, pairing)
        copy = ShadowCopy(shadowed, routed, prediction, servable, way, self._ended)
        now = self._clock()
        why = self.budget.admit(copy.size_bytes, now)
        if why:
            return why
        self._inside[copy] = None
        self._waiting.append(copy)
        if not self._begin_is_due:
            self._begin_is_due = True
            self._due_since_s = now
            self._loop.call_soon(self._begin)
        return ""

    # -- a turn later -----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._begin_is_due = False
        if not self._waiting:
            return
        now = self._clock()
        why = self.budget.may_run(
            now,
            now - self._due_since_s,
            self._admission.requests_inside / self._max_requests,
            self._live_wait_s(),
            self._busy.share(now),
        )
        if why:
            self._meters.shed[why] += len(self._waiting)
            while self._waiting:
                self._release(self._waiting.popleft())
            return
        for _ in range(min(STARTS_PER_TURN, len(self._waiting))):
            self._start(self._waiting.popleft(), now)
        if self._waiting and not self._begin_is_due:
            self._begin_is_due = True
            self._due_since_s = self._clock()
            self._loop.call_soon(self._begin)

    def _start(self, copy: ShadowCopy, now: float) -> None:
        if copy not in self._inside:
            return
        hop = self.plain if copy.way.is_enriched_alike else self.enriched
        assert hop is not None, self
        copy.key = b"%s%d" % (self._key_prefix, next(self._numbers))
        try:
            routed = copy.routed(now, self._limits.max_wait_s)
        except Exception as error:  # noqa: BLE001  whatever is odd about the request, it was answered
            self._ended(copy, None, error)
            return
        copy.start(hop(routed))

    def _ended(
        self, copy: ShadowCopy, result: Prediction | None, error: BaseException | None
    ) -> None:
        """The shadow has answered, or will not. Runs amid other callers' answers: it only takes note."""
        if copy not in self._inside:
            return
        if error is None and result is not None:
            more_bytes = weight(result.outputs) - weight(copy.answer)
            if more_bytes > 0:
                if not self.budget.grow(more_bytes):
                    self._finish(copy, "too_large")
                    return
                copy.size_bytes += more_bytes
            copy.outputs = result.outputs
            self._comparer.add(copy)
            return
        outcome = _outcome(error)
        shadowed: _Shadowed = copy.shadowed
        self._finish(copy, outcome)
        if outcome == "failed":
            if shadowed.version == shadowed.pairing.version:
                report = shadowed.model.report(shadowed.version)
                if report is not None:
                    report.failed += 1
                    shadowed.model.changes += 1
            self._tell(shadowed.model.model, shadowed.version, f"answers a copy with: {error}")

    # -- comparing --------------------------------------------------------------------------------

    def comparing(self, copy: ShadowCopy) -> tuple[Comparing, bool] | None:
        """By what a copy's answers are compared."""
        if copy not in self._inside:
            return None
        shadowed: _Shadowed = copy.shadowed
        return shadowed.model.how, shadowed.pairing.primary_is_champion

    def compared(self, copy: ShadowCopy, finding: Finding | None) -> None:
        """Add what was found to the report of its version."""
        if copy not in self._inside:
            return
        shadowed: _Shadowed = copy.shadowed
        model = shadowed.model
        report = model.report(shadowed.pairing.version)
        if finding is None or report is None:
            self._finish(copy, "uncompared")
            return
        report.record(
            finding.comparison, finding.difference, finding.slices, model.how.score.output
        )
        model.changes += 1
        self._finish(copy, "differing" if finding.comparison.differing else "equal")

    # -- the end of copies ------------------------------------------------------------------------

    def drop(self, is_dropped: Callable[[ShadowedModel, str], bool]) -> None:
        """Give up copies at once, by their model and the version they are for. Their memory goes with them."""
        for copy in [
            one for one in self._inside if is_dropped(one.shadowed.model, one.shadowed.version)
        ]:
            self._finish(copy, "dropped")
            copy.cancel()
        self._waiting = deque(copy for copy in self._waiting if copy in self._inside)
        self._comparer.keep(self._inside)

    def _finish(self, copy: ShadowCopy, outcome: str) -> None:
        shadowed: _Shadowed = copy.shadowed
        self._meters.copied(shadowed.model.model, shadowed.version, outcome)
        self._release(copy)

    def _release(self, copy: ShadowCopy) -> None:
        del self._inside[copy]
        self.budget.release(copy.size_bytes)

    def _tell(self, model: str, version: str, what: str, *, exc_info: bool = False) -> None:
        """A line in the log, once a minute for each version."""
        now = self._clock()
        if now - self._told_s.get((model, version), -LOG_EVERY_S) < LOG_EVERY_S:
            return
        if len(self._told_s) >= 64:
            self._told_s.clear()
        self._told_s[model, version] = now
        logger.warning("shadow %s of model %s: %s", version, model, what, exc_info=exc_info)


def _outcome(error: BaseException | None) -> str:
    if isinstance(error, CallCancelled):
        return "dropped"
    if isinstance(error, HeadraceError):
        if error.code is ErrorCode.DEADLINE_EXCEEDED:
            return "late"
        if error.code in (ErrorCode.OVERLOADED, ErrorCode.NOT_READY):
            return "refused"
    return "failed"
