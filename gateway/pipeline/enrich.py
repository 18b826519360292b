"""Hop 5: completes the inputs of a model with what the store knows about the request's entities.

Decides how long a request may wait for that, and whether what came together is good enough. Which rows are needed and
what a missing one becomes is ``featurecache``'s to say. It must never cancel a read that others wait for, nor outwait
the caller's deadline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import msgspec

from backends.signature import Signature, Tensor
from featurecache.errors import RowError, UnfillableError
from featurecache.joining.glance import Glance
from featurecache.joining.report import report
from featurecache.joining.resolve import Completed, ServicePlan, Wanted
from featurecache.lookups.lookup import RowLookup
from featurecache.lookups.lookup_waiting import Lookup
from featurecache.status import Status
from gateway.core.call import Promise
from gateway.errors import CallCancelled, ErrorCode, HeadraceError, invalid
from gateway.messages import FEATURE_STATUS, ContextValue, Prediction, PredictRequest, RoutedRequest
from gateway.ports import Clock, Servable, Service

Run: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]
RETRY_AFTER_STORE_S = 1.0


class ServiceEnrichment(msgspec.Struct, frozen=True):
    """What one version wants to be completed with; fills the port ``Enrichment``."""

    plan: ServicePlan
    budget_s: float
    """How long a request may wait for the store."""
    max_defaulted_fraction: float
    client_signature: Signature
    """What callers send and get."""

    def before(self, run: Run) -> Run:
        """The model behind what requests carry: its inputs are put together once per batch."""
        build = self.plan.build

        def run_completed(carried: Sequence[Tensor]) -> list[Tensor]:
            return run(build(carried))

        return run_completed

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.plan.parameters

    @property
    def headers(self) -> tuple[str, ...]:
        return self.plan.headers


class FeatureMeters:
    """What is counted once per request."""

    __slots__ = ("refused", "rows")

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, int]] = Counter()
        """Rows by (view, status)."""
        self.refused: Counter[str] = Counter()
        """Requests that could not be completed, by feature service."""


class _Rows(Promise[None]):
    """The end of a lookup, for the call that waits for it."""

    __slots__ = ("error", "result", "settled", "waiter")

    def __init__(self) -> None:
        self.result = None
        self.error: BaseException | None = None
        self.waiter: Callable[[], None] | None = None
        self.settled = False

    def come(self) -> None:
        self.settle(None)


class Enrich:
    """Completes requests of versions that have an enrichment; all others pass."""

    __slots__ = ("_clock", "_lookup", "_meters", "_next", "_now_us", "_on_drained")

    def __init__(
        self,
        lookup: RowLookup,
        meters: FeatureMeters,
        clock: Clock,
        now_us: Callable[[], int],
        next_service: Service[RoutedRequest],
        on_drained: Callable[[Servable], None] = lambda servable: None,
    ) -> None:
        """``clock`` is the loop's, for deadlines; ``now_us`` tells µs since 1970, for the ages of rows.

        ``on_drained`` is told when the last caller of a version that was retired has left; without it, whoever looks
        for such versions from time to time finds it.
        """
        self._lookup = lookup
        self._meters = meters
        self._clock = clock
        self._now_us = now_us
        self._next = next_service
        self._on_drained = on_drained

    async def __call__(self, routed: RoutedRequest, /) -> Prediction:
        enrichment = cast("ServiceEnrichment | None", routed.servable.enrichment)
        if enrichment is None:
            return await self._next(routed)
        request, plan = routed.request, enrichment.plan
        glance = plan.glance
        keys = glance.keys(request.inputs) if glance is not None else None
        if glance is None or keys is None:
            wanted = self._wanted(plan, request)
        elif self._is_known_good(request, glance, keys):
            return await self._next(routed)
        else:
            wanted = Wanted(glance.views(keys), 1, {}, {}, glance)
        deadline_s = min(request.deadline_s, self._clock() + enrichment.budget_s)
        found = self._lookup.ask(wanted.views, deadline_s)
        if found.settled:
            completed, now_us = self._complete(routed, enrichment, wanted, found)
            prediction = await self._next(routed)
        else:
            # Held from here on: a version must not go while a request waits for its rows.
            servable = routed.servable
            servable.acquire()
            try:
                await self._rows_of(found)
                completed, now_us = self._complete(routed, enrichment, wanted, found)
                prediction = await self._next(routed)
            finally:
                if servable.release():
                    self._on_drained(servable)
        if request.wants_feature_status:
            prediction.parameters = {
                **(prediction.parameters or {}),
                FEATURE_STATUS: report(plan, completed, now_us),
            }
        return prediction

    def _is_known_good(
        self, request: PredictRequest, glance: Glance, keys: Sequence[bytes]
    ) -> bool:
        """Give the request what it carries, if there are copies that were judged before."""
        if request.wants_feature_status:
            return False
        rows = self._lookup.known_good(keys, glance.fits)
        if rows is None:
            return False
        request.inputs = glance.carried(request.inputs, rows)
        counts = self._meters.rows
        for present in glance.present:
            counts[present] += 1
        return True

    def _wanted(self, plan: ServicePlan, request: PredictRequest) -> Wanted:
        try:
            context = request.context
            if plan.headers:
                context = _with_texts(context, len(plan.parameters))
            return plan.wanted(request.inputs, context)
        except RowError as error:
            raise invalid(str(error)) from None

    def _complete(
        self, routed: RoutedRequest, enrichment: ServiceEnrichment, wanted: Wanted, found: Lookup
    ) -> tuple[Completed, int]:
        """Give the request what it carries into its batch; returns its rows, and the time (µs since 1970)."""
        plan, request = enrichment.plan, routed.request
        now_us = self._now_us()
        try:
            completed = plan.complete(wanted, found, now_us)
        except UnfillableError as error:
            raise self._refusal(plan, f"{error}", error.status is Status.DEFAULTED) from None
        self._count(plan, completed)
        if wanted.glance is not None:
            wanted.glance.note(self._lookup, wanted.views, completed.views, now_us)
        if completed.defaulted_values:
            routed.has_defaults = True
            self._judge(enrichment, completed)
        request.inputs = plan.carried(request.inputs, wanted, completed)
        return completed, now_us

    async def _rows_of(self, found: Lookup) -> None:
        rows = _Rows()
        found.on_done = rows.come
        try:
            await rows
        except CallCancelled:
            self._lookup.detach(found)
            raise

    def _count(self, plan: ServicePlan, completed: Completed) -> None:
        counts = self._meters.rows
        for use, view in zip(plan.uses, completed.views, strict=True):
            if view.statuses is None:
                counts[use.present] += completed.rows
            else:
                for status in view.statuses.tolist():
                    counts[use.spec.name, status] += 1

    def _judge(self, enrichment: ServiceEnrichment, completed: Completed) -> None:
        if completed.defaulted_fraction <= enrichment.max_defaulted_fraction:
            return
        raise self._refusal(
            enrichment.plan,
            f"{completed.defaulted_values} of {completed.values} feature values had to be defaults, "
            f"and the model takes at most {enrichment.max_defaulted_fraction:g} of them",
            any(
                (view.statuses == Status.DEFAULTED).any()
                for view in completed.views
                if view.statuses is not None
            ),
        )

    def _refusal(self, plan: ServicePlan, why: str, store_failed: bool) -> HeadraceError:
        self._meters.refused[plan.service.name] += 1
        return HeadraceError(
            ErrorCode.FEATURES_MISSING,
            why,
            retry_after_s=RETRY_AFTER_STORE_S if store_failed else None,
        )


def _with_texts(context: Sequence[ContextValue], first: int) -> tuple[ContextValue, ...]:
    """The context with headers, from ``first`` on, as the texts that keys are.

    The fronts give each byte as a character. Bytes that are no UTF-8 stay visible, and are refused as a key.
    """
    found = list(context)
    for place in range(first, len(found)):
        value = found[place]
        if isinstance(value, str) and not value.isascii():
            found[place] = value.encode("latin-1").decode("utf-8", "surrogateescape")
    return tuple(found)
