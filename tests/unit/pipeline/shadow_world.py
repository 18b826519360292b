"""Live versions and their shadows in a world of their own: a loop, a clock and threads that move on the test's word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backends.signature import Signature, Tensor, TensorSpec
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.batch import BatchLimits
from gateway.core.batching import BatchQueue
from gateway.core.call import Call
from gateway.core.servables import ServableVersion
from gateway.core.service_time import ServiceTime
from gateway.core.shadow_budget import ShadowLimits
from gateway.messages import Prediction, RoutedRequest
from gateway.mirroring import Mirroring
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.lane import Lane
from gateway.ports import Servable
from rollout.plan import Plan, Proposal, Shadow
from tests.unit.pipeline.lane_world import (
    ALWAYS_INLINE_S,
    ManualLoop,
    ManualWorker,
    RecordingMeters,
)
from tests.unit.pipeline.requests import request
from tests.unit.rollout.plans import proposal, stepping

X = TensorSpec("x", "FP32", (-1, 2))
ROW = TensorSpec("carrier", "BYTES", (-1, 1))
SCORE = TensorSpec("score", "FP32", (-1, 1))
Answer = Callable[[Sequence[Tensor]], list[Tensor]]


def plus(value: float) -> Answer:
    """A model whose score is the sum of x, and a bit."""
    return lambda inputs: [
        (np.asarray(inputs[0]).sum(axis=1, keepdims=True) + value).astype(np.float32)
    ]


class Asked(Call[Prediction]):
    def __init__(self, coroutine: Any) -> None:
        super().__init__()
        self.endings: list[Any] = []
        self.start(coroutine)

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.endings.append(error or result)


class ShadowWorld:
    """A champion "3", a candidate "4" and another "5"; ``answers`` by version."""

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        *,
        inputs: tuple[TensorSpec, ...] = (X,),
        outputs: tuple[TensorSpec, ...] = (SCORE,),
        limits: ShadowLimits | None = None,
        plan: Plan | None = None,
        batch: int = 64,
    ) -> None:
        self.loop = ManualLoop()
        self.worker = ManualWorker()
        self.admission = Admission(AdmissionLimits(max_requests=100))
        self.drained: list[str] = []
        known = {"3": plus(0), "4": plus(0), "5": plus(0), **(answers or {})}
        signature = Signature(inputs, outputs)
        self.servables = {
            version: ServableVersion("delays", version, signature, run, max_batch_size=batch)
            for version, run in known.items()
        }
        self.live_meters = RecordingMeters()
        self.live: dict[Servable, Lane] = {
            one: Lane(
                one,
                BatchQueue(BatchLimits(), ServiceTime()),
                loop=self.loop,
                clock=self.loop.time,
                worker=ManualWorker(),
                meters=self.live_meters,
                inline_limit_s=ALWAYS_INLINE_S,
            )
            for one in self.servables.values()
        }
        self.mirroring = Mirroring(
            loop=self.loop,
            clock=self.loop.time,
            worker=self.worker,
            admission=self.admission,
            admission_limits=AdmissionLimits(max_requests=100),
            live_lanes=self.live,
            on_drained=lambda one: self.drained.append(one.version),
            limits=limits,
        )
        self.hop = self.mirroring.hop(Dispatch(self.live, lambda one: None))
        self.follow(plan or stepping(shadowing()))

    def follow(self, plan: Plan | None, *without: str) -> None:
        present = {key: one for key, one in self.servables.items() if key not in without}
        self.mirroring.follow("delays", plan, present)

    def ask(
        self, *values: float, version: str = "3", shadows: tuple[str, ...] = ("4",), **fields: Any
    ) -> Asked:
        """A request that a version answers, sampled for shadows; not turned yet."""
        x = np.array([[value, 0] for value in values], np.float32)
        more, context = fields.pop("more", ()), fields.pop("context", ())
        asks = request(x, *more, model="delays", **fields)
        routed = RoutedRequest(asks, self.servables[version], None, shadows, asks.inputs, context)
        return Asked(self.hop(routed))

    def turn(self, times: int = 4) -> None:
        for _ in range(times):
            self.loop.turn()

    def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(200):
            self.turn()
            if self.worker.jobs:
                self.worker.finish()
            elif not self.loop.soon:
                return
        raise AssertionError("it never ends")

    @property
    def outcomes(self) -> dict[str, int]:
        """Of all copies."""
        total: dict[str, int] = {}
        for outcomes in self.mirroring.meters.outcomes().values():
            for outcome, count in outcomes.items():
                total[outcome] = total.get(outcome, 0) + count
        return total

    @property
    def shed(self) -> dict[str, int]:
        return dict(self.mirroring.meters.shed)

    @property
    def inside(self) -> tuple[int, int]:
        budget = self.mirroring.copies.budget
        return budget.copies_inside, budget.bytes_inside


def shadowing(**changed: Any) -> Proposal:
    """Champion 3, candidate 4, which sees copies, as does version 5."""
    shadows = (
        Shadow(version="4", percent=100, salt="copies"),
        Shadow(version="5", percent=100, salt="more copies"),
    )
    return proposal(**{"shadows": shadows, **changed})
