"""One copy of a request on its way to a shadow, and what it takes for a version to understand another one's requests.

Decides whether and how the inputs of one version's request become those of another's. It must never hold on to the
version that answered: a copy that waits may not keep a retired model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from backends.signature import Signature, Tensor, TensorSpec
from gateway.core.call import Call
from gateway.messages import ContextValue, Prediction, PredictRequest, RoutedRequest
from gateway.pipeline.enrich import ServiceEnrichment
from gateway.ports import ContextNames, CountedServable, Enrichment, Servable

LEAST_URGENT = 1_000_000
"""A priority behind all levels that there are."""
OBJECT_BYTES = 48
"""What one Python object of an array of strings takes besides its characters."""


class Way(NamedTuple):
    """How requests of one version are given to another."""

    inputs: tuple[int, ...] | None
    """Places of the shadow's inputs among the other's; None where they are the same."""
    context: tuple[int, ...]
    """Places of what the shadow wants among the parameters and headers of the other's requests."""
    context_length: int | None
    """Of those; None where none of them is looked at."""
    is_enriched_alike: bool
    """What the one was completed with is what the other would be."""
    is_batched: bool
    slices: tuple[tuple[str, bool, int], ...]
    """(the plan's name, whether it is an input, its place), as far as requests of the primary have them."""


def way_between(
    primary: Servable,
    shadow: Servable,
    slices: Sequence[tuple[str, str]],
    context_names: ContextNames | None,
) -> Way | None:
    """How, or None where the shadow cannot be asked what the primary was.

    ``context_names``: what codecs read of the model's requests, which is what a copy has as its context.
    """
    theirs = primary.signature
    names = [spec.name for spec in shadow.signature.inputs]
    if len(names) != len(theirs.inputs) or any(name not in theirs.input_index for name in names):
        return None
    places = tuple(theirs.input_index[name] for name in names)
    for spec, place in zip(shadow.signature.inputs, places, strict=True):
        if not _takes(spec, theirs.inputs[place]):
            return None
    alike = enriched_alike(primary.enrichment, shadow.enrichment)
    have = _names(context_names)
    want = _names(shadow.enrichment)
    if not alike and any(one not in have for one in want):
        return None
    places_of_slices = _slice_places(theirs, have, slices)
    context = () if alike else tuple(have.index(one) for one in want)
    is_looked_at = context or not all(is_input for _, is_input, _ in places_of_slices)
    return Way(
        inputs=None if places == tuple(range(len(places))) else places,
        context=context,
        context_length=len(have) if is_looked_at else None,
        is_enriched_alike=alike,
        is_batched=shadow.max_batch_size > 0,
        slices=places_of_slices,
    )


def _takes(shadow: TensorSpec, primary: TensorSpec) -> bool:
    return (
        shadow.datatype == primary.datatype
        and len(shadow.shape) == len(primary.shape)
        and all(
            mine in (-1, other) for mine, other in zip(shadow.shape, primary.shape, strict=True)
        )
    )


def enriched_alike(one: Enrichment | None, other: Enrichment | None) -> bool:
    """Whether requests of both carry the same after their features were filled in.

    Two versions of one model have plans of their own; those are alike when they were made of equal parts.
    """
    if one is other:
        return True
    if one is None or other is None:
        return False
    plan, others = (
        cast("ServiceEnrichment", one).plan,
        cast("ServiceEnrichment", other).plan,
    )
    return plan is others or (
        plan.service == others.service
        and [(use.spec, use.columns) for use in plan.uses]
        == [(use.spec, use.columns) for use in others.uses]
        and plan.client_inputs == others.client_inputs
        and plan.keys == others.keys
    )


def _names(wanted: ContextNames | None) -> list[tuple[str, str]]:
    if wanted is None:
        return []
    return [("parameter", name) for name in wanted.parameters] + [
        ("header", name) for name in wanted.headers
    ]


def _slice_places(
    signature: Signature, context: list[tuple[str, str]], slices: Sequence[tuple[str, str]]
) -> tuple[tuple[str, bool, int], ...]:
    found = []
    for kind, name in slices:
        wanted = (kind, name.lower() if kind == "header" else name)
        if kind == "input" and name in signature.input_index:
            found.append((f"{kind}:{name}", True, signature.input_index[name]))
        elif kind != "input" and wanted in context:
            found.append((f"{kind}:{name}", False, context.index(wanted)))
    return tuple(found)


class ShadowCopy(Call[Prediction]):
    """A copy, from the moment it was taken until its answer is compared."""

    __slots__ = (
        "answer",
        "client_inputs",
        "context",
        "key",
        "on_end",
        "outputs",
        "request",
        "servable",
        "shadow_signature",
        "shadowed",
        "signature",
        "size_bytes",
        "way",
    )

    def __init__(
        self,
        shadowed: Any,
        routed: RoutedRequest,
        prediction: Prediction,
        servable: CountedServable,
        way: Way,
        on_end: Callable[[ShadowCopy, Prediction | None, BaseException | None], None],
    ) -> None:
        """``shadowed``: whatever ``on_end`` needs to know it by."""
        super().__init__()
        request = routed.request
        self.shadowed = shadowed
        self.request: PredictRequest | None = request
        self.servable: CountedServable | None = servable
        self.way = way
        self.on_end = on_end
        self.client_inputs = routed.client_inputs or request.inputs
        self.context: Sequence[ContextValue] = routed.client_context
        self.signature = prediction.servable.signature
        self.shadow_signature = servable.signature
        self.answer: list[Tensor] = prediction.outputs
        """Of the primary."""
        self.outputs: list[Tensor] = []
        """Of the shadow."""
        self.key = b""
        self.size_bytes = (
            max(request.size_bytes, weight(request.inputs))
            + (weight(routed.client_inputs) if routed.client_inputs is not request.inputs else 0)
            + 2 * weight(prediction.outputs)
        )

    def routed(self, now_s: float, max_wait_s: float) -> RoutedRequest:
        """What the shadow is asked: a request of its own, which nobody else changes or waits for."""
        primary, way, servable = self.request, self.way, self.servable
        assert primary is not None, self
        assert servable is not None, self
        inputs = primary.inputs if way.is_enriched_alike else self.client_inputs
        # What was filled in stands in the order of the service, which is the same for both.
        if way.inputs is not None and not (way.is_enriched_alike and servable.enrichment):
            inputs = tuple(inputs[place] for place in way.inputs)
        request = PredictRequest(
            model=primary.model,
            version=servable.version,
            request_id=primary.request_id,
            inputs=inputs,
            rows=len(inputs[0]) if way.is_batched and inputs else 1,
            outputs=servable.signature.all_outputs,
            deadline_s=now_s + max_wait_s,
            priority=LEAST_URGENT,
            received_s=now_s,
            size_bytes=primary.size_bytes,
            context=tuple(self.context[place] for place in way.context),
        )
        self.request = None  # only what is compared is kept from here on
        return RoutedRequest(request, servable)

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.servable = None
        self.on_end(self, result, error)


def weight(tensors: Sequence[Tensor]) -> int:
    """About what tensors keep in memory, in bytes; a view keeps the whole array that it is a part of."""
    total = 0
    for tensor in tensors:
        whole = tensor.base if isinstance(tensor.base, np.ndarray) else tensor
        total += whole.nbytes
        if tensor.dtype.kind == "O" and tensor.size:
            first = tensor.flat[0]
            characters = len(first) if isinstance(first, (bytes, str)) else 2 * OBJECT_BYTES
            total += tensor.size * (OBJECT_BYTES + characters)
    return total
