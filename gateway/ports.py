"""The shapes of what the gateway needs from others, and of what its layers offer each other.

Only signatures; ``app.py`` decides which concrete classes fill them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from backends.signature import Signature, Tensor
from gateway.messages import ModelStatus, Prediction, PushOutcome, Trace

if TYPE_CHECKING:
    from gateway.core.statistics import VersionStatistics

Clock: TypeAlias = Callable[[], float]
"""Seconds, monotonic. The loop's own clock in production, an invented one in tests."""


RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


class Service(Protocol[RequestT_contra]):
    """One hop: takes a request of its type, answers with a prediction or raises ``HeadraceError``.

    A hop is a coroutine function, driven without a task: what it awaits must be a ``Promise`` of the pipeline.
    """

    def __call__(self, request: RequestT_contra, /) -> Coroutine[Any, Any, Prediction]: ...


class ContextNames(Protocol):
    """What is wanted of a request besides its tensors, so that its features can be found, or its arm.

    Codecs read these names only; what is done with the values is the affair of the hops.
    """

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of request parameters."""
        ...

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of HTTP headers and keys of gRPC metadata, in lower case; none ends in ``-bin``."""
        ...


class Enrichment(ContextNames, Protocol):
    """What makes a model's inputs of the caller's. It does not change as long as its servable lives."""


class Servable(Protocol):
    """One version of one model that can be asked for answers."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def platform(self) -> str:
        """The name that Triton gives this kind of model, for example ``onnxruntime_onnx``."""
        ...

    @property
    def signature(self) -> Signature:
        """What callers send and get: codecs decode by it, metadata shows it."""
        ...

    @property
    def enrichment(self) -> Enrichment | None:
        """What makes the model's inputs of the caller's; None where they are the same."""
        ...

    @property
    def context_names(self) -> ContextNames | None:
        """What codecs read of requests besides tensors: what the enrichment wants, and the plan of a rollout."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Largest batch in rows; 0 when rows of different requests must never be mixed."""
        ...

    @property
    def default_timeout_s(self) -> float:
        """Deadline for a caller that gives none, in seconds; infinity when the model sets none."""
        ...

    @property
    def default_priority(self) -> int: ...
    @property
    def reply_templates(self) -> dict[str, Any]:
        """A place where codecs keep what they precompute for this version; it goes when the version goes."""
        ...

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Blocking and thread-safe: inputs and outputs in the signature's order, or what requests carry instead."""
        ...


class CountedServable(Servable, Protocol):
    """A servable that counts who is inside, so that it can drain."""

    def acquire(self) -> None:
        """Count one caller in; NOT_READY once the version has gone."""
        ...

    def release(self) -> bool:
        """Count one caller out; True when a version that is leaving has no caller left."""
        ...


class FrontMeters(Protocol):
    """What the fronts count, once per infer call."""

    calls: Counter[tuple[str, str]]
    """By (protocol, outcome): the outcome is "ok" or an error code."""
    http_paths: Counter[str]
    """Infer calls over HTTP by the way they took: "fast_lane" or "asgi"."""
    key_calls: Counter[tuple[str, str]]
    """Infer calls by (name of the API key, outcome), where keys are asked for and one was found."""


class Tracer(Protocol):
    """Who picks the requests that are traced, and takes their traces."""

    def begin(
        self, protocol: str, traceparent: bytes, tracestate: bytes, received_s: float
    ) -> Trace | None:
        """A trace to fill in, or None: this call is not traced. The headers are empty where there are none."""
        ...

    def end(self, trace: Trace) -> None:
        """The call has its answer; nobody writes into the trace any more."""
        ...


class Catalog(Protocol):
    """Which models can be asked now."""

    def find(self, model: str, version: str) -> CountedServable:
        """The servable for a name and a version ("" = the policy's choice); NOT_FOUND or NOT_READY otherwise."""
        ...


class RepositoryControl(Protocol):
    """The model repository of the whole instance: each call answers after every worker has acted."""

    async def index(self) -> list[ModelStatus]:
        """Every known version, by name, the newest first."""
        ...

    async def load(self, model: str) -> None:
        """Load or reload a model and swap it in. ``HeadraceError`` says why not; then the old version still serves."""
        ...

    async def unload(self, model: str) -> None:
        """Stop serving a model; returns once its last caller has left."""
        ...

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        """Of one version, of all of a model ("" as version), or of everything ("" as model)."""
        ...


PushedRows: TypeAlias = tuple[str, Sequence[Mapping[str, Any]]]
"""A feature view, and rows of it: values as JSON has them, by the names of keys and columns, and ``event_time``."""

ReadRows: TypeAlias = Callable[[int], PushedRows]
"""(how many rows there may be) → what a caller pushed. Runs on a thread; raises ``HeadraceError``."""


class FeaturePusher(Protocol):
    """Who writes the rows of feature views that callers push."""

    @property
    def max_bytes(self) -> int:
        """Of one push."""
        ...

    def check(self) -> None:
        """Raises ``HeadraceError`` when no push can be taken now, whatever is in it."""
        ...

    async def push(self, read: ReadRows) -> PushOutcome:
        """Write them all, or none: every row is checked before the first is written."""
        ...


class FeatureReader(Protocol):
    """Who shows definitions and values of features to people and checkers; plain values, fit for JSON."""

    async def features(self) -> dict[str, Any]:
        """What is defined, in short."""
        ...

    async def look_up(self, kind: str, name: str, asked: Any) -> dict[str, Any]:
        """Values and their statuses as a prediction would see them now.

        ``kind`` is "service" or "view"; ``asked`` is what the caller's JSON says, still unchecked.
        """
        ...


class Instance(RepositoryControl, FeatureReader, Protocol):
    """The whole instance, one process or several, as the admin port shows it."""

    async def ready(self) -> tuple[bool, str]:
        """Whether calls are taken now, and why not."""
        ...

    async def snapshot(self) -> dict[str, Any]:
        """Plain values about everything that is going on."""
        ...

    async def metrics(self) -> Any:
        """A collector, as ``prometheus_client``'s exposition takes it."""
        ...
