"""The values that travel between hops. Plain structs; they decide nothing and know no wire.

A request's type grows as it advances: ``PredictRequest`` (decoded), ``RoutedRequest`` (a servable is chosen).
A layer that needs what an earlier layer found out takes the later type, so a wrong order does not type-check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from backends.signature import Tensor

if TYPE_CHECKING:
    from gateway.ports import CountedServable, Servable

NO_DEADLINE_S = float("inf")

FEATURE_STATUS = "feature_status"
"""The parameter by which a caller asks what became of each feature, and of the reply that says so."""

Parameters: TypeAlias = dict[str, bool | int | float | str]
ContextValue: TypeAlias = bool | int | float | str | None
"""The value of one request parameter or header, as the wire had it; None where the request has none."""


class Trace(msgspec.Struct):
    """The way of one request that is traced; most are not and have none.

    Hops write into it what they alone know. Times are seconds on the loop's monotonic clock; 0.0 where the request
    never got.
    """

    protocol: str
    """"http" or "grpc"."""
    trace_id: int
    parent_id: int
    """The caller's span; 0 when the trace begins here."""
    state: str
    """The caller's ``tracestate``."""
    received_s: float
    decoded_s: float = 0.0
    queued_s: float = 0.0
    started_s: float = 0.0
    ran_s: float = 0.0
    written_s: float = 0.0
    method: str = ""
    """Of the protocol: a gRPC method, or the route of an HTTP request."""
    model: str = ""
    version: str = ""
    """The one that answered; before that, the one that the caller asked for."""
    request_id: str = ""
    rows: int = 0
    batch_rows: int = 0
    batch_reason: str = ""
    execution: str = ""
    """Where the batch ran: "inline" or "worker"."""
    outcome: str = "ok"
    """"ok" or an error code."""
    message: str = ""
    """Of the error."""
    status: int = 0
    """On the wire."""


class PredictRequest(msgspec.Struct):
    """One decoded prediction call: valid against the model's client-facing signature.

    ``inputs`` stand in the signature's order, each C-contiguous and of the signature's dtype. Times are
    seconds on the loop's monotonic clock.
    """

    model: str
    version: str
    """The version that the caller asked for; empty when the policy decides."""
    request_id: str
    """The caller's id, echoed in the answer; empty when none was given."""
    inputs: tuple[Tensor, ...]
    rows: int
    """Rows along the batch dimension; 1 for a model that is not batched."""
    outputs: tuple[int, ...]
    """Wanted outputs, as indices into the signature's outputs, in the order the caller named them."""
    deadline_s: float
    """Absolute; ``NO_DEADLINE_S`` when the caller and the model set none."""
    priority: int
    """1 is the most urgent; larger waits behind smaller."""
    received_s: float
    size_bytes: int
    """What the request weighs in memory, for admission."""
    trace: Trace | None = None
    """Where hops note their times, for the few requests that are traced."""
    context: tuple[ContextValue, ...] = ()
    """What the servable's ``context_names`` want besides tensors: ``parameters`` and then ``headers``, in their
    order. Empty for a servable without any."""
    wants_feature_status: bool = False
    """The caller asks what became of each feature; never set for a servable without an enrichment."""


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """Why requests went to a version: for each arm of a plan one value by each sort of key, shared by all it got.

    Two are never the same, whatever they say: who keeps something for one looks it up by identity.
    """

    revision: int
    """Of the plan."""
    arm: str
    """"champion", "candidate" or "other"."""
    version: str
    probability: float
    """That a request gets this arm."""
    why: str
    """"split"; "override": the caller chose; "not_warm": the arm's version is not here, so the champion answers."""
    assigned_by: str = ""
    """What replies say of that: empty where the plan's own key decided; "request_id" or "none" (chance) stood in for a
    key that the request has not; else as ``why``."""


class RoutedRequest(msgspec.Struct):
    """A request whose servable is fixed."""

    request: PredictRequest
    servable: CountedServable
    assignment: Assignment | None = None
    """None without a plan, and for a request that names its version."""
    shadows: tuple[str, ...] = ()
    """Versions that see a copy of this request."""
    client_inputs: tuple[Tensor, ...] = ()
    """What the caller sent, where there are shadows: ``request.inputs`` changes when features are filled in."""
    client_context: tuple[ContextValue, ...] = ()
    """Likewise, of the request's context."""
    has_defaults: bool = False
    """A default stands in for a feature value; noted by the hop that enriches."""


class Prediction(msgspec.Struct):
    """The answer to one request: every output of the signature, in the signature's order."""

    servable: Servable
    outputs: list[Tensor]
    parameters: Parameters | None = None
    """What the reply says besides tensors: finite numbers, integers of 64 bits, text, booleans."""
    assignment: Assignment | None = None
    """With a plan in force, why this version answered; the reply says that too."""
    prediction_id: str = ""
    """A UUID, under which an application can report what came of it; empty without an assignment."""


class ModelStatus(msgspec.Struct, frozen=True):
    """One line of the repository index, as Triton words it."""

    name: str
    version: str
    """Empty when the model has no usable version at all."""
    state: str
    """READY or UNAVAILABLE."""
    reason: str


class LaneFacts(msgspec.Struct, frozen=True):
    """What the lane of a version was set to, for those who ask."""

    instances: int = 1
    max_queue_delay_us: int = 0
    device: str = "cpu"
    """"cpu" or "cuda"."""
    model_file: str = "model.onnx"
    why_batched: str = ""
    """What the batchability of the version was judged by."""


class PushOutcome(msgspec.Struct, frozen=True):
    """What became of pushed rows; the sum is the rows that were given."""

    created: int = 0
    newer: int = 0
    """Replaced an older one."""
    rewritten: int = 0
    """Replaced one of the same event time."""
    older: int = 0
    """Ignored: the store has a newer one."""
    expired: int = 0
    """Not written: past their view's retention."""
    duplicates: int = 0
    """Not written: a newer row of the same entity was in the same push."""
