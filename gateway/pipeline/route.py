"""Hop 4: which version answers.

The caller's own choice; without one the arm that the model's plan gives the request's key, or the newest version that
the model's policy keeps. What became of a request is counted for its arm here, where it leaves. It must never run a
model or hold one: it names the servable, ``dispatch.py`` holds it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.arms import ModelArms
from gateway.errors import CallCancelled, ErrorCode, HeadraceError
from gateway.messages import Prediction, PredictRequest, RoutedRequest
from gateway.ports import Catalog, Clock, Service

if TYPE_CHECKING:
    from gateway.core.prediction_ids import PredictionIds


class RolloutRouting:
    """What the route knows of plans; whoever follows them changes it between two turns of the loop."""

    __slots__ = ("arms", "clock", "ids")

    def __init__(self, clock: Clock, ids: PredictionIds) -> None:
        self.arms: dict[str, ModelArms] = {}
        """By model."""
        self.clock = clock
        self.ids = ids


class Route:
    """Fixes the servable of a request."""

    __slots__ = ("_arms", "_catalog", "_next", "_routing")

    def __init__(
        self,
        catalog: Catalog,
        next_service: Service[RoutedRequest],
        routing: RolloutRouting | None = None,
    ) -> None:
        self._catalog = catalog
        self._next = next_service
        self._routing = routing
        self._arms: Mapping[str, ModelArms] = {} if routing is None else routing.arms

    def __call__(self, request: PredictRequest, /) -> Coroutine[Any, Any, Prediction]:
        # No coroutine function: without a plan the next hop's coroutine is this one's, and with one there is one of
        # its own. What cannot be routed is raised before anything is awaited.
        if self._arms:
            arms = self._arms.get(request.model)
            if arms is not None:
                if not request.version:
                    return self._by_plan(arms, request)
                arms.bypass(request)
        servable = self._catalog.find(request.model, request.version)
        return self._next(RoutedRequest(request, servable))

    async def _by_plan(self, arms: ModelArms, request: PredictRequest) -> Prediction:
        routing = self._routing
        assert routing is not None
        context = request.context
        arm, assignment, shadows = arms.choose(request)
        tally, watch = arm.tally, arm.watch
        odd_batches = watch.odd_batches
        routed = RoutedRequest(request, arm.servable, assignment, shadows)
        if shadows:
            routed.client_inputs = request.inputs
            routed.client_context = context
        try:
            prediction = await self._next(routed)
        except HeadraceError as error:
            tally.failed(error.code)
            raise
        except CallCancelled:
            # Who gives up after the time that an answer may take has waited for a version that hangs.
            if routing.clock() - request.received_s > arms.slo_s:
                tally.failed(ErrorCode.DEADLINE_EXCEEDED)
            raise
        except Exception:
            tally.failed(ErrorCode.INTERNAL)
            raise
        now_s = routing.clock()
        tally.answered(
            now_s - request.received_s > arms.slo_s,
            watch.odd_batches == odd_batches or watch.is_valid(prediction.outputs),
            routed.has_defaults,
        )
        prediction.assignment = assignment
        prediction.prediction_id = routing.ids.new(now_s)
        return prediction
