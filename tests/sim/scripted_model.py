"""A model that is known to the bottom, and the thread that it seems to run on.

Decides how long each run takes and whether it fails, from its plan and its own dice. It computes at once and spends
invented time: on the loop when it runs inline, between ``submit`` and the report when it runs on a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

import numpy as np

from backends.batchability import Batchability
from backends.errors import InvalidModelInput, ModelRunError
from backends.manager import LoadedModel
from backends.model_settings import (
    BatchingSettings,
    ExecutionSettings,
    ModelSettings,
    PrioritySettings,
)
from backends.ports import DimensionNames
from backends.signature import Tensor
from backends.warmup import WarmupTiming, batch_buckets
from gateway.pipeline.execution import Outcome
from tests.sim.plans import ModelPlan
from tests.sim.rows import INVALID, POISON, answer, has_flag, owners, signature
from tests.sim.virtual_loop import VirtualLoop

Part = tuple[int, int, int]
"""(call, first row, end row)."""


class RunWitness(Protocol):
    """Who is told of every run, before its time passes and after its fate is known."""

    def run_starts(self, parts: list[Part], width: int, *, inline: bool) -> None: ...
    def run_ends(self, parts: list[Part], failure: Exception | None) -> None: ...


class RunTime:
    """Where the time of runs goes: to the loop, or to the worker that called."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._collected_s: float | None = None

    @property
    def inline(self) -> bool:
        return self._collected_s is None

    def spend(self, seconds: float) -> None:
        if self._collected_s is None:
            self._loop.advance(seconds)
        else:
            self._collected_s += seconds

    def collect(self, work: Callable[[], list[Outcome]]) -> tuple[list[Outcome], float]:
        """Run ``work`` at this very moment, and say how long it would have taken."""
        self._collected_s = 0.0
        try:
            outcomes = work()
            return outcomes, self._collected_s
        finally:
            self._collected_s = None


class VirtualWorker:
    """Fills the port ``Worker``; counts its threads as the real one has them."""

    def __init__(
        self, loop: VirtualLoop, run_time: RunTime, threads: int, hand_over_s: float
    ) -> None:
        self._loop = loop
        self._run_time = run_time
        self._hand_over_s = hand_over_s
        self.threads = threads
        self.busy = 0
        self.busiest = 0
        self.closed = False

    def submit(
        self, work: Callable[[], list[Outcome]], done: Callable[[list[Outcome]], None]
    ) -> None:
        assert not self.closed, "a batch was started after the workers were closed"
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        outcomes, seconds = self._run_time.collect(work)

        def report() -> None:
            self.busy -= 1
            done(outcomes)

        self._loop.call_at(self._loop.now_s + seconds + self._hand_over_s, report)

    def close(self) -> None:
        self.closed = True


class ScriptedModel:
    """Fills the port ``Backend``."""

    platform = "simulated"

    def __init__(
        self, plan: ModelPlan, dice: Random, run_time: RunTime, day_s: Callable[[], float]
    ) -> None:
        self.plan = plan
        self.signature = signature(plan.widths[0] if len(plan.widths) == 1 else -1)
        self.dimension_names = DimensionNames((("rows", None), ("rows",)), (("rows",),) * 2)
        self.witness: RunWitness | None = None
        self._dice = dice
        self._run_time = run_time
        self._day_s = day_s

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See ``Backend.run``."""
        ids = np.asarray(inputs[0], np.int64)
        parts = owners(ids)
        day_s = self._day_s()
        assert self.witness is not None
        self.witness.run_starts(parts, ids.shape[1], inline=self._run_time.inline)
        self._run_time.spend(self._duration_s(len(ids), day_s))
        failure = self._failure(inputs, day_s)
        if failure is not None:
            self.witness.run_ends(parts, failure)
            raise failure
        outputs = self._misshape(answer(inputs), parts)
        lost = outputs[0].shape[0] != len(ids)
        self.witness.run_ends(parts, ModelRunError("a row was lost") if lost else None)
        return outputs

    def _duration_s(self, rows: int, day_s: float) -> float:
        plan, dice = self.plan, self._dice
        seconds = plan.per_batch_s + plan.per_row_s * (rows if plan.batched else 1)
        if plan.jitter:
            seconds *= 1.0 + plan.jitter * dice.random()
        if plan.slow.covers(day_s):
            seconds *= plan.slow_factor
        if plan.stall_chance and dice.random() < plan.stall_chance:
            seconds += plan.stall_s * dice.random()
        return seconds

    def _failure(self, inputs: Sequence[Tensor], day_s: float) -> Exception | None:
        if any(window.covers(day_s) for window in self.plan.outages):
            return ModelRunError("the model is out of order")
        salt = inputs[1]
        if has_flag(salt, POISON):
            return ModelRunError("a poisoned row")
        if has_flag(salt, INVALID):
            return InvalidModelInput("a row that no model takes")
        return None

    def _misshape(self, outputs: list[Tensor], parts: list[Part]) -> list[Tensor]:
        digest, mirror = outputs
        if len(parts) > 1:
            chance = self.plan.misshapen_chance
            if chance and self._dice.random() < chance:
                return [digest[:-1], mirror[:-1]]
        elif self.plan.ragged and parts[0][1] > 0:
            return [digest, np.hstack([mirror, mirror])]
        return outputs


def load(plan: ModelPlan, backend: ScriptedModel) -> LoadedModel:
    """The model as the repository would hand it over."""
    timings: tuple[WarmupTiming, ...] = ()
    if plan.warmed_up:
        timings = tuple(
            WarmupTiming(rows, plan.per_batch_s + plan.per_row_s * rows)
            for rows in batch_buckets(plan.max_batch_size if plan.batched else 1)
        )
    return LoadedModel(
        name=plan.name,
        version=plan.version,
        backend=backend,
        settings=ModelSettings(
            batching=BatchingSettings(
                max_batch_size=plan.max_batch_size,
                max_queue_delay_us=plan.max_queue_delay_us,
                max_queue_requests=plan.max_queue_requests,
                max_queue_rows=plan.max_queue_rows,
            ),
            priority=PrioritySettings(levels=plan.priority_levels),
            execution=ExecutionSettings(
                inline=plan.inline,
                inline_limit_us=plan.inline_limit_us,
                instances=plan.instances,
            ),
        ),
        batchability=Batchability(plan.max_batch_size if plan.batched else 0, "as planned"),
        warmup_timings=timings,
        warmup_problem="",
        sha256="",
        load_seconds=0.0,
    )
