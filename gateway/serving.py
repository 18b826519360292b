"""Models, their lanes and the stack of hops: everything between the fronts and the backends.

Part of the composition root. The process and the simulator build exactly this, each with a loop, a clock, backends and
workers of its own. It must never decide anything about a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from backends.manager import LoadedModel
from gateway.core.admission import Admission
from gateway.core.batch import BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.servables import ServableTable, ServableVersion
from gateway.core.service_time import ServiceTime
from gateway.messages import ModelStatus, PredictRequest
from gateway.pipeline.admit import Admit
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.lane import Lane, Loop, Worker
from gateway.pipeline.route import Route
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
    ) -> None:
        self.admission = Admission(settings.admission)
        self.metrics = Metrics(self.admission)
        self.lanes: dict[Servable, Lane] = {}
        self.delays_us: dict[Servable, tuple[int, int]] = {}
        self._workers: list[Worker] = []
        self._thread_clock = thread_clock
        for model in models:
            self._add(model, loop, clock, make_worker)
        self.table = ServableTable([lane.servable for lane in self.lanes.values()], statuses)  # type: ignore[misc]
        self.stack: Service[PredictRequest] = Admit(
            self.admission, Route(self.table, Dispatch(self.lanes))
        )

    def _add(self, model: LoadedModel, loop: Loop, clock: Clock, make_worker: MakeWorker) -> None:
        servable = make_servable(model)
        batching, execution = model.settings.batching, model.settings.execution
        learned, run_cost = ServiceTime(), ServiceTime()
        for timing in model.warmup_timings:
            learned.observe(timing.rows, timing.seconds)
            run_cost.observe(timing.rows, timing.seconds)
        if not model.warmup_timings:  # it may take any time: not on the loop, until it was seen
            run_cost.observe(1, 2e-6 * execution.inline_limit_us + 1e-3)
        worker = make_worker(f"{model.name}-{model.version}", execution.instances)
        self._workers.append(worker)
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
            loop=loop,
            clock=clock,
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
        self.delays_us[servable] = (execution.instances, batching.max_queue_delay_us)

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing running in any lane."""
        return all(lane.queue.idle for lane in self.lanes.values())

    def close(self) -> None:
        """Refuse everything new; what is inside is still answered."""
        for lane in self.lanes.values():
            lane.close()

    def close_workers(self) -> None:
        """The last step: let the threads go."""
        for worker in self._workers:
            worker.close()


def make_servable(model: LoadedModel) -> ServableVersion:
    """What the gateway sees of a loaded model."""
    timeout_ms = model.settings.deadline.default_timeout_ms
    return ServableVersion(
        model.name,
        model.version,
        model.backend.signature,
        model.backend.run,
        platform=model.backend.platform,
        max_batch_size=model.batchability.max_batch_size,
        default_timeout_s=inf if timeout_ms is None else timeout_ms * 1e-3,
        default_priority=model.settings.priority.default,
    )
