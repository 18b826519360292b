"""Hop 5: completes the inputs of a model with what the store knows about the request's entities.

Decides how long a request may wait for that, and whether what came together is good enough. Which rows are needed and
what a missing one becomes is ``featurecache``'s to say. It must never cancel a read that others wait for, nor outwait
the caller's deadline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from backends.signature import Signature
from featurecache.errors import FeatureError, RowError, UnfillableError
from featurecache.lookup import RowLookup
from featurecache.lookup_waiting import Lookup
from featurecache.report import report
from featurecache.resolve import Filled, ServicePlan, Wanted
from featurecache.status import Status
from gateway.core.call import Promise
from gateway.errors import CallCancelled, ErrorCode, HeadraceError, invalid
from gateway.messages import ContextValue, Prediction, PredictRequest, RoutedRequest
from gateway.ports import Clock, Servable, Service

STATUS_PARAMETER = "feature_status"
RETRY_AFTER_STORE_S = 1.0


class ServiceEnrichment(msgspec.Struct, frozen=True):
    """What one version wants to be completed with; fills the port ``Enrichment``."""

    plan: ServicePlan
    budget_s: float
    """How long a request may wait for the store."""
    max_defaulted_fraction: float
    client_signature: Signature
    """What callers send and get."""

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
        try:
            context = request.context
            if plan.headers:
                context = _with_texts(context, len(plan.parameters))
            wanted = plan.wanted(request.inputs, context)
        except RowError as error:
            raise invalid(str(error)) from None
        deadline_s = min(request.deadline_s, self._clock() + enrichment.budget_s)
        found = self._lookup.ask(wanted.views, deadline_s)
        if found.settled:
            filled, now_us = self._complete(request, enrichment, wanted, found)
            prediction = await self._next(routed)
        else:
            # Held from here on: a version must not go while a request waits for its rows.
            servable = routed.servable
            servable.acquire()
            try:
                await self._rows_of(found)
                filled, now_us = self._complete(request, enrichment, wanted, found)
                prediction = await self._next(routed)
            finally:
                if servable.release():
                    self._on_drained(servable)
        if request.wants_feature_status:
            prediction.parameters = {
                **(prediction.parameters or {}),
                STATUS_PARAMETER: report(plan, filled, now_us),
            }
        return prediction

    def _complete(
        self, request: PredictRequest, enrichment: ServiceEnrichment, wanted: Wanted, found: Lookup
    ) -> tuple[Filled, int]:
        """Give the request its model's inputs; returns by what, and at which time (µs since 1970)."""
        plan = enrichment.plan
        now_us = self._now_us()
        try:
            filled = plan.fill(request.inputs, wanted, found, now_us)
        except UnfillableError as error:
            raise self._refusal(plan, f"{error}", error.status is Status.DEFAULTED) from None
        except FeatureError as error:
            raise HeadraceError(ErrorCode.INTERNAL, str(error)) from None
        self._judge(enrichment, filled)
        request.inputs = filled.tensors
        return filled, now_us

    async def _rows_of(self, found: Lookup) -> None:
        rows = _Rows()
        found.on_done = rows.come
        try:
            await rows
        except CallCancelled:
            self._lookup.detach(found)
            raise

    def _judge(self, enrichment: ServiceEnrichment, filled: Filled) -> None:
        counts = self._meters.rows
        for use, read in zip(enrichment.plan.uses, filled.reads, strict=True):
            name, statuses = use.spec.name, read.statuses
            if statuses is None:
                counts[name, Status.PRESENT] += filled.rows
            else:
                for status in statuses.tolist():
                    counts[name, status] += 1
        if (
            filled.defaulted_values
            and filled.defaulted_fraction > enrichment.max_defaulted_fraction
        ):
            raise self._refusal(
                enrichment.plan,
                f"{filled.defaulted_values} of {filled.values} feature values had to be defaults, "
                f"and the model takes at most {enrichment.max_defaulted_fraction:g} of them",
                any(
                    (read.statuses == Status.DEFAULTED).any()
                    for read in filled.reads
                    if read.statuses is not None
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
