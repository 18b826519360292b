"""Plans in force on three versions that are never run, and requests as codecs hand them on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from backends.signature import Signature, TensorSpec
from gateway.core.arm_counts import StretchTallies
from gateway.core.arms import (
    ModelArms,
)
from gateway.core.servables import ServableVersion
from gateway.messages import ContextValue, PredictRequest
from rollout.plan import Plan, Step, Sticky
from tests.support.servables import WantedNames, tensor_spec
from tests.unit.pipeline.requests import request, rows_of
from tests.unit.rollout.plans import (
    proposal,
    stepping,
)

SEED = 20_261_123
X = TensorSpec("x", "FP32", (-1, 2))
USERS = [f"user-{number}" for number in range(3_000)]


class NoWatch:
    odd_batches = 0

    def is_valid(self, outputs: Sequence[Any]) -> bool:
        return True


def version(
    number: str, enrichment: WantedNames | None = None, *inputs: TensorSpec
) -> ServableVersion:
    signature = Signature(inputs or (X,), (tensor_spec("y", "FP32", -1, 2),))
    return ServableVersion("delays", number, signature, list, enrichment=enrichment)


def servables(**enrichments: WantedNames) -> dict[str, ServableVersion]:
    return {one: version(one, enrichments.get(f"v{one}")) for one in ("3", "4", "5")}


class Arms(ModelArms):
    """In force on the versions 3, 4 and 5, unless others are named."""

    def __init__(
        self, plan: Plan, have: Mapping[str, ServableVersion] | None = None, **more: Any
    ) -> None:
        have = servables() if have is None else have
        self.tallies = more.pop("tallies", None) or StretchTallies(plan.revision, plan.step)
        more = {
            "random_bits": random.Random(SEED).getrandbits,
            "may_choose": lambda token: None,
        } | more
        super().__init__(
            plan, have, self.tallies, {one: NoWatch() for one in have.values()}, **more
        )

    def context(self, **said: ContextValue) -> tuple[ContextValue, ...]:
        """As a codec notes it: "x_user" is the header or parameter "x-user"."""
        known = {name.replace("_", "-"): value for name, value in said.items()}
        names = (*self.names.parameters, *self.names.headers)
        assert known.keys() <= set(names), names
        return tuple(known.get(name) for name in names)

    def ask(
        self, *tensors: Any, request_id: str = "", **said: ContextValue
    ) -> tuple[str, str, str]:
        """(version, why, what replies say of that) of one request."""
        one = self.requested(*tensors, request_id=request_id, **said)
        arm, assignment, _ = self.choose(one)
        return arm.servable.version, assignment.why, assignment.assigned_by

    def requested(
        self, *tensors: Any, request_id: str = "", **said: ContextValue
    ) -> PredictRequest:
        return request(
            *(tensors or (rows_of(1),)), request_id=request_id, context=self.context(**said)
        )


def by(source: str, **changed: Any) -> Plan:
    return stepping(
        proposal(sticky=Sticky(source=source, salt="s"), steps=(Step(percent=50),), **changed)
    )
