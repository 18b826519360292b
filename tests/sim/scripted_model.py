"""A model that is known to the bottom.

Decides how long each run takes and whether it fails, from its plan and its own dice. It computes at once; where the
time goes that it takes, ``virtual_worker.py`` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

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
from backends.signature import Signature, Tensor
from backends.warmup import WarmupTiming, batch_buckets
from tests.sim.plans import ModelPlan
from tests.sim.rows import INVALID, POISON, answer, has_flag, owners, signature
from tests.sim.virtual_worker import Part, RunTime, RunWitness


class ScriptedModel:
    """Fills the port ``Backend``."""

    platform = "simulated"

    def __init__(
        self,
        plan: ModelPlan,
        dice: Random,
        run_time: RunTime,
        day_s: Callable[[], float],
        signature_: Signature | None = None,
    ) -> None:
        """``signature_``: of a model that takes more than callers send."""
        self.plan = plan
        width = plan.widths[0] if len(plan.widths) == 1 else -1
        self.signature = signature_ or signature(width)
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
            self._tell(parts, failure)
            raise failure
        outputs = self._misshape(answer(inputs), parts)
        lost = outputs[0].shape[0] != len(ids)
        self._tell(parts, ModelRunError("a row was lost") if lost else None)
        return outputs

    def _tell(self, parts: list[Part], failure: Exception | None) -> None:
        assert self.witness is not None
        self.witness.run_ends(parts, failure)
        if self._run_time.inline:
            self.witness.reported(self.witness.take_failed())

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


def load(
    plan: ModelPlan, backend: ScriptedModel, fingerprint: str = "", fitted: object = None
) -> LoadedModel:
    """The model as the repository would hand it over; ``fitted`` completes its inputs."""
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
            priority=PrioritySettings(default=1, levels=plan.priority_levels),
            execution=ExecutionSettings(
                inline=plan.inline,
                inline_limit_us=plan.inline_limit_us,
                instances=plan.instances,
            ),
        ),
        batchability=Batchability(plan.max_batch_size if plan.batched else 0, "as planned"),
        warmup_timings=timings,
        warmup_problem="",
        fingerprint=fingerprint,
        fitted=fitted,
    )
