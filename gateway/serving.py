"""Models, their lanes and the stack of hops: everything between the fronts and the backends.

Part of the composition root. The process and the simulator build exactly this, each with a loop, a clock, backends and
workers of its own. It must never decide anything about a request.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import cast

from backends.manager import LoadedModel
from gateway.core.admission import Admission
from gateway.core.batch import BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.prediction_ids import PredictionIds
from gateway.core.servables import ServableState, ServableTable, ServableVersion
from gateway.core.service_time import ServiceTime
from gateway.core.statistics import VersionStatistics
from gateway.feature_serving import FeatureServing
from gateway.messages import LaneFacts, ModelStatus, PredictRequest, RoutedRequest
from gateway.mirroring import Mirroring
from gateway.pipeline.admit import Admit
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.enrich import ServiceEnrichment
from gateway.pipeline.lane import Lane, Loop, Worker
from gateway.pipeline.route import RolloutRouting, Route
from gateway.ports import Clock, Servable, Service
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics

MakeWorker = Callable[[str, int], Worker]
"""(name, threads) → where batches of a lane run when they are too long for the loop."""


class Serving:
    """Models, their lanes and the stack of hops: everything between the fronts and the backends.

    The simulator builds exactly this with a loop, a clock, backends and workers of its own.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        statuses: Sequence[ModelStatus],
        settings: GatewaySettings,
        *,
        loop: Loop,
        clock: Clock,
        make_worker: MakeWorker,
        thread_clock: Clock | None = None,
        wanted_clocks: Sequence[Clock] = (),
        features: FeatureServing | None = None,
        shadow_worker: Worker | None = None,
    ) -> None:
        """``features``: without it, no version may have an enrichment; ``shadow_worker``: without it, no shadows."""
        self.admission = Admission(settings.admission)
        self.routing = RolloutRouting(clock, PredictionIds(time.time_ns, random.getrandbits))
        """What rollouts have the stack do; whoever follows plans changes it."""
        self.metrics = Metrics(self.admission, measure_lanes=settings.telemetry.metrics)
        self.lanes: dict[Servable, Lane] = {}
        """Of everything that is served, and of retired versions until their last caller has left."""
        self.lane_facts: dict[Servable, LaneFacts] = {}
        self._workers: dict[Servable, Worker] = {}
        self._retired: dict[ServableVersion, Callable[[], None]] = {}
        self._closed = False
        self._loop = loop
        self._clock = clock
        self._make_worker = make_worker
        self._thread_clock = thread_clock
        self._wanted_clocks = wanted_clocks
        self.table = ServableTable([self._open(model) for model in models], statuses)
        inner: Service[RoutedRequest] = Dispatch(self.lanes, self._on_drained)
        self.mirroring: Mirroring | None = None
        if shadow_worker is not None:
            inner = self._mirrored(inner, shadow_worker, settings, features)
        if features is not None:
            features.export(self.metrics)
            inner = features.hop(inner, self._on_drained)
        self.stack: Service[PredictRequest] = Admit(
            self.admission, Route(self.table, inner, self.routing)
        )

    def _mirrored(
        self,
        live: Service[RoutedRequest],
        worker: Worker,
        settings: GatewaySettings,
        features: FeatureServing | None,
    ) -> Service[RoutedRequest]:
        self.mirroring = mirroring = Mirroring(
            loop=self._loop,
            clock=self._clock,
            worker=worker,
            admission=self.admission,
            admission_limits=settings.admission,
            live_lanes=self.lanes,
            on_drained=self._on_drained,
            wanted_clocks=self._wanted_clocks,
        )
        mirroring.export(self.metrics)
        enriched = None
        if features is not None:
            enriched = features.hop_of_copies(mirroring.dispatch, self._on_drained)
        return mirroring.hop(live, enriched)

    # -- versions come and go -------------------------------------------------------------------------

    def swap_in(self, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None:
        """Serve a loaded version from now on. A version of the same number finishes what it has, then goes."""
        arriving = self._open(model)
        if self._closed:  # it was being loaded when the end began
            self.lanes[arriving].close()
        replaced = self.table.put(arriving)
        if replaced is None:
            on_replaced_gone()
        else:
            self._leave(replaced, on_replaced_gone)

    def retire(self, name: str, version: str, on_gone: Callable[[], None]) -> None:
        """Stop serving a version; ``on_gone`` is called once its last caller has left, at once if there is none."""
        servable = self.table.servables.get((name, version))
        if servable is None:
            on_gone()
            return
        self.table.remove(servable)
        self._leave(servable, on_gone)

    def _leave(self, servable: ServableVersion, on_gone: Callable[[], None]) -> None:
        self._retired[servable] = on_gone
        servable.retire()
        self.reap()

    def _on_drained(self, servable: Servable) -> None:
        self._loop.call_soon(self.reap)  # not now: its lane is in the middle of handing out answers

    def reap(self) -> None:
        """Close retired versions that nobody holds. A batch whose callers have all gone may still run: later, then."""
        gone = [
            one
            for one in self._retired
            if one.state is ServableState.UNLOADED and self.lanes[one].queue.idle
        ]
        for servable in gone:
            on_gone = self._retired.pop(servable)
            self.lanes.pop(servable).close()
            self._workers.pop(servable).close()
            del self.lane_facts[servable]
            self.metrics.retire(servable.name, servable.version)
            on_gone()

    def set_statuses(self, statuses: Iterable[ModelStatus]) -> None:
        """The repository index from now on."""
        self.table.statuses = tuple(statuses)

    def statistics(self) -> list[VersionStatistics]:
        """Of every version that is served, and of retired ones until their last caller has left."""
        return self.metrics.statistics(time.time() - self._clock())

    def _open(self, model: LoadedModel) -> ServableVersion:
        servable = make_servable(model)
        batching, execution = model.settings.batching, model.settings.execution
        learned, run_cost = ServiceTime(), ServiceTime()
        for timing in model.warmup_timings:
            learned.observe(timing.rows, timing.seconds)
            run_cost.observe(timing.rows, timing.seconds)
        if not model.warmup_timings:  # it may take any time: not on the loop, until it was seen
            run_cost.observe(1, 2e-6 * execution.inline_limit_us + 1e-3)
        worker = self._make_worker(f"{model.name}-{model.version}", execution.instances)
        self._workers[servable] = worker
        self.lanes[servable] = Lane(
            servable,
            BatchQueue(
                BatchLimits(
                    max_batch_rows=max(1, servable.max_batch_size),
                    batched=servable.max_batch_size > 0,
                    max_queue_requests=batching.max_queue_requests,
                    max_queue_rows=batching.max_queue_rows,
                    max_queue_delay_us=batching.max_queue_delay_us,
                    instances=execution.instances,
                    priority_levels=model.settings.priority.levels,
                ),
                learned,
            ),
            loop=self._loop,
            clock=self._clock,
            worker=worker,
            meters=self.metrics.lane(model.name, model.version),
            inline_limit_s={
                "auto": execution.inline_limit_us * 1e-6,
                "always": inf,
                "never": -1.0,
            }[execution.inline],
            run_cost=run_cost,
            thread_clock=self._thread_clock,
        )
        self.lane_facts[servable] = LaneFacts(
            instances=execution.instances,
            max_queue_delay_us=batching.max_queue_delay_us,
            device=model.settings.onnxruntime.device,
            model_file=model.path.name,
            why_batched=model.batchability.reason,
        )
        return servable

    # -- the end --------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing running in any lane."""
        return all(lane.queue.idle for lane in self.lanes.values())

    def close(self) -> None:
        """Refuse everything new; what is inside is still answered."""
        self._closed = True
        for lane in self.lanes.values():
            lane.close()

    def close_workers(self) -> None:
        """The last step: let the threads go."""
        for worker in self._workers.values():
            worker.close()
        for worker in self._workers.values():
            worker.join()


def make_servable(model: LoadedModel) -> ServableVersion:
    """What the gateway sees of a loaded model."""
    timeout_ms = model.settings.deadline.default_timeout_ms
    signature = model.backend.signature
    enrichment = cast("ServiceEnrichment | None", model.fitted)
    return ServableVersion(
        model.name,
        model.version,
        signature if enrichment is None else enrichment.client_signature,
        model.backend.run if enrichment is None else enrichment.before(model.backend.run),
        platform=model.backend.platform,
        max_batch_size=model.batchability.max_batch_size,
        default_timeout_s=inf if timeout_ms is None else timeout_ms * 1e-3,
        default_priority=model.settings.priority.default,
        enrichment=enrichment,
    )
