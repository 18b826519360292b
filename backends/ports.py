"""The shape of a backend: what the rest of this library and the gateway may ask of any runtime.

Only signatures. It must never know which runtimes exist; ``manager.py`` chooses the concrete class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from backends.signature import Signature, Tensor

Clock: TypeAlias = Callable[[], float]
"""Seconds, monotonic."""

RunModel: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]
"""``Backend.run``, for code that needs nothing else of a backend."""


class DimensionNames(msgspec.Struct, frozen=True):
    """The names that the model's author gave to dimensions, by tensor in the signature's order.

    ``None`` for a dimension of fixed size and for a variable one that nobody named. Two variable
    dimensions of one name are meant to have one size; the batching rule lives on that.
    """

    inputs: tuple[tuple[str | None, ...], ...]
    outputs: tuple[tuple[str | None, ...], ...]


class Backend(Protocol):
    """One opened model."""

    @property
    def platform(self) -> str:
        """The name that Triton gives this kind of model, for example ``onnxruntime_onnx``."""
        ...

    @property
    def signature(self) -> Signature: ...
    @property
    def dimension_names(self) -> DimensionNames: ...

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer for ``inputs``; both sides stand in the signature's order.

        Blocking and thread-safe. Inputs must have the dtypes that ``NUMPY_DTYPES`` names; outputs
        have them and are C-contiguous, freshly made arrays. Raises ``InvalidModelInput`` or
        ``ModelRunError``, nothing else.
        """
        ...
