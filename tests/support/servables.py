"""Stand-ins for loaded models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from backends.signature import Signature, Tensor, TensorSpec
from gateway.messages import NO_DEADLINE_S
from gateway.ports import Enrichment


class WantedNames(NamedTuple):
    """An enrichment as codecs see it: the names that it wants."""

    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


def tensor_spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


class StubServable:
    """A servable made of a signature; ``answer`` stands for the model."""

    def __init__(
        self,
        signature: Signature,
        *,
        name: str = "m",
        version: str = "1",
        max_batch_size: int = 0,
        default_timeout_s: float = NO_DEADLINE_S,
        default_priority: int = 1,
        enrichment: Enrichment | None = None,
        answer: Callable[[Sequence[Tensor]], list[Tensor]] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.platform = "stub"
        self.signature = signature
        self.enrichment = self.context_names = enrichment
        self.max_batch_size = max_batch_size
        self.default_timeout_s = default_timeout_s
        self.default_priority = default_priority
        self.reply_templates: dict[str, Any] = {}
        self._answer = answer

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self._answer is None:
            raise NotImplementedError("this stub was given no answer")
        return self._answer(inputs)


def stub(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec] = (), **settings: Any
) -> StubServable:
    """A stub servable from its inputs and outputs."""
    return StubServable(Signature(tuple(inputs), tuple(outputs)), **settings)
